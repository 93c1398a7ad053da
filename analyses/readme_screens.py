"""The README's pictures of the dashboard: two pages of the demo's study, as a browser shows them.

``python -m analyses.readme_screens demo-study`` needs what ``make demo`` makes, Chromium, playwright, Pillow.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from analyses.running_dashboard import running_dashboard
from rank_lab.pictures import find_browser

RESULTS = Path(__file__).parent / "results"
WIDTH = 1200
COLOURS = 255  # of the palette, chosen by coverage: the median cut merges the colours of thin lines
PAGES = {
    # file, address, height
    "dashboard-layers.png": ("layers?run=full-4e-4&module=model.layers.1.mlp.down_proj", 1600),
    "dashboard-forgetting.png": ("forgetting", 960),
}


def screen(browser: Browser, address: str, height: int) -> bytes:
    """One page as PNG with a palette, once its script has run and its figures are there."""
    page = browser.new_page(viewport={"width": WIDTH, "height": height}, color_scheme="light")
    expect.set_options(timeout=60_000)
    page.goto(address)
    expect(page.locator(".js-plotly-plot .gtitle").first).to_be_visible()
    expect(page.locator('[data-testid="stApp"]')).to_have_attribute("data-test-script-state", "notRunning")
    page.wait_for_timeout(3000)  # fonts, and figures further down
    shown = (
        Image.open(io.BytesIO(page.screenshot()))
        .convert("RGB")
        .quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    page.close()
    content = io.BytesIO()
    shown.save(content, "PNG", optimize=True)
    return content.getvalue()


def main() -> None:
    """Write the pictures."""
    study = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-study")
    found = find_browser()
    if found is None:
        raise SystemExit("no Chromium or Chrome on the path: apt-get install chromium")
    with running_dashboard(study) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(found), args=["--no-sandbox"])
        for name, (page, height) in PAGES.items():
            file = RESULTS / name
            file.write_bytes(screen(browser, f"{address}/{page}", height))
            print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
