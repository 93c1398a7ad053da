"""The dashboard in a real browser: pages, clicks, downloads, shared addresses, darkness, hostile names."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlparse

import pandas as pd
import pytest
from PIL import ImageColor
from playwright.sync_api import Browser, expect, sync_playwright

from app.navigation import PAGES
from rank_lab import RankReport
from rank_lab.figures.style import Style, palette
from rank_lab.pictures import find_browser
from rank_lab.plain_text import plain
from tests.app.followed_first import FollowedFirst
from tests.app.served import Watched, dashboard, watched
from tests.app.studies import HOSTILE_MODULE, HOSTILE_RUN, hostile, renamed
from tests.demo_study import PLAN

RUN = "full-1e-4"  # of the demo
MODULE, OTHER_MODULE = "model.layers.1.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
ADDRESSES = ["", *(name for _, _, _, name in PAGES[1:])]  # the first page has the address of the whole
WITHOUT_FIGURES = ("function",)  # of which the demo has nothing
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
# Counts, plot by plot, how often plotly is given the same plot again and how often it then draws it again.
COUNTED = """
window.plots = [];
Object.defineProperty(HTMLElement.prototype, 'on', {configurable: true, set(listen) {
  Object.defineProperty(this, 'on', {configurable: true, writable: true, value: listen});
  const plot = {done: false, again: 0, given: 0};
  window.plots.push(plot);
  listen.call(this, 'plotly_beforeplot', () => { plot.again += plot.done; });
  listen.call(this, 'plotly_afterplot', () => { plot.done = true; });
  listen.call(this, 'plotly_react', () => { plot.given += 1; });
}});
"""

DRAWN = """() => { const drawn = document.querySelectorAll('.js-plotly-plot .infolayer').length;
  return drawn > 0 && drawn === document.querySelectorAll('[data-testid=stPlotlyChart]').length; }"""
# Pairs of texts, of the legend, the title, and titles and ticks of axes, that lie on each other.
COVERED = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => {
  const parts = [...plot.querySelectorAll('.legend, .gtitle, .infolayer [class*=title], .xaxislayer-above text')];
  const ticks = [...plot.querySelectorAll('[class*=axislayer] text')];
  const drawn = [...new Set([...parts, ...ticks])].map(each => [each, each.getBoundingClientRect()])
    .filter(([, box]) => box.width && box.height);
  const inside = (one, other) => one.contains(other) || other.contains(one);
  return drawn.flatMap(([one, a], index) => drawn.slice(index + 1).filter(([other, b]) => !inside(one, other)
    && a.left < b.right - 2 && b.left < a.right - 2 && a.top < b.bottom - 2 && b.top < a.bottom - 2
  ).map(([other]) => `${one.textContent} | ${other.textContent}`));
})"""
# Where the mark of a module is: of which plot, of which trace of points, the how manieth.
MARK_OF = """module => {
  for (const [number, plot] of [...document.querySelectorAll('.js-plotly-plot')].entries()) {
    const traces = plot.calcdata.map(points => points[0].trace).filter(each => each.type === 'scatter');
    for (const [trace, each] of traces.entries()) {
      const index = (each.customdata || []).findIndex(found => found[2] === module);
      if (index >= 0) { return [number, trace, index]; }
    }
  }
}"""

pytestmark = pytest.mark.timeout(900)  # another process may be making the study


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = find_browser()
    if found is None:
        message = "no Chromium or Chrome on the path (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(f"{message}; with CI set the browser tests must run")
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(found), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, kept_demo_study: Path) -> Path:
    """What the demo makes, and beside it a run whose names would do harm if they were taken for markup."""
    folder = Path(tmp_path_factory.mktemp("served")) / "study"
    shutil.copytree(kept_demo_study, folder)
    hostile(RankReport.load(folder / f"{RUN}.rank")).save(folder / "strange.rank")
    return folder


