"""A dashboard that runs as users run it, and a browser that looks at it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

ROOT = Path(__file__).parents[2]


@contextmanager
def dashboard(study: Path, log: Path, *options: str) -> Iterator[str]:
    """Its address, as the command says it; in the end Ctrl-C must end it, and nothing may have failed in it."""
    command = [sys.executable, "-m", "rank_lab", "dashboard", str(study), "--no-browser", *options]
    with log.open("w") as errors, subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert " at http://" in line, line + log.read_text()
            yield line.split(" at ")[1].split()[0]
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            status = process.wait(20)
            assert status == 0, f"status {status}: {log.read_text()}"
            with pytest.raises(ProcessLookupError):  # nothing of its group is left
                os.killpg(process.pid, 0)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    said = log.read_text()
    assert "Traceback" not in said, said
    assert "rror" not in said, said


@dataclass
class Watched:
    """A page of a browser in which everything that goes wrong is kept."""

    page: Page
    faults: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(f"page: {error}"))
        self.page.on("request", lambda request: self.hosts.add(urlparse(request.url).netloc or "inline"))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text} at {message.location.get('url', '')}")

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.settle()

    def settle(self) -> None:
        """Wait until the script has run and what it drew is there."""
        app = self.page.locator('[data-testid="stApp"]')
        expect(self.page.locator('[data-testid="stHeading"]').first).to_be_visible()
        expect(app).to_have_attribute("data-test-script-state", "notRunning")
        expect(self.page.locator('[data-stale="true"]')).to_have_count(0)

    def assert_well(self, address: str) -> None:
        assert self.faults == []
        assert self.hosts <= {urlparse(address).netloc, "inline"}
        assert self.page.locator('[data-testid="stException"]').count() == 0


@contextmanager
def watched(browser: Browser, scheme: str = "light") -> Iterator[Watched]:
    """A page of a context of its own."""
    context = browser.new_context(viewport={"width": 1300, "height": 1400}, color_scheme=scheme, accept_downloads=True)  # type: ignore[arg-type]
    context.set_default_timeout(120_000)
    expect.set_options(timeout=120_000)
    try:
        yield Watched(context.new_page())
    finally:
        context.close()
