"""How many weights of how many architectures the rules of :mod:`rank_lab.names` place, and how often they are wrong.

``python -m analyses.module_names`` builds every model type that transformers knows for a task,
from its default config at its default size, on the meta device, so that no weight takes memory.
Counted is every parameter of two dimensions or more that is no bias: as tensors, as matrices (a
stack of experts is as many as there are experts, as this tool analyses it) and by parameters. The
kinds are compared with what the models themselves say (:mod:`analyses.structure`).
"""

import argparse
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from analyses.machine import about_machine, restart_on_one_thread, table, write
from analyses.structure import Evidence, evidence_of
from rank_lab.names import identify, is_known

__all__ = ["TASKS", "judged", "model_on_meta", "summarised", "types_of", "weights_of"]

TASKS = {
    "causal": ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "AutoModelForCausalLM"),
    "seq2seq": ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "AutoModelForSeq2SeqLM"),
    "masked": ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", "AutoModelForMaskedLM"),
    "image-text": ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "AutoModelForImageTextToText"),
}
MAX_UNCLASSIFIED = 0.05

_RESULTS = Path(__file__).parent / "results"
_QUICK = {"causal": ("gpt2", "llama", "mamba", "mixtral"), "seq2seq": ("t5",), "masked": ("bert",), "image-text": ()}
_SHARES = ("tensors", "matrices", "parameters")
_TOTAL_ONLY = ("unknown_names", "contradictions")  # long, and in the total too


def types_of(task: str) -> list[str]:
    """Model types that transformers maps to that task's class."""
    from transformers.models.auto import modeling_auto

    return list(getattr(modeling_auto, TASKS[task][0]))


def model_on_meta(model_type: str, task: str) -> Any:
    """A model from its default config, without memory for weights.

    Parameters
    ----------
    model_type
        As in ``config.json``.
    task
        One of :data:`TASKS`.
    """
    import transformers

    config = transformers.CONFIG_MAPPING[model_type]()
    with torch.device("meta"):
        return getattr(transformers, TASKS[task][1]).from_config(config)


def weights_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Shape by name of every parameter of two dimensions or more that is no bias."""
    return {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2 and (not name.endswith("bias") or name.endswith("relative_attention_bias"))
    }


def judged(model: Any) -> Iterator[dict[str, Any]]:
    """Each weight with its kind by name, and what the model says of it.

    Parameters
    ----------
    model
        From :func:`model_on_meta`.
    """
    evidence = evidence_of(model)
    for name, shape in weights_of(model).items():
        module = name.removesuffix(".weight")
        said: Evidence | None = evidence.get(name)
        kind = identify(module).kind
        yield {
            "pattern": re.sub(r"\d+", "N", module),
            "kind": kind,
            "known": is_known(module),
            "tensors": 1,
            "matrices": shape[0] if len(shape) == 3 and "expert" in module else 1,
            "parameters": math.prod(shape),
            "shape": list(shape),
            "said": None if said is None else said.why,
            "wrong": said is not None and kind != "other" and said.contradicts(kind),
            "missed": said is not None and kind == "other" and said.contradicts("other"),
        }


def summarised(weights: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts and shares over weights from :func:`judged`."""
    total = {unit: sum(weight[unit] for weight in weights) for unit in _SHARES}

    def shares(chosen: Sequence[dict[str, Any]]) -> dict[str, float]:
        return {unit: sum(weight[unit] for weight in chosen) / max(total[unit], 1) for unit in _SHARES}

    compared = [weight for weight in weights if weight["said"] is not None]
    wrong = [weight for weight in compared if weight["wrong"]]
    return total | {
        "unclassified": shares([weight for weight in weights if not weight["known"]]),
        "other": shares([weight for weight in weights if weight["kind"] == "other"]),
        "compared": len(compared),
        "contradicted": len(wrong),
        "contradicted_share": len(wrong) / max(len(compared), 1),
        "missed": sum(weight["missed"] for weight in compared),
        "unknown_names": _counted(weight for weight in weights if not weight["known"]),
        "other_names": _counted(weight for weight in weights if weight["kind"] == "other"),
        "contradictions": _counted(wrong),
    }


def _counted(weights: Any) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for weight in weights:
        key = weight["pattern"], weight["kind"], str(weight["said"])
        found.setdefault(key, {k: weight[k] for k in ("pattern", "kind", "said", "shape")} | {"count": 0})["count"] += 1
    return sorted(found.values(), key=lambda entry: -entry["count"])


