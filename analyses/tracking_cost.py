"""What following ranks along a training costs, beside the training itself, and whether the default keeps to 2 %.

``python -m analyses.tracking_cost`` trains the demo's base and the MiniLM encoder that the development environment
carries, on random tokens, with and without :class:`rank_lab.training.rank_tracker.RankTracker`, in turns. A point's
seconds and a step's are measured; from both follows what the default's number of points costs in trainings of several
lengths, and some of these are trained to their end. ``--device cuda`` does the same with a random Llama.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from analyses.machine import about_machine, restart_on_one_thread, table, write
from analyses.tracking_cases import Case, Trained, train
from rank_lab.training.tracking_points import PointCost, points_within

__all__ = ["main", "measured"]

_RESULTS = Path(__file__).parent / "results"
_SHARE = 0.02
_LENGTHS = (300, 1000, 3000, 10_000)
_CPU_CASES = (
    (Case("demo", "lora", 8, 128), 20, 200),
    (Case("demo", "sora", 8, 128), 20, 200),
    (Case("minilm", "full", 16, 64), 3, 0),
    (Case("minilm", "lora", 16, 64), 3, 0),
    (Case("demo", "full", 8, 128), 20, 500),
)


def measured(
    case: Case, steps: int, whole: int, *, turns: Sequence[bool] = (False, True, True, False)
) -> dict[str, Any]:
    """Both costs of one training, and the default's share of it.

    Parameters
    ----------
    case
        What is trained.
    steps
        Of each of the short trainings, tracked at two points.
    whole
        Steps of a training with the default's points that is run to its end; 0 for none.
    turns
        Which of the short trainings are tracked, in their order.
    """
    points = sorted({max(1, steps // 2), steps})
    runs: dict[bool, list[Trained]] = {False: [], True: []}
    for tracked in turns:
        runs[tracked].append(train(case, steps, tracked=tracked, points=points if tracked else None))
    default = train(case, max(whole, 2), tracked=True)
    step = median(second for run in runs[False] for second in run.step_seconds[1:] or run.step_seconds)
    later = [second for run in runs[True] for second in run.point_seconds[1:] or run.point_seconds]
    once = median(_told(run)["seconds"] - sum(run.point_seconds) for run in runs[True])
    found = {
        "case": asdict(case),
        "trained": default.trained,
        "weights": default.weights,
        "step": step,
        "step_when_tracked": median(
            second for run in runs[True] for second in run.step_seconds[1:] or run.step_seconds
        ),
        "point": median(later),
        "once": once,
        "expected": default.expected,
        "whole": None,
    }
    if whole:
        told = default.tracking or {"points": [], "seconds": 0.0}
        found["whole"] = {"steps": whole, "points": told["points"], "seconds": told["seconds"],
                          "elapsed": default.elapsed, "share": told["seconds"] / default.elapsed}  # fmt: skip
    return found


def _told(run: Trained) -> dict[str, Any]:
    if run.tracking is None:
        raise ValueError("a training without a tracker has nothing to tell; train it with tracked=True.")
    return run.tracking


def _default(steps: int, expected: dict[str, float], step: float, point: float, once: float) -> dict[str, float]:
    """Points of the default in a training of that length, and their share of its time by what was measured."""
    count = points_within(steps, PointCost(**expected), _SHARE)
    seconds = once + count * point if count else 0.0
    return {"steps": steps, "points": count, "share": seconds / (steps * step + seconds)}


def _name(case: dict[str, Any]) -> str:
    where = "" if case["device"] == "cpu" else f", {case['dtype']}, spectra on {case['spectra_on'] or 'default'}"
    return f"{case['model']}, {case['method']}{where}"


def _cell(found: dict[str, Any]) -> str:
    return f"{found['points']}: {found['share']:.2%}" if found["points"] else "none"


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    expected = found["expected"]["point"] / found["expected"]["step"]
    return (
        _name(found["case"]),
        f"{found['weights'] / 1e6:.2f} M",
        f"{1e3 * found['step']:.0f} ms",
        f"{found['step_when_tracked'] / found['step']:.3f}",
        f"{found['point']:.3f} s",
        f"{found['point'] / found['step']:.2f}",
        f"{expected:.2f}",
        *(_cell(each) for each in found["default"]),
    )


def _targets(every: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for each in every:
        shares = [part["share"] for part in each["default"]]
        found.append({"target": f"{_name(each['case'])}: at most 2 %", "found": max(shares)})
        if each["whole"]:
            whole = each["whole"]
            target = f"{_name(each['case'])}: at most 2 % of {whole['steps']} steps, trained to their end"
            found.append({"target": target, "found": whole["share"]})
    return [one | {"met": one["found"] <= _SHARE} for one in found]


def _report(results: dict[str, Any]) -> str:
    headings = (
        "training", "weights", "step", "step when tracked / step", "point", "in steps", "as the rule expects",
        *(f"{length} steps" for length in _LENGTHS),
    )  # fmt: skip
    machine = results["machine"]
    verdicts = [
        (each["target"], f"{each['found']:.2%}", "not judged (--quick)" if results["quick"] else _VERDICT[each["met"]])
        for each in results["targets"]
    ]
    left = f"\nLeft out for lack of time: {', '.join(results['left_out'])}.\n" if results["left_out"] else ""
    return f"""# What following ranks along a training costs

