"""The demonstration's text and its shipped base."""

import ast
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from analyses.token_windows import SEQUENCE, HeldOut, encode, sample_batches
from rank_lab.demo import BASE, text

Build: TypeAlias = Callable[[], text.Corpus]


@pytest.fixture(scope="module")
def provenance() -> dict[str, Any]:
    """Read what the shipped base says about itself."""
    return json.loads((BASE / "provenance.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("build", [text.prose, text.code])
def test_corpus_is_large_sorted_and_without_repetition(build: Build) -> None:
    """A corpus is built once, and holds what the language ships."""
    corpus = build()
    assert build() is corpus
    names = [document.name for document in corpus.documents]
    assert corpus.characters > 1_000_000
    assert corpus.files > 300
    assert len(corpus.unreadable) < 5
    assert len(set(names)) == len(names)
    assert len({document.text for document in corpus.documents}) == len(names)
    files = [name for name in names if not name.startswith("topic/")]
    assert files == sorted(files)


def test_corpora_do_not_depend_on_the_process_and_need_no_torch() -> None:
    """Another process with another hash seed builds the same text."""
    program = (
        "import sys\n"
        "from rank_lab.demo import text\n"
        "print(text.prose().sha256, text.code().sha256, 'torch' in sys.modules)"
    )
    seeds = {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | seeds,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert printed == [text.prose().sha256, text.code().sha256, "False"]


def test_hash_depends_on_names_texts_and_their_boundary() -> None:
    """Documents that only join to the same text are told apart."""

    def hash_of(*documents: text.Document) -> str:
        return text.Corpus("prose", documents, files=0, unreadable=()).sha256

    hashes = {
        hash_of(),
        hash_of(text.Document("a", "bc")),
        hash_of(text.Document("ab", "c")),
        hash_of(text.Document("a", "b"), text.Document("c", "d")),
        hash_of(text.Document("c", "d"), text.Document("a", "b")),
    }
    assert len(hashes) == 5


@pytest.mark.parametrize("build", [text.prose, text.code])
def test_held_out_part_is_about_a_tenth_and_shares_no_long_paragraph(build: Build) -> None:
    """The held-out part is not text that was trained on."""
    corpus = build()
    held_out, training = corpus.held_out, corpus.training
    assert len(held_out) + len(training) == len(corpus.documents)
    assert 0.05 < sum(map(len, held_out)) / corpus.characters < 0.2
    if corpus.name == "prose":
        seen = {" ".join(part.split()) for each in training for part in each.split("\n\n")}
        held = {" ".join(part.split()) for each in held_out for part in each.split("\n\n")}
        assert not [part for part in held & seen if len(part) > text.MIN_REPEATED]


def test_code_holds_no_docstring_and_no_tests() -> None:
    """Docstrings belong to the other corpus."""
    for document in text.code().documents[::10]:
        tree = ast.parse(document.text)
        assert ast.get_docstring(tree) is None
        assert not {"test", "tests", "idlelib", "site-packages"} & set(document.name.split("/"))


def test_unreadable_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be parsed is counted and named, and repetition dropped."""
    (tmp_path / "good.py").write_text('"""Doc."""\nx = 1  # one\n', encoding="utf-8")
    (tmp_path / "same.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "empty.py").write_text('"""Nothing but this."""\n', encoding="utf-8")
    (tmp_path / "body.py").write_text('def f():\n    """Doc."""\n', encoding="utf-8")
    (tmp_path / "bad_syntax.py").write_text("x = = 1\n", encoding="utf-8")
    (tmp_path / "bad_bytes.py").write_bytes(b"x = '\xff'\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_x.py").write_text("y = 2\n", encoding="utf-8")
    monkeypatch.setattr(text, "_folder", lambda: tmp_path)
    corpus = text.code.__wrapped__()
    assert corpus.unreadable == ("bad_bytes.py", "bad_syntax.py")
    assert corpus.files == 6
    assert [(each.name, each.text) for each in corpus.documents] == [
        ("body.py", "def f():\n    pass"),
        ("good.py", "x = 1"),
    ]


def test_base_is_what_its_provenance_says(provenance: dict[str, Any]) -> None:
    """The shipped files are those that the script wrote."""
    for name in ("model.safetensors", "tokenizer.json"):
        digest = hashlib.sha256((BASE / name).read_bytes()).hexdigest()
        assert digest == provenance[f"{name.split('.')[0]}_sha256"]
    assert (BASE / "model.safetensors").stat().st_size < 4_000_000
    tensors = load_file(BASE / "model.safetensors")
    assert sum(each.numel() for each in tensors.values()) == provenance["parameters"]
    assert {each.dtype for each in tensors.values()} == {torch.float32}
    files = [path for path in BASE.iterdir() if path.suffix == ".json"]
    assert not [path.name for path in files if str(Path.home()) in path.read_text(encoding="utf-8")]


def test_tokenizer_loads_offline_and_gives_text_back() -> None:
    """`AutoTokenizer` and the plain tokenizer agree."""
    tokenizer = AutoTokenizer.from_pretrained(BASE, local_files_only=True)
    sample = "The ``finally`` clause, naïve or not:\n\n    >>> x  +=  1\n"
    ids = tokenizer(sample)["input_ids"]
    assert tokenizer.decode(ids) == sample
    assert [*ids, tokenizer.eos_token_id] == encode(BASE / "tokenizer.json", [sample]).tolist()


def test_base_has_learned_prose_and_not_code(provenance: dict[str, Any]) -> None:
    """A base that has learned nothing could not show forgetting."""
    model = AutoModelForCausalLM.from_pretrained(BASE, local_files_only=True)
    tokenizer = BASE / "tokenizer.json"
    held_out = HeldOut(
        prose=encode(tokenizer, text.prose().held_out),
        code=encode(tokenizer, text.code().held_out),
        windows=100,
    )
    losses = held_out.losses(model, 0)
    assert losses.prose < 0.6 * math.log(model.config.vocab_size)
    assert losses.prose < losses.code
    # A tenth of the windows, and another Python's text: near, not equal.
    assert losses.prose == pytest.approx(provenance["held_out_loss_prose"], abs=0.3)
    assert losses.code == pytest.approx(provenance["held_out_loss_code"], abs=0.4)


def test_too_little_text_is_refused() -> None:
    """An installation without sources is said to be one."""
    batches = sample_batches(torch.zeros(SEQUENCE, dtype=torch.int64), generator=torch.Generator())
    with pytest.raises(ValueError, match="standard library"):
        next(batches)
