"""BibTeX: an entry for every method and quantity that has a paper, and of those only what is used."""

import ast
import re
from pathlib import Path

import pytest

from rank_lab import figures
from rank_lab.checkpoint_scores import MEASURES
from rank_lab.citations import FIGURE_PAPERS, METRIC_PAPERS, cited_by, cited_by_figures, uncited_methods
from rank_lab.curve_points import MEASURED
from rank_lab.errors import RankLabError
from rank_lab.forgetting import SOURCES
from rank_lab.metrics import METRICS
from rank_lab.outcome_steps import LEARNING
from rank_lab.outcomes import outcomes
from rank_lab.references import DATA_SETS, REFERENCES, TRAINING_METHODS, bibtex
from rank_lab.schema import RANKS
from rank_lab.score_table import ScoreTable
from rank_lab.shown_values import SHOWN
from rank_lab.study_parts import StudyParts
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
    assert cited_by(StudyParts([report("a", [row | {"method": "rslora"}])])) == [
        "kalajdzievski2023rslora", "biderman2024lora", "rudelson2007sampling",
    ]  # fmt: skip
    tested = row | {"method": "other", "rank_above_rounding": 3.0, "null_stable_rank": 5.0, "stable_rank_denoised": 2.0}
    found = cited_by(StudyParts([report("a", [tested])]))
    assert {"landa2022biwhitening", "marchenko1967distribution", "benaych2012singular"} <= set(found)
    assert not {"landa2025dyson", "hu2022lora", "ding2023sora"} & set(found)
    assert uncited_methods([report("a", [tested])]) == ["other"]


def test_outcomes_cite_their_tasks_and_measures() -> None:
    found = cited_by(StudyParts(outcomes=outcomes([], ScoreTable.of([*BASE, *scores("a", 5, 0.2, 0.1)]))))
    assert {"cobbe2021gsm8k", "sakaguchi2019winogrande", "biderman2024lora", "zitzler1998multiobjective"} <= set(found)
    assert not {"shenfeld2025razor", "zellers2019hellaswag", "clark2018arc", "ding2023sora"} & set(found)


NAMED_BY_DATA = {
    "metric": SHOWN, "rank": RANKS, "measure": MEASURES, "quantity": (LEARNING, *MEASURES), "MEASURED": MEASURED,
    "metrics": SHOWN,
}  # fmt: skip
"""What the names may be that a figure takes from its table, by the attribute or variable that holds them."""


def named_by_figures() -> dict[str, set[str]]:
    """Of each figure function's file the names that it can put into ``Figure.metrics``, read from its source."""
    found: dict[str, set[str]] = {}
    for file in sorted(Path(figures.__file__).parent.glob("*.py")):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Figure":
                given = [*call.args[5:6], *(each.value for each in call.keywords if each.arg == "metrics")]
                found.setdefault(file.stem, set()).update(*map(names_in, given))
    return found


def names_in(given: ast.expr) -> set[str]:
    parts = given.elts if isinstance(given, ast.Tuple) else [given]
    found: set[str] = set()
    for part in parts:
        match part:
            case ast.Constant(value=str(name)):
                found.add(name)
            case ast.Attribute(attr=name) | ast.Name(id=name):
                found.update(NAMED_BY_DATA[name])
            case _:
                raise AssertionError(f"{ast.unparse(part)}: say in NAMED_BY_DATA which names it may have")
    return found


def test_every_name_that_a_figure_can_have_is_known() -> None:
    found = named_by_figures()
    drawing = {name for name in figures.__all__ if callable(getattr(figures, name)) and name.islower()}
    assert {getattr(figures, name).__module__.rsplit(".", 1)[-1] for name in drawing} <= set(found)
    assert {"phi", "intruder_dimensions", "hypervolume", "spearman", "stable_rank"} <= set().union(*found.values())
    assert {
        file: sorted(names - set(FIGURE_PAPERS)) for file, names in found.items() if names - set(FIGURE_PAPERS)
    } == {}
    assert {key for keys in FIGURE_PAPERS.values() for key in keys} <= set(REFERENCES)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (("phi",), ["hu2022lora"]),
        (("amplification", "phi"), ["hu2022lora"]),
        (("principal_angles",), ["bjorck1973angles"]),
        (("intruder_dimensions",), ["shuttleworth2024illusion"]),
        (("forgetting", "hypervolume"), ["biderman2024lora", "zitzler1998multiobjective"]),
        (("effective_rank", "kl_source", "spearman"), ["roy2007effective", "shenfeld2025razor"]),
        (("kept_energy", "eckart_young"), ["eckart1936approximation"]),
        (("nonzero_gates",), ["ding2023sora"]),
        (("change_share",), []),
        ((), []),
    ],
)
def test_figures_cite_what_they_show(metrics: tuple[str, ...], expected: list[str]) -> None:
    assert cited_by_figures(metrics) == expected


def test_a_figure_of_an_unknown_quantity_is_refused() -> None:
    with pytest.raises(RankLabError, match="figure of 'new_rank'"):
        cited_by_figures(["phi", "new_rank"])


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(RankLabError, match="nobody1900"):
        bibtex(["nobody1900"])