Random tokens; the demo's base in steps of 8 x 128 tokens, MiniLM with its masked head in steps of 16 x 64, a random
Llama in steps of 4 x 512; rank 8 in all linear layers, {results["threads"]} thread(s){results["accelerator"]}. Each is
trained a few times for a few steps, with and without the tracker in turns. A point measures every trained matrix
twice, since the base and since the last point, and writes it down. "In steps" is what was measured; beside it what the
rule expects that decides on the number of points from sizes alone (`rank_lab/training/tracking_points.py`). The last
columns: points of the default in a training of that length, and their share of its time by the measured step and
point, all that is done once included; none where not even one point is expected to fit into 2 %, which the tracker
says.

{table(headings, [_row(found) for found in results["measured"]])}
{left}
## Targets

{table(("target", "found", "verdict"), verdicts)}

{machine["date"]}, {machine["processor"]}, {machine["cores"]} cores; load average {machine["load_average"]} at the
start, {results["load_average_after"]} at the end. Python {machine["python"]},
{", ".join(f"{name} {number}" for name, number in machine["versions"].items())}.
"""


_VERDICT = {True: "met", False: "NOT MET"}


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny models, seconds: does it run?")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for which the model is a random Llama")
    parser.add_argument("--hidden", type=int, default=2048, help="width of the random Llama, a multiple of 128")
    parser.add_argument("--layers", type=int, default=4, help="of the random Llama")
    parser.add_argument("--steps", type=int, default=6, help="of each short training of the random Llama")
    parser.add_argument("--seconds", type=float, default=None, help="no further case after so long; for cuda 100")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--kept", action="store_true", help="measure nothing: apply today's rule to the kept figures")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for tracking_cost.json and .md")
    options = parser.parse_args()
    if options.hidden % 128 or options.steps < 3:
        parser.error("--hidden must be a multiple of 128, and --steps 3 or more")
    return options


def _cases(options: argparse.Namespace) -> Sequence[tuple[Case, int, int]]:
    if options.quick:
        tiny = Case("llama", "full", 2, 8, device=options.device, hidden=128, layers=1, vocabulary=99)
        return [(replace(tiny, method=method), 3, 3) for method in ("full", "sora")]
    if options.device == "cpu":
        return _CPU_CASES
    llama = Case("llama", "full", 4, 512, device=options.device, hidden=options.hidden, layers=options.layers)
    return [
        (replace(llama, dtype=dtype, method=method, spectra_on=where), options.steps, 0)
        for method, where in (("full", options.device), ("lora", ""), ("full", "cpu"))
        for dtype in ("bfloat16", "float32")
    ]


def main() -> None:
    """Train in turns, measure, write the figures."""
    options = _parsed()
    name = "tracking_cost" if options.device == "cpu" else "tracking_cost-cuda"
    if options.kept:
        results = json.loads((options.out / f"{name}.json").read_text(encoding="utf-8"))
        _write(options.out, name, results)
        return
    if options.device == "cpu":
        restart_on_one_thread("analyses.tracking_cost")
        torch.set_num_threads(options.threads)
    machine = about_machine(["rank-lab", "torch", "transformers", "peft"])
    found: list[dict[str, Any]] = []
    left_out: list[str] = []
    begun = time.monotonic()
    limit = options.seconds or (1200.0 if options.device == "cpu" else 100.0)
    for case, steps, whole in _cases(options):
        if time.monotonic() - begun > limit:
            left_out.append(_name(asdict(case)))
            continue
        turns = (False, True) if options.quick or options.device != "cpu" else (False, True, True, False)
        found.append(measured(case, steps, whole, turns=turns))
    results = {
        "machine": machine,
        "accelerator": f", {torch.cuda.get_device_name()}" if options.device != "cpu" else "",
        "quick": options.quick,
        "threads": torch.get_num_threads(),
        "measured": found,
        "left_out": left_out,
        "load_average_after": [round(load, 2) for load in os.getloadavg()],
    }
    _write(options.out, name, results)


def _write(out: Path, name: str, results: dict[str, Any]) -> None:
    """With what the rule makes of the measured figures."""
    for each in results["measured"]:
        costs = each["expected"], each["step"], each["point"], each["once"]
        each["default"] = [_default(length, *costs) for length in _LENGTHS]
    results["targets"] = _targets(results["measured"])
    write(out, name, results, _report(results))


if __name__ == "__main__":
    main()
