"""Functional ranks measured again, from the models and texts that a report's provenance names."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.evaluation.functional_command import FunctionalChoices, functional_report
from rank_lab.evaluation.functional_options import FunctionalOptions
from rank_lab.evaluation.model_folders import model_folder
from rank_lab.evaluation.model_identity import content_digest
from rank_lab.evaluation.sources import Tuned, tuned_of
from rank_lab.evaluation.text_sets import TextSet, read_texts
from rank_lab.evaluation.tuned_models import LoadOptions
from rank_lab.functional_report import FunctionalReport
from rank_lab.recorded_inputs import NotAgain, has_device
from rank_lab.verification import Check, Difference, stratified_sample

__all__ = ["SAME_ACTIVATIONS", "verify_functional"]

SAME_ACTIVATIONS = 1e-3
"""Relative difference between ranks of activations of two processors that means nothing; counts may differ by one."""

_KEY = ["step", "scope", "module"]


def verify_functional(
    name: str, report: FunctionalReport, study: Path, *, sample: int = 8, seed: int = 0
) -> list[Check]:
    """Measure a sample of a report's places again.

    Parameters
    ----------
    name
        Of the report.
    report
        As it was saved.
    study
        The folder that it lies in: an input that is not where it was is looked for below it.
    sample, seed
        Places, spread over scopes and kinds; 0 for all. The same seed gives the same places.

    Returns
    -------
    list of Check
        One for each place of the sample: all of its ranks and their nulls.

    Notes
    -----
    Costs both models on all texts again; intervals are not drawn again.
    """
    rows = report.changes.sort_values(_KEY, kind="stable")
    strata = [(str(row.scope), str(row.kind)) for row in rows.itertuples()]
    chosen = rows.iloc[stratified_sample(strata, sample, seed)]
    checks = [Check("functional", name, _words(row), "holds") for _, row in chosen.iterrows()]
    if not checks:
        return []
    try:
        again = _measured_again(report.provenance, study, chosen)
    except NotAgain as stop:
        return [replace(check, result=stop.result, reason=stop.reason) for check in checks]
    stored, found = (_by_place(each.ranks) for each in (report, again))
    return [_checked(check, stored.get(check.row, {}), found.get(check.row, {})) for check in checks]


def _measured_again(about: Mapping[str, Any], study: Path, chosen: pd.DataFrame) -> FunctionalReport:
    settings = about["settings"]
    device = str(settings.get("device", "cpu"))
    if not has_device(device):
        raise NotAgain("not recomputable", f"measured on {device}, which this machine does not have")
    base = _model(about["base"], study, "the base")
    steps = {None if pd.isna(step) else int(step) for step in chosen["step"]}
    models = [_tuned(each, settings, study) for each in about["tuned"] if each["step"] in steps]
    choices, texts = _texts(about["texts"], study)
    modules = frozenset(str(each) for each in chosen[chosen["scope"] != "layer"]["module"])
    layers = bool((chosen["scope"] == "layer").any())
    try:
        options = FunctionalOptions(
            scopes=("layer",) * layers + ("module",) * bool(modules), modules=modules or None, resamples=0,
            batch_size=int(settings["batch_size"]), groups=int(settings["groups"]), seed=int(settings["seed"]),
            centered=bool(settings["centered"]), memory=int(settings["memory"]),
        )  # fmt: skip
        loading = LoadOptions(base=base, device=device, dtype=str(settings["dtype"]), kind=settings.get("kind"))
    except (KeyError, TypeError, ValueError) as error:
        raise NotAgain("not recomputable", "the provenance does not say with which options it was made") from error
    try:
        return functional_report(models, texts, loading, choices, options)
    except (RankLabError, OSError) as error:
        raise NotAgain("input changed", f"it cannot be measured any more: {error}") from error


def _model(record: Mapping[str, Any], study: Path, what: str) -> str:
    source = _found(str(record["source"]), study, what)
    if content_digest(source) != record["sha256"]:
        raise NotAgain("input changed", f"{what}, {source}, is another one than was measured")
    return source


def _found(source: str, study: Path, what: str) -> str:
    named = Path(source)
    below = [study / Path(*named.parts[at:]) for at in range(1, len(named.parts))]
    for place in (named, *below):
        if place.exists():
            return str(place)
    try:
        return str(model_folder(source))
    except RankLabError as error:
        raise NotAgain("input missing", f"{what}: {error}") from error


def _tuned(record: Mapping[str, Any], settings: Mapping[str, Any], study: Path) -> Tuned:
    source = _model(record, study, "the tuned model")
    try:
        return replace(
            tuned_of(source, name=str(settings["run"]))[-1], method=str(record["method"]), step=record["step"]
        )
    except RankLabError as error:
        raise NotAgain("input changed", str(error)) from error


def _texts(record: Mapping[str, Any], study: Path) -> tuple[FunctionalChoices, TextSet]:
    file = Path(str(record["file"]))
    places = [place for place in (file, study / file.name) if place.exists()]
    if not places:
        raise NotAgain("input missing", f"the probe texts, {file}, are not there")
    try:
        choices = FunctionalChoices(
            texts=str(places[0]), column=str(record["column"]), join=bool(record["join"]), limit=record["limit"],
            context=int(record["context"]), skip=int(record["skip"]),
        )  # fmt: skip
        texts = read_texts("probe", places[0], column=choices.column, join=choices.join, limit=choices.limit)
    except (KeyError, TypeError, ValueError) as error:
        raise NotAgain("input changed", f"the probe texts, {file}: {error}") from error
    if texts.sha256() != record["sha256"]:
        raise NotAgain("input changed", f"the probe texts, {file}, are others than were measured on")
    return choices, texts


def _words(row: Any) -> str:
    step = "" if pd.isna(row["step"]) else f", step {row['step']}"
    return f"{row['scope']} {row['module']}{step}"


def _by_place(ranks: pd.DataFrame) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in ranks.to_dict("records"):
        found.setdefault(_words(row), {})[str(row["metric"])] = row
    return found


def _checked(check: Check, stored: Mapping[str, Any], found: Mapping[str, Any]) -> Check:
    for metric, row in stored.items():
        other = found.get(metric)
        if other is None:
            return replace(check, result="differs", difference=Difference(metric, "there", "no such row"))
        for name in ("value", "null", "bound", "weight"):
            if _differs(metric, row[name], other[name]):
                difference = Difference(f"{metric}, {name}", str(row[name]), str(other[name]))
                return replace(check, result="differs", difference=difference)
    return check


def _differs(metric: str, one: Any, other: Any) -> bool:
    if pd.isna(one) or pd.isna(other):
        return bool(pd.isna(one)) != bool(pd.isna(other))
    room = SAME_ACTIVATIONS * abs(float(one)) + (1.0 if metric.endswith(_COUNTS) else 0.0)
    return abs(float(one) - float(other)) > room


_COUNTS: tuple[str, ...] = ("_50", "_90", "_95", "_99", "numerical_rank")
