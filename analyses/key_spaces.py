"""The two formats of transformers, tensor by tensor: of how many architectures do they meet.

``python -m analyses.key_spaces`` builds every model type on the meta device, lets transformers
itself undo its conversion (as ``save_pretrained`` does), and brings the names in memory and the
names in the file together with :mod:`rank_lab.conversion`. Headers only: no weight is read.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from analyses.machine import about_machine, restart_on_one_thread, table, write
from analyses.module_names import TASKS, model_on_meta, types_of
from rank_lab.conversion import in_one_format
from rank_lab.errors import PairingError
from rank_lab.stored_tensor import StoredTensor

__all__ = ["compared"]

_RESULTS = Path(__file__).parent / "results"
_QUICK = {"causal": ("llama", "mixtral"), "image-text": ("llava",)}
_FATES = ("same names", "all tensors met", "some did not meet", "refused")


def _headers(state: dict[str, Any], file: str) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(name, tuple(value.shape), str(value.dtype).removeprefix("torch."), Path(file), 0)
        for name, value in state.items()
    }


def compared(model: Any) -> tuple[str, str]:
    """One of the fates, and what to say of it.

    Parameters
    ----------
    model
        From :func:`analyses.module_names.model_on_meta`.
    """
    from transformers.core_model_loading import revert_weight_conversion

    memory = model.state_dict()
    hub = revert_weight_conversion(model, dict(memory))
    if set(hub) == set(memory):
        return "same names", ""
    try:
        one, other = in_one_format(_headers(hub, "hub"), _headers(memory, "memory"), model)
    except PairingError as error:
        return "refused", str(error).partition(", which cannot")[0].removeprefix("hub: ")
    unmet = sorted(one.keys() ^ other.keys())
    unequal = [name for name in one.keys() & other.keys() if one[name].shape != other[name].shape]
    if unmet or unequal:
        return "some did not meet", f"{len(unmet)} names, {len(unequal)} shapes: {', '.join((unmet + unequal)[:2])}"
    return "all tensors met", f"{len(hub)} in the file, {len(memory)} in memory"


def _measured(types: dict[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for task, names in types.items():
        for model_type in names:
            if model_type in found:
                continue
            try:
                fate, detail = compared(model_on_meta(model_type, task))
            except Exception as error:  # noqa: BLE001 - whatever a model's own code raises is what it failed with
                print(f"{model_type}: not built: {type(error).__name__}", file=sys.stderr)
                continue
            found[model_type] = {"task": task, "fate": fate, "detail": detail}
    return found


def _report(results: dict[str, Any]) -> str:
    types = results["types"]
    counts = [(fate, sum(entry["fate"] == fate for entry in types.values())) for fate in _FATES]
    listed = [
        (name, entry["fate"], entry["detail"].replace("|", "\\|"))
        for fate in reversed(_FATES[1:])
        for name, entry in types.items()
        if entry["fate"] == fate
    ]
    machine = results["machine"]
    text = (
        "Every model type that builds from its default config: names as transformers saves them against names as it"
        " holds them in memory. Met: each tensor, or each part of a stacked or fused one, has one of equal shape on"
        " the other side."
    )
    stamp = f"{machine['date']}, {', '.join(f'{name} {number}' for name, number in machine['versions'].items())}."
    heads = ("model type", "fate", "detail")
    return "\n\n".join(
        ("# The two formats of transformers", text, stamp, table(("fate", "model types"), counts), table(heads, listed))
    )


def main() -> None:
    """Build, bring together, write the figures."""
    restart_on_one_thread("analyses.key_spaces")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three architectures, seconds: does it run?")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for key_spaces.json and key_spaces.md")
    options = parser.parse_args()
    import transformers

    transformers.logging.set_verbosity_error()
    types = _QUICK if options.quick else {task: tuple(types_of(task)) for task in TASKS}
    results = {
        "machine": about_machine(["rank-lab", "transformers", "torch"]),
        "quick": options.quick,
        "types": _measured(types),
    }
    write(options.out, "key_spaces", results, _report(results))


if __name__ == "__main__":
    main()
