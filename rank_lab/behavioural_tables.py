"""From scores of truncated models to what their directions keep, as rows of a report."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rank_lab.behavioural import BehaviouralRank, KeptShare, behavioural_rank, change_since, kept_shares
from rank_lab.forgetting import Change
from rank_lab.score_draws import Resampling
from rank_lab.score_row import ScoreRow
from rank_lab.truncated_update import Truncation
from rank_lab.uncertainty import Interval

__all__ = ["MeasuredModels", "Setting", "Size", "found_rank", "point_rows", "rank_rows", "tasks_of"]

Rows = tuple[ScoreRow, ...]
Record = dict[str, Any]


@dataclass(frozen=True, order=True)
class Setting:
    """One truncated model.

    Parameters
    ----------
    how
        One of :data:`rank_lab.truncated_update.TRUNCATIONS`.
    k
        Directions of each matrix.
    vectors
        Whether norms and biases are as tuned.
    """

    how: Truncation
    k: int
    vectors: bool = True


@dataclass(frozen=True)
class Size:
    """What k directions of each matrix are.

    Parameters
    ----------
    directions
        Of all matrices together.
    energy
        Share of the squared norm of all updates together.
    """

    directions: int
    energy: float


@dataclass(frozen=True, eq=False)
class MeasuredModels:
    """Scores of the base, the tuned model and everything between, a score a task.

    Parameters
    ----------
    base, tuned, truncated
        The same tasks in each.
    sizes
        Of each rank that was tried.
    bound
        The largest rank of an update.
    energy_rank_90
        The least rank whose directions hold 90 % of the squared norm of all updates together.
    vectors
        Whether norms and biases that changed stay as tuned in the curve; None where none changed.
    """

    base: Rows
    tuned: Rows
    truncated: Mapping[Setting, Rows]
    sizes: Mapping[int, Size]
    bound: int
    energy_rank_90: int
    vectors: bool | None = None

    @property
    def kept_vectors(self) -> bool:
        """Whether the curve is of models that have the tuned norms and biases, if these changed."""
        return self.vectors is not False

    def curve(self, how: Truncation, tasks: Sequence[str]) -> dict[int, Rows]:
        """Scores on some tasks at each rank that was tried in one way."""
        return {
            setting.k: _of(rows, tasks)
            for setting, rows in sorted(self.truncated.items(), key=lambda each: each[0])
            if setting.how == how and setting.vectors == self.kept_vectors
        }


def tasks_of(rows: Sequence[ScoreRow], role: str) -> list[tuple[str, tuple[str, ...]]]:
    """Each task of a role by its name, and of several, all of them by an empty one.

    Examples
    --------
    >>> rows = [ScoreRow("r", "full", 9, task, "cross_entropy", 1.0, role="target") for task in ("code", "maths")]
    >>> tasks_of(rows, "target")
    [('code', ('code',)), ('maths', ('maths',)), ('', ('code', 'maths'))]
    """
    names = tuple(dict.fromkeys(row.task for row in rows if row.role == role))
    return [(name, (name,)) for name in names] + ([("", names)] if len(names) > 1 else [])


def found_rank(
    measured: MeasuredModels, how: Truncation, tasks: Sequence[str], share: float, resampling: Resampling
) -> BehaviouralRank:
    """The least rank that was tried in one way and keeps a share of what was learned on these tasks.

    Parameters
    ----------
    measured
        With one rank at least that was tried in that way.
    how, tasks, share
        Which, of what, and how much.
    resampling
        Of the interval.
    """
    shares = _shares(measured, how, tasks, "target", resampling)
    return behavioural_rank(shares, share, level=resampling.level)


def point_rows(measured: MeasuredModels, resampling: Resampling) -> Iterator[Record]:
    """Rows of the table ``points``.

    Parameters
    ----------
    measured
        What was evaluated.
    resampling
        Of the intervals.
    """
    ways = sorted({(setting.how, setting.vectors) for setting in measured.truncated})
    for how, vectors in ways:
        rows = {s.k: found for s, found in measured.truncated.items() if (s.how, s.vectors) == (how, vectors)}
        for role in ("target", "source"):
            for name, tasks in tasks_of(measured.tuned, role):
                own = {k: _of(found, tasks) for k, found in rows.items()}
                shares = kept_shares(
                    own, _of(measured.tuned, tasks), _of(measured.base, tasks), role=role, resampling=resampling
                )
                for point in shares:
                    size, scored = measured.sizes[point.k], own[point.k]
                    yield {
                        "how": how, "k": point.k, "vectors": vectors, "directions": size.directions,
                        "energy": size.energy, "role": role, "task": name,
                        "value": math.fsum(row.value for row in scored) / len(scored),
                        **_change("change", point.change), **_interval("share", point.share),
                        "reason": point.share.reason,
                    }  # fmt: skip


def rank_rows(measured: MeasuredModels, share: float, resampling: Resampling) -> Iterator[Record]:
    """Rows of the table ``ranks``: one per target, and one of all where there are several.

    Parameters
    ----------
    measured
        What was evaluated.
    share
        To keep.
    resampling
        Of the intervals.
    """
    for name, tasks in tasks_of(measured.tuned, "target"):
        learned = change_since(
            _of(measured.tuned, tasks), _of(measured.base, tasks), role="target", resampling=resampling
        )
        rank = found_rank(measured, "leading", tasks, share, resampling)
        row = {
            "task": name, "share": share, **_change("learned", learned), "rank": rank.value, "rank_low": rank.low,
            "rank_high": rank.high, "tried_below": rank.tried_below, "lasting_rank": rank.lasting,
            "reason": rank.reason, "rank_bound": measured.bound, "energy_rank_90": measured.energy_rank_90,
            "energy_at_rank": None if rank.value is None else measured.sizes[rank.value].energy,
        }  # fmt: skip
        yield (
            row
            | _of_random(measured, tasks, share, resampling)
            | _at_rank(measured, rank, tasks, resampling)
            | _forgetting(measured, rank, resampling)
            | _vectors(measured, tasks, resampling)
        )


def _of_random(measured: MeasuredModels, tasks: Sequence[str], share: float, resampling: Resampling) -> Record:
    if not measured.curve("random", tasks):
        return {"random_rank": None, "random_tried_below": None, "random_reason": "random directions were not tried"}
    found = found_rank(measured, "random", tasks, share, resampling)
    reason = "" if found.value is not None else found.reason
    return {"random_rank": found.value, "random_tried_below": found.tried_below, "random_reason": reason}


def _forgetting(measured: MeasuredModels, rank: BehaviouralRank, resampling: Resampling) -> Record:
    tasks = next((tasks for name, tasks in reversed(tasks_of(measured.tuned, "source"))), ())
    none = Change(math.nan, reason="no source texts were given")
    if not tasks:
        return _forgot(none, none, none)
    tuned, base = _of(measured.tuned, tasks), _of(measured.base, tasks)
    forgotten = change_since(tuned, base, role="source", resampling=resampling)
    if rank.value is None:
        none = Change(math.nan, reason="there is no such rank")
        return _forgot(forgotten, none, none)
    there = measured.curve("leading", tasks)[rank.value]
    at_rank = change_since(there, base, role="source", resampling=resampling)
    return _forgot(forgotten, at_rank, change_since(tuned, there, role="source", resampling=resampling))


def _forgot(forgotten: Change, at_rank: Change, spared: Change) -> Record:
    found = {"forgotten": forgotten, "forgotten_at_rank": at_rank, "spared": spared}
    reason = next((each.reason for each in found.values() if each.reason), "")
    return {"forgotten_reason": reason} | {
        name: value for part, change in found.items() for name, value in _change(part, change).items()
    }


def _at_rank(measured: MeasuredModels, rank: BehaviouralRank, tasks: Sequence[str], resampling: Resampling) -> Record:
    """What so many directions keep, the whole update shrunk to their size, and all other directions."""
    found: Record = {}
    ways: tuple[tuple[str, Truncation], ...] = (
        ("share_at_rank", "leading"), ("shrunk_at_rank", "shrunk"), ("tail_at_rank", "tail"),
    )  # fmt: skip
    for name, how in ways:
        setting = Setting(how, -1 if rank.value is None else rank.value, measured.kept_vectors)
        found |= _interval(name, _share(measured, setting, tasks, resampling))
    return found


def _vectors(measured: MeasuredModels, tasks: Sequence[str], resampling: Resampling) -> Record:
    """What norms and biases keep alone, and all matrices without them."""
    alone, without = Setting("leading", 0), Setting("leading", measured.bound, vectors=False)
    if measured.vectors is None:
        alone = without = Setting("leading", -1)
    return _interval("share_of_vectors", _share(measured, alone, tasks, resampling)) | _interval(
        "share_without_vectors", _share(measured, without, tasks, resampling)
    )


def _share(measured: MeasuredModels, setting: Setting, tasks: Sequence[str], resampling: Resampling) -> Interval:
    """Of what was learned, that one truncated model keeps; NaN where it was not measured."""
    if setting not in measured.truncated:
        return Interval(math.nan, None, None)
    own = {setting.k: _of(measured.truncated[setting], tasks)}
    tuned, base = _of(measured.tuned, tasks), _of(measured.base, tasks)
    return kept_shares(own, tuned, base, resampling=resampling)[0].share


def _shares(
    measured: MeasuredModels, how: Truncation, tasks: Sequence[str], role: str, resampling: Resampling
) -> tuple[KeptShare, ...]:
    tuned, base = _of(measured.tuned, tasks), _of(measured.base, tasks)
    return kept_shares(measured.curve(how, tasks), tuned, base, role=role, resampling=resampling)


def _of(rows: Sequence[ScoreRow], tasks: Sequence[str]) -> Rows:
    return tuple(row for row in rows if row.task in tasks)


def _change(name: str, change: Change) -> Record:
    return {name: change.value, f"{name}_low": change.low, f"{name}_high": change.high}


def _interval(name: str, share: Interval) -> Record:
    return {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
