"""Every token is scored once, with the most context that a window gives."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from rank_lab.errors import DataError
from rank_lab.evaluation.windows import causal_pieces, tokens_of, windows
from tests.evaluation.models import demo_tokenizer


@given(some.integers(2, 60), some.integers(1, 20), some.data())
def test_every_target_is_scored_once(count: int, context: int, data: some.DataObject) -> None:
    stride = data.draw(some.integers(1, context))
    found = list(windows(count, context, stride))
    assert [target for _, end, first in found for target in range(first, end + 1)] == list(range(1, count))
    assert all(end - start <= context and start < first <= end for start, end, first in found)
    assert all(end - start == context for start, end, _ in found[1:])


@pytest.mark.parametrize("stride", [0, 4])
def test_a_stride_that_skips_tokens_is_refused(stride: int) -> None:
    with pytest.raises(DataError, match="expected 1 to 3"):
        list(windows(9, 3, stride))


def test_pieces_ask_for_the_next_token() -> None:
    ids = [9, 5, 6, 7, 8]
    pieces = list(causal_pieces(0, ids, 2, 2))
    assert [(piece.ids, piece.places, piece.targets) for piece in pieces] == [
        ((9, 5), (0, 1), (5, 6)),
        ((6, 7), (0, 1), (7, 8)),
    ]
    asked = [
        (piece.ids[place], target)
        for piece in pieces
        for place, target in zip(piece.places, piece.targets, strict=True)
    ]
    assert asked == list(pairwise(ids))


def test_windows_are_those_of_lm_eval_where_they_do_not_overlap() -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    for count, context in ((1, 4), (4, 4), (5, 4), (11, 4), (12, 5)):
        tokens = list(range(100, 100 + count))
        theirs = [make_disjoint_window(pair) for pair in get_rolling_token_windows(tokens, 7, context, 1)]
        ours = [(piece.ids, piece.targets) for piece in causal_pieces(0, [7, *tokens], context, context)]
        assert [targets for _, targets in ours] == [tuple(predicted) for _, predicted in theirs]
        whole = [tuple([*given, *predicted][:-1]) for given, predicted in theirs]
        assert [ids for ids, _ in ours] == whole


def test_a_text_begins_behind_the_beginning_or_end_of_text() -> None:
    tokenizer = demo_tokenizer()
    ids, behind = tokens_of(tokenizer, "a cat")
    assert behind
    assert ids[0] == tokenizer.bos_token_id
    assert ids[1:] == tokenizer("a cat")["input_ids"]
    tokenizer.bos_token = tokenizer.eos_token = None
    assert tokens_of(tokenizer, "a cat") == (ids[1:], False)
