"""The dashboard of a study, for as long as something looks at it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["running_dashboard"]


@contextmanager
def running_dashboard(study: Path) -> Iterator[str]:
    """Its address while it runs; a process group of its own, ended as Ctrl-C ends it."""
    command = [sys.executable, "-m", "rank_lab", "dashboard", str(study), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if " at http" not in line:
                raise SystemExit(f"the dashboard did not start: {line}")
            yield line.split(" at ")[1].split()[0]
        finally:
            os.killpg(process.pid, signal.SIGINT)
