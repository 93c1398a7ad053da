"""The behavioural rank of a run: its update is cut in memory, measured on texts, and the least rank looked for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab import __version__
from rank_lab.behavioural_report import BehaviouralReport
from rank_lab.behavioural_schema import BEHAVIOURAL_TABLES
from rank_lab.behavioural_tables import MeasuredModels, Setting, point_rows, rank_rows
from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import Plan
from rank_lab.errors import DataError, RankLabError, UnsupportedUpdateError
from rank_lab.evaluation.behavioural_matrices import matrix_rows
from rank_lab.evaluation.behavioural_search import BehaviouralOptions, Measuring, Rows, Told
from rank_lab.evaluation.kept_scores import KeptScores
from rank_lab.evaluation.model_folders import model_folder
from rank_lab.evaluation.model_identity import files_of
from rank_lab.evaluation.sources import Tuned, kind_of_source, tuned_of
from rank_lab.evaluation.text_scores import text_metrics
from rank_lab.evaluation.text_sets import TextSet
from rank_lab.measurement import MeasurementOptions
from rank_lab.planned import Settings, planned
from rank_lab.provenance import provenance_of
from rank_lab.spec import read_update
from rank_lab.truncated_update import RANDOM_DRAW
from rank_lab.update import Update

__all__ = ["behavioural_report", "last_of", "scores_again"]


def behavioural_report(
    tuned: str | Path,
    texts: Sequence[TextSet],
    base: str = "",
    *,
    options: BehaviouralOptions | None = None,
    name: str = "",
    keep: Path | None = None,
    told: Told | None = None,
) -> BehaviouralReport:
    r"""Cut the update of a run to k directions, and find the least k that keeps a share of what was learned.

    Parameters
    ----------
    tuned
        A full checkpoint, or an adapter that changes weights; of a trainer's folder of ``checkpoint-N`` the last.
    texts
        One target at least, what was learned; sources, what may have been forgotten.
    base
        What it was tuned from; empty for what its files name.
    options
        How.
    name
        Of the run; empty for the folder's.
    keep
        File in which scores are kept as they are measured, so that the same call goes on where it stopped; it is
        removed in the end.
    told
        Called as models are measured.

    Raises
    ------
    UnsupportedUpdateError
        If the method changes no weight.
    DataError
        If there is no target, a name is there twice, or nothing was learned on any target.
    RankLabError
        If models cannot be loaded or do not fit each other, or the cut model at full rank is not the tuned one.

    Notes
    -----
    Two models are in memory. An evaluation of all texts for each model that is measured: about
    :math:`\log_2 q` truncations in each of four ways, and as many again to find the least rank and the ends of its
    interval.
    """
    options = options or BehaviouralOptions()
    _refuse_texts(texts)
    one, base = last_of(tuned, base or options.loading.base, name)
    loading = replace(options.loading, base=base, kind=options.loading.kind or one.kind or kind_of_source(base))
    text_metrics(str(loading.kind), divergence=False)
    options = replace(options, loading=loading)
    plan, checkpoint, original = _plan_of(one, base)
    scores = KeptScores(keep, _told_of(one, base, texts, options))
    run = Measuring(options, texts, scores, told)
    measured, model = run.measured(one, _factors(plan))
    tables = {
        "ranks": rank_rows(measured, options.share, options.resampling),
        "points": point_rows(measured, options.resampling),
        "matrices": matrix_rows(model, vectors=options.vectors, stored=one.adapter is None),
        "scores": _score_rows(measured),
    }
    frames = {name: pd.DataFrame(rows, columns=BEHAVIOURAL_TABLES[name].names) for name, rows in tables.items()}
    provenance = _provenance(one, checkpoint, original, texts, options)
    scores.done()
    return BehaviouralReport(**frames, provenance=provenance)


def scores_again(
    tuned: str, texts: Sequence[TextSet], base: str, settings: Sequence[Setting], options: BehaviouralOptions
) -> tuple[Rows, Rows, dict[Setting, Rows]]:
    """Scores of the base, the tuned model and some truncated ones, measured as a report measured them.

    Parameters
    ----------
    tuned, texts, base, options
        See :func:`behavioural_report`.
    settings
        Which truncated models.

    Raises
    ------
    RankLabError
        See :func:`behavioural_report`.
    """
    one, base = last_of(tuned, base)
    loading = replace(options.loading, base=base, kind=options.loading.kind or one.kind or kind_of_source(base))
    plan, *_ = _plan_of(one, base)
    run = Measuring(replace(options, loading=loading), texts, KeptScores(None, {}), None)
    with run.searching(one, _factors(plan)) as search:
        search.full()
        return search.base, search.tuned, {setting: search.again(setting) for setting in settings}


def last_of(source: str | Path, base: str, name: str = "") -> tuple[Tuned, str]:
    """The model of a source, of several checkpoints the last, and the folder of its base.

    Parameters
    ----------
    source, name
        See :func:`rank_lab.evaluation.sources.tuned_of`.
    base
        As given; empty for what the model's files name.

    Raises
    ------
    RankLabError
        If the base is not known, or not there.
    """
    one = tuned_of(source, name=name)[-1]
    given = base or one.base
    if not given:
        raise RankLabError(f"{one.source}: does not say what it was tuned from; give it with --base.")
    return one, str(model_folder(given))


def _refuse_texts(texts: Sequence[TextSet]) -> None:
    if not any(text.role == "target" for text in texts):
        raise DataError("no target texts: what was learned is measured on them; give --target NAME=FILE.")
    names = [text.name for text in texts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"two sets of texts are called {twice[0]!r}; give every set its own name.")


def _plan_of(one: Tuned, base: str) -> tuple[Plan, Checkpoint, Checkpoint]:
    checkpoint, original = Checkpoint.open(one.source), Checkpoint.open(base)
    plan = planned(checkpoint, original, Settings())
    if not plan.specs:
        raise UnsupportedUpdateError(
            f"{one.source}: {plan.method} has no weight update, so that there is nothing to truncate; 'rank-lab"
            " functional' gives the rank of what it does to activations."
        )
    return plan, checkpoint, original


def _factors(plan: Plan) -> dict[str, Update]:
    return {spec.module: read_update(spec) for spec in plan.specs if spec.factored}


def _score_rows(measured: MeasuredModels) -> list[dict[str, Any]]:
    models: list[tuple[str, int | None, bool | None, Rows]] = [
        ("base", None, None, measured.base), ("tuned", None, None, measured.tuned),
    ]  # fmt: skip
    models += [(s.how, s.k, s.vectors, rows) for s, rows in sorted(measured.truncated.items())]
    return [
        {
            "how": how, "k": k, "vectors": vectors, "task": row.task, "role": row.role, "metric": row.metric,
            "value": row.value, "stderr": row.stderr, "n": row.n, "higher_is_better": row.higher_is_better,
            "set_sha256": row.set_sha256, "examples": list(row.examples or ()),
        }
        for how, k, vectors, rows in models for row in rows
    ]  # fmt: skip


def _told_of(one: Tuned, base: str, texts: Sequence[TextSet], options: BehaviouralOptions) -> dict[str, Any]:
    """What scores depend on."""
    loading = options.loading
    return {
        "rank_lab": __version__, "tuned": one.source, "files": files_of(one.source), "base": base,
        "base_files": files_of(base), "texts": [(text.name, text.role, text.sha256()) for text in texts],
        "dtype": loading.dtype, "device": loading.device, "kind": loading.kind, "seed": options.seed,
        "random_draw": RANDOM_DRAW,
        "shown": [options.texts.context, options.texts.stride, options.texts.masked_places, options.texts.seed],
    }  # fmt: skip


def _provenance(
    one: Tuned, checkpoint: Checkpoint, base: Checkpoint, texts: Sequence[TextSet], options: BehaviouralOptions
) -> dict[str, Any]:
    shown, resampling = options.texts, options.resampling
    settings = {
        "run": one.run, "run_method": one.method, "step": one.step, "share": options.share,
        "vectors": "kept" if options.vectors else "left out", "ranks": list(options.ranks),
        "controls": list(options.controls), "precision": options.precision, "seed": options.seed,
        "random_draw": RANDOM_DRAW,
        "dtype": options.loading.dtype, "kind": options.loading.kind, "batch_size": shown.batch_size,
        "context": shown.context, "stride": shown.stride, "masked_places": shown.masked_places,
        "text_seed": shown.seed, "resamples": resampling.resamples, "resampling_seed": resampling.seed,
        "level": resampling.level,
    }  # fmt: skip
    measured = MeasurementOptions(device=options.loading.device)
    about = provenance_of([checkpoint], base, measured, settings=settings)
    about["texts"] = [
        {
            "name": text.name, "role": text.role, "sha256": text.sha256(), "source": text.source,
            "texts": len(text.texts),
        }
        for text in texts
    ]  # fmt: skip
    return about
