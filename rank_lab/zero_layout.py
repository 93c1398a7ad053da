"""Where the values of a parameter lie in the flat partitions of DeepSpeed's ZeRO.

Stages 1 and 2 lay the parameters of a group end to end and cut the whole into
one part per process. Stage 3 cuts each parameter into equal parts, the last one
padded, and lays a process's parts of all parameters end to end.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Shapes", "Span", "cut_groups", "cut_parameters"]

Shapes = Mapping[str, tuple[int, ...]]
"""Parameters of one group in the order in which they lie."""


@dataclass(frozen=True)
class Span:
    """A range of elements in one flat tensor of one process."""

    rank: int
    group: int
    start: int
    length: int


def cut_groups(
    groups: Sequence[Shapes], lengths: Sequence[Sequence[int]], gaps: Sequence[Sequence[int]] | None
) -> dict[str, tuple[Span, ...]]:
    """Spans of every parameter under stages 1 and 2.

    Parameters
    ----------
    groups
        Shapes of each group's parameters.
    lengths
        Elements of each process's flat tensors: ``lengths[rank][group]``.
    gaps
        Elements that lie unused behind each parameter: ``gaps[group][parameter]``; None for none.

    Raises
    ------
    ValueError
        If the partitions do not hold the parameters and the padding of the last one.

    Examples
    --------
    >>> cut_groups([{"a": (2, 2), "b": (3,)}], [[4], [3]], None)["b"]
    (Span(rank=1, group=0, start=0, length=3),)
    """
    found: dict[str, tuple[Span, ...]] = {}
    for group, shapes in enumerate(groups):
        parts = [process[group] for process in lengths]
        behind = gaps[group] if gaps is not None else [0] * len(shapes)
        offset = 0
        for (name, shape), gap in zip(shapes.items(), behind, strict=True):
            count = math.prod(shape)
            found[name] = tuple(
                Span(rank, group, start, length) for rank, start, length in _across(parts, offset, count)
            )
            offset += count + gap
        unit = 2 * len(lengths)  # to a multiple of this a group is padded
        if not offset <= sum(parts) <= math.ceil(offset / unit) * unit:
            raise ValueError(f"group {group} of {sum(parts)} values, though its parameters are {offset}")
    return found


def cut_parameters(groups: Sequence[Shapes], lengths: Sequence[Sequence[int]]) -> dict[str, tuple[Span, ...]]:
    """Spans of every parameter under stage 3; parameters as in :func:`cut_groups`, the same on every process.

    Raises
    ------
    ValueError
        If the partitions do not hold exactly the parameters with their padding.

    Examples
    --------
    >>> cut_parameters([{"a": (3,)}], [[2], [2]])["a"]
    (Span(rank=0, group=0, start=0, length=2), Span(rank=1, group=0, start=0, length=1))
    """
    processes, offset = len(lengths), 0
    found: dict[str, tuple[Span, ...]] = {}
    for shapes in groups:
        for name, shape in shapes.items():
            count = math.prod(shape)
            part = math.ceil(count / processes)
            found[name] = tuple(
                Span(rank, group, start, length)
                for rank, parts in enumerate(lengths)
                for group, start, length in _across(parts, offset, min(part, max(count - rank * part, 0)))
            )
            offset += part
    for rank, parts in enumerate(lengths):
        if sum(parts) != offset:
            raise ValueError(f"{sum(parts)} values of process {rank}, though its part of the parameters is {offset}")
    return found


def _across(parts: Sequence[int], offset: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Part, start in it and length, of a range in what the parts are end to end."""
    begin = 0
    for index, size in enumerate(parts):
        start, stop = max(offset, begin), min(offset + count, begin + size)
        if start < stop:
            yield index, start - begin, stop - start
        begin += size
