"""Prefix and prompt tuning, as PEFT has them."""

import inspect
from typing import Any

import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn

from rank_lab.errors import RankLabError, UnsupportedUpdateError
from rank_lab.training.heads import new_heads, task_type
from rank_lab.training.method import MethodChoices

__all__ = ["adapt_prefix", "adapt_prompt", "check_prompt_tokens"]


def adapt_prefix(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """Prefix tuning: trained keys and values before the input's, in every layer.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.

    Raises
    ------
    UnsupportedUpdateError
        For models that take no keys and values from outside, and with gradient checkpointing.
    """
    _refuse_masked("prefix", kind)
    check_prompt_tokens(choices.prompt_tokens)
    body = getattr(model, model.base_model_prefix, model)
    if "past_key_values" not in inspect.signature(body.forward).parameters:
        raise UnsupportedUpdateError(
            f"method 'prefix' with a {type(model).__name__}: it takes no keys and values from outside; use 'prelayer',"
            " which trains the activations that make them."
        )
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise UnsupportedUpdateError(
            "method 'prefix' with gradient checkpointing: it drops the cache that the prefix is put into; turn it off."
        )
    config = PrefixTuningConfig(
        task_type=task_type(kind),
        num_virtual_tokens=choices.prompt_tokens,
        modules_to_save=new_heads(model, kind) or None,
    )
    model.supports_gradient_checkpointing = False  # a Trainer that turns it on would train nothing, in silence
    return _adapted(model, config, "prefix")


def adapt_prompt(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """Prompt tuning (the LoRA paper's PreEmbed): trained embeddings before the input's, from those of random tokens.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.

    Raises
    ------
    UnsupportedUpdateError
        For models that predict masked tokens, which PEFT has no prompts for, and those that predict a class from the
        last token.
    """
    _refuse_masked("prompt", kind)
    check_prompt_tokens(choices.prompt_tokens)
    if kind != "causal" and _reads_last_token(model):
        raise UnsupportedUpdateError(
            f"method 'prompt' with a {type(model).__name__}: it predicts from the last token that is no padding, which"
            " it cannot find once PEFT has put embeddings in place of tokens; use 'prefix' or 'prelayer'."
        )
    config = PromptTuningConfig(
        task_type=task_type(kind),
        num_virtual_tokens=choices.prompt_tokens,
        prompt_tuning_init="SAMPLE_VOCAB",
        modules_to_save=new_heads(model, kind) or None,
    )
    return _adapted(model, config, "prompt")


def check_prompt_tokens(count: int) -> None:
    """Refuse a number of virtual tokens below one."""
    if count < 1:
        raise RankLabError(f"prompt_tokens {count}: expected 1 or more.")


def _adapted(model: Any, config: Any, method: str) -> nn.Module:
    """The model with a prompt, which has been seen to run: PEFT guesses shapes from names in the model's config."""
    try:
        adapted: nn.Module = get_peft_model(model, config)
        training = adapted.training
        words = torch.zeros(1, 2, dtype=torch.long, device=model.get_input_embeddings().weight.device)
        with torch.no_grad():
            adapted.eval()(input_ids=words, attention_mask=torch.ones_like(words))
        adapted.train(training)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedUpdateError(
            f"method {method!r} with a {type(model).__name__}: PEFT cannot run it"
            f" ({' '.join(str(error).split())[:150]}); use 'prelayer'."
        ) from error
    return adapted


def _reads_last_token(model: Any) -> bool:
    """Whether a model for classes is a language model's body with a head on its last token."""
    return isinstance(getattr(model, "score", None), nn.Linear)


def _refuse_masked(method: str, kind: str) -> None:
    if kind == "masked":
        raise UnsupportedUpdateError(
            f"method {method!r} with a model that predicts masked tokens: PEFT puts no prompt before its input; use"
            " 'prelayer'."
        )
