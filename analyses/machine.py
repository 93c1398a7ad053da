"""What the measurements of time and memory share: one thread, this machine in words, memory of a process, tables."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["ONE_THREAD", "about_machine", "memory_of", "package_version", "restart_on_one_thread", "table", "write"]

# Libraries read these when they are loaded, so that they must be set before Python starts.
ONE_THREAD = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def restart_on_one_thread(module: str) -> None:
    """Start this program again with one thread per library, unless it runs so already.

    Parameters
    ----------
    module
        What follows ``python -m``.
    """
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], os.environ | ONE_THREAD)


def package_version(name: str) -> str:
    """Version of an installed package, or ``"not installed"``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def about_machine(packages: Sequence[str]) -> dict[str, Any]:
    """Processor, system, versions, load and date, for the record.

    Parameters
    ----------
    packages
        Whose versions matter.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {name: package_version(name) for name in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    stripped = {key.strip(): value.strip() for key, value in found.items()}
    family = ", ".join(f"{key} {stripped[key]}" for key in ("cpu family", "model") if key in stripped)
    return f"{stripped.get('model name', platform.processor())} ({family})"


def memory_of(process: int | str = "self") -> dict[str, int]:
    """Memory of a process in bytes, from ``/proc/PID/status``.

    Parameters
    ----------
    process
        Its id.

    Returns
    -------
    dict
        ``anonymous`` (RssAnon), ``resident`` (VmRSS) and ``peak`` (VmHWM); empty
        if the process is gone or the system keeps no such file.
    """
    names = {"RssAnon": "anonymous", "VmRSS": "resident", "VmHWM": "peak"}
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields = (line.split(":", 1) for line in lines if ":" in line)
    return {names[key]: int(value.split()[0]) * 1024 for key, value in fields if key in names}


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Build a Markdown table.

    Parameters
    ----------
    headings
        Of the columns; the first is aligned left, the others right.
    rows
        Cells, as they are to be read.
    """
    lines = ["| " + " | ".join(headings) + " |", "| --- |" + " ---: |" * (len(headings) - 1)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def write(out: Path, name: str, results: dict[str, Any], text: str) -> None:
    """Write ``NAME.json`` and ``NAME.md`` and print the text.

    Parameters
    ----------
    out
        Folder, made if it is not there.
    name
        Of both files.
    results, text
        Their content.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    print(text)
