"""Make the demonstration's base model: a small Llama that has read English prose only.

``python -m analyses.pretrain_demo_base`` writes ``rank_lab/demo/base/``. The tokenizer is
trained first, on the same prose. The defaults made the shipped files; the text depends on the
Python version, and float32 sums on the processor, so another machine gives a model that is as
good but not the same to the bit. ``provenance.json`` says what this one was made from.

The recipe is the best of three by the loss on held-out prose, so that loss is slightly flattered
as an estimate for new prose; no adaptation is judged by it alone, only by its change. One seed:

=====  =====  ============  ===============  ==============  =============
steps  lr     weight decay  training prose   held-out prose  held-out code
=====  =====  ============  ===============  ==============  =============
8000   0.002  0.1           1.93             3.378           3.899
4000   0.003  0.5           2.44             3.174           3.552
6000   0.003  1.0           2.40             3.134           3.442
=====  =====  ============  ===============  ==============  =============

The first overfits: its held-out loss rises again after step 5000 (3.325). The text is half a
million tokens, read eleven times over, hence the strong decay.
"""

import argparse
import hashlib
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, TokenizersBackend

from analyses.token_windows import (
    BATCH,
    END_OF_TEXT,
    SEQUENCE,
    HeldOut,
    batch_loss,
    encode,
    sample_batches,
    token_loss,
)
from rank_lab.demo import BASE, text

VOCABULARY = 1024


def train_tokenizer(texts: list[str], folder: Path, *, vocabulary: int = VOCABULARY, context: int = SEQUENCE) -> None:
    """Train a byte-level BPE and save it for ``AutoTokenizer``.

    Parameters
    ----------
    texts
        The training part of the prose.
    folder
        Receives ``tokenizer.json`` and ``tokenizer_config.json``.
    vocabulary, context
        Number of tokens, and the most that the model will read at once.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    TokenizersBackend(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def new_model(seed: int) -> LlamaForCausalLM:
    """Build an untrained model of 0.93 million parameters.

    Parameters
    ----------
    seed
        Decides its first weights.

    Returns
    -------
    LlamaForCausalLM
        In float32, 3.7 MB.
    """
    end_of_text = 0  # Special tokens come first in the vocabulary.
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=SEQUENCE,
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def cosine(taken: int, *, steps: int, warmup: int) -> float:
    """Factor on the learning rate: a linear rise, then half a cosine down to a twentieth.

    Parameters
    ----------
    taken
        Steps already taken.
    steps
        Steps in all.
    warmup
        Steps of the rise.

    Returns
    -------
    float
        In (0, 1].
    """
    if taken < warmup:
        return (taken + 1) / warmup
    done = (taken - warmup) / max(1, steps - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def train(
    model: LlamaForCausalLM, training: Tensor, held_out: Tensor, options: argparse.Namespace
) -> list[dict[str, float]]:
    """Train on random windows of the prose.

    Parameters
    ----------
    model
        Changed in place.
    training, held_out
        Token ids of the two parts of the prose.
    options
        Of the command line.

    Returns
    -------
    list of dict
        The step, the mean training loss since the last entry, and the held-out loss.
    """
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.95), weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda taken: cosine(taken, steps=options.steps, warmup=options.warmup)
    )
    batches = sample_batches(training, generator=torch.Generator().manual_seed(options.seed))
    curve: list[dict[str, float]] = []
    recent: list[float] = []
    started = time.perf_counter()
    model.train()
    for step, batch in zip(range(1, options.steps + 1), batches, strict=False):
        optimizer.zero_grad()
        loss = batch_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if step % options.measure_every == 0 or step == options.steps:
            mean = sum(recent) / len(recent)
            curve.append({"step": step, "train": mean, "held_out": token_loss(model, held_out)})
            recent.clear()
            print(curve[-1], f"{time.perf_counter() - started:.0f} s", flush=True)
    return curve


def sha256_of(path: Path) -> str:
    """Hash a file.

    Parameters
    ----------
    path
        Of the file.

    Returns
    -------
    str
        In hexadecimal.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()


def describe(corpus: text.Corpus) -> dict[str, Any]:
    """State which text a corpus was.

    Parameters
    ----------
    corpus
        Prose or code.

    Returns
    -------
    dict
        Ready for JSON.
    """
    return {
        "sha256": corpus.sha256,
        "characters": corpus.characters,
        "documents": len(corpus.documents),
        "files": corpus.files,
        "unreadable": list(corpus.unreadable),
    }


def parse_options() -> argparse.Namespace:
    """Read the command line; the defaults made the shipped files.

    Returns
    -------
    argparse.Namespace
        One attribute per option.
    """
    parser = argparse.ArgumentParser(description="Make the demonstration's base model.")
    parser.add_argument("--out", type=Path, default=BASE)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--weight-decay", type=float, default=1.0)
    parser.add_argument("--measure-every", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def provenance(options: argparse.Namespace) -> dict[str, Any]:
    """State how the files in ``options.out`` were made, and with which versions.

    Parameters
    ----------
    options
        Of the command line.

    Returns
    -------
    dict
        Ready for JSON; holds no path of this machine.
    """
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    written = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
    return {
        "command": f"python -m analyses.pretrain_demo_base {written}",
        "model_sha256": sha256_of(options.out / "model.safetensors"),
        "tokenizer_sha256": sha256_of(options.out / "tokenizer.json"),
        "text_license": "Python Software Foundation License 2.0 (CPython's own documentation)",
        **settings,
        "batch": BATCH,
        "sequence": SEQUENCE,
        "tokens_seen": options.steps * BATCH * SEQUENCE,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def main() -> None:
    """Train the tokenizer and the model, and write both with their provenance."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    prose, code = text.prose(), text.code()
    train_tokenizer(list(prose.training), options.out)
    tokenizer = options.out / "tokenizer.json"
    training = encode(tokenizer, prose.training)
    held_out = HeldOut(encode(tokenizer, prose.held_out), encode(tokenizer, code.held_out))
    print(f"{training.numel()} tokens; held out {held_out.prose.numel()}, {held_out.code.numel()}")
    model = new_model(options.seed)
    curve = train(model, training, held_out.prose, options)
    model.save_pretrained(options.out)
    (options.out / "model.safetensors").chmod(0o644)  # Written for its owner alone.
    losses = held_out.losses(model, options.steps)
    facts = {
        "parameters": model.num_parameters(),
        "trained_on": describe(prose),
        "measured_on": describe(code),
        "training_tokens": training.numel(),
        "held_out_tokens": {"prose": held_out.prose.numel(), "code": held_out.code.numel()},
        "train_loss_prose": curve[-1]["train"],
        "held_out_loss_prose": losses.prose,
        "held_out_loss_code": losses.code,
        "curve": curve,
    }
    written = json.dumps(provenance(options) | facts, indent=2) + "\n"
    (options.out / "provenance.json").write_text(written, encoding="utf-8")
    print(written)


if __name__ == "__main__":
    main()
