"""The figures of a study as files: which there are, what is in them, and what is said where there is no browser."""

import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from plotly.colors import sample_colorscale

from rank_lab import pictures
from rank_lab.errors import RankLabError
from rank_lab.figures import Figure
from rank_lab.figures_export import FIGURE_FORMATS, export_figures, figure_formats
from rank_lab.pictures import PICTURES, browser_kept, find_browser, html_page, picture
from rank_lab.study import Study
from rank_lab.study_figures import StudyFigure, study_figures
from rank_lab.vector_cells import vector_cells
from tests.checkpoints import factors, llama, moved, rank_lab, save, save_adapter


@pytest.fixture(scope="module")
def browser() -> Path:
    found = find_browser()
    if found is None:
        reason = "no Chromium or Chrome on the path: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a full fine-tune and an adapter, whose name is hostile, on one base."""
    home = tmp_path_factory.mktemp("study")
    generator = torch.Generator().manual_seed(0)
    state = llama(generator)
    base = save(home / "base", state)
    tuned = save(home / "tuned", moved(state, generator))
    adapter = save_adapter(home / "adapter", factors(generator))
    assert rank_lab("analyze", tuned, "--base", base, "-o", home / "study").code == 0
    name = "<b>a_1</b> $x$ %"
    assert rank_lab("analyze", adapter, "--base", base, "--name", name, "-o", home / "study").code == 0
    return home / "study"


def figure(name: str = "one") -> Figure:
    plot = go.Figure(go.Scatter(x=[1, 2], y=[3.0, 4.0]), {"height": 200, "title": "σ₁ of a matrix"})
    return Figure(name, "A <title>", plot, pd.DataFrame({"x": [1, 2]}), "n = 2 & <more>")


def test_a_study_names_the_figures_that_it_supports(study: Path) -> None:
    names = [each.name for each in study_figures(Study(study))]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names)
    assert {"noise-and-coverage", "rank-by-kind", "layers-k90-tuned", "spectra-tuned", "rank-budget-tuned"} <= set(
        names
    )
    assert sum("-against-" in name for name in names) == 1  # two runs
    assert not [name for name in names if name.startswith(("curve", "trade-off", "along-training", "phi"))]


def test_every_figure_draws_what_its_data_hold(study: Path) -> None:
    for each in study_figures(Study(study)):
        drawn = each.draw("paper")
        assert len(drawn.data), each.name
        assert len(drawn.plot.data), each.name
        assert "n = " in drawn.caption, each.name


def test_an_empty_study_has_no_figures(tmp_path: Path) -> None:
    assert study_figures(Study(tmp_path)) == []


