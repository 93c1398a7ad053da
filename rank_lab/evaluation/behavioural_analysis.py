"""The behavioural rank of a run: its update is cut in memory, measured on texts, and the least rank looked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab import __version__
from rank_lab.behavioural import change_since, unresolved
from rank_lab.behavioural_report import BehaviouralReport
from rank_lab.behavioural_schema import BEHAVIOURAL_TABLES
from rank_lab.behavioural_tables import MeasuredModels, Setting, Size, found_rank, point_rows, rank_rows, tasks_of
from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import Plan
from rank_lab.errors import DataError, RankLabError, UnsupportedUpdateError
from rank_lab.evaluation.behavioural_matrices import common_energy_rank, matrix_rows
from rank_lab.evaluation.kept_scores import KeptScores
from rank_lab.evaluation.model_folders import model_folder
from rank_lab.evaluation.model_identity import files_of
from rank_lab.evaluation.sources import Tuned, kind_of_source, tuned_of
from rank_lab.evaluation.text_scores import TextOptions, text_metrics, text_rows
from rank_lab.evaluation.text_sets import TextSet
from rank_lab.evaluation.truncated_models import TruncatedModel, truncated_model, values_of
from rank_lab.evaluation.tuned_models import EvaluatedModel, LoadOptions, Shelf, base_tuned
from rank_lab.measurement import MeasurementOptions
from rank_lab.planned import Settings, planned
from rank_lab.provenance import provenance_of
from rank_lab.rank_search import doubling_ranks, next_rank
from rank_lab.score_draws import Resampling
from rank_lab.score_row import ScoreRow
from rank_lab.spec import read_update
from rank_lab.truncated_update import TRUNCATIONS, Truncation
from rank_lab.update import Update

__all__ = ["BehaviouralOptions", "behavioural_report", "last_of", "scores_again"]

Rows = tuple[ScoreRow, ...]
Told = Callable[[str, int], None]
"""Called with what is being done, and how many models have been measured."""

_CONTROLS: tuple[Truncation, ...] = tuple(way for way in TRUNCATIONS if way != "leading")
_LOSES = 0.01  # of what was learnt: a truncation at full rank that is further off is not the tuned model
_RELATIVE = 1e-4  # of the score, likewise


@dataclass(frozen=True)
class BehaviouralOptions:
    """How a behavioural rank is found.

    Parameters
    ----------
    share
        Of what was learnt, to keep.
    vectors
        Whether norms and biases stay as tuned while matrices are cut; else they are the base's.
    ranks
        To try, and no others; none to look for the least.
    controls
        Of :data:`rank_lab.truncated_update.TRUNCATIONS`, beside the leading directions.
    precision
        Relative, of the ends of the interval and of the rank of random directions; the rank itself is exact.
    seed
        Of random directions.
    texts, loading, resampling
        How texts are shown, models loaded, and intervals made.

    Raises
    ------
    RankLabError
        If a value is out of its range.
    """

    share: float = 0.9
    vectors: bool = True
    ranks: tuple[int, ...] = ()
    controls: tuple[Truncation, ...] = _CONTROLS
    precision: float = 0.125
    seed: int = 0
    texts: TextOptions = field(default_factory=TextOptions)
    loading: LoadOptions = field(default_factory=lambda: LoadOptions(dtype="float32"))
    resampling: Resampling = field(default_factory=Resampling)

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if not 0.0 < self.share <= 1.0:
            raise RankLabError(f"a share of {self.share}: expected one above 0 and at most 1, such as 0.9.")
        if any(rank < 1 for rank in self.ranks):
            raise RankLabError(f"rank {min(self.ranks)}: expected 1 or more directions.")
        unknown = [way for way in self.controls if way not in _CONTROLS]
        if unknown:
            raise RankLabError(f"control {unknown[0]!r}: expected one of {', '.join(_CONTROLS)}.")


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
    r"""Cut the update of a run to k directions, and find the least k that keeps a share of what was learnt.

    Parameters
    ----------
    tuned
        A full checkpoint, or an adapter that changes weights; of a trainer's folder of ``checkpoint-N`` the last.
    texts
        One target at least, what was learnt; sources, what may have been forgotten.
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
        If there is no target, a name is there twice, or nothing was learnt on any target.
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
    run = _Run(options, texts, scores, told)
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
    run = _Run(replace(options, loading=loading), texts, KeptScores(None, {}), None)
    with run.searching(one, _factors(plan)) as search:
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
        raise DataError("no target texts: what was learnt is measured on them; give --target NAME=FILE.")
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


