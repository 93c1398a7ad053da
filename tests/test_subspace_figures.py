"""What figures of subspaces and of rank plans draw."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from rank_lab.budget_views import budget_view, plan_view
from rank_lab.errors import RankLabError
from rank_lab.figures import (
    STYLES,
    Figure,
    amplification_plot,
    budget_curve,
    intruder_map,
    phi_map,
    plan_map,
    principal_angles,
)
from rank_lab.figures.budget_curve import CHOSEN_POINT
from rank_lab.figures.cell_map import CELLS, TEXTS
from rank_lab.subspace_views import amplification_view, angles_view, intruder_view, phi_view
from tests.figure_texts import HOSTILE, is_safe, texts

Q, UP, EMBED = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.embed_tokens"
PLACES = {Q: (0, "q"), UP: (1, "up"), EMBED: (None, "embed")}


def key(module: str, *, other: str | None = "lora", **values: Any) -> dict[str, Any]:
    layer, kind = PLACES.get(module, (0, "other"))
    return {
        "run": "full", "step": 20, "other_run": other, "other_step": None,
        "module": module, "layer": layer, "kind": kind,
    } | values  # fmt: skip


def phi_table(module: str = Q, **values: Any) -> pd.DataFrame:
    """Similarity i / 10 + j / 100 of 3 and 4 directions."""
    about = {"side": "left", "resolved_a": 2, "resolved_b": 9} | values
    return pd.DataFrame(
        [
            key(module, i=i, j=j, phi=i / 10 + j / 100, null=0.01 * max(i, j), **about)
            for i in (1, 2, 3)
            for j in (1, 2, 3, 4)
        ]
    )


def angle_table(*modules: str) -> pd.DataFrame:
    return pd.DataFrame(
        [
            key(module, side="left", index=index, cosine=1 / index, angle=np.arccos(1 / index), null_cosine=0.3 / index)
            for module in modules
            for index in (1, 2)
        ]
    )


def intruder_table(*modules: str, **values: Any) -> pd.DataFrame:
    about = {"side": "left", "intruders": 3, "projected": 1, "null": 0.25} | values
    return pd.DataFrame(
        [
            key(module, other=None, k=k, epsilon=epsilon, **about)
            for module in modules
            for k in (4, 8)
            for epsilon in (0.5, 0.9)
        ]
    )


def amplification_table(*modules: str, **values: Any) -> pd.DataFrame:
    norms = {"amplification": 10.0, "update_norm": 2.0, "projected_norm": 0.2, "own_projected_norm": 1.0}
    about = norms | {"random_projected_norm": 0.02} | values
    return pd.DataFrame([key(module, other=None, r=r, **about) for module in modules for r in (2, 4)])


def plan_table(*ranks: float | None) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "run": "full", "step": 20, "module": module, "layer": layer, "kind": kind, "rank_bound": 64,
                "rank": rank, "parameters": 100, "reason": "zero" if rank is None else "",
            }
            for (module, (layer, kind)), rank in zip(PLACES.items(), ranks, strict=True)
        ]
    )  # fmt: skip


CURVE = pd.DataFrame(
    {
        "method": ["uniform", "greedy", "uniform", "greedy"],
        "parameters": [100, 1000, 1000, 100],
        "kept_energy": [0.4, 0.95, 0.9, 0.5],
        "relative_error": [0.77, 0.22, 0.32, 0.71],
    }
)
CHOSEN = {"parameters": 500, "kept_energy": 0.8, "relative_error": 0.45}


def named(plot: go.Figure, name: str) -> Any:
    return next(each for each in plot.data if each.name == name)


def numbers(plot: go.Figure) -> dict[tuple[str, str], str]:
    found = named(plot, TEXTS)
    return dict(zip(zip(found.y, found.x, strict=True), found.text, strict=True))


def test_phi_has_the_first_update_down_and_the_second_across() -> None:
    figure = phi_map(phi_view(phi_table()))
    drawn = figure.plot.data[0]
    assert np.array(drawn.z) == pytest.approx(np.array([[i / 10 + j / 100 for j in (1, 2, 3, 4)] for i in (1, 2, 3)]))
    assert (drawn.zmin, drawn.zmax) == (0.0, 1.0)
    assert drawn.text[0][3] == "φ(1, 4): 0.14<br>null: 0.04"
    (line,) = figure.plot.layout.shapes  # of the second update all that is shown stands above rounding
    assert line.y0 == 2.5
    assert "run full, step 20, and run lora" in figure.caption
    assert "Null, of random spans: 0.01 to 0.04" in figure.caption


def test_phi_that_is_not_there_is_blank() -> None:
    table = phi_table().drop(columns=["resolved_a", "resolved_b"])
    figure = phi_map(phi_view(table[(table["i"] != 2) | (table["j"] != 3)]))
    assert figure.plot.data[0].z[1][2] is None
    assert "Blank: no value" in figure.caption
    assert "not known" in figure.caption


def test_angles_by_index_beside_random_subspaces() -> None:
    figure = principal_angles(angles_view(angle_table(Q, UP)))
    assert (list(named(figure.plot, Q).x), list(named(figure.plot, Q).y)) == ([1.0, 2.0, None], [1.0, 0.5, None])
    null = named(figure.plot, "random")
    assert list(null.y) == pytest.approx([0.3, 0.15, None])  # the same of both modules: one line
    angles = principal_angles(angles_view(angle_table(Q)), quantity="angle").plot
    assert list(named(angles, Q).y) == pytest.approx([0.0, np.pi / 3, None])
    assert named(angles, "random").y[0] == pytest.approx(np.arccos(0.3))


def test_angles_of_many_modules_are_told_by_kind() -> None:
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(9)]
    table = angle_table(*names).assign(kind="q")
    figure = principal_angles(angles_view(table))
    assert [each.name for each in figure.plot.data] == ["random", "q"]
    assert sum(each is None for each in named(figure.plot, "q").x) == 9
    assert "9 modules, coloured by kind" in figure.caption


def test_intruders_by_layer_and_kind_with_their_definition() -> None:
    figure = intruder_map(intruder_view(intruder_table(Q, UP, EMBED)))
    assert numbers(figure.plot) == {("q", "0"): "3", ("up", "1"): "3", ("embed", "none"): "3"}
    assert "first k = 8 left singular vectors of each tuned weight, at epsilon = 0.5" in figure.caption
    assert "In all 9; white noise of the updates' norms makes 0.75; 3 lie outside" in figure.caption
    assert figure.data["k"].unique().tolist() == [8]
    assert named(figure.plot, CELLS).hovertext[0].startswith(f"{Q}<br>intruders: 3 of 8<br>null: 0.25")


def test_no_intruder_is_a_zero_and_none_counted_a_dash() -> None:
    table = intruder_table(Q, UP, intruders=0, null=None).astype({"intruders": "Int64"})
    table.loc[table["module"] == UP, "intruders"] = None
    figure = intruder_map(intruder_view(table, epsilon=0.9))
    assert numbers(figure.plot) == {("q", "0"): "0", ("up", "1"): "–"}
    assert figure.plot.data[0].z[0][0] == 0.0  # a number, with a colour
    assert "of 2 cells the null is not known" in figure.caption


def test_a_small_matrix_is_not_lost_where_more_directions_were_asked_for() -> None:
    table = intruder_table(Q, UP)
    table = table[(table["module"] == Q) | (table["k"] == 4)]
    assert set(intruder_view(table, k=8).table["k"]) == {4, 8}
    assert "Small matrices have fewer directions, 4 at least" in intruder_map(intruder_view(table)).caption


def test_amplification_beside_random_and_own_directions() -> None:
    figure = amplification_plot(amplification_view(amplification_table(Q, UP, EMBED)))
    assert list(named(figure.plot, "q").y) == [10.0]
    assert list(named(figure.plot, "random directions").y) == [100.0] * 3
    assert list(named(figure.plot, "own of W").y) == [2.0] * 3
    assert figure.plot.layout.xaxis.categoryarray == ("none", "0", "1")
    assert "first r = 4 directions" in figure.caption
    gone = amplification_plot(amplification_view(amplification_table(Q, amplification=None, projected_norm=0.0)))
    assert list(named(gone.plot, "q").y) == [None]
    assert "1 modules have no value" in gone.caption


def test_a_run_of_a_comparison_is_chosen() -> None:
    both = pd.concat([intruder_table(Q), intruder_table(Q, intruders=1).assign(run="lora")])
    assert numbers(intruder_map(intruder_view(both, run="lora")).plot) == {("q", "0"): "1"}
    norms = pd.concat([amplification_table(Q), amplification_table(Q, amplification=7.0).assign(run="lora")])
    assert amplification_view(norms, run="lora").table["amplification"].tolist() == [7.0]
    with pytest.raises(RankLabError, match=r"rows of 2 pairs of runs \(full, lora\)"):
        intruder_view(both)
    with pytest.raises(RankLabError, match="no run 'sora' in this comparison"):
        amplification_view(norms, run="sora")


def test_the_budget_has_a_line_a_method_and_the_chosen_plan() -> None:
    figure = budget_curve(budget_view(CURVE, CHOSEN, about="run full"))
    assert [each.name for each in figure.plot.data] == ["greedy", "uniform", CHOSEN_POINT]
    assert (list(named(figure.plot, "greedy").x), list(named(figure.plot, "greedy").y)) == ([100, 1000], [0.5, 0.95])
    assert (list(named(figure.plot, CHOSEN_POINT).x), list(named(figure.plot, CHOSEN_POINT).y)) == ([500], [0.8])
    assert figure.plot.layout.xaxis.type == "log"
    nothing = CURVE.assign(parameters=[0.0, *CURVE["parameters"][1:]])
    empty = budget_curve(budget_view(nothing))
    assert all(x > 0 for trace in empty.plot.data for x in trace.x)  # a logarithmic axis has no place for it
    assert "1 plans of no parameter" in empty.caption
    errors = budget_curve(budget_view(CURVE), quantity="relative_error")
    assert list(named(errors.plot, "uniform").y) == [0.77, 0.32]
    assert len(errors.plot.data) == 2


def test_planned_ranks_zero_and_missing_look_different() -> None:
    figure = plan_map(plan_view(plan_table(16, 0, None)))
    assert numbers(figure.plot) == {("q", "0"): "16", ("up", "1"): "0", ("embed", "none"): "–"}
    assert "n = 3 modules, 300 parameters" in figure.caption
    assert "0 on grey: no adapter" in figure.caption
    assert "–: no rank" in figure.caption


def test_what_is_not_there_is_refused() -> None:
    for view, table in (
        (phi_view, phi_table()), (angles_view, angle_table(Q)), (intruder_view, intruder_table(Q)),
        (amplification_view, amplification_table(Q)),
    ):  # fmt: skip
        with pytest.raises(RankLabError, match="has no row; its coverage says why"):
            view(table.iloc[:0])
        with pytest.raises(RankLabError, match="rows of 2 pairs of runs"):
            view(pd.concat([table, table.assign(run="another")]))
    with pytest.raises(RankLabError, match="no side 'A'; the table has left"):
        phi_view(phi_table(), side="A")
    with pytest.raises(RankLabError, match=r"no module 'q' in this comparison. Nearest: "):
        phi_view(phi_table(), "q")
    with pytest.raises(RankLabError, match=r"no intruders at epsilon 0.3; the table has 0.5, 0.9"):
        intruder_view(intruder_table(Q), epsilon=0.3)
    with pytest.raises(RankLabError, match="no intruders among the first 5; the table has 4, 8"):
        intruder_view(intruder_table(Q), k=5)
    with pytest.raises(RankLabError, match="no amplification of 3 directions; the table has 2, 4"):
        amplification_view(amplification_table(Q), r=3)
    with pytest.raises(RankLabError, match="no point"):
        budget_view(CURVE.iloc[:0])
    with pytest.raises(RankLabError, match="no matrix"):
        plan_view(plan_table(1, 2, 3).iloc[:0])
    with pytest.raises(RankLabError, match="several runs or steps"):
        plan_view(pd.concat([plan_table(1, 2, 3), plan_table(1, 2, 3).assign(step=30)]))


def drawn(name: str, style: Any) -> list[Figure]:
    return [
        phi_map(phi_view(phi_table(name)), style), principal_angles(angles_view(angle_table(name)), style),
        intruder_map(intruder_view(intruder_table(name)), style),
        amplification_plot(amplification_view(amplification_table(name)), style),
        budget_curve(budget_view(CURVE.assign(method=name)), style),
        plan_map(plan_view(plan_table(1, 2, 3).assign(reason=name, run=name)), style),
    ]  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_names_are_text_in_every_style(style: Any) -> None:
    for figure in drawn(HOSTILE, style):
        assert is_safe(figure.plot), figure.name
        assert any("&lt;b&gt;x" in text for text in texts(figure.plot)) or figure.name == "phi_left"
        assert (figure.plot.layout.title.text is None) == (style == "paper")
