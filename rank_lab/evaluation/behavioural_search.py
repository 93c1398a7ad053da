"""Measuring what lies between a base and a tuned model, and looking for the least rank that keeps enough."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from rank_lab.behavioural import change_since, unresolved
from rank_lab.behavioural_tables import MeasuredModels, Setting, Size, found_rank, tasks_of
from rank_lab.errors import DataError, RankLabError, UnsupportedUpdateError
from rank_lab.evaluation.behavioural_matrices import common_energy_rank
from rank_lab.evaluation.kept_scores import KeptScores
from rank_lab.evaluation.sources import Tuned
from rank_lab.evaluation.text_scores import TextOptions, text_metrics, text_rows
from rank_lab.evaluation.text_sets import TextSet
from rank_lab.evaluation.truncated_models import TruncatedModel, truncated_model, values_of
from rank_lab.evaluation.tuned_models import EvaluatedModel, LoadOptions, Shelf, base_tuned
from rank_lab.rank_search import doubling_ranks, next_rank
from rank_lab.score_draws import Resampling
from rank_lab.score_row import ScoreRow
from rank_lab.truncated_update import TRUNCATIONS, Truncation
from rank_lab.update import Update

__all__ = ["BehaviouralOptions", "Measuring", "Rows", "Search", "Told"]

Rows = tuple[ScoreRow, ...]
Told = Callable[[str, int], None]
"""Called with what is being done, and how many models have been measured."""

_CONTROLS: tuple[Truncation, ...] = tuple(way for way in TRUNCATIONS if way != "leading")
_LOSES = 0.01  # of what was learned: a truncation at full rank that is further off is not the tuned model
_RELATIVE = 1e-4  # of the score, likewise


@dataclass(frozen=True)
class BehaviouralOptions:
    """How a behavioural rank is found.

    Parameters
    ----------
    share
        Of what was learned, to keep.
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
        if self.seed < 0:
            raise RankLabError(f"seed {self.seed}: expected 0 or more.")
        unknown = [way for way in self.controls if way not in _CONTROLS]
        if unknown:
            raise RankLabError(f"control {unknown[0]!r}: expected one of {', '.join(_CONTROLS)}.")


@dataclass(eq=False)
class Measuring:
    """Scores of models, each measured once.

    Parameters
    ----------
    options, texts
        How, and on what.
    scores
        Those that were kept.
    told
        Called as models are measured.
    count
        How many have been.
    """

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
    def searching(self, one: Tuned, factors: Mapping[str, Update]) -> Iterator["Search"]:
        """Base and tuned model are measured, and the update of the latter is decomposed."""
        shelf = Shelf(self.options.loading)
        with shelf.loaded(base_tuned(self.options.loading.base)) as model:
            base, values = self.rows("base", model, one), values_of(model.model)
        with shelf.loaded(one) as model:
            tuned = self.rows("tuned", model, one)
            self._refuse_nothing_learned(tuned, base)
            self._say("decomposing the update")
            cut = truncated_model(_merged(model, one), values, factors=factors, device=self.options.loading.device)
            yield Search(self, replace(model, model=cut.model), cut, base, tuned)

    def rows(self, key: str, model: EvaluatedModel, one: Tuned) -> Rows:
        """Scores of a model, a text set each, under the name of a run; those that were kept are not measured again."""
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

    def _refuse_nothing_learned(self, tuned: Rows, base: Rows) -> None:
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
class Search:
    """All that is measured of one decomposed model.

    Parameters
    ----------
    run
        That measures.
    model
        Whose weights are cut.
    cut
        How.
    base, tuned
        Scores of either end.
    found_rows
        Those of truncated models so far.
    """

    run: Measuring
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
        """Everything: the truncations that were asked for, or those that the search tries, and the controls.

        Raises
        ------
        RankLabError
            If a rank is asked for that the update does not have, or it is not the tuned model at its full rank.
        """
        options, bound = self.run.options, self.cut.bound
        above = [rank for rank in options.ranks if rank > bound]
        if above:
            raise RankLabError(f"rank {above[0]}: the update has rank {bound} at most; give ranks of 1 to {bound}.")
        self.full()
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
            self._at("leading", common_energy_rank(self.cut), vectors=keep)  # at equal energy, beside the rank
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

    def full(self) -> None:
        """Measure the model at full rank, which must be the tuned one: the scores of that are then these.

        Raises
        ------
        RankLabError
            If it is another.
        """
        key = Setting("leading", self.cut.bound)
        with self.cut.truncated(key.k):
            rows = self.run.rows("full rank", self.model, self.model.tuned)
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
                same = self.run.rows(f"{way} {k}{'' if vectors else ' without vectors'}", self.model, self.model.tuned)
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