def _measured(task: str, types: Sequence[str]) -> dict[str, Any]:
    start, weights = time.perf_counter(), []
    architectures: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for model_type in types:
        try:
            found = list(judged(model_on_meta(model_type, task)))
        except Exception as error:  # noqa: BLE001 - whatever a model's own code raises is what it failed with
            failed[model_type] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            continue
        summary = summarised(found)
        architectures[model_type] = {key: summary[key] for key in summary if key not in _TOTAL_ONLY}
        weights += found
    print(f"{task}: {len(architectures)} of {len(types)} model types", file=sys.stderr, flush=True)
    return {
        "types": len(types),
        "failed": failed,
        "seconds": time.perf_counter() - start,
        "total": summarised(weights),
        "architectures": architectures,
    }


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _report(results: dict[str, Any]) -> str:
    counts, shares = [], []
    for task, found in results["tasks"].items():
        total = found["total"]
        wrong = f"{total['contradicted']} ({_percent(total['contradicted_share'])})"
        built = f"{len(found['architectures'])} of {found['types']}"
        counts.append((task, built, total["tensors"], total["matrices"], total["compared"], wrong, total["missed"]))
        percents = [_percent(total[which][unit]) for which in ("unclassified", "other") for unit in _SHARES]
        shares.append((task, *percents))
    text = (
        "Unclassified: no rule names it. Kind other: that, and what rules name as none of the kinds (state spaces,"
        " indexers, hyper-connections, projections between modalities). A stack of experts is one tensor and as many"
        " matrices as experts. Contradicted: of the weights of which the model itself says what they are (embeddings,"
        " classes, shapes against the width of the layer), those whose kind by name is another; every class of them is"
        " listed below. Missed: kind other, where the model says that it is one of the kinds."
    )
    machine = results["machine"]
    stamp = f"{machine['date']}, {', '.join(f'{name} {number}' for name, number in machine['versions'].items())}."
    units = [f"{which}, of {unit}" for which in ("unclassified", "other") for unit in _SHARES]
    heads = ("task", "model types built", "tensors", "matrices", "compared", "contradicted", "missed")
    parts = ["# Names to kinds, over every architecture", text, stamp, table(heads, counts)]
    parts += [table(("task", *units), shares), _verdict(results)]
    for task, found in results["tasks"].items():
        parts += [f"## {task}", *_details(found)]
    return "\n\n".join(parts)


def _verdict(results: dict[str, Any]) -> str:
    causal = results["tasks"]["causal"]["total"]["unclassified"]
    met = all(causal[unit] < MAX_UNCLASSIFIED for unit in _SHARES)
    judgement = "not judged (--quick)" if results["quick"] else "met" if met else "NOT MET"
    return f"Target: fewer than {MAX_UNCLASSIFIED:.0%} of causal models' weights unclassified: {judgement}."


def _details(found: dict[str, Any]) -> list[str]:
    worst = sorted(found["architectures"].items(), key=lambda item: -item[1]["other"]["tensors"])
    rows: list[tuple[object, ...]] = []
    for name, entry in worst[:15]:
        shares = [entry["unclassified"]["tensors"], entry["other"]["tensors"], entry["other"]["parameters"]]
        if entry["other"]["tensors"]:
            rows.append((name, entry["tensors"], *map(_percent, shares), _names(entry["other_names"])))
    headings = ("most of kind other", "tensors", "unclassified", "other", "other, of parameters", "names")
    unknown = [(e["pattern"], e["count"], _size(e)) for e in found["total"]["unknown_names"]]
    wrong = [(e["pattern"], e["kind"], e["count"], e["said"], _size(e)) for e in found["total"]["contradictions"]]
    failed = [(name, why.replace("|", "\\|")) for name, why in found["failed"].items()]
    tables = [
        (headings, rows),
        (("no rule names it", "tensors", "shape of the first"), unknown),
        (("contradicted", "by name", "tensors", "the model says", "shape of the first"), wrong),
        (("cannot be built from its default config", "why"), failed),
    ]
    return [table(heads, cells) for heads, cells in tables if cells]


def _size(entry: dict[str, Any]) -> str:
    return "x".join(map(str, entry["shape"]))


def _names(entries: Sequence[dict[str, Any]]) -> str:
    leaves = Counter(".".join(entry["pattern"].split(".")[-2:]) for entry in entries)
    return ", ".join(list(leaves)[:6]) + (" ..." if len(leaves) > 6 else "")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="six architectures, seconds: does it run?")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for module_names.json and module_names.md")
    return parser.parse_args()


def main() -> None:
    """Build, compare, write the figures."""
    restart_on_one_thread("analyses.module_names")
    options = _parsed()
    import transformers

    transformers.logging.set_verbosity_error()
    results: dict[str, Any] = {
        "machine": about_machine(["rank-lab", "transformers", "torch"]),
        "quick": options.quick,
        "tasks": {
            task: _measured(task, _QUICK[task] if options.quick else types_of(task))
            for task in TASKS
            if _QUICK[task] or not options.quick
        },
    }
    write(options.out, "module_names", results, _report(results))


if __name__ == "__main__":
    main()
