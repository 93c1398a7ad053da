"""Rows of a report computed again from the checkpoints that its provenance names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import Plan
from rank_lab.errors import RankLabError
from rank_lab.measurement import Measurement, MeasurementOptions, measure
from rank_lab.pairing import plan_step
from rank_lab.planned import Settings, planned
from rank_lab.recorded_inputs import NotAgain, has_device, recorded_input
from rank_lab.report import RankReport
from rank_lab.rows import update_record
from rank_lab.schema import KEY
from rank_lab.spec import UpdateSpec
from rank_lab.verification import Check, row_difference, stratified_sample, values_difference

__all__ = ["verify_report"]

_Told = Callable[[str], None]


def verify_report(
    report: RankReport, study: Path, *, sample: int = 8, seed: int = 0, told: _Told | None = None
) -> list[Check]:
    """Compute a sample of a report's rows again from its inputs, without any cache, and compare.

    The content of the input comes first: tensors whose digests are not those of the report are another input, of
    which nothing is said about the numbers.

    Parameters
    ----------
    report
        As it was saved.
    study
        The folder that it lies in: an input that is not where it was is looked for below it, and must then have the
        same content.
    sample, seed
        Rows, spread over steps, deltas and kinds of module; 0 for all. The same seed gives the same rows.
    told
        Called with the module of each row before it is measured.

    Returns
    -------
    list of Check
        One for each row of the sample.

    Notes
    -----
    A row costs what it cost to analyse: its tensors are read, hashed and decomposed. A repository of the hub is opened
    at the recorded commit, and fetched where the cache does not have it.
    """
    rows = _records(report.updates.sort_values(list(KEY)))
    strata = [(_step(row), str(row["delta"]), str(row["kind"])) for row in rows]
    chosen = [rows[at] for at in stratified_sample(strata, sample, seed)]
    inputs = _Inputs(report.provenance, study)
    spectra = _spectra(report.spectra)
    digests = _digests(report.coverage)
    checks = []
    for row in chosen:
        if told is not None:
            told(str(row["module"]))
        checks.append(
            _check(row, inputs, spectra.get(_key(row), []), digests.get((_step(row), str(row["module"])), {}))
        )
    return checks


@dataclass
class _Inputs:
    """The checkpoints of a report, opened when a row asks for them, and kept."""

    provenance: Mapping[str, Any]
    study: Path
    opened: dict[str, Checkpoint] = field(default_factory=dict)
    plans: dict[int | None, Plan] = field(default_factory=dict)

    @property
    def options(self) -> MeasurementOptions:
        told = self.provenance["settings"]
        known = {name: told[name] for name in ("method", "k", "device", "noise") if name in told}
        if str(known.get("device", "cpu")) != "cpu" and not has_device(str(known["device"])):
            raise NotAgain("not recomputable", f"measured on {known['device']}, which this machine does not have")
        return MeasurementOptions(**known)

    @property
    def settings(self) -> Settings:
        told = self.provenance["settings"]
        initial = None if told.get("initial_kept_by_training") else told.get("initial")
        return Settings(
            run=str(told["run"]),
            lora_alpha=told.get("lora_alpha"),
            split_fused=bool(told.get("split_fused")),
            base_rounded=bool(told.get("base_rounded")),
            initial=None if initial is None else self.open({"source": initial}, "the adapter before training"),
        )

    def spec(self, step: int | None, delta: str, module: str) -> UpdateSpec:
        plan = self._plan(step)
        specs = plan.specs if delta == "cumulative" else plan_step(plan, self._before(step))
        found = next((spec for spec in specs if spec.module == module), None)
        if found is None:
            raise NotAgain("input changed", f"it shows no update of {module} any more")
        return found

    def open(self, record: Mapping[str, Any], what: str) -> Checkpoint:
        source = str(record["source"])
        if source not in self.opened:
            self.opened[source] = recorded_input(record, self.study, what)
        return self.opened[source]

    def _plan(self, step: int | None) -> Plan:
        if step not in self.plans:
            base = self.provenance["base"]
            original = None if base is None else self.open(base, "the base")
            tuned = self.open(self._tuned(step), "the tuned checkpoint")
            if tuned.step != step:
                raise NotAgain("input changed", f"{tuned.source} is now of step {tuned.step}")
            try:
                self.plans[step] = planned(tuned, original, self.settings)
            except RankLabError as error:
                raise NotAgain("input changed", f"it cannot be compared any more: {error}") from error
        return self.plans[step]

    def _before(self, step: int | None) -> Plan | None:
        steps = [each.get("step") for each in self.provenance["tuned"]]
        at = steps.index(step)
        return self._plan(steps[at - 1]) if at > 0 else None

    def _tuned(self, step: int | None) -> Mapping[str, Any]:
        for each in self.provenance["tuned"]:
            if each.get("step") == step:
                return dict(each)
        raise NotAgain("not recomputable", f"the provenance names no checkpoint of step {step}")


def _check(
    row: Mapping[str, Any], inputs: _Inputs, stored: list[float], digests: Mapping[str, tuple[str, ...]]
) -> Check:
    step, delta, module = _step(row), str(row["delta"]), str(row["module"])
    place = f"{module}{'' if step is None else f', step {step}'}{', since the step before' if delta == 'step' else ''}"
    check = Check("updates", str(row["run"]), place, "holds")
    try:
        if not _text(row["content"]):
            raise NotAgain("not recomputable", _never_hashed(inputs.provenance))
        spec = inputs.spec(step, delta, module)
        measured = measure(spec, replace(inputs.options, cache=None))
        _refuse_other_input(row, measured, digests)
    except NotAgain as stop:
        return replace(check, result=stop.result, reason=stop.reason)
    again = update_record(
        spec, measured, dict.fromkeys(("run", "method", "optimizer", "learning_rate", "step", "delta"))
    )
    difference = row_difference(row, again, measured.values) or values_difference(
        stored, measured.values.tolist(), measured.floor
    )
    return check if difference is None else replace(check, result="differs", difference=difference)


def _refuse_other_input(row: Mapping[str, Any], measured: Measurement, digests: Mapping[str, tuple[str, ...]]) -> None:
    """Digests of both tensors where the report has them, of everything read where it has not: of factors."""
    if not measured.source_digests:
        raise NotAgain("input changed", measured.failure)
    now = dict(measured.source_digests)
    for role in ("tuned", "base") if row["delta"] == "cumulative" else ("tuned",):  # a step's base is the step before
        known = digests.get(role, ())
        if known and role in now and now[role] not in known:
            raise NotAgain("input changed", f"the {role} tensor is another: digest {now[role]}, recorded {known[0]}")
    if row["update_kind"] == "dense" and row["delta"] == "cumulative" and all(map(digests.get, ("tuned", "base"))):
        return  # both are known to be the same, whichever version of rank_lab made the digest of the whole
    if measured.content != row["content"]:
        raise NotAgain(
            "input changed",
            f"tensors, scaling and settings together have digest {measured.content}, recorded {row['content']} (a"
            " rank_lab that measures otherwise gives another, too)",
        )


def _never_hashed(provenance: Mapping[str, Any]) -> str:
    if "tracking" in provenance:
        return "measured of weights in memory while they were trained; nothing keeps them as they were"
    return "its tensors could not be read when it was analysed, so that nothing says what they held"


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict(orient="records")]


def _spectra(table: pd.DataFrame) -> dict[tuple[Any, ...], list[float]]:
    return {_key(row): list(row["values"]) for row in _records(table)}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (str(row["run"]), _step(row), str(row["delta"]), str(row["module"]))


def _digests(coverage: pd.DataFrame) -> dict[tuple[int | None, str], dict[str, tuple[str, ...]]]:
    """Step and module to the digests that its tensors had; several where a tensor is taken apart."""
    found: dict[tuple[int | None, str], dict[str, tuple[str, ...]]] = {}
    for row in _records(coverage):
        own = found.setdefault((_step(row), _text(row["module"])), {})
        for role in ("tuned", "base"):
            digest = _text(row[f"{role}_digest"])
            if digest and digest not in own.get(role, ()):
                own[role] = (*own.get(role, ()), digest)
    return found


def _step(row: Mapping[str, Any]) -> int | None:
    return None if pd.isna(row["step"]) else int(row["step"])


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)
