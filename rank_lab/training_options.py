"""Values that options of training may have, refused by the option's name before anything is loaded."""

import math
from collections.abc import Mapping

from rank_lab.errors import RankLabError

__all__ = ["refuse_below_one", "refuse_device", "refuse_negative", "refuse_rate"]


def refuse_device(device: str) -> None:
    """Refuse what is neither the CPU nor a GPU that torch sees.

    Raises
    ------
    RankLabError
        Naming ``--device``.
    """
    import torch

    if device not in {"cpu", "cuda"} or (device == "cuda" and not torch.cuda.is_available()):
        raise RankLabError(f"--device {device}: expected cpu, or cuda where torch sees a GPU.")


def refuse_below_one(counts: Mapping[str, int | None]) -> None:
    """Refuse counts below 1, by the name of the field; None is not given.

    Examples
    --------
    >>> refuse_below_one({"batch_size": 0})
    Traceback (most recent call last):
    rank_lab.errors.RankLabError: --batch-size 0: expected 1 or more.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise RankLabError(f"--{name.replace('_', '-')} {value}: expected 1 or more.")


def refuse_rate(option: str, value: float | None) -> None:
    """Refuse what is not finite and above 0; None is not given.

    Raises
    ------
    RankLabError
        Naming the option.
    """
    if value is not None and not 0 < value < math.inf:
        raise RankLabError(f"{option} {value!r}: expected a finite number above 0.")


def refuse_negative(values: Mapping[str, float]) -> None:
    """Refuse what is not finite or below 0, by the name of the option.

    Raises
    ------
    RankLabError
        Naming the option.
    """
    for option, value in values.items():
        if not 0 <= value < math.inf:
            raise RankLabError(f"{option} {value!r}: expected a finite number, 0 or more.")