@dataclass(eq=False)
class _Run:
    options: BehaviouralOptions
    texts: Sequence[TextSet]
    scores: KeptScores
    told: Told | None
    count: int = 0

    def measured(self, one: Tuned, factors: Mapping[str, Update]) -> tuple[MeasuredModels, TruncatedModel]:
        """Scores of base, tuned and truncated models."""
        with self.searching(one, factors) as search:
            return search.found(), search.cut

    @contextmanager
    def searching(self, one: Tuned, factors: Mapping[str, Update]) -> Iterator["_Search"]:
        """Base and tuned model are measured, and the update of the latter is decomposed."""
        shelf = Shelf(self.options.loading)
        with shelf.loaded(base_tuned(self.options.loading.base)) as model:
            base, values = self._rows("base", model, one), values_of(model.model)
        with shelf.loaded(one) as model:
            tuned = self._rows("tuned", model, one)
            self._refuse_nothing_learnt(tuned, base)
            self._say("decomposing the update")
            cut = truncated_model(_merged(model, one), values, factors=factors, device=self.options.loading.device)
            yield _Search(self, replace(model, model=cut.model), cut, base, tuned)

    def rows(self, key: str, model: EvaluatedModel) -> Rows:
        """Scores of a model, a text set each; those that were kept are not measured again."""
        return self._rows(key, model, model.tuned)

    def _rows(self, key: str, model: EvaluatedModel, one: Tuned) -> Rows:
        self.count += 1
        kept = self.scores.get(key)
        if kept is None:
            self._say(key)
            metric = text_metrics(model.kind, divergence=False)[0]
            named = replace(model, tuned=one)
            found = [row for text in self.texts for row in text_rows(named, text, self.options.texts)]
            kept = tuple(row for row in found if row.metric == metric)
            self.scores.add(key, kept)
        return kept

    def _say(self, what: str) -> None:
        if self.told is not None:
            self.told(what, self.count)

    def _refuse_nothing_learnt(self, tuned: Rows, base: Rows) -> None:
        reasons = []
        for _, tasks in tasks_of(tuned, "target"):
            own = tuple(row for row in tuned if row.task in tasks)
            learned = change_since(own, base, role="target", resampling=self.options.resampling)
            reasons.append(unresolved(learned, own, role="target"))
        if all(reasons):
            raise DataError(f"{', '.join(row.task for row in tuned if row.role == 'target')}: {reasons[0]}.")