@pytest.fixture(scope="module")
def address(study: Path) -> Iterator[str]:
    with dashboard(study, study.parent / "log") as address:
        yield address


@pytest.fixture
def tab(browser: Browser, address: str) -> Iterator[Watched]:
    with watched(browser) as tab:
        yield tab
        tab.assert_well(address)


def click_mark(tab: Watched, module: str) -> None:
    """Click the mark of a module as a reader does: with the mouse, at its place on the screen."""
    tab.page.wait_for_function(DRAWN)  # plots further up move it
    plot, trace, index = tab.page.evaluate(MARK_OF, module)
    traces = tab.page.locator(".js-plotly-plot").nth(plot).locator(".scatterlayer .trace")
    point = traces.nth(trace).locator(".point").nth(index)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    label = tab.page.locator(".hoverlayer .hovertext")
    for _ in range(100):  # plotly clicks what it has hovered over, and a mouse that moves once may come too early
        tab.page.mouse.move(x - 40, y + 40)
        tab.page.mouse.move(x, y)
        tab.page.wait_for_timeout(200)
        if label.count():
            break
    tab.page.mouse.click(x, y)


@pytest.mark.parametrize("name", ADDRESSES)
def test_every_page_opens_and_no_text_of_a_plot_lies_on_another(tab: Watched, address: str, name: str) -> None:
    tab.open(f"{address}/{name}")
    assert urlparse(tab.page.url).path.strip("/") == name
    assert tab.page.get_by_text("This page could not be shown").count() == 0
    assert tab.page.get_by_text("Deploy", exact=True).count() == 0
    if name not in WITHOUT_FIGURES:
        tab.page.wait_for_function(DRAWN)
        assert covered(tab) == []
    if name and name not in WITHOUT_FIGURES:  # a name of 60 characters leaves a narrow overview no room
        tab.page.set_viewport_size({"width": 800, "height": 1400})
        assert covered(tab) == []


def covered(tab: Watched) -> list[str]:
    """Pairs of texts in plots, one on the other, once there are none or none go away any more."""
    found: list[str] = []
    for _ in range(10):  # a plot follows the width of the page, and is drawn again where it measures its texts
        tab.page.wait_for_timeout(500)
        found = tab.page.evaluate(COVERED)
        if not found:
            break
    return found


def test_a_click_on_the_map_shows_the_matrix_and_the_address_can_be_shared(
    browser: Browser, tab: Watched, address: str
) -> None:
    tab.open(f"{address}/layers?run={RUN}&metric=srank")
    tab.page.wait_for_selector(".js-plotly-plot .point")
    click_mark(tab, MODULE)
    expect(tab.page.locator("h3", has_text=MODULE)).to_be_visible()
    tab.page.wait_for_url("**module=**")
    assert parse_qs(urlparse(tab.page.url).query)["module"] == [MODULE]
    with watched(browser) as other:
        other.open(tab.page.url)
        expect(other.page.locator("h3", has_text=MODULE)).to_be_visible()
        for label, chosen in (("Run", RUN), ("Quantity", "srank"), ("Matrix", MODULE)):
            expect(other.page.get_by_role("combobox", name=label)).to_have_value(chosen)
        other.assert_well(address)


@pytest.mark.parametrize("name", ["layers", "subspaces"])
def test_a_click_is_not_lost_to_the_look_for_changed_files(tab: Watched, address: str, name: str) -> None:
    followed = FollowedFirst.of(tab.page, f"{address}/{name}?run={RUN}&module={OTHER_MODULE}")
    tab.settle()
    click_mark(tab, MODULE)
    expect(tab.page.get_by_role("combobox", name="Matrix")).to_have_value(MODULE)
    assert followed.put_before == 1


