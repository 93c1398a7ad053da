"""What is shown of a stage while it runs: a line per check."""

import json
from collections.abc import Mapping
from typing import Any

from rank_lab.curve import PROGRESS_FILE

__all__ = ["PROGRESS_FILE", "progress_line"]

_SHOWN = ("step", "loss", "nonzero_gates", "gate_sum", "learning_rate", "threshold")


def progress_line(check: Mapping[str, Any]) -> str:
    """A check of a Trainer's log as a line of JSON.

    Parameters
    ----------
    check
        An entry of ``log_history`` with a loss.

    Examples
    --------
    >>> progress_line({"step": 20, "loss": 0.5, "nonzero_gates": 7, "learning_rate": 0.1, "grad_norm": 1.0})
    '{"step": 20, "loss": 0.5, "nonzero_gates": 7, "learning_rate": 0.1}'
    """
    return json.dumps({name: check[name] for name in _SHOWN if name in check})
