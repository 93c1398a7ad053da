"""Published numbers have a source, agree with themselves, and stand behind one's own points, never among them."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from rank_lab.background import Background, published_points, trade_off_background
from rank_lab.errors import DataError, RankLabError
from rank_lab.figures import STYLES, rank_along_training, trade_off
from rank_lab.outcomes import OutcomeChoices, outcomes
from rank_lab.published import COLUMNS, MARKS, PUBLISHED, published_values
from rank_lab.rank_forgetting import Sampling
from rank_lab.score_draws import Resampling
from rank_lab.score_table import ScoreTable
from rank_lab.trade_off_points import TradeOffPoints, trade_off_points
from rank_lab.training_table import training_table
from tests.figure_texts import HOSTILE, is_safe
from tests.outcome_studies import BASE, MODULES, matrix, report, scores, training

TARGET = "gsm8k exact_match 5-shot"
CODE, PROSE = ("humaneval", "pass@1"), ("source average", "accuracy")


@pytest.fixture(scope="module")
def values() -> pd.DataFrame:
    return published_values()


def written(folder: Path, **cells: str) -> Path:
    row = dict.fromkeys(COLUMNS, "") | {
        "source": "2405.09673", "table": "Table 1", "model": "m", "method": "lora", "rank": "16", "task": "gsm8k",
        "metric": "exact_match", "relation": "=", "value": "0.5", "unit": "fraction", "mark": "S",
    }  # fmt: skip
    file = folder / "published.csv"
    file.write_text("\n".join([",".join(row), ",".join((row | cells).values())]) + "\n", encoding="utf-8")
    return file


def test_every_number_has_a_source_and_was_seen(values: pd.DataFrame) -> None:
    assert values["source"].str.fullmatch(r"\d{4}\.\d{5}").all()
    assert (values["table"].str.len() > 0).all()
    assert set(values["mark"]) <= set(MARKS)
    assert set(values.loc[values["mark"] == "second-hand", "source"]) == {"2311.11696"}
    shares = values[values["unit"] == "fraction"]["value"]
    assert shares.between(0, 1).all()
    assert values[values["unit"] == "percent"]["value"].between(1, 100).all()


def test_averages_are_those_of_their_tasks(values: pd.DataFrame) -> None:
    """LLM-Adapters print the mean over tasks beside them: a number copied wrongly would show."""
    own = values[values["source"] == "2304.01933"]
    assert len(own) == 16 * 5 + 16 * 9
    for _, rows in own.groupby(["table", "model", "method"]):
        mean = rows["task"].str.endswith(" average")
        assert rows.loc[~mean, "value"].mean() == pytest.approx(rows.loc[mean, "value"].item(), abs=0.0501)


def test_learns_less_and_forgets_less_is_complete(values: pd.DataFrame) -> None:
    own = values[values["source"] == "2405.09673"]
    counts = own.groupby("table").size()
    assert counts.to_dict() == {
        **dict.fromkeys(("Table S1", "Table S2", "Table S3", "Table S4"), 4 * 8),
        **dict.fromkeys(("Table S5", "Table S6", "Table S7", "Table S8"), 4 * 5),
        **dict.fromkeys(("Table S10", "Table S11", "Table S12", "Table S13"), 4 * 3),
    }
    points = published_points(values, CODE, PROSE)
    assert len(points) == 4 * (8 + 5)
    last = points[(points["training"] == "code CPT") & (points["amount"] == 20)].set_index("method")
    assert last.loc["full", ["x", "y"]].tolist() == [0.263, 0.545]  # S1 and S2, bold


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"source": ""}, "its source is empty; a number without its source"),
        ({"mark": "M"}, "mark 'M', expected one of S, R, second-hand"),
        ({"relation": "~"}, "relation '~', expected one of =, <, >"),
        ({"value": "nan"}, "value 'nan', expected a finite number"),
        ({"rank": "many"}, "rank 'many', expected a finite number"),
        ({"model": "a\x1b[2J"}, "cannot be printed"),
    ],
)
def test_what_is_no_published_number_is_refused(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=r"line 2: ") as told:
        published_values(written(tmp_path, **cells))
    assert message in str(told.value)


def test_tables_of_another_form_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert published_values(file)["value"].tolist() == [0.5]
    lines = file.read_text().splitlines()
    for content, message in (
        ([*lines, lines[1]], "is there twice in one setting"),
        (lines[:1], "holds no values"),
        ([lines[0].replace("value", "valeu"), lines[1]], "column 'valeu' is not known. Nearest: value"),
        ([lines[0].replace(",mark", ""), lines[1]], "has no column 'mark'"),
        ([lines[0], lines[1] + ",more"], "line 2: 19 cells, expected 18"),
    ):
        file.write_text("\n".join(content) + "\n")
        with pytest.raises(DataError, match=message):
            published_values(file)
    with pytest.raises(DataError, match="is no CSV file"):
        published_values(tmp_path)


def test_settings_are_matched_and_bounds_are_no_points(values: pd.DataFrame) -> None:
    points = published_points(values, "parameters_percent", ("mnli", "accuracy"))
    assert sorted(points["method"].value_counts().items()) == [("adalora", 4), ("lora", 3)]  # LoRA's .32 % is not given
    with pytest.raises(RankLabError, match="update effective_rank: not among the published values"):
        published_points(values, "rank", ("update", "effective_rank"))  # all of them bounds
    with pytest.raises(RankLabError, match="no setting has both"):
        published_points(values, CODE, ("mmlu", "accuracy"))
    with pytest.raises(RankLabError, match=r"'params': no number of a setting. Nearest: parameters"):
        published_points(values, "params", CODE)


def test_a_change_needs_the_base_and_one_model(values: pd.DataFrame, tmp_path: Path) -> None:
    axes = (TARGET, "forgetting")
    found = trade_off_background(values, ("gsm8k", "exact_match"), PROSE, (0.15, 0.65), axes)
    last = found.points[(found.points["training"] == "math IFT") & (found.points["method"] == "full")].iloc[-1]
    assert (last["x"], last["y"]) == pytest.approx((0.599 - 0.15, 0.65 - 0.559))  # S7, S8
    with pytest.raises(RankLabError, match="metric 'score': expected one of which a larger value is better"):
        trade_off_background(values, ("mt_bench", "score"), PROSE, (0.0, 0.0), axes)
    with pytest.raises(RankLabError, match=r"values of BLOOMz-7B, .*: have no base in common"):
        trade_off_background(values, ("gsm8k", "accuracy"), ("aqua", "accuracy"), (0.1, 0.1), axes)


@pytest.fixture(scope="module")
def behind(values: pd.DataFrame) -> TradeOffPoints:
    rows = [*BASE, *(row for seed in range(2) for row in scores(f"run{seed}", 10, 0.1 + 0.01 * seed, 0.02))]
    choices = OutcomeChoices(resampling=Resampling(200), sampling=Sampling(199, 50))
    found = trade_off_background(
        values[values["training"] == "math IFT"], ("gsm8k", "exact_match"), PROSE, (0.15, 0.65), (TARGET, "forgetting")
    )
    return trade_off_points(outcomes([], ScoreTable.of(rows), choices).trade_offs, background=found)


@pytest.mark.parametrize("style", STYLES)
def test_published_points_lie_behind_and_are_joined_to_nothing(behind: TradeOffPoints, style: str) -> None:
    figure = trade_off(behind, style)  # type: ignore[arg-type]
    names = [str(trace.name) for trace in figure.plot.data]
    published = [trace for trace in figure.plot.data if trace.meta]
    assert [trace.name for trace in published] == [
        "published: lora (arXiv 2405.09673)", "published: full (arXiv 2405.09673)",
    ]  # fmt: skip
    assert max(map(names.index, (trace.name for trace in published))) < min(
        place for place, name in enumerate(names) if not name.startswith("published")
    )
    assert {trace.mode for trace in published} == {"markers"}
    assert sum(len(trace.x) for trace in published) == 20
    own = [trace for trace in figure.plot.data if not trace.meta and trace.mode == "lines"]
    assert max(len([value for value in trace.x if value is not None]) for trace in own) <= 2 * 2  # base and one step
    assert "published, arXiv 2405.09673 (Table S7, Table S8; Llama-2-7B), other model and task" in figure.caption
    assert "for orientation only" in figure.caption
    rows = figure.data[figure.data["what"] == "published"]
    assert len(rows) == 20
    assert set(rows["table"]) == {"Table S7, Table S8"}


def test_nothing_of_ones_own_changes_with_a_background(behind: TradeOffPoints) -> None:
    without = trade_off(dataclasses.replace(behind, background=None))
    with_it = trade_off(behind)
    own = [trace for trace in with_it.plot.data if not trace.meta]
    assert [trace.to_plotly_json() for trace in own] == [trace.to_plotly_json() for trace in without.plot.data]
    assert "published" not in without.caption


def test_a_background_of_other_axes_is_refused(behind: TradeOffPoints) -> None:
    assert behind.background is not None
    with pytest.raises(RankLabError, match="cannot stand behind forgetting over code cross_entropy"):
        behind.background.behind("code cross_entropy", "forgetting")
    with pytest.raises(RankLabError, match="has no points"):
        Background("step", "energy_rank_90", behind.background.points.iloc[:0])


def test_ranks_along_training_with_published_ones_behind() -> None:
    updates = report(
        "r", [matrix("r", step, name, 10) for step in (10, 20) for name in MODULES], training("lora", 1e-4, 0)
    )
    row = {
        "source": "0000.00000",
        "table": "Table 1",
        "model": HOSTILE,
        "method": "full",
        "name": "x",
        "mark": "second-hand",
    }
    points = pd.DataFrame([row | {"x": 15.0, "y": 30.0}, row | {"x": 0.0, "y": 1.0}])
    found = Background("step", "energy_rank_90", points)
    table = training_table(updates.updates, "energy_rank_90", background=found)
    figure = rank_along_training(table)
    drawn = next(trace for trace in figure.plot.data if trace.meta == {"published": True})
    assert (list(drawn.x), list(drawn.y), drawn.mode) == ([15.0, 0.0], [30.0, 1.0], "markers")
    assert "seen in an article on the paper, not in the paper" in figure.caption
    assert is_safe(figure.plot)
    assert len(figure.data[figure.data["what"] == "published"]) == 2
    assert "no place on a logarithmic axis: 1 point" in rank_along_training(table, log_steps=True).caption
    with pytest.raises(RankLabError, match="cannot stand behind stable_rank over step"):
        training_table(updates.updates, "stable_rank", background=found)


def test_the_table_is_part_of_the_package() -> None:
    assert PUBLISHED.parent.name == "rank_lab"
