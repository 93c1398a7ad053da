"""Side by side: what weightwatcher, PEFT, numpy and this tool say of changes whose truth is known.

``python -m analyses.rivals_errors`` makes small real models and adapters, saves them, and asks each tool the
same question in one run: LoRA's scaling, an inserted layer, added tokens, small changes, DoRA, PiSSA and OLoRA
against the original base, adapters and models in bfloat16, a model that was only saved in another type.
"""

import argparse
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from analyses.known_changes import Case, Row
from analyses.machine import about_machine, restart_on_one_thread, table, write
from analyses.rivals_adapters import dora, plain, residual, share_of_energy
from analyses.rivals_models import added_words, bfloat16, inserted_layer, recast, small_change
from analyses.rivals_readings import NOT_INSTALLED, Answer

__all__ = ["CASES", "TOOLS", "answers"]

_PATTERNS = {"rank_pattern": {"v_proj": 8}, "alpha_pattern": {"v_proj": 24}}

CASES: Mapping[str, Case] = {
    "scaling": partial(plain, case="LoRA, alpha / r = 4", options={}, scaling=4.0),
    "rslora": partial(plain, case="rsLoRA, alpha / √r = 8", options={"use_rslora": True}, scaling=16 / math.sqrt(4)),
    "patterns": partial(plain, case="rank_pattern 8, alpha_pattern 24", options=_PATTERNS, scaling=24 / 8),
    "inserted": inserted_layer,
    "added": added_words,
    "small": small_change,
    "dora": dora,
    "pissa": partial(residual, start="PiSSA"),
    "olora": partial(residual, start="OLoRA"),
    "bfloat16": bfloat16,
    "recast": recast,
    "energy": share_of_energy,
}
"""By name, in the order of the table."""

TOOLS = ("rank_lab", "weightwatcher", "peft", "numpy")

_RESULTS = Path(__file__).parent / "results"
_QUICK, _FULL = 128, 512
_HEADINGS = ("case", "asked", "truth", "rank_lab", "weightwatcher", "PEFT", "numpy", "why")


def answers(width: int) -> dict[str, list[Row]]:
    """Make every case in a folder of its own and ask all tools.

    Parameters
    ----------
    width
        Of the models.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            (Path(folder) / name).mkdir()
            found[name] = case(Path(folder) / name, width)
    return found


def _record(row: Row) -> dict[str, Any]:
    return asdict(row) | {"wrong": [tool for tool in TOOLS if row.wrong(getattr(row, tool))]}


def _shown(answer: Answer, *, wrong: bool) -> str:
    if isinstance(answer, str):
        return answer
    text = f"{answer:.0f}" if answer % 1 == 0 else f"{answer:.1e}" if abs(answer) < 1e-4 else f"{answer:.4g}"
    return f"**{text}**" if wrong else text


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    cells = [_shown(row[tool], wrong=tool in row["wrong"]) for tool in TOOLS]
    return (
        row["case"],
        row["quantity"],
        _shown(row["truth"], wrong=False),
        *cells,
        row["cause"] if row["wrong"] else "",
    )


def _tally(rows: Sequence[dict[str, Any]]) -> str:
    parts = []
    for tool, name in zip(TOOLS, _HEADINGS[3:], strict=False):
        given = [row for row in rows if not isinstance(row[tool], str)]
        wrong = sum(tool in row["wrong"] for row in given)
        parts.append(f"{name} {wrong} of {len(given)}" if given else f"{name} {NOT_INSTALLED}")
    return (
        f"Wrong, of the numbers given: {', '.join(parts)}. The cases were chosen where tools were known to err, so that"
        " these counts say nothing of how often they do."
    )


def _conditions(results: dict[str, Any]) -> str:
    machine = results["machine"]
    missing = (
        " weightwatcher is no dependency of this project; to have its column, `pip install weightwatcher` into a"
        " scratch environment that also sees this project, and run there."
    )
    return (
        f"Random Llamas of width {results['width']}, adapted, moved and saved in this run. Truth: what was"
        " planted, or the formula of the method in float64. **Bold**: not the truth. –: not asked, or not what the tool"
        " is for. weightwatcher:"
        " `WeightWatcher.analyze`, with `peft=True` for adapters and `base_model` for others, `min_evals=1`, else its"
        " defaults. PEFT: `get_delta_weight`, or what the row names. numpy: `linalg.svd` or `matrix_rank` of the"
        " difference in float64. rank_lab: the columns of `updates`."
        + (missing if machine["versions"]["weightwatcher"] == NOT_INSTALLED else "")
        + f"\n\n{machine['date']}; "
        + ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        + "."
    )


def _report(results: dict[str, Any]) -> str:
    rows = [row for found in results["cases"].values() for row in found]
    notes = dict.fromkeys(row["note"] for row in rows if row["note"])
    return "\n\n".join(
        (
            "# What tools say where the truth is known",
            _conditions(results),
            table(_HEADINGS, [_cells(row) for row in rows]),
            _tally(rows),
            "\n".join(f"- {note}" for note in notes),
        )
    )


def main() -> None:
    """Make the cases, ask, write the table."""
    restart_on_one_thread("analyses.rivals_errors")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="narrow models: does it run?")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for rivals_errors.json and rivals_errors.md")
    options = parser.parse_args()
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # PEFT's remarks on converting LoRA to LoRA, and on bases that an adapter changed
    width = _QUICK if options.quick else _FULL
    found = answers(width)
    results: dict[str, Any] = {
        "machine": about_machine(["rank-lab", "weightwatcher", "peft", "transformers", "torch", "numpy"]),
        "width": width,
        "cases": {name: [_record(row) for row in rows] for name, rows in found.items()},
    }
    write(options.out, "rivals_errors", results, _report(results))


if __name__ == "__main__":
    main()
