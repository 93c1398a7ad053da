"""One measurement for a tensor that holds several matrices, for its row in the coverage."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from rank_lab.measurement import Measurement

__all__ = ["joined"]


def joined(parts: Sequence[Measurement]) -> Measurement:
    r"""What several measured parts of one tensor say of it as a whole.

    The norm is :math:`\sqrt{\sum_i \|\Delta W_i\|_F^2}`, the identical fraction
    the smallest, a failure the first one's with their number. Digests are of
    the parts' digests.

    Parameters
    ----------
    parts
        All of them, in the order in which the tensor holds them; at least one.

    Examples
    --------
    >>> parts = [Measurement("", (), np.zeros(1), frobenius_norm=norm) for norm in (3.0, 4.0)]
    >>> joined(parts).frobenius_norm
    5.0
    """
    failures = [part.failure for part in parts if part.failure]
    roles = dict.fromkeys(role for part in parts for role, _ in part.source_digests)
    return Measurement(
        content="",
        source_digests=tuple((role, _digest(role, parts)) for role in roles),
        values=np.zeros(0),
        frobenius_norm=math.sqrt(sum(part.frobenius_norm**2 for part in parts)),
        identical_fraction=min(part.identical_fraction for part in parts),
        failure=f"{len(failures)} of {len(parts)} matrices failed: {failures[0]}" if failures else "",
    )


def _digest(role: str, parts: Sequence[Measurement]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(dict(part.source_digests).get(role, "").encode())
    return state.hexdigest()
