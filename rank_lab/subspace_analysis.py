"""``compare_runs``: how the updates of two runs lie to each other, one module after another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import Plan
from rank_lab.engine import run_largest_first
from rank_lab.errors import PairingError
from rank_lab.key_space import nearest_pairs
from rank_lab.measurement import MeasurementOptions
from rank_lab.module_comparison import ComparisonOptions, Member, Rows, compare_module, coverage_row
from rank_lab.names import natural_order
from rank_lab.plain_text import plain
from rank_lab.planned import RunSource, plan_since, recorded_choices, start_of
from rank_lab.provenance import provenance_of
from rank_lab.spec import UpdateSpec
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_schema import SUBSPACE_TABLES
from rank_lab.trajectory import name_of_run, open_run
from rank_lab.tuned_weight import weight_place

__all__ = ["ComparisonProgress", "compare_runs"]

ComparisonProgress = Callable[[float, float, str], None]
"""Called with work done, work in all (in multiply-adds) and the module that was finished."""


@dataclass(frozen=True, eq=False)
class _Run:
    """One side of the comparison."""

    name: str
    checkpoint: Checkpoint
    steps: tuple[int | None, ...]
    plan: Plan
    members: dict[str, Member]
    choices: Mapping[str, Any]

    @property
    def step(self) -> int | None:
        return self.checkpoint.step


def compare_runs(
    first: Checkpoint | str | Path | RunSource,
    second: Checkpoint | str | Path | RunSource,
    base: Checkpoint | str | Path | None = None,
    *,
    options: ComparisonOptions = ComparisonOptions(),  # noqa: B008 - frozen
    name: str = "",
    workers: int = 1,
    progress: ComparisonProgress | None = None,
) -> SubspaceReport:
    """Principal angles, similarity, amplification and intruders of the updates of two runs.

    Parameters
    ----------
    first, second
        Paths or hub ids, or open checkpoints, of anything that :func:`rank_lab.analysis.analyze` takes; of a trainer's
        folder of ``checkpoint-N`` the last is compared, which the provenance says: name another by its own folder. With
        settings (alpha of a file that has none, the adapter before training ...) as
        :class:`rank_lab.planned.RunSource`.
    base
        What both were tuned from. Factors are compared without it; amplification and intruders then are missing.
    options
        What is compared, and how many directions.
    name
        Of the comparison; default both runs', with their steps where the names are equal. Runs whose steps are
        equal, too, are called by the folders where their paths part.
    workers
        Processes; 0 for as many as cores where that pays.
    progress
        Called as modules are finished.

    Returns
    -------
    SubspaceReport
        With a row of coverage for each module of either run.

    Raises
    ------
    RankLabError
        If one of them cannot be planned (see :func:`rank_lab.pairing.plan_updates`), both are one, or no
        module is in both.

    Examples
    --------
    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> for file, change in (("base", 0.0), ("one", 1.0), ("two", 2.0)):
    ...     tensors = {"h.0.q_proj.weight": torch.eye(4) + change * torch.ones(4, 4)}
    ...     save_file(tensors, folder / f"{file}.safetensors")
    >>> report = compare_runs(*(folder / f"{file}.safetensors" for file in ("one", "two", "base")))
    >>> report.angles[["side", "cosine"]].round(6).to_dict("list")
    {'side': ['left', 'right'], 'cosine': [1.0, 1.0]}
    """
    original = Checkpoint.open(base) if isinstance(base, str | Path) else base
    one, other = _told_apart(_opened(first, original), _opened(second, original))
    _refuse_same(one, other)
    _refuse_empty(one, other)
    common = sorted(one.members.keys() & other.members.keys(), key=natural_order)
    if not common:
        raise PairingError(
            f"{one.checkpoint.source} and {other.checkpoint.source} have no updated module in common; nearest: "
            f"{nearest_pairs(list(one.members), list(other.members))}."
            " Are they of one model? Adapters of another naming meet a full checkpoint only with --base."
        )

    common = [module for module in common if options.modules is None or module in options.modules]

    def done(finished: float, total: float, index: int) -> None:
        if progress is not None:
            progress(finished, total, common[index])

    pairs = [(one.members[module], other.members[module]) for module in common]
    count = workers if options.device == "cpu" else 1
    work = [sum(_work(member, options) for member in pair) for pair in pairs]
    found = run_largest_first(_Compare(options), pairs, work, workers=count, progress=done)
    rows: Rows = {table: [row for each in found for row in each[table]] for table in SUBSPACE_TABLES}
    rows["coverage"] += [*_unpaired(one, other), *_unread(one), *_unread(other)]
    tables = {table: _table(rows[table], schema.names) for table, schema in SUBSPACE_TABLES.items()}
    return SubspaceReport(**tables, provenance=_provenance(one, other, original, options, name))


@dataclass(frozen=True)
class _Compare:
    """:func:`compare_module` with its options, in a form that travels to workers."""

    options: ComparisonOptions

    def __call__(self, pair: tuple[Member, Member]) -> Rows:
        return compare_module(pair, self.options)


def _opened(given: Checkpoint | str | Path | RunSource, base: Checkpoint | None) -> _Run:
    run = RunSource.of(given)
    source, settings = run.source, run.settings
    checkpoints = (source,) if isinstance(source, Checkpoint) else open_run(source)
    last = checkpoints[-1]
    start = start_of(last, settings)
    plan = plan_since(last, base, settings, start)
    name = settings.run or name_of_run(source, checkpoints)
    sources = (last,) if base is None else (base, last)
    members = {spec.module: Member(name, last.step, spec, weight_place(spec, sources)) for spec in plan.specs}
    steps = tuple(each.step for each in checkpoints)
    return _Run(name, last, steps, plan, members, recorded_choices(settings, [start]))


def _told_apart(one: _Run, other: _Run) -> tuple[_Run, _Run]:
    """Two runs of one name and step are called by the folders where their paths part: rows are known by these names."""
    if (one.name, one.step) != (other.name, other.step):
        return one, other
    ends = zip(*(reversed(run.checkpoint.folder.absolute().parts) for run in (one, other)), strict=False)
    first, second = next(((a, b) for a, b in ends if a != b), ("first", "second"))
    return _renamed(one, f"{first}/{one.name}"), _renamed(other, f"{second}/{other.name}")


def _renamed(run: _Run, name: str) -> _Run:
    members = {module: replace(member, run=name) for module, member in run.members.items()}
    return replace(run, name=name, members=members)


def _refuse_same(one: _Run, other: _Run) -> None:
    files = [{tensor.file.resolve() for tensor in run.checkpoint.tensors.values()} for run in (one, other)]
    if files[0] == files[1]:
        raise PairingError(
            f"{other.checkpoint.source}: both runs are the same files, whose subspaces agree; give two runs, or two"
            " checkpoints of one."
        )


def _refuse_empty(*runs: _Run) -> None:
    for run in runs:
        if not run.members:
            raise PairingError(
                f"{run.checkpoint.source}: {run.plan.method} has no weight update, so that there are no subspaces to"
                " compare; give two runs that change weights."
            )


def _work(member: Member, options: ComparisonOptions) -> float:
    spec: UpdateSpec = member.spec
    out, across = spec.shape
    small = float(min(spec.shape))
    own = float((out + across) * spec.rank_bound**2) if spec.factored else out * across * small
    in_weight = 0.0 if member.place.reason or not options.intruders else 1.5 * out * across * small + 9 * small**3
    return own + in_weight


def _table(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a table; a record of arrays becomes as many rows, its single values repeated."""
    counts = [max((len(v) for v in record.values() if isinstance(v, np.ndarray)), default=1) for record in records]
    found = {}
    for name in columns:
        values = [record.get(name) for record in records]
        if any(isinstance(value, np.ndarray) for value in values):
            found[name] = np.concatenate([np.asarray(value) for value in values])
        else:
            single = np.empty(len(values), dtype=object)
            single[:] = values
            found[name] = np.repeat(single, counts)
    return pd.DataFrame(found, columns=list(columns))


