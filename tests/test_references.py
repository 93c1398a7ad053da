"""BibTeX: an entry for every method and quantity that has a paper, and of those only what is used."""

import re

import pytest

from rank_lab.citations import METRIC_PAPERS, cited_by, uncited_methods
from rank_lab.errors import RankLabError
from rank_lab.forgetting import SOURCES
from rank_lab.metrics import METRICS
from rank_lab.outcomes import outcomes
from rank_lab.references import DATA_SETS, REFERENCES, TRAINING_METHODS, bibtex
from rank_lab.score_table import ScoreTable
from rank_lab.training.methods import METHODS
from tests.outcome_studies import BASE, matrix, report, scores

NO_PAPER = {"numpy.linalg.matrix_rank"}


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(\w+),$", text, flags=re.MULTILINE)


def test_every_quantity_with_a_paper_has_its_entry() -> None:
    with_paper = {name for name, metric in METRICS.items() if metric.reference and metric.reference not in NO_PAPER}
    assert set(METRIC_PAPERS) == with_paper
    for name, key in METRIC_PAPERS.items():
        surname, year = REFERENCES[key].author.split(",")[0], REFERENCES[key].year
        assert METRICS[name].reference.startswith(surname)
        assert f"({year})" in METRICS[name].reference


def test_every_method_that_can_be_trained_has_the_entry_that_it_names() -> None:
    assert set(TRAINING_METHODS) == set(METHODS)
    for name, method in METHODS.items():
        assert REFERENCES[TRAINING_METHODS[name]].arxiv == method.reference
    assert set(SOURCES) <= set(DATA_SETS)
    assert {*TRAINING_METHODS.values(), *DATA_SETS.values()} <= set(REFERENCES)


def test_all_entries_are_whole_and_ascii() -> None:
    text = bibtex(REFERENCES)
    assert text.isascii()
    assert keys(text) == list(REFERENCES)
    assert text.count("{") == text.count("}")
    for entry in REFERENCES.values():
        assert re.fullmatch(r"\d{4}\.\d{4,5}|", entry.arxiv)
        assert re.fullmatch(r"10\.\d{4,}/\S+|", entry.doi)
        assert entry.arxiv or entry.doi or entry.venue
        assert entry.kind == "misc" or entry.venue
        assert entry.author.count(" and ") == 0 or "," not in entry.author or ", " in entry.author


def test_only_what_is_used_is_cited() -> None:
    ranks = {"stable_rank": 3.0, "energy_rank_90": 4}
    null = dict.fromkeys((f"null_{name}" for name, metric in METRICS.items() if metric.rank), None)
    row = matrix("a", 5, "m", 0, **dict.fromkeys(METRICS) | ranks | null)
    assert cited_by([report("a", [row | {"method": "rslora"}])], None, None) == [
        "kalajdzievski2023rslora", "biderman2024lora", "rudelson2007sampling",
    ]  # fmt: skip
    tested = row | {"method": "other", "rank_above_rounding": 3.0, "null_stable_rank": 5.0, "stable_rank_denoised": 2.0}
    found = cited_by([report("a", [tested])], None, None)
    assert {"landa2022biwhitening", "marchenko1967distribution", "benaych2012singular"} <= set(found)
    assert not {"landa2025dyson", "hu2022lora", "ding2023sora"} & set(found)
    assert uncited_methods([report("a", [tested])]) == ["other"]


def test_outcomes_cite_their_tasks_and_measures() -> None:
    found = cited_by([], outcomes([], ScoreTable.of([*BASE, *scores("a", 5, 0.2, 0.1)])), None)
    assert {"cobbe2021gsm8k", "sakaguchi2019winogrande", "biderman2024lora", "zitzler1998multiobjective"} <= set(found)
    assert not {"shenfeld2025razor", "zellers2019hellaswag", "clark2018arc", "ding2023sora"} & set(found)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(RankLabError, match="nobody1900"):
        bibtex(["nobody1900"])
