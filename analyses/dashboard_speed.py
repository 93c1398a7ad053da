"""How fast does the dashboard answer on a large study? Measured in a browser, from the user's side.

Run ``python -m analyses.dashboard_speed`` on a quiet machine: 20 runs x 1,000 matrices x 4,096 singular values are
written (0.6 GB in the system's temporary folder, kept for the next time), the dashboard is started, and a headless
Chromium opens pages and clicks. Times end when the figure is painted, two frames after its last change.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from analyses.dashboard_study import write_study
from analyses.running_dashboard import running_dashboard
from rank_lab.pictures import find_browser

__all__ = ["Timing", "main", "measured"]

_RESULT = Path(__file__).parent / "results" / "dashboard_speed.md"
_TARGETS = {
    "first page of a cold server": 2.0,
    "title and first table of the first page": 2.0,
    "first page": 2.0,
    "map of the layers": 2.0,
    "first page, scripts in the browser's cache": 2.0,
    "map of the layers, scripts in the browser's cache": 2.0,
    "click on a cell": 0.3,
}
# Resolves once the text of the chosen place holds what it should, its figure is there and two frames have been drawn.
_PAINTED = """([place, text, plots]) => new Promise((resolve, reject) => {
  const end = performance.now() + 60000;
  const look = () => {
    const at = document.querySelector(place);
    const drawn = document.querySelectorAll('.js-plotly-plot .main-svg .xtick').length > 0
      && document.querySelectorAll('.js-plotly-plot').length >= plots
      && !document.querySelector('[data-stale="true"]');
    if (at && at.textContent.includes(text) && drawn) {
      requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now())));
    } else if (performance.now() > end) {
      reject(new Error(`after 60 s there is no ${text} in ${place} or no figure`));
    } else { requestAnimationFrame(look); }
  };
  look();
})"""
# Resolves once the title and the first table of a page are drawn.
_READABLE = """() => new Promise((resolve, reject) => {
  const end = performance.now() + 60000;
  const look = () => {
    if (document.querySelector('h1') && document.querySelector('[data-testid="stDataFrame"] canvas')) {
      requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now())));
    } else if (performance.now() > end) {
      reject(new Error('after 60 s there is no title or no table'));
    } else { requestAnimationFrame(look); }
  };
  look();
})"""
_CLICKED = """() => { window.clickedAt = null;
  document.addEventListener('mousedown', () => { window.clickedAt = performance.now(); }, {capture: true}); }"""


@dataclass(frozen=True)
class Timing:
    """Seconds that one thing took, again and again."""

    what: str
    seconds: tuple[float, ...]


_DOUBLE_CLICK = 1000  # milliseconds; plotly takes two clicks within 300 for a double one, which selects nothing


def measured(study: Path, repetitions: int) -> list[Timing]:
    """Opening, clicking and choosing.

    Parameters
    ----------
    study
        That :func:`analyses.dashboard_study.write_study` wrote.
    repetitions
        Of each; of a cold server a third as many.
    """
    found = find_browser()
    if found is None:
        raise SystemExit("no Chromium or Chrome was found; Debian: apt-get install chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(found), args=["--no-sandbox"])
        cold = []
        for _ in range(max(repetitions // 3, 1)):
            with running_dashboard(study) as address:
                cold.append(_opened(browser, address, "h1"))
        with running_dashboard(study) as address:
            _opened(browser, address, "h1")
            tables = [_readable(browser, address) for _ in range(repetitions)]
            first = [_opened(browser, address, "h1") for _ in range(repetitions)]
            layers = [_opened(browser, f"{address}/layers", "h1", plots=2) for _ in range(repetitions)]
            again = _again(browser, address, repetitions)
            layers_again = _again(browser, f"{address}/layers", repetitions, plots=2)
            clicks = _clicks(browser, address, repetitions)
            metrics = _metrics(browser, address, repetitions)
        browser.close()
    return [
        Timing("first page of a cold server", tuple(cold)),
        Timing("title and first table of the first page", tuple(tables)),
        Timing("first page", tuple(first)),
        Timing("first page, scripts in the browser's cache", tuple(again)),
        Timing("map of the layers", tuple(layers)),
        Timing("map of the layers, scripts in the browser's cache", tuple(layers_again)),
        Timing("click on a cell", tuple(clicks)),
        Timing("another quantity", tuple(metrics)),
    ]


def _opened(browser: Browser, address: str, place: str, *, plots: int = 1) -> float:
    """From the navigation to the painted figure, with an empty cache of the browser."""
    context = browser.new_context(viewport={"width": 1300, "height": 1400})
    seconds = _loaded(context, address, place, plots)
    context.close()
    return seconds


def _readable(browser: Browser, address: str) -> float:
    """From the navigation to what a reader begins with, with an empty cache of the browser."""
    context = browser.new_context(viewport={"width": 1300, "height": 1400})
    page = context.new_page()
    page.goto(address, wait_until="commit")
    seconds = float(page.evaluate(_READABLE)) / 1000
    context.close()
    return seconds


def _again(browser: Browser, address: str, repetitions: int, *, plots: int = 1) -> list[float]:
    """The same of a browser that has been there before."""
    context = browser.new_context(viewport={"width": 1300, "height": 1400})
    seconds = [_loaded(context, address, "h1", plots) for _ in range(repetitions + 2)]
    context.close()
    return seconds[2:]  # the browser keeps what it compiled from the second time on


def _loaded(context: BrowserContext, address: str, place: str, plots: int) -> float:
    page = context.new_page()
    page.goto(address, wait_until="commit")
    seconds = float(page.evaluate(_PAINTED, [place, "", plots])) / 1000  # since the navigation began
    page.close()
    return seconds


def _clicks(browser: Browser, address: str, repetitions: int) -> list[float]:
    page = _layers(browser, address)
    found = []
    for number in range(repetitions):
        index = 37 + 61 * number  # cells all over the map, each for the first time
        module = page.evaluate(f"document.querySelector('.js-plotly-plot').data.at(-1).customdata[{index}][2]")
        box = page.locator(".js-plotly-plot").first.locator(".scatterlayer .trace").last.locator(".point").nth(index)
        at = box.bounding_box()
        if at is None:
            raise SystemExit(f"cell {index} is not on the screen.")
        x, y = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
        page.wait_for_timeout(_DOUBLE_CLICK)
        page.mouse.move(x - 200, y + 60)
        page.mouse.move(x, y)
        page.locator(".hoverlayer .hovertext", has_text=module).wait_for()  # plotly clicks what it has hovered over
        page.evaluate(_WATCHED, module)
        page.mouse.down()
        page.mouse.up()
        painted = float(page.evaluate("window.painted"))
        found.append((painted - float(page.evaluate("window.clickedAt"))) / 1000)
    page.context.close()
    return found


# Watches from before the press on, as what asks from outside comes late. The title of the second figure names the
# matrix: it is the new spectrum that is painted, not the one before.
_WATCHED = """module => { window.painted = new Promise((resolve, reject) => {
  const end = performance.now() + 60000;
  const layer = module.match(/layers\\.(\\d+)\\./)[1];
  const titles = () => [...document.querySelectorAll('.js-plotly-plot .gtitle')].map(each => each.textContent);
  const before = titles().join();
  const look = () => {
    const now = titles();
    const named = document.querySelector('h3').textContent.includes(module) && now.join() !== before
      && now.some(each => each.endsWith(`layer ${layer}`));
    if (named && !document.querySelector('[data-stale="true"]')) {
      requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now())));
    } else if (performance.now() > end) {
      reject(new Error(`after 60 s there is no spectrum of ${module}`));
    } else { requestAnimationFrame(look); }
  };
  look();
}); }"""


def _metrics(browser: Browser, address: str, repetitions: int) -> list[float]:
    page = _layers(browser, address)
    box = page.get_by_role("combobox", name="Quantity")
    found = []
    for number in range(repetitions):
        name = ("srank", "erank", "k99", "k50", "σ₁")[number % 5]
        box.click()
        option = page.get_by_role("option", name=name, exact=True)
        option.click()
        painted = float(page.evaluate(_PAINTED, [".js-plotly-plot .gtitle", name, 2]))
        found.append((painted - float(page.evaluate("window.clickedAt"))) / 1000)
    page.context.close()
    return found


def _layers(browser: Browser, address: str) -> Page:
    page = browser.new_context(viewport={"width": 1600, "height": 1400}).new_page()
    page.goto(f"{address}/layers", wait_until="commit")
    page.evaluate(_PAINTED, ["h1", "Layers", 2])
    page.evaluate(_CLICKED)
    return page


def _table(timings: list[Timing], about: dict[str, object], load: float) -> str:
    size = f"{about['runs']} runs x {about['matrices']} matrices x {about['width']} singular values"
    machine = f"{os.cpu_count()} processors ({_processor()}), Python {platform.python_version()}"
    lines = [
        "# Speed of the dashboard",
        "",
        f"A study of {size}, looked at with a headless Chromium on the same machine;",
        "from the navigation or the press of the button to the painted figure.",
        "",
        f"{machine}; load before it began: {load:.1f}. `python -m analyses.dashboard_speed`",
        "",
        "| | n | median s | largest s | target s |",
        "|---|---|---|---|---|",
    ]
    for timing in timings:
        target = _TARGETS.get(timing.what)
        numbers = f"{len(timing.seconds)} | {statistics.median(timing.seconds):.2f} | {max(timing.seconds):.2f}"
        lines.append(f"| {timing.what} | {numbers} | {'' if target is None else target} |")
    return "\n".join([*lines, ""])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].split(":")[1].strip() if names else platform.machine()


def main() -> None:
    """Write the study, measure, keep the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--matrices", type=int, default=1000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--study", type=Path, default=None, help="where the study is, or is written")
    arguments = parser.parse_args()
    about = {name: getattr(arguments, name) for name in ("runs", "matrices", "width")}
    study = arguments.study or Path(tempfile.gettempdir()) / "rank-lab-speed-study"
    done = study / "planted.json"
    if not done.is_file() or json.loads(done.read_text()) != about:
        begin = time.perf_counter()
        write_study(study, **about)
        done.write_text(json.dumps(about))
        print(f"{study}: written in {time.perf_counter() - begin:.0f} s")
    load = os.getloadavg()[0]
    table = _table(measured(study, arguments.repetitions), about, load)
    _RESULT.write_text(table)
    print(table)


if __name__ == "__main__":
    main()
