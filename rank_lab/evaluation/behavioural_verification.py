"""Truncated models of a behavioural report measured again, and its ranks computed again from the scores it keeps."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.behavioural_report import BehaviouralReport
from rank_lab.behavioural_schema import BEHAVIOURAL_TABLES
from rank_lab.behavioural_tables import MeasuredModels, Setting, Size, point_rows, rank_rows
from rank_lab.errors import RankLabError
from rank_lab.evaluation.behavioural_analysis import scores_again
from rank_lab.evaluation.behavioural_search import BehaviouralOptions
from rank_lab.evaluation.text_scores import TextOptions
from rank_lab.evaluation.text_sets import TextSet, read_texts
from rank_lab.evaluation.tuned_models import LoadOptions
from rank_lab.recorded_inputs import NotAgain, has_device, same_input
from rank_lab.score_draws import Resampling
from rank_lab.score_row import ScoreRow
from rank_lab.truncated_update import RANDOM_DRAW
from rank_lab.verification import Check, Difference, numbers_differ, stratified_sample

__all__ = ["LOSS_TOLERANCE", "verify_behavioural"]

LOSS_TOLERANCE = 1e-5
"""Relative difference up to which a loss is the same: a forward pass in float32 sums in another order elsewhere."""

_TABLES = ("ranks", "points")
_OTHERS = ("base", "tuned")
_OTHER_DRAW = "another version of rank_lab drew these random directions in another way"


def verify_behavioural(
    name: str, report: BehaviouralReport, study: Path, *, sample: int = 8, seed: int = 0
) -> list[Check]:
    """Measure a sample of the truncated models again, and compute ranks and points again from the kept scores.

    Parameters
    ----------
    name
        Of the report.
    report
        As it was saved.
    study
        The folder that it lies in: an input that is not where it was is looked for below it.
    sample, seed
        Models, spread over the ways of cutting; 0 for all. The same seed gives the same ones.

    Returns
    -------
    list of Check
        One of ranks and points, and one for each model of the sample.

    Notes
    -----
    Each model costs an evaluation of all texts, and all of them together a decomposition of the update.
    """
    checks = [_tables(name, report)]
    models = report.scores[["how", "k", "vectors"]].drop_duplicates().reset_index(drop=True)
    chosen = stratified_sample([str(how) for how in models["how"]], sample, seed)
    wanted = [_setting(models.iloc[place]) for place in chosen]
    pending = [Check("behavioural", name, _words(each), "holds") for each in wanted]
    drawn = report.provenance["settings"].get("random_draw") == RANDOM_DRAW
    same = [each for each in wanted if isinstance(each, Setting) and (drawn or each.how != "random")]
    try:
        again = _again(report, study, same)
    except NotAgain as stop:
        return checks + [replace(check, result=stop.result, reason=stop.reason) for check in pending]
    stored = _stored(report)
    for check, each in zip(pending, wanted, strict=True):
        if each in again:
            checks.append(_checked(check, stored[each], again[each]))
        else:
            checks.append(replace(check, result="not recomputable", reason=_OTHER_DRAW))
    return checks


def _setting(row: Any) -> Setting | str:
    return str(row["how"]) if row["how"] in _OTHERS else Setting(row["how"], int(row["k"]), bool(row["vectors"]))


def _words(model: Setting | str) -> str:
    if isinstance(model, str):
        return model
    return f"{model.how}, {model.k} directions{'' if model.vectors else ', without vectors'}"


def _checked(check: Check, stored: Iterable[ScoreRow], found: Iterable[ScoreRow]) -> Check:
    values = {row.task: row.value for row in found}
    for row in stored:
        now = values.get(row.task)
        if now is None or numbers_differ(row.value, now, floor=LOSS_TOLERANCE * abs(row.value)):
            told = "not measured" if now is None else f"{now:.9g}"
            return replace(
                check, result="differs", difference=Difference(f"{row.metric} on {row.task}", f"{row.value:.9g}", told)
            )
    return check


def _again(
    report: BehaviouralReport, study: Path, settings: list[Setting]
) -> dict[Setting | str, tuple[ScoreRow, ...]]:
    told = report.provenance
    options = _options(told["settings"])
    base = same_input(told["base"], study, "the base")
    tuned = same_input(told["tuned"][0], study, "the run")
    texts = [_texts(each, study) for each in told["texts"]]
    try:
        before, after, cut = scores_again(str(tuned.folder), texts, str(base.folder), settings, options)
    except (RankLabError, OSError) as error:
        raise NotAgain("input changed", f"it cannot be measured any more: {error}") from error
    return {"base": before, "tuned": after} | cut


def _options(told: Mapping[str, Any]) -> BehaviouralOptions:
    device = str(told.get("device", "cpu"))
    if not has_device(device):
        raise NotAgain("not recomputable", f"measured on {device}, which this machine does not have")
    try:
        shown = TextOptions(
            int(told["batch_size"]), told["context"], told["stride"], int(told["masked_places"]), int(told["text_seed"])
        )
        loading = LoadOptions(device=device, dtype=str(told["dtype"]), kind=told["kind"])
        return BehaviouralOptions(
            share=float(told["share"]), vectors=told["vectors"] == "kept", seed=int(told["seed"]), texts=shown,
            loading=loading, resampling=_resampling(told),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, RankLabError) as error:
        raise NotAgain("not recomputable", "the provenance does not say with which options it was made") from error


def _resampling(told: Mapping[str, Any]) -> Resampling:
    return Resampling(int(told["resamples"]), int(told["resampling_seed"]), float(told["level"]))


def _texts(told: Mapping[str, Any], study: Path) -> TextSet:
    if not isinstance(told.get("file"), str):
        raise NotAgain("not recomputable", f"the provenance does not say of which file the texts {told['name']} are")
    file = Path(told["file"])
    place = next((path for path in (file, study / file.name, study / "text" / file.name) if path.is_file()), None)
    if place is None:
        raise NotAgain("input missing", f"the texts {told['name']} are not at {file}")
    try:
        found = read_texts(told["name"], place, column=told["column"], limit=told["limit"], role=told["role"])
    except (RankLabError, KeyError, TypeError) as error:
        raise NotAgain("input changed", f"the texts {told['name']} cannot be read: {error}") from error
    if found.sha256() != told["sha256"]:
        raise NotAgain("input changed", f"the texts {told['name']} are no longer those that were measured")
    return found


def _stored(report: BehaviouralReport) -> dict[Setting | str, tuple[ScoreRow, ...]]:
    found: dict[Setting | str, tuple[ScoreRow, ...]] = {}
    for row in report.scores.to_dict("records"):
        key = _setting(row)
        score = ScoreRow(
            report.run, "kept", None, row["task"], row["metric"], row["value"],
            None if pd.isna(row["stderr"]) else row["stderr"], None if pd.isna(row["n"]) else row["n"],
            row["role"], 0, higher_is_better=row["higher_is_better"], set_sha256=row["set_sha256"],
            examples=tuple(row["examples"]) or None,
        )  # fmt: skip
        found[key] = (*found.get(key, ()), score)
    return found


def _tables(name: str, report: BehaviouralReport) -> Check:
    check = Check("behavioural", name, "ranks and points", "holds")
    try:
        measured, resampling = _measured(report), _resampling(report.provenance["settings"])
    except (KeyError, TypeError, ValueError, IndexError, RankLabError) as error:
        return replace(check, result="not recomputable", reason=f"its tables do not fit each other ({error})")
    share = float(report.provenance["settings"]["share"])
    again = {"ranks": rank_rows(measured, share, resampling), "points": point_rows(measured, resampling)}
    for table in _TABLES:
        schema = BEHAVIOURAL_TABLES[table]
        stored: list[dict[Any, Any]] = getattr(report, table).to_dict("records")
        found = pd.DataFrame(list(again[table]), columns=schema.names).to_dict("records")
        if len(stored) != len(found):
            difference = Difference(f"rows of {table}", str(len(stored)), str(len(found)))
            return replace(check, result="differs", difference=difference)
        for one, other in zip(stored, found, strict=True):
            for column in schema.names:
                if numbers_differ(one[column], other[column], floor=1e-12):
                    where = one["task"] if table == "ranks" else f"{one['how']} {one['k']}, {one['task']}"
                    difference = Difference(f"{column} of {where}", str(one[column]), str(other[column]))
                    return replace(check, result="differs", difference=difference)
    return check


def _measured(report: BehaviouralReport) -> MeasuredModels:
    stored, points, ranks = _stored(report), report.points, report.ranks
    sizes = {int(row["k"]): Size(int(row["directions"]), float(row["energy"])) for row in points.to_dict("records")}
    statuses = set(report.matrices["status"])
    vectors = True if "vector kept" in statuses else False if "vector left out" in statuses else None
    return MeasuredModels(
        stored["base"], stored["tuned"],
        {key: rows for key, rows in stored.items() if isinstance(key, Setting)}, sizes,
        int(ranks["rank_bound"].iloc[0]), int(ranks["energy_rank_90"].iloc[0]), vectors,
    )  # fmt: skip
