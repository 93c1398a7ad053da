"""Cross-entropy, perplexity and divergence against numbers computed by hand, by the model itself and by lm-eval."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rank_lab.errors import DataError, NonFiniteError, RankLabError
from rank_lab.evaluation.text_scores import TextOptions, mean_of, text_rows
from rank_lab.evaluation.text_sets import TextSet, read_texts
from rank_lab.evaluation.token_losses import token_sums
from rank_lab.evaluation.windows import Piece, causal_pieces, masked_pieces
from rank_lab.score_table import ScoreRow
from tests.evaluation.models import TEXTS, Fixed, demo_base, demo_tokenizer, evaluated, moved

SET = TextSet("talk", TEXTS, "memory", "source")


def by_metric(rows: tuple[ScoreRow, ...]) -> dict[str, ScoreRow]:
    return {row.metric: row for row in rows}


def test_losses_computed_by_hand() -> None:
    """A model of three tokens whose probabilities are 1/2, 1/4 and 1/4, or 1/4, 1/4 and 1/2 after the token 2."""
    even, other = [math.log(0.5), math.log(0.25), math.log(0.25)], [math.log(0.25), math.log(0.25), math.log(0.5)]
    model = Fixed(lambda ids: other if ids[-1] == 2 else even)
    pieces = [Piece(0, (0, 1), (0, 1), (0, 1)), Piece(1, (0, 2, 2), (1, 2), (2, 0))]
    found = token_sums(model, pieces, 2, batch_size=2)
    assert found.divergences is None
    assert found.losses == pytest.approx([math.log(2) + math.log(4), math.log(2) + math.log(4)], rel=1e-6)
    assert found.tokens.tolist() == [2, 2]


def test_divergence_computed_by_hand() -> None:
    base = Fixed(lambda ids: [math.log(0.5), math.log(0.25), math.log(0.25)])
    tuned = Fixed(lambda ids: [math.log(0.25), math.log(0.25), math.log(0.5)])
    pieces = [Piece(0, (0, 1), (0, 1), (0, 1)), Piece(1, (0,), (0,), (2,))]
    found = token_sums(tuned, pieces, 2, base=base, batch_size=1)
    once = 0.5 * math.log(2) - 0.25 * math.log(2)  # sum of p ln(p / q)
    assert found.divergences == pytest.approx([2 * once, once], rel=1e-6)
    assert found.losses.tolist() == token_sums(tuned, pieces, 2, batch_size=1).losses.tolist()


def test_the_base_is_at_no_distance_from_itself() -> None:
    base = demo_base()
    rows = by_metric(text_rows(evaluated(base, demo_tokenizer()), SET, TextOptions(), base=demo_base()))
    assert rows["kl_from_base"].value == 0.0
    assert set(rows["kl_from_base"].examples or ()) == {0.0}


def test_each_model_is_asked_once() -> None:
    """Loss and divergence are told from the same outputs; the base at no distance from itself needs one model."""
    models = {"base": demo_base(), "tuned": demo_base()}
    asked = dict.fromkeys(models, 0)
    for name, model in models.items():
        model.register_forward_pre_hook(lambda *_, name=name: asked.update({name: asked[name] + 1}))
    text_rows(evaluated(models["tuned"], demo_tokenizer()), SET, TextOptions(batch_size=1), base=models["base"])
    assert asked == {"base": len(TEXTS), "tuned": len(TEXTS)}
    rows = text_rows(evaluated(models["base"], demo_tokenizer()), SET, TextOptions(batch_size=1), base=models["base"])
    assert asked == {"base": 2 * len(TEXTS), "tuned": len(TEXTS)}
    assert by_metric(rows)["kl_from_base"].value == 0.0


def test_a_changed_model_is_at_the_distance_that_its_logits_say() -> None:
    tokenizer, base, tuned = demo_tokenizer(), demo_base(), demo_base()
    moved(tuned, by=0.01)
    row = by_metric(text_rows(evaluated(tuned, tokenizer), SET, TextOptions(), base=base))["kl_from_base"]
    total, count = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            first, second = (model(ids).logits[0, :-1].double().log_softmax(-1) for model in (base, tuned))
        total += float(torch.nn.functional.kl_div(second, first, log_target=True, reduction="sum"))
        count += ids.shape[1] - 1
    assert row.value == pytest.approx(total / count, rel=1e-4)
    assert row.value > 0.001


@pytest.mark.parametrize("batch_size", [1, 3])
def test_cross_entropy_is_the_models_own_loss(batch_size: int) -> None:
    tokenizer, model = demo_tokenizer(), demo_base()
    rows = by_metric(text_rows(evaluated(model, tokenizer), SET, TextOptions(batch_size=batch_size)))
    total = count = 0.0
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    loss = rows["cross_entropy"]
    assert loss.value == pytest.approx(total / count, rel=1e-5)
    assert rows["perplexity"].value == pytest.approx(math.exp(total / count), rel=1e-4)
    assert rows["bits_per_byte"].value == pytest.approx(total / math.log(2) / len("".join(TEXTS)), rel=1e-5)
    assert np.mean(loss.examples or ()) == pytest.approx(loss.value, rel=1e-12)
    assert (loss.n, loss.role, loss.higher_is_better, loss.step) == (3, "source", False, 3)


def test_windows_of_a_long_text_give_what_lm_eval_gives() -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer, model = demo_tokenizer(), demo_base()
    long = " ".join(TEXTS * 4)
    asked = Instance("loglikelihood_rolling", {}, (long,), 0)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, max_length=32, batch_size=2).loglikelihood_rolling([asked])[0]
    rows = text_rows(evaluated(model, tokenizer), TextSet("long", (long,), "memory"), TextOptions(context=32))
    tokens = len(tokenizer(long)["input_ids"])
    assert tokens > 64
    assert by_metric(rows)["cross_entropy"].value == pytest.approx(-theirs / tokens, rel=1e-5)
    assert by_metric(rows)["cross_entropy"].stderr is None  # of a single text


def test_a_smaller_stride_gives_more_context() -> None:
    """A model that is the surer, the more it sees: its loss is known for any number of tokens."""
    model = Fixed(lambda ids: [float(len(ids)), 0.0])

    def loss(seen: int) -> float:
        return math.log1p(math.exp(-seen))

    far, near = (
        token_sums(model, causal_pieces(0, [0] * 9, 4, stride), 1, batch_size=2).losses[0] for stride in (4, 2)
    )
    assert far == pytest.approx(2 * sum(map(loss, (1, 2, 3, 4))), rel=1e-5)
    assert near == pytest.approx(sum(map(loss, (1, 2, 3, 4, 3, 4, 3, 4))), rel=1e-5)


def test_pseudo_likelihood_is_that_of_single_masked_tokens() -> None:
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = BertForMaskedLM(BertConfig(vocab_size=len(words), max_position_embeddings=16, **size)).eval()
    texts = TextSet("letters", ("a b c d", "e f"), "memory")
    found = by_metric(text_rows(evaluated(model, tokenizer, kind="masked"), texts, TextOptions()))
    total = 0.0
    for text in texts.texts:
        ids = tokenizer(text)["input_ids"]
        for place in range(1, len(ids) - 1):
            shown = torch.tensor([ids])
            shown[0, place] = tokenizer.mask_token_id
            with torch.no_grad():
                total -= float(model(shown).logits[0, place].log_softmax(-1)[ids[place]])
    assert found["pseudo_cross_entropy"].value == pytest.approx(total / 6, rel=1e-5)
    assert found["pseudo_perplexity"].value == pytest.approx(math.exp(total / 6), rel=1e-5)
    assert set(found) == {"pseudo_cross_entropy", "pseudo_perplexity"}
    again = [list(masked_pieces(3, "a b c d e f g h", tokenizer, 16, 3, seed)) for seed in (0, 0, 1)]
    assert [piece.places for piece in again[0]] == [piece.places for piece in again[1]]
    assert len(again[0]) == 3


def test_standard_error_of_a_ratio() -> None:
    """The linearised error agrees with the spread of many sets of texts of different lengths."""
    generator = np.random.default_rng(0)

    def one_set() -> tuple[np.ndarray, np.ndarray]:
        tokens = generator.integers(5, 200, size=200).astype(float)
        return tokens * (3 + generator.normal(0, 0.5, size=200)), tokens

    means = [mean_of(*one_set()) for _ in range(400)]
    spread = float(np.std([mean.value for mean in means], ddof=1))
    assert np.mean([mean.stderr for mean in means]) == pytest.approx(spread, rel=0.1)


def test_texts_are_read_in_order_and_blank_rows_counted(tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one", " ", "two", "three")))
    assert read_texts("talk", file, limit=3).texts == ("one", "two")
    assert "1 blank row left out" in read_texts("talk", file).source
    assert read_texts("talk", file, join=True).texts == ("one\n \ntwo\nthree\n",)
    assert read_texts("talk", file).sha256() != read_texts("talk", file, limit=3).sha256()
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in (" = Title = \n", "", "one\n")))
    assert read_texts("talk", file, join=True).texts == (" = Title = \n\none\n",)


def test_texts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"content": "a"}\n')
    with pytest.raises(DataError, match=r"no column 'text'\. Nearest: content"):
        read_texts("rows", rows)
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(DataError, match="holds no text"):
        read_texts("blank", tmp_path / "blank.txt")
    for absent in ("absent.txt", "absent.jsonl", "absent.jsonl.gz"):
        with pytest.raises(DataError, match=f"{absent}: is not there; check the path"):
            read_texts("absent", tmp_path / absent)
    with pytest.raises(DataError, match=r"expected \.jsonl"):
        read_texts("table", tmp_path / "table.csv")


def test_a_model_that_diverged_is_named() -> None:
    model = Fixed(lambda ids: [math.nan, 0.0])
    with pytest.raises(NonFiniteError, match="text 1 of 1"):
        token_sums(model, [Piece(0, (0,), (0,), (1,))], 1, batch_size=1)


def test_vocabularies_that_differ_have_no_divergence() -> None:
    base, tuned = Fixed(lambda ids: [0.0] * 2), Fixed(lambda ids: [0.0] * 3)
    with pytest.raises(RankLabError, match="over 2 tokens of the base and 3 of the tuned"):
        token_sums(tuned, [Piece(0, (0,), (0,), (1,))], 1, base=base, batch_size=1)


def test_a_classifier_has_no_cross_entropy_of_texts() -> None:
    with pytest.raises(DataError, match="predicts no tokens"):
        text_rows(evaluated(demo_base(), demo_tokenizer(), kind="classification"), SET, TextOptions())


@pytest.mark.parametrize("length", [1, 129])
def test_a_context_that_the_model_does_not_have_is_refused(length: int) -> None:
    with pytest.raises(DataError, match="expected 2 to 128"):
        text_rows(evaluated(demo_base(), demo_tokenizer()), SET, TextOptions(context=length))