def _unpaired(one: _Run, other: _Run) -> list[dict[str, Any]]:
    found = []
    for run, partner in ((one, other), (other, one)):
        for module in sorted(run.members.keys() - partner.members.keys(), key=natural_order):
            member, first = run.members[module], run is one
            key = _key(run, module) | {"layer": member.spec.identity.layer, "kind": member.spec.identity.kind}
            pair = (member, None) if first else (None, member)
            where = partner.name if partner.name != run.name else f"{partner.name} at step {partner.step}"
            found.append(coverage_row(key, pair, "only", f"no update of this module in {where}"))
    return found


def _unread(run: _Run) -> list[dict[str, Any]]:
    rows: Sequence[Any] = [row for row in run.plan.coverage if row.failed]
    keys = [_key(run, plain(row.tensor)) for row in rows]
    return [
        coverage_row(key, (None, None), "unread", f"{row.side} checkpoint: {row.reason}", failed=True)
        for key, row in zip(keys, rows, strict=True)
    ]


def _key(run: _Run, module: str) -> dict[str, Any]:
    return {
        "run": run.name,
        "step": run.step,
        "other_run": "",
        "other_step": None,
        "module": module,
        "layer": None,
        "kind": None,
    }


def _provenance(
    one: _Run, other: _Run, base: Checkpoint | None, options: ComparisonOptions, name: str
) -> dict[str, Any]:
    chosen = {
        "name": name or _name(one, other),
        "k": options.k,
        "intruder_ks": list(options.intruder_ks) if options.intruders else [],
        "epsilons": list(options.epsilons),
        "null_draws": options.null_draws,
    }
    if options.modules is not None:
        chosen["modules"] = sorted(options.modules)
    measured = MeasurementOptions(device=options.device)
    about = provenance_of([one.checkpoint, other.checkpoint], base, measured, settings=chosen)
    sources = about.pop("tuned")
    for role, run, source in zip(("first", "second"), (one, other), sources, strict=True):
        told = {"run": run.name, "method": run.plan.method, "steps_in_run": list(run.steps)}
        about[role] = source | told | {"settings": dict(run.choices)}
    return about


def _name(one: _Run, other: _Run) -> str:
    if one.name != other.name:
        return f"{one.name}-{other.name}"
    return "-".join(run.name if run.step is None else f"{run.name}@{run.step}" for run in (one, other))
