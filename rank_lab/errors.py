"""What can go wrong, by kind.

Every message says what is wrong with which value, what was expected and where
that expectation came from, and what to do next. The command line prints it as
one line and exits with code 2.
"""

__all__ = [
    "BudgetError",
    "CheckpointError",
    "ConvergenceError",
    "DataError",
    "IncompleteSpectrumError",
    "NonFiniteError",
    "PairingError",
    "RankLabError",
    "SchemaError",
    "ShapeMismatchError",
    "UnsupportedUpdateError",
    "is_out_of_memory",
]


class RankLabError(Exception):
    """Anything that rank_lab itself refuses; the root of all kinds below."""


class BudgetError(RankLabError, ValueError):
    """Ranks cannot be given out: a budget buys nothing, a share is none, or there is nothing to buy."""


class CheckpointError(RankLabError, ValueError):
    """A checkpoint cannot be read: missing, truncated, unsafe or unknown."""


class DataError(RankLabError, ValueError):
    """A data set cannot be read, or its texts and labels are not what the task needs."""


class PairingError(RankLabError, ValueError):
    """Two checkpoints do not describe the same modules."""


class UnsupportedUpdateError(RankLabError, NotImplementedError):
    """A kind of update that is recognised, named, and not analysed."""


class ShapeMismatchError(RankLabError, ValueError):
    """Tensors that should fit together do not."""


class NonFiniteError(RankLabError, ArithmeticError):
    """A tensor holds NaN or infinite values."""


class ConvergenceError(RankLabError, ArithmeticError):
    """A decomposition did not converge."""


class IncompleteSpectrumError(RankLabError, ValueError):
    """A quantity needs singular values that this spectrum does not hold."""


class SchemaError(RankLabError, ValueError):
    """A file of rank_lab's own is not of the form that its schema promises."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, of the machine or of a device; torch says some of it in words alone.

    Examples
    --------
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    (True, True)
    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    >>> is_out_of_memory(RuntimeError("a shape is wrong"))
    False
    """
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in ("can't allocate memory", "out of memory", "not enough memory"))
