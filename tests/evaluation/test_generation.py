"""What a model writes: bounded, cut at stops, the same whatever shares its batch."""

import time
from typing import Any

import pytest
import torch

from rank_lab.errors import RankLabError
from rank_lab.evaluation.generation import GenerationOptions, completions_of, cut_at_stop
from tests.evaluation.models import demo_base, demo_tokenizer, evaluated

PROMPTS = ("The", "A module is a file that", "To be")


def written(options: GenerationOptions, stops: tuple[str, ...] = (), **given: Any) -> list[list[str]]:
    model = evaluated(given.pop("model", None) or demo_base(), demo_tokenizer_padded())
    found = completions_of(model, given.pop("prompts", PROMPTS), stops, options, **given)
    return [[completion.text for completion in group] for group in found]


def demo_tokenizer_padded() -> Any:
    tokenizer = demo_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def test_greedy_completions_are_the_most_probable_tokens_one_by_one() -> None:
    model, tokenizer = demo_base(), demo_tokenizer()
    ids = tokenizer(PROMPTS[1])["input_ids"]
    given = len(ids)
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tokenizer.decode(ids[given:])
    for batch_size in (1, 3):
        assert written(GenerationOptions(new_tokens=12, batch_size=batch_size))[1] == [expected]


def test_a_completion_ends_where_the_first_stop_begins() -> None:
    whole = written(GenerationOptions(new_tokens=24))[1][0]
    stop = whole[len(whole) // 2 :][:2]
    assert written(GenerationOptions(new_tokens=24), (stop, "never written"))[1] == [whole[: whole.index(stop)]]


def test_cut_at_the_earliest_of_stops() -> None:
    assert cut_at_stop("ab#cd\nef", ["\n", "#"]) == "ab"
    assert cut_at_stop("abc", ["#"]) == "abc"


def test_samples_are_drawn_by_seed() -> None:
    options = GenerationOptions(samples=4, temperature=1.0, new_tokens=8, seed=3)
    first = written(options)
    assert first == written(options)
    assert first != written(GenerationOptions(samples=4, temperature=1.0, new_tokens=8, seed=4))
    assert len(set(first[0])) > 1


def test_a_batch_that_takes_too_long_is_not_in_time() -> None:
    """Each step of the model takes a while; the clock ends the batch long before its tokens are written."""
    model = demo_base()
    model.model.register_forward_pre_hook(lambda *_: time.sleep(0.1))
    start = time.monotonic()
    found = completions_of(
        evaluated(model, demo_tokenizer_padded()), PROMPTS[:1], (), GenerationOptions(new_tokens=100, seconds=0.5)
    )
    assert time.monotonic() - start < 9  # of the ten that all tokens would take
    assert not found[0][0].in_time


def test_one_that_ended_at_another_of_the_models_ends_is_in_time() -> None:
    """The first prompt's completion ends at once, by the model's own settings; only the second is cut by the clock."""
    model, tokenizer = demo_base(), demo_tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(7)
    with torch.no_grad():
        ends = int(model(torch.tensor([tokenizer(PROMPTS[0])["input_ids"]])).logits[0, -1].argmax())
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, ends]
    model.model.register_forward_pre_hook(lambda *_: time.sleep(0.1))
    options = GenerationOptions(new_tokens=100, seconds=0.5)
    first, second = completions_of(evaluated(model, tokenizer), PROMPTS[:2], (), options)
    assert (first[0].in_time, second[0].in_time) == (True, False)


def test_one_that_ends_by_itself_is_in_time() -> None:
    model = demo_base()
    found = completions_of(evaluated(model, demo_tokenizer_padded()), PROMPTS, (), GenerationOptions(new_tokens=4))
    assert all(group[0].in_time for group in found)


def test_a_prompt_that_does_not_fit_loses_its_start_and_says_so() -> None:
    model = evaluated(demo_base(), demo_tokenizer_padded())
    long = "word " * 200 + "The"
    options = GenerationOptions(new_tokens=8)
    cut, short = completions_of(model, [long, "The"], (), options)
    assert (cut[0].cut_prompt, short[0].cut_prompt) == (True, False)
    ids = model.tokenizer(long)["input_ids"][-120:]
    (kept,) = completions_of(model, [model.tokenizer.decode(ids)], (), options)
    assert cut[0].text == kept[0].text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "0 samples"),
        ({"samples": 5}, "5 samples at temperature 0 would all be the same"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"top_p": 0.0}, "top_p 0"),
        ({"new_tokens": 0}, "0 new tokens"),
        ({"seconds": 0.0}, "0 seconds"),
        ({"batch_size": 0}, "a batch of 0"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RankLabError, match=message):
        GenerationOptions(**options)


def test_new_tokens_that_leave_no_room_are_refused() -> None:
    with pytest.raises(RankLabError, match="lower --new-tokens"):
        written(GenerationOptions(new_tokens=128))


def test_a_classifier_writes_nothing() -> None:
    model = evaluated(demo_base(), demo_tokenizer(), kind="classification")
    with pytest.raises(RankLabError, match="writes nothing"):
        completions_of(model, PROMPTS, (), GenerationOptions())
