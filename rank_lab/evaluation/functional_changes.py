"""``functional_changes``: what a tuned model does differently on a probe set, place by place, in bounded memory.

The probe set passes as often as the places need to be watched in turn: as many at a time as ``memory`` holds. Of each,
``8 groups k^2`` bytes are kept for a change in k dimensions, ``8 in^2`` for its inputs and, where a linear map is
fitted, ``16 (in + 1) (in + 1 + out)`` and as much for the maps; activations of one batch come on top. k is the width of
a hidden state, and of a module with a weight update the rank of that.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rank_lab.affine_change import affine_change, is_affine
from rank_lab.errors import PairingError, RankLabError, UnsupportedUpdateError
from rank_lab.evaluation.activations import Seen, forward, layer_names, reading, unwrapped, width_of_layers
from rank_lab.evaluation.functional_options import FunctionalOptions
from rank_lab.evaluation.module_changes import ModuleChange, change_of, changed_modules
from rank_lab.evaluation.place_results import place_changes
from rank_lab.evaluation.probe import Probe, ProbeBatch
from rank_lab.evaluation.watched import AffineModule, FunctionModule, Layer, TokenGroups, Watched
from rank_lab.place_change import PlaceChange
from rank_lab.second_moment import groups_of_texts

__all__ = ["FunctionalChanges", "functional_changes"]

Progress = Callable[[int, int, str], None]

_SAMPLE = 256


@dataclass(frozen=True, eq=False)
class FunctionalChanges:
    """What was found.

    Parameters
    ----------
    places
        A :class:`rank_lab.place_change.PlaceChange` for each scope and place, layers first.
    left_out
        Linear modules of the base that have none, with the reason.
    """

    places: tuple[PlaceChange, ...]
    left_out: dict[str, str]


def functional_changes(
    base: Any,
    tuned: Any,
    probe: Probe,
    options: FunctionalOptions = FunctionalOptions(),  # noqa: B008 - frozen
    *,
    progress: Progress | None = None,
) -> FunctionalChanges:
    """Functional ranks of a tuned model, with intervals over texts and nulls.

    Parameters
    ----------
    base, tuned
        Of transformers, or PEFT around one, in evaluation mode; two models, not one whose adapter is switched.
    probe
        From :func:`rank_lab.evaluation.probe.probe_of`, of the base's tokenizer.
    options
        How.
    progress
        Called with batches done, batches in all as far as they are known, and what is watched.

    Raises
    ------
    PairingError
        If the tuned model was not made from this base, or does nothing else than it.
    RankLabError
        If a model cannot be watched, or a single place needs more memory than was given.

    Examples
    --------
    >>> import torch
    >>> from transformers import AutoModelForCausalLM, AutoTokenizer
    >>> from rank_lab.demo import BASE
    >>> from rank_lab.evaluation.probe import probe_of
    >>> from rank_lab.evaluation.text_sets import TextSet
    >>> base, tuned = (AutoModelForCausalLM.from_pretrained(BASE).eval() for _ in range(2))
    >>> weight = tuned.model.layers[0].mlp.down_proj.weight
    >>> _ = weight.data.add_(0.1 * torch.outer(torch.ones(weight.shape[0]), torch.ones(weight.shape[1])))
    >>> texts = TextSet("talk", ("Good day to you.", "And to you!"), "made up")
    >>> probe = probe_of(AutoTokenizer.from_pretrained(BASE), "causal", texts, context=64)
    >>> found = functional_changes(base, tuned, probe, FunctionalOptions(scopes=("module",)))
    >>> [(each.scope, each.form, each.ranks["energy_rank_90"].value) for each in found.places]
    [('module', 'affine', 1.0), ('weighted', 'affine', 1.0)]
    """
    _refuse_same_model(base, tuned)
    run = _Run(base, tuned, probe, options, progress)
    places: list[PlaceChange] = []
    left_out: dict[str, str] = {}
    with _evaluating(base), _evaluating(tuned):
        for watched in _sets(run, left_out):
            run.watch(watched)
            places += [found for each in watched for found in place_changes(each, probe, options, run.dtype)]
    if not places:
        raise PairingError(
            "the tuned model does nothing else than the base at any place that was looked at; is it the right one? Or"
            " give other scopes, or other modules."
        )
    order = {scope: place for place, scope in enumerate(("layer", "module", "weighted"))}
    places.sort(key=lambda each: order[each.scope])
    return FunctionalChanges(tuple(places), left_out)


@dataclass
class _Run:
    base: Any
    tuned: Any
    probe: Probe
    options: FunctionalOptions
    progress: Progress | None
    done: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        count, seed = self.probe.count, self.options.seed
        self.group = groups_of_texts(count, most=self.options.groups, seed=seed)
        self.half = groups_of_texts(count, most=2, seed=seed + 1)

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.base.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The coarser of both models' types."""
        types = [next(model.parameters()).dtype for model in (self.base, self.tuned)]
        coarser: torch.dtype = max(types, key=lambda each: torch.finfo(each).eps)
        return coarser

    def watch(self, watched: Sequence[Watched]) -> None:
        """Let the probe set pass, twice where a map is fitted."""
        for base, tuned, where in self._passing(watched):
            for each in watched:
                each.add(base, tuned, where)
        mapped = [each for each in watched if isinstance(each, Layer | FunctionModule)]
        for each in mapped:
            each.fit()
        mapped = [each for each in mapped if each.maps is not None]
        for base, tuned, where in self._passing(mapped) if mapped else ():
            for each in mapped:
                each.again(base, tuned, where)

    def sample(self, modules: Sequence[ModuleChange]) -> dict[str, torch.Tensor | str]:
        """Real inputs of modules, a few rows each."""
        names = [module.watched for module in modules]
        with reading(self.base, names, ()) as seen:
            found = forward(self.base, next(self.probe.batches(self.options.batch_size)), seen)
        return {
            name: value if isinstance(value, str) else value[:_SAMPLE].double() for name, value in found.inputs.items()
        }

    def _passing(self, watched: Sequence[Watched]) -> Iterator[tuple[Seen, Seen, TokenGroups]]:
        layers = [each.name for each in watched if isinstance(each, Layer)]
        size = self.options.batch_size
        self.total += -(-len([ids for _, ids in self.probe.pieces if ids]) // size)
        with (
            reading(self.base, [each.source for each in watched], [each.name for each in watched]) as of_base,
            reading(self.tuned, (), layers) as of_tuned,
        ):
            for batch in self.probe.batches(size):
                first = forward(self.base, batch, of_base)
                second = forward(self.tuned, batch, of_tuned) if layers else Seen()
                yield first, second, self._where(batch)
                self.done += 1
                if self.progress is not None:
                    self.progress(self.done, self.total, watched[-1].name)

    def _where(self, batch: ProbeBatch) -> TokenGroups:
        return TokenGroups(batch.text, self.group[batch.text], self.half[batch.text], batch.first)


def _sets(run: _Run, left_out: dict[str, str]) -> Iterator[list[Watched]]:
    """Places in sets that the memory holds."""
    held: list[Watched] = []
    used = 0
    for each in _places(run, left_out):
        size = _bytes(each, run.options.groups)
        if size > run.options.memory:
            raise RankLabError(
                f"{each.name}: needs {size / 2**20:.1f} MiB for its sums, and {run.options.memory / 2**20:.0f} were"
                f" given; give --memory {size // 2**20 + 1} or more."
            )
        if held and used + size > run.options.memory:
            yield held
            held, used = [], 0
        held.append(each)
        used += size
    if held:
        yield held


def _places(run: _Run, left_out: dict[str, str]) -> Iterator[Watched]:
    groups, texts = int(run.group.max()) + 1, run.probe.count
    if "layer" in run.options.scopes:
        width = width_of_layers(run.base)
        for name in layer_names(run.base, run.tuned):
            yield Layer(name, (width, width), groups, texts, run.device)
    if "module" not in run.options.scopes:
        return
    found, reasons = changed_modules(run.base, run.tuned)
    wanted = run.options.modules
    left_out.update({name: reason for name, reason in reasons.items() if wanted is None or name in wanted})
    chosen = [module for module in found if wanted is None or module.name in wanted]
    if wanted is not None and (unknown := wanted - {module.name for module in found} - reasons.keys()):
        raise PairingError(f"{min(unknown)}: no linear module of the base has this name.")
    samples = run.sample(chosen) if chosen else {}
    for module in chosen:
        rows = samples.get(module.watched, "was not called on these texts")
        if isinstance(rows, str):
            left_out[module.name] = rows
            continue
        watched = _module(run, module, rows, groups, left_out)
        if watched is not None:
            yield watched


def _module(
    run: _Run, module: ModuleChange, rows: torch.Tensor, groups: int, left_out: dict[str, str]
) -> Watched | None:
    try:
        function, scale = change_of(run.base, run.tuned, module)
    except UnsupportedUpdateError as error:
        left_out[module.name] = str(error)
        return None
    shape, texts, device = module.shape, run.probe.count, run.device
    affine = affine_change(function, shape[1], scale=scale)
    if not is_affine(affine, rows, function(rows), scale=scale):
        return FunctionModule(module.name, shape, groups, texts, device, module=module, function=function)
    if affine.rank or affine.has_bias:
        return AffineModule(module.name, shape, groups, texts, device, module=module, affine=affine)
    left_out[module.name] = "identical"
    return None


def _bytes(watched: Watched, groups: int) -> int:
    kept = groups * watched.change.width**2 + watched.shape[1] ** 2
    if isinstance(watched, AffineModule):
        kept += 2 * watched.shape[0] * watched.shape[1]
        return 8 * (kept + (groups * watched.affine.rank**2 if watched.affine.has_bias else 0))
    return 8 * (kept + 4 * (watched.shape[1] + 1) * (watched.shape[1] + 1 + watched.shape[0]))


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout while this lasts."""
    mode = model.training
    try:
        model.eval()
        yield
    finally:
        model.train(mode)


def _refuse_same_model(base: Any, tuned: Any) -> None:
    if unwrapped(base) is unwrapped(tuned):
        raise PairingError("base and tuned are one model in memory; load the base a second time.")