def test_runs_whose_names_differ_in_a_sign_have_files_of_their_own(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = ("a b", "a:b", "a_b-2", "A_B", "long" * 100)
    twice = pd.concat([Study(study).updates().assign(run=name) for name in runs], ignore_index=True)
    monkeypatch.setattr(Study, "updates", lambda self: twice)
    names = [each.name for each in study_figures(Study(study))]
    assert {"layers-k90-a_b", "layers-k90-a_b-2", "layers-k90-a_b-2-2", "layers-k90-A_B-3"} <= set(names)
    assert len({name.casefold() for name in names}) == len(names)
    assert max(map(len, names)) < 220


def test_html_data_and_captions_need_no_browser(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "find_browser", lambda: None)
    done = rank_lab("export", study, "-o", tmp_path)
    assert done.code == 0, done.err
    assert "no pictures" in done.err
    assert "chromium" in done.err
    folder = tmp_path / "figures"
    names = {each.name for each in study_figures(Study(study))}
    assert {file.stem for file in folder.glob("*.csv")} == names
    assert not [file for kind in PICTURES for file in folder.glob(f"*.{kind}")]
    page = (folder / "figures.html").read_text(encoding="utf-8")
    assert set(re.findall(r'<section id="([^"]+)"', page)) == names
    assert len(page) < 7_000_000  # plotly's script once
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert all(f"`figures/{name}.csv`" in readme for name in names)


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_that_was_asked_for_is_refused_in_words(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(pictures, "find_browser", lambda: None)
    done = rank_lab("export", study, "-o", tmp_path / "out", "-f", "csv", "-f", kind)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "apt-get install chromium" in done.err
    assert not (tmp_path / "out").exists()  # refused before anything is written


def test_formats_that_were_not_asked_for_are_not_written(study: Path, tmp_path: Path) -> None:
    assert rank_lab("export", study, "-o", tmp_path, "-f", "csv").code == 0
    assert not (tmp_path / "figures").exists()
    assert figure_formats(["latex", "html"]) == (("html",), "")
    assert set(figure_formats(None)[0]) <= set(FIGURE_FORMATS)


def test_a_figure_that_cannot_be_drawn_is_named(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_style: Any) -> Figure:
        raise RankLabError("its table is gone")

    found = [StudyFigure("gone", "Gone", refuse), *study_figures(Study(study))[:1]]
    monkeypatch.setattr("rank_lab.figures_export.study_figures", lambda _study: found)
    written = export_figures(Study(study), tmp_path, ["html"], command="again")
    assert written.notes == ["figure gone was not drawn: its table is gone"]
    assert (tmp_path / "noise-and-coverage.csv").is_file()


def test_the_page_holds_names_as_text_and_asks_nobody() -> None:
    page = html_page([figure("one"), figure("two")], title="<script>alert(1)</script>")
    assert "<script>alert(1)" not in page
    assert "A &lt;title&gt;" in page
    assert "n = 2 &amp; &lt;more&gt;" in page
    assert not re.findall(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?(?:https?:)?//""", page)
    assert page.count("plotly.js v") == html_page(figure()).count("plotly.js v")


def test_the_page_makes_no_request_in_a_browser(browser: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    (tmp_path / "page.html").write_text(html_page([figure("one"), figure("two")]), encoding="utf-8")
    asked: list[str] = []
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(browser), args=["--no-sandbox"])
        page = opened.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector("#two .main-svg")
        opened.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_pictures_are_vectors_with_their_fonts(browser: Path) -> None:
    with browser_kept():
        svg = picture(figure(), "svg", columns=2)
        one, two = (picture(figure(), "pdf", columns=columns) for columns in (1, 2))
        png = picture(figure(), "png")
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("width") == "648"
    assert b"<image" not in svg
    for drawn, width in ((one, 234), (two, 486)):
        box = re.search(rb"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)\s+([\d.]+)", drawn)
        assert box is not None
        assert float(box[1]) == pytest.approx(width, abs=1)
        assert b"/FontFile" in drawn  # embedded
        assert b"/Subtype /Image" not in drawn
        assert b"/Subtype/Image" not in drawn
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 4 * 312


def test_maps_are_vectors_on_paper(study: Path, browser: Path) -> None:
    """Plotly draws a heat map as a bitmap; in print each cell is a rectangle of its colour."""
    (each,) = [each for each in study_figures(Study(study)) if each.name == "layers-k90-tuned"]
    drawn = each.draw("paper")
    with browser_kept():
        svg, pdf = picture(drawn, "svg", columns=2), picture(drawn, "pdf")
    assert b"<image" not in svg
    assert b"/Subtype /Image" not in pdf
    values = drawn.data["value"].dropna()
    assert svg.count(b"shape-group") or svg.count(b"shapelayer")
    (heat,) = [trace for trace in drawn.plot.data if trace.type == "heatmap" and trace.showscale is not False]
    shapes = vector_cells(drawn.plot).layout.shapes
    assert len(shapes) >= len(values)
    top = max(zip(drawn.data["value"], drawn.data["column"], drawn.data["row"], strict=True))
    order_x, order_y = (list(axis.categoryarray) for axis in (drawn.plot.layout.xaxis, drawn.plot.layout.yaxis))
    fills = {((s.x0 + s.x1) / 2, (s.y0 + s.y1) / 2): s.fillcolor for s in shapes}
    expected = sample_colorscale([list(pair) for pair in heat.colorscale], [1.0])[0]
    assert fills[order_x.index(top[1]), order_y.index(top[2])] == expected


def test_a_map_of_more_cells_than_a_file_can_bear_stays_a_bitmap() -> None:
    large = go.Figure(go.Heatmap(z=[[0.0] * 101] * 100, x=list(range(101)), y=list(range(100))))
    assert vector_cells(large) is large


def test_one_browser_serves_all_pictures_and_is_gone_afterwards(browser: Path) -> None:
    import kaleido

    with browser_kept():
        assert kaleido._global_server.is_running()
    assert not kaleido._global_server.is_running()


def test_a_kind_that_is_none_is_refused() -> None:
    with pytest.raises(RankLabError, match="picture of kind 'gif'"):
        picture(figure(), "gif")


def test_figures_of_a_paper_compile_from_their_captions(study: Path, tmp_path: Path) -> None:
    written = export_figures(Study(study), tmp_path, ["html"], command="again")
    text = (tmp_path / "captions.tex").read_text(encoding="ascii")
    assert text.count("\\begin{figure}") == text.count("\\label{fig:") == len(study_figures(Study(study)))
    assert "U+" not in text  # every sign of a caption has a name in LaTeX
    assert "$x$" not in text
    assert re.findall(r"^ *\\includegraphics", text, re.MULTILINE) == []  # no PDF was written
    assert {each.file.name for each in written.files} >= {"captions.md", "captions.tex", "figures.html"}
