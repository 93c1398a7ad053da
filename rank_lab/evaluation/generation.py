"""What a model writes after a prompt: a bounded number of tokens in a bounded time, cut at the first stop."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rank_lab.errors import RankLabError
from rank_lab.evaluation.tuned_models import EvaluatedModel, context_of, refuse_unknown_tokens

__all__ = ["Completion", "GenerationOptions", "completions_of", "cut_at_stop"]


@dataclass(frozen=True)
class GenerationOptions:
    """How a model writes.

    Parameters
    ----------
    samples
        Completions of each prompt.
    temperature
        0 for the most probable token each time, of which there is only one completion.
    top_p
        Of the probability, the share that is drawn from.
    new_tokens
        At most so many.
    batch_size
        Prompts at a time.
    seconds
        For one batch; what is not finished then counts as failed.
    seed
        Of the drawing, which batches of another size do in another order.
    """

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 0.95
    new_tokens: int = 512
    batch_size: int = 8
    seconds: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no model could write by."""
        for wrong, message in (
            (self.samples < 1, f"{self.samples} samples; expected at least 1"),
            (
                self.samples > 1 and self.temperature == 0,
                f"{self.samples} samples at temperature 0 would all be the same",
            ),
            (self.temperature < 0, f"temperature {self.temperature:g}; expected 0 or more"),
            (not 0 < self.top_p <= 1, f"top_p {self.top_p:g}; expected a share above 0, up to 1"),
            (self.new_tokens < 1, f"{self.new_tokens} new tokens; expected at least 1"),
            (self.batch_size < 1, f"a batch of {self.batch_size}; expected at least 1"),
            (self.seconds <= 0, f"{self.seconds:g} seconds a batch; expected more than 0"),
        ):
            if wrong:
                raise RankLabError(f"generation: {message}.")

    @property
    def described(self) -> str:
        """In words, for the record."""
        drawn = (
            f"temperature {self.temperature:g}, top_p {self.top_p:g}, seed {self.seed}, batches of {self.batch_size}"
        )
        how = drawn if self.temperature else "greedy"
        return f"{self.samples} samples, {how}, at most {self.new_tokens} new tokens and {self.seconds:g} s a batch"


@dataclass(frozen=True)
class Completion:
    """What a model wrote.

    Parameters
    ----------
    text
        Up to the first stop.
    in_time
        Whether it came to its end before the time of its batch was over.
    cut_prompt
        Whether the start of the prompt was left out, as it did not fit.
    """

    text: str
    in_time: bool
    cut_prompt: bool = False


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    r"""A text up to the first place where one of the stops begins.

    Examples
    --------
    >>> cut_at_stop("    return 1\n\ndef other():\n#", ["\ndef", "\n#"])
    '    return 1\n'
    """
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


def completions_of(
    model: EvaluatedModel,
    prompts: Sequence[str],
    stops: Sequence[str],
    options: GenerationOptions,
    *,
    context: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[Completion, ...], ...]:
    """Completions of every prompt, in order.

    Parameters
    ----------
    model
        A causal one.
    prompts
        One that does not fit beside the new tokens loses its start.
    stops
        Where a completion ends; of the stop itself nothing is kept.
    options
        How.
    context
        Tokens of prompt and completion; None for as many as the model allows.
    progress
        Called with prompts done and prompts.

    Returns
    -------
    tuple
        For each prompt ``options.samples`` of :class:`Completion`.

    Raises
    ------
    RankLabError
        If the model is not causal, or the new tokens leave no room for a prompt.
    """
    if model.kind != "causal":
        raise RankLabError(f"{model.tuned.source}: of kind {model.kind}, which writes nothing; give a causal model.")
    room = context_of(model, context) - options.new_tokens
    if room < 1:
        raise RankLabError(
            f"{options.new_tokens} new tokens leave no room for a prompt within {room + options.new_tokens}; lower"
            " --new-tokens."
        )
    found: list[tuple[Completion, ...]] = []
    torch.manual_seed(options.seed)
    for first in range(0, len(prompts), options.batch_size):
        found += _batch(model, list(prompts[first : first + options.batch_size]), stops, options, room)
        if progress is not None:
            progress(len(found), len(prompts))
    return tuple(found)


def _batch(
    model: EvaluatedModel, prompts: list[str], stops: Sequence[str], options: GenerationOptions, room: int
) -> list[tuple[Completion, ...]]:
    tokenizer = model.tokenizer
    whole = tokenizer(prompts, verbose=False)["input_ids"]
    shown = [ids[-room:] for ids in whole]
    longest, device = max(map(len, shown)), next(model.model.parameters()).device
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(each)) + list(each) for each in shown], device=device)
    refuse_unknown_tokens(model.model, int(ids.max()))
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in shown], device=device)
    start = time.monotonic()
    written = _generate(model, ids, mask, stops, options)
    over = time.monotonic() - start >= options.seconds
    texts = [_completed(model, row, stops, options, over=over) for row in written[:, -_new(written, ids) :]]
    groups = [texts[first : first + options.samples] for first in range(0, len(texts), options.samples)]
    return [
        tuple(Completion(text, in_time, len(kept) < len(given)) for text, in_time in group)
        for group, kept, given in zip(groups, shown, whole, strict=True)
    ]


def _new(written: torch.Tensor, ids: torch.Tensor) -> int:
    return int(written.shape[1] - ids.shape[1])


@torch.no_grad()
def _generate(
    model: EvaluatedModel, ids: torch.Tensor, mask: torch.Tensor, stops: Sequence[str], options: GenerationOptions
) -> torch.Tensor:
    drawn = {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
    written: torch.Tensor = model.model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=options.new_tokens,
        num_return_sequences=options.samples,
        max_time=options.seconds,
        stop_strings=list(stops) or None,
        tokenizer=model.tokenizer,
        pad_token_id=model.tokenizer.pad_token_id,
        repetition_penalty=1.0,  # a model's own settings may say otherwise, which would not be the model's distribution
        **(drawn if options.temperature else {"do_sample": False, "num_beams": 1}),
    )
    return written


def _completed(
    model: EvaluatedModel, row: torch.Tensor, stops: Sequence[str], options: GenerationOptions, *, over: bool
) -> tuple[str, bool]:
    ids, ends = row.tolist(), _ends(model)
    place = next((place for place, token in enumerate(ids) if token in ends), None)
    ended, ids = place is not None, ids[:place]
    text = model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    kept = cut_at_stop(text, stops)
    return kept, not over or ended or kept != text or len(ids) >= options.new_tokens


def _ends(model: EvaluatedModel) -> set[int]:
    """Tokens that end a text: the tokenizer's, and those, of some models several, at which its own settings stop."""
    own = getattr(getattr(model.model, "generation_config", None), "eos_token_id", None)
    found = {model.tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])}
    return found - {None}
