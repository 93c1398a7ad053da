"""What ``rank-lab fold`` does: fold, and say what came of it."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rank_lab.sora.folding import FoldReport, fold

__all__ = ["fold_and_print"]


def fold_and_print(adapter: str, out: Path, model: str | None, *, as_json: bool) -> None:
    """Fold an adapter and print the report.

    Parameters
    ----------
    adapter, out, model
        See :func:`rank_lab.sora.fold`.
    as_json
        As ``fold.json`` has it, in place of sentences.
    """
    report = fold(adapter, out, model=model)
    sys.stdout.write((json.dumps(asdict(report), indent=1) if as_json else _sentences(report, out)) + "\n")


def _sentences(report: FoldReport, out: Path) -> str:
    ranks = sorted(report.ranks.values())
    span = f"{ranks[0]}" if ranks[0] == ranks[-1] else f"{ranks[0]} to {ranks[-1]}"
    whole = (
        "whole model not compared (give --model)"
        if report.model_difference is None
        else f"outputs of the model on a batch: differ by at most {report.model_difference:.3g}"
    )
    ranks_line = (
        f"{len(ranks)} modules of rank {span}, {len(report.left_out)} left out (all gates zero),"
        f" {report.parameters} parameters"
    )
    modules_line = (
        f"outputs of each module: differ by at most {report.largest_difference:.3g}"
        f" ({report.relative_difference:.3g} of the largest)"
    )
    return "\n".join([ranks_line, modules_line, whole, f"written: {out}"])
