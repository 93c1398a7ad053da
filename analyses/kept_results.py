"""What a study keeps under ``results/``: its tables, its configuration, and what is drawn and told from these alone."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analyses.machine import about_machine
from analyses.study_cells import refuse_other_settings
from rank_lab.errors import RankLabError
from rank_lab.plain_text import first_line

__all__ = ["RESULTS", "Kept", "keep", "kept", "told_origin", "write_picture"]

RESULTS = Path(__file__).parent / "results"
_NOT_TOLD = {"--study": 1, "--out": 1, "--data": 1, "--workers": 1, "--as-far": 0, "--no-picture": 0}
"""Options and how many values follow."""
_PACKAGES = ("rank-lab", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Kept:
    """A folder of results, read again.

    Parameters
    ----------
    folder
        Where they are.
    about
        ``settings``, ``seconds``, ``machine`` (with versions and date), ``source`` (commit), ``command``.
    tables
        By name.
    """

    folder: Path
    about: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]


def keep(folder: Path, settings: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], seconds: float) -> None:
    """Write ``about.json`` and a CSV for each table, six significant digits.

    Parameters
    ----------
    folder
        Of this study's results.
    settings
        Of the study, seeds among them.
    tables
        By name, small.
    seconds
        Of computing, in all processes.

    Raises
    ------
    RankLabError
        If the folder holds results of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = json.loads(json.dumps(dict(settings)))
    there = folder / "about.json"
    if there.is_file():
        before = json.loads(there.read_text(encoding="utf-8"))["settings"]
        refuse_other_settings(before, now, folder, "give another with --out, or remove it")
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    about = {
        "command": " ".join(["python -m", f"analyses.{Path(sys.argv[0]).stem}", *_told(sys.argv[1:])]),
        "settings": now,
        "seconds": round(seconds),
        "source": _commit(),
        "machine": about_machine(_PACKAGES) | {"accelerator": _accelerator()},
        "tables": list(tables),
    }
    there.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def kept(folder: Path) -> Kept:
    """Read what :func:`keep` wrote.

    Parameters
    ----------
    folder
        Of a study's results.

    Raises
    ------
    RankLabError
        If there is nothing.
    """
    if not (folder / "about.json").is_file():
        raise RankLabError(f"{folder}: no results are kept here (no about.json); run the study without --redraw first.")
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return Kept(folder, about, {name: pd.read_csv(folder / f"{name}.csv") for name in about["tables"]})


def write_picture(figure: go.Figure, folder: Path, name: str, *, scale: float = 2) -> None:
    """Write ``NAME.png`` and ``NAME.svg``.

    Parameters
    ----------
    figure
        With its size in its layout.
    folder, name
        Of the files.
    scale
        Pixels of the PNG for each of the figure's.
    """
    try:
        figure.write_image(folder / f"{name}.png", scale=scale)
        figure.write_image(folder / f"{name}.svg")
    except (ImportError, RuntimeError, ValueError) as error:  # kaleido, or the browser that it drives, is missing
        sys.exit(
            f"no picture drawn: {first_line(error)}; the tables are in {folder}, run it with --redraw once mended."
        )


def told_origin(about: Mapping[str, Any]) -> str:
    """One paragraph for the end of a page: machine, versions, time, commit, both commands.

    Parameters
    ----------
    about
        Of :class:`Kept`.
    """
    machine = about["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    words = str(about["command"]).split()
    again = " ".join([*words[:3], *(["--full"] if "--full" in words else []), "--redraw"])
    cores = f"{machine['cores']} cores" + (f", {machine['accelerator']}" if machine.get("accelerator") else "")
    return (
        f"Computing took {about['seconds'] / 60:.0f} minutes of one process in all. {machine['processor']},"
        f" {cores}, {machine['date']}, {versions}, commit {about['source']}. From scratch:"
        f" `{about['command']}`; pages and pictures again from the tables here: `{again}`."
        " Settings and seeds: about.json."
    )


def _told(arguments: Sequence[str]) -> list[str]:
    """Options that decide results, without those that say where work lies or how it is shared on one machine."""
    kept_back, found = 0, []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if kept_back:
            kept_back -= 1
        elif name in _NOT_TOLD:
            kept_back = 0 if value else _NOT_TOLD[name]
        else:
            found.append(argument)
    return found


def _accelerator() -> str:
    """The one that the command names."""
    if "cuda" not in sys.argv:
        return ""
    import torch

    return torch.cuda.get_device_name()


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