def _merged(model: EvaluatedModel, one: Tuned) -> Any:
    """The model with all its weights: what an adapter changes is added to them."""
    if one.adapter is None:
        return model.model
    try:
        return model.model.merge_and_unload()
    except (AttributeError, NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        raise UnsupportedUpdateError(
            f"{one.source}: PEFT cannot merge it into its base ({error}), so that there are no weights to truncate."
        ) from error


@dataclass(eq=False)
class _Search:
    """All that is measured of one decomposed model."""

    run: _Run
    model: EvaluatedModel
    cut: TruncatedModel
    base: Rows
    tuned: Rows
    found_rows: dict[Setting, Rows] = field(default_factory=dict)

    def again(self, setting: Setting) -> Rows:
        """Scores of one truncated model."""
        self._at(setting.how, setting.k, vectors=setting.vectors)
        return self.found_rows[setting]

    def found(self) -> MeasuredModels:
        options, bound = self.run.options, self.cut.bound
        above = [rank for rank in options.ranks if rank > bound]
        if above:
            raise RankLabError(f"rank {above[0]}: the update has rank {bound} at most; give ranks of 1 to {bound}.")
        self._full()
        grid = sorted(set(options.ranks)) or doubling_ranks(bound)
        keep = options.vectors or not self.cut.vectors
        for k in (0, *grid):
            self._at("leading", k, vectors=keep)
        for way in options.controls:
            for k in grid:
                self._at(way, k, vectors=keep)
        if self.cut.vectors:
            self._at("leading", 0, vectors=True)
            self._at("leading", bound, vectors=False)
        if not options.ranks:
            self._least("leading", 0.0, options.precision, vectors=keep)
            if "random" in options.controls:
                self._least("random", options.precision, None, vectors=keep)
        self._beside_the_rank(vectors=keep)
        return self._measured()

    def _beside_the_rank(self, *, vectors: bool) -> None:
        """The controls that are told beside the rank, at that rank."""
        options = self.run.options
        for _, tasks in tasks_of(self.tuned, "target"):
            rank = found_rank(self._measured(), "leading", tasks, options.share, options.resampling)
            for way in set(options.controls) & {"tail", "shrunk"} if rank.value is not None else ():
                self._at(way, rank.value or 0, vectors=vectors)

    def _least(self, way: Truncation, precision: float, ends: float | None, *, vectors: bool) -> None:
        options = self.run.options
        for _, tasks in tasks_of(self.tuned, "target"):
            while True:
                measured = self._measured()
                rank = found_rank(measured, way, tasks, options.share, options.resampling)
                k = next_rank(list(measured.curve(way, tasks)), rank, precision=precision, ends=ends)
                if k is None:
                    break
                self._at(way, k, vectors=vectors)

    def _full(self) -> None:
        """At full rank the truncated model must be the tuned one, which its scores are then those of."""
        key = Setting("leading", self.cut.bound)
        with self.cut.truncated(key.k):
            rows = self.run.rows("full rank", self.model)
        for row, tuned, base in zip(rows, self.tuned, self.base, strict=True):
            room = max(_LOSES * abs(base.value - tuned.value), _RELATIVE * abs(tuned.value))
            if abs(row.value - tuned.value) > room:
                raise RankLabError(
                    f"{row.task}: {row.value:.6g} with all directions and {tuned.value:.6g} of the tuned model: what"
                    " separates it from its base is not all in its weights, or rounding hides it; use --dtype float32."
                )
        self.tuned = rows
        self.found_rows[key] = rows

    def _at(self, way: Truncation, k: int, *, vectors: bool) -> None:
        setting = Setting(way, k, vectors)
        if setting in self.found_rows:
            return
        same = self._known(setting)
        if same is None:
            with self.cut.truncated(k, way, vectors=vectors, seed=self.run.options.seed):
                same = self.run.rows(f"{way} {k}{'' if vectors else ' without vectors'}", self.model)
        self.found_rows[setting] = same

    def _known(self, setting: Setting) -> Rows | None:
        """Scores of a truncation that is another model, value by value."""
        plain = setting.vectors or not self.cut.vectors
        if setting.how != "tail" and setting.k >= self.cut.bound and plain:
            return self.tuned
        nothing = setting.k == 0 if setting.how != "tail" else setting.k >= self.cut.bound
        if nothing and not (setting.vectors and self.cut.vectors):
            return self.base
        return None

    def _measured(self) -> MeasuredModels:
        ranks = {setting.k for setting in self.found_rows}
        sizes = {k: Size(self.cut.directions(k), self.cut.energy(k)) for k in ranks}
        vectors = self.run.options.vectors if self.cut.vectors else None
        return MeasuredModels(
            self.base, self.tuned, self.found_rows, sizes, self.cut.bound, common_energy_rank(self.cut), vectors
        )


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
