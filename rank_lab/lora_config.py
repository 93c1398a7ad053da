"""The LoraConfig of a plan of ranks: exact patterns, so that PEFT gives each module the rank that was meant."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rank_lab.errors import BudgetError
from rank_lab.rank_plan import RankPlan

__all__ = ["lora_config", "peft_config", "task_type"]

_TASKS = {
    "ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}  # fmt: skip


def peft_config(plan: RankPlan, *, scaling: float = 1.0, base: str = "", task: str | None = None) -> dict[str, Any]:
    """The ``adapter_config.json`` of a LoRA with a plan's ranks, for training or for extracted factors.

    Parameters
    ----------
    plan
        From :func:`rank_lab.budget.plan_ranks`.
    scaling
        alpha / r of every module.
    base
        ``base_model_name_or_path``.
    task
        PEFT's ``task_type``.

    Returns
    -------
    dict
        For ``peft.LoraConfig(**config)`` or as JSON: ``target_modules`` names exactly the modules that have a rank;
        ``rank_pattern`` and ``alpha_pattern`` are anchored, since PEFT takes the first pattern that matches the end
        of a path.

    Raises
    ------
    BudgetError
        If no module has a rank.

    Examples
    --------
    >>> import numpy as np
    >>> from rank_lab.budget import ModuleSpectrum, plan_ranks
    >>> config = peft_config(plan_ranks([ModuleSpectrum("h.0.q", 4, 4, np.array([2.0, 1.0]))], rank=2))
    >>> config["target_modules"], config["r"], config["lora_alpha"], config["rank_pattern"]
    (['h.0.q'], 2, 2.0, {})
    """
    return lora_config(plan.ranks, [row.module for row in plan.rows], scaling=scaling, base=base, task=task)


def lora_config(
    ranks: Mapping[str, int],
    known: Iterable[str] = (),
    *,
    scaling: float = 1.0,
    base: str = "",
    task: str | None = None,
    transposed: bool = False,
) -> dict[str, Any]:
    """The config of a LoRA of these ranks; see :func:`peft_config`.

    Parameters
    ----------
    ranks
        Module to rank, of at least 1.
    known
        Other modules of the model, which must not be adapted.
    scaling, base, task
        See :func:`peft_config`.
    transposed
        Whether layers are transformers' Conv1D.
    """
    if not ranks or min(ranks.values()) < 1 or not 0.0 < scaling < float("inf"):
        raise BudgetError(
            f"{len(ranks)} modules with ranks and a scaling of {scaling}: expected at least one module, ranks of at"
            " least 1 and a positive scaling."
        )
    most = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != most}
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base or None,
        "r": most,
        "lora_alpha": scaling * most,
        "rank_pattern": {_exactly(module): rank for module, rank in others.items()},
        "alpha_pattern": {_exactly(module): scaling * rank for module, rank in others.items()},
        "target_modules": _targets(list(ranks), known),
        "use_rslora": False,
        "use_dora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "init_lora_weights": True,
    }


def task_type(architectures: Any) -> str | None:
    """PEFT's name of the task of a model class, as far as the class says it.

    Examples
    --------
    >>> task_type(["LlamaForCausalLM"]), task_type(["LlamaModel"]), task_type(None)
    ('CAUSAL_LM', None, None)
    """
    first = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return next((task for end, task in _TASKS.items() if first.endswith(end)), None)


def _targets(modules: list[str], known: Iterable[str]) -> list[str] | str:
    """Full paths; one regular expression where PEFT, which looks at the end of a path, would take another one, too."""
    chosen = set(modules)
    if any(_ends(name) & chosen for name in known if name not in chosen):
        return "|".join(re.escape(module) for module in modules)
    return modules


def _ends(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[start:]) for start in range(1, len(parts))}


def _exactly(module: str) -> str:
    return "^" + re.escape(module)
