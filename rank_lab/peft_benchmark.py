"""Results of PEFT's method comparison (MetaMathQA) as rows of scores.

Its ``results/EXPERIMENT.json`` hold ``run_info``, ``train_info`` and ``meta_info``: accuracy on GSM8K's test set at the
last step and on a validation set along training, the loss that was trained, what it cost, and, in newer files, how much
a loss on Wikipedia rose. They say neither how many questions there were nor a standard error: the rows have none.
Source: https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rank_lab.errors import DataError
from rank_lab.plain_text import plain
from rank_lab.score_origin import Imported, LeftOut, Origin, number
from rank_lab.score_table import ScoreRow

__all__ = ["HARNESS", "is_peft_benchmark", "peft_benchmark_scores"]

HARNESS = "peft-method-comparison"

_PARTS = ("run_info", "train_info", "meta_info")
_ALONG = {"valid accuracy": ("gsm8k_validation", "accuracy"), "train loss": ("metamathqa_training", "loss")}
_AT_THE_END = {"test accuracy": ("gsm8k", "accuracy"), "forgetting": ("wikipedia", "loss_increase")}
_COSTS = {
    "num_trainable_params": "trainable_parameters",
    "accelerator_memory_reserved_avg": "memory_mean_bytes",
    "accelerator_memory_reserved_99th": "memory_99th_percentile_bytes",
    "accelerator_memory_max": "memory_max_bytes",
    "train_time": "train_seconds",
    "file_size": "file_bytes",
}
_NO_SIZE = 99_999_999  # what the program writes where saving the adapter failed
_UNSHIFTED = (
    "is the rise of what the benchmark's run.py (026d1e0) averages: the cross-entropy of the logits of each position"
    " with the token at that position, not the next one; compare it with files of this benchmark alone"
)


def is_peft_benchmark(content: Any) -> bool:
    """Whether a JSON content looks like results of PEFT's method comparison.

    Examples
    --------
    >>> is_peft_benchmark({"run_info": {}, "train_info": {"metrics": []}, "meta_info": {}}), is_peft_benchmark({})
    (True, False)
    """
    return (
        isinstance(content, dict)
        and all(isinstance(content.get(part), dict) for part in _PARTS)
        and isinstance(content["train_info"].get("metrics"), list)
    )


def peft_benchmark_scores(content: Mapping[str, Any], origin: Origin, *, source: str) -> Imported:
    """Rows of the results of one experiment.

    Parameters
    ----------
    content
        What the benchmark wrote.
    origin
        What its tasks are for; its run and method go before those that the file says (the experiment's name, and
        PEFT's type of method, ``full`` where there is none).
    source
        Where the content comes from.

    Returns
    -------
    Imported
        Tasks ``gsm8k`` and ``gsm8k_validation`` (``accuracy``), ``metamathqa_training`` (``loss``, the mean since the
        evaluation before), ``wikipedia`` (``loss_increase``) and ``cost``: trainable
        parameters, bytes of memory reserved on the accelerator, seconds of training without evaluations, bytes of the
        adapter's file.

    Raises
    ------
    DataError
        If it is no such result, of another of PEFT's benchmarks, or of a run that did not end well.

    Examples
    --------
    >>> last = {"step": 5000, "test accuracy": 0.5, "train loss": 0.6, "train samples": 20000}
    >>> content = {
    ...     "run_info": {"experiment_name": "lora/rank32", "train_config": {}, "peft_config": {"peft_type": "LORA"}},
    ...     "train_info": {"status": "success", "num_trainable_params": 9175040, "metrics": [last]},
    ...     "meta_info": {"dataset_info": {"metamath": {}, "gsm8k": {}}, "package_info": {"peft-version": "0.19.1"}}}
    >>> rows = peft_benchmark_scores(content, Origin(), source="results/lora--rank32.json").rows
    >>> [(row.run, row.method, row.step, row.task, row.metric, row.value) for row in rows][:1]
    [('lora/rank32', 'lora', 5000, 'gsm8k', 'accuracy', 0.5)]
    >>> rows[1].task, rows[1].metric, rows[1].value
    ('cost', 'trainable_parameters', 9175040.0)
    """
    if not is_peft_benchmark(content):
        raise DataError(f"{source}: holds no results of PEFT's method comparison; expected {', '.join(_PARTS)}.")
    run_info, train_info, meta_info = (content[part] for part in _PARTS)
    _refuse_unfit(run_info, train_info, meta_info, source)
    run = origin.run or str(run_info.get("experiment_name") or "")
    method = origin.method or _method(run_info.get("peft_config"))
    if not run:
        raise DataError(f"{source}: has no experiment_name; give the run a name (--run).")
    version = str(_dict(meta_info.get("package_info")).get("peft-version") or "")
    rows: dict[tuple[int | None, str, str], ScoreRow] = {}
    left_out: list[LeftOut] = []
    for step, task, metric, value in _values(train_info, left_out):
        rows[step, task, metric] = ScoreRow(
            run, method, step, task, metric, value, role=origin.roles.get(task, ""), chance=origin.chance.get(task),
            higher_is_better=metric == "accuracy", harness=HARNESS, harness_version=version, source=source,
        )  # fmt: skip
    origin.check_tasks(source, dict.fromkeys(row.task for row in rows.values()))
    if any(task == "wikipedia" for _, task, _ in rows):
        left_out.append(LeftOut("wikipedia loss_increase", _UNSHIFTED))
    return Imported(tuple(rows.values()), tuple(left_out)).or_refused(source)


def _refuse_unfit(run: Mapping[str, Any], train: Mapping[str, Any], meta: Mapping[str, Any], source: str) -> None:
    if train.get("status") != "success":
        why = plain(str(run.get("error_msg") or "no reason given"), limit=200)
        raise DataError(
            f"{source}: its status is {plain(repr(train.get('status')), limit=40)} ({why}); the benchmark itself counts"
            " successful runs alone."
        )
    sets = _dict(meta.get("dataset_info"))
    if "gsm8k" not in sets:
        named = plain(", ".join(map(str, sets)), limit=200) or "none"
        raise DataError(
            f"{source}: of PEFT's benchmarks only MetaMathQA with GSM8K is read; this one names the data sets {named}."
        )


def _method(config: Any) -> str:
    """PEFT's type as rank_lab calls the method; LoRA's variants by their switches."""
    if not config:
        return "full"
    own = _dict(config)
    name = str(own.get("peft_type") or "").lower()
    if not name:
        raise DataError("peft_config: has no peft_type; give the method (--method).")
    if name == "lora":
        start = str(own.get("init_lora_weights") or "").lower()
        variants = {"dora": own.get("use_dora"), "rslora": own.get("use_rslora"), "pissa": start.startswith("pissa")}
        return next((variant for variant, on in variants.items() if on), name)
    return {"prefix_tuning": "prefix", "prompt_tuning": "prompt"}.get(name, name)


def _values(train: Mapping[str, Any], left_out: list[LeftOut]) -> Iterator[tuple[int | None, str, str, float]]:
    """Step, task, metric and value; of what is no number, the reason."""
    step: int | None = None
    for place, entry in enumerate(train["metrics"]):
        own = _dict(entry)
        step = own["step"] if isinstance(own.get("step"), int) and not isinstance(own["step"], bool) else None
        wanted = _AT_THE_END if "test accuracy" in own else _ALONG  # the last one repeats the loss of the one before
        for name, (task, metric) in wanted.items():
            value = number(own.get(name))
            if value is not None and step is not None:
                yield step, task, metric, value
            elif name in own:
                why = f"{plain(repr(own[name]), limit=40)} is no number" if step is not None else "its step is not told"
                left_out.append(LeftOut(f"{task} {metric}, entry {place + 1}", why))
    for name, metric in _COSTS.items():
        given = train.get(name, train.get(name.replace("accelerator", "cuda")))  # its name until the summer of 2025
        value = number(given)
        if metric == "file_bytes" and value == _NO_SIZE:
            left_out.append(LeftOut("cost file_bytes", "the benchmark could not save the adapter, and wrote 99999999"))
        elif value is not None:
            yield step, "cost", metric, value
        elif given is not None:
            left_out.append(LeftOut(f"cost {metric}", f"{plain(repr(given), limit=40)} is no number"))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
