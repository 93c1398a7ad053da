"""Plots as a page gets them: the same picture, in a form that plotly.js does not draw again."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from rank_lab.figures.drawn_once import drawn_once
from rank_lab.figures.style import new_plot


def example(values: list[float]) -> go.Figure:
    plot = new_plot("light", title="What", x="layer", y="k90", xaxis={"tickvals": np.arange(3)})
    plot.add_trace(go.Scatter(x=pd.Series([1, 2, 3]), y=np.array(values), meta={"state": "value"}, name="a"))
    plot.add_trace(go.Heatmap(z=np.array([[1.0, np.nan], [3.0, 4.0]]), x=["0", "1"], y=["q", "k"]))
    plot.add_trace(go.Scatter(x=[None], y=[None], marker={"size": np.array([4, 5]), "color": "#ff0000"}))
    return plot


def parts(value: Any) -> Iterator[Any]:
    yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(each)


def sent(plot: go.Figure, **settings: bool) -> dict[str, Any]:
    """What arrives in the browser."""
    found: dict[str, Any] = json.loads(drawn_once(plot, **settings).to_json())
    return found


def test_nothing_is_sent_that_is_another_object_each_time_it_is_read() -> None:
    plot = sent(example([1.0, 2.0, 4.0]))
    assert "template" not in plot["layout"]
    assert not any("meta" in trace for trace in plot["data"])
    assert not any("bdata" in part for part in parts(plot) if isinstance(part, dict))
    assert isinstance(plot["layout"]["datarevision"], str)


def test_the_picture_is_the_same() -> None:
    before = example([1.0, 2.0, 4.0])
    text = before.to_json()
    plot = sent(before)
    assert [trace["type"] for trace in plot["data"]] == ["scatter", "heatmap", "scatter"]
    assert (plot["data"][0]["x"], plot["data"][0]["y"]) == ([1, 2, 3], [1.0, 2.0, 4.0])
    assert plot["data"][1]["z"] == [[1.0, None], [3.0, 4.0]]
    assert plot["data"][2] == {
        "type": "scatter",
        "x": [None],
        "y": [None],
        "marker": {"size": [4, 5], "color": "#ff0000"},
    }
    assert plot["layout"]["xaxis"]["tickvals"] == [0, 1, 2]
    own = {"template", "datarevision", "xaxis"}
    layout = json.loads(text)["layout"]
    assert {name: value for name, value in plot["layout"].items() if name not in own} == {
        name: value for name, value in layout.items() if name not in own
    }
    assert before.to_json() == text  # the figure that is exported stays as it was


def test_other_data_have_another_revision_and_the_same_the_same() -> None:
    revisions = [sent(example([1.0, 2.0, last]))["layout"]["datarevision"] for last in (4.0, 4.0, 5.0)]
    assert revisions[0] == revisions[1] != revisions[2]


@pytest.mark.parametrize("clickable", [True, False])
def test_only_a_plot_that_is_clicked_has_the_settings_of_one(clickable: bool) -> None:
    layout = sent(example([1.0, 2.0, 4.0]), clickable=clickable)["layout"]
    found = {name: layout.get(name) for name in ("clickmode", "hovermode", "dragmode")}
    expected = ("event+select", "closest", "pan") if clickable else (None, None, None)
    assert tuple(found.values()) == expected