@pytest.mark.parametrize(("name", "figures"), [("", 1), ("layers", 2), ("compare", 1)])
def test_a_figure_is_drawn_once(tab: Watched, address: str, name: str, figures: int) -> None:
    tab.page.add_init_script(COUNTED)
    tab.open(f"{address}/{name}?run={RUN}")
    tab.page.wait_for_function(f"plots.length >= {figures} && plots.every(plot => plot.given > 0)")
    assert {plot["again"] for plot in tab.page.evaluate("plots")} == {0}


def test_downloads_arrive_and_parse(tab: Watched, address: str, study: Path) -> None:
    tab.open(f"{address}/layers?run={RUN}&step={PLAN.steps}&metric=%CF%83%E2%82%81")
    # not the button of the same word that a plot has once it is drawn
    tab.page.get_by_role("button", name="Download", exact=True).first.click()
    with tab.page.expect_download() as data:
        tab.page.get_by_role("button", name="Data (CSV)").first.click()
    found = pd.read_csv(io.BytesIO(Path(data.value.path()).read_bytes())).set_index("modules")["value"]
    updates = RankReport.load(study / f"{RUN}.rank").updates
    own = updates[(updates["step"] == PLAN.steps) & (updates["delta"] == "cumulative")].set_index("module")[
        "spectral_norm"
    ]
    assert found.to_dict() == pytest.approx(own.to_dict(), rel=1e-12)
    with tab.page.expect_download() as page:
        tab.page.get_by_role("button", name="Interactive page (HTML)").first.click()
    assert page.value.suggested_filename == "layer_map.html"
    text = Path(page.value.path()).read_text(encoding="utf-8")
    assert text.lower().startswith("<!doctype html>")
    assert "Plotly.newPlot" in text
    assert "<script src=" not in text  # it needs nothing else


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(browser: Browser, address: str, scheme: Style) -> None:
    with watched(browser, scheme) as tab:
        tab.open(f"{address}/layers?run={RUN}")
        tab.page.wait_for_function(DRAWN)
        ratios = tab.page.evaluate(CONTRAST)
        background = tab.page.evaluate(
            "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
        )
    assert background == f"rgb{ImageColor.getrgb(palette(scheme).background)}"  # that of the figures
    assert len(ratios) > 30
    low = {text: ratio for text, ratio in ratios if ratio < 4.5}
    assert not low


@pytest.mark.parametrize("name", ["", "layers", "spectra", "compare"])
def test_hostile_names_are_text_and_execute_nothing(tab: Watched, address: str, name: str) -> None:
    run, module = quote(HOSTILE_RUN), quote(HOSTILE_MODULE)
    places = quote(f"{HOSTILE_RUN}, step {PLAN.steps}")
    tab.open(f"{address}/{name}?run={run}&module={module}&places={places}&matrices={module}")
    if name == "layers":
        expect(tab.page.locator("h3")).to_contain_text(plain(HOSTILE_MODULE))
        expect(tab.page.get_by_role("combobox", name="Run")).to_have_value(HOSTILE_RUN)
        tab.page.wait_for_selector(".js-plotly-plot .gtitle")
        expect(tab.page.locator(".js-plotly-plot .gtitle").first).to_contain_text(HOSTILE_RUN)
    tab.page.wait_for_timeout(300)
    assert tab.page.evaluate("window.hacked") is None
    assert tab.page.locator('[data-testid="stMain"] img[src="x"]').count() == 0
    assert tab.page.locator('[data-testid="stMain"] .katex').count() == 0
    assert tab.page.locator('[data-testid="stMain"] a[href^="javascript"]').count() == 0
    assert "\x1b" not in tab.page.content()


def test_a_study_that_grows_shows_what_is_new(tab: Watched, address: str, study: Path) -> None:
    tab.open(f"{address}/compare")
    renamed(RankReport.load(study / "lora-5e-4.rank"), "later").save(study / "later.rank")
    box = tab.page.locator('[data-testid="stMultiSelect"]').first
    box.locator("input").click()
    expect(tab.page.get_by_role("option", name="later")).to_be_visible()
