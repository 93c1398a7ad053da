"""SoRA's own member of PEFT's ``PeftType``, and its registration under that name.

An own type keeps a SoRA checkpoint from being loaded as plain LoRA, which drops
settings that it does not know with no more than a warning.
"""

from typing import Any

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from rank_lab.errors import UnsupportedUpdateError

__all__ = ["register", "sora_type"]

_NAME = "SORA"


def sora_type() -> Any:
    """The member ``PeftType.SORA``, added when it is not there yet.

    PEFT registers methods under its own enumeration only, and transformers asks
    for the ``value`` of a type: a plain string would not do.

    Examples
    --------
    >>> sora_type() is sora_type(), sora_type().value
    (True, 'SORA')
    """
    if _NAME in PeftType.__members__:
        return PeftType[_NAME]
    member = str.__new__(PeftType, _NAME)
    member._name_ = member._value_ = _NAME
    member._sort_order_ = len(PeftType.__members__)
    member.__objclass__ = PeftType
    PeftType._member_names_.append(_NAME)
    PeftType._member_map_[_NAME] = member
    PeftType._value2member_map_[_NAME] = member
    type.__setattr__(PeftType, _NAME, member)  # the enumeration's own refuses its members
    return member


def register(config: type, model: type, prefix: str) -> None:
    """Tell PEFT which classes make a SoRA adapter; once is enough, again does nothing.

    Parameters
    ----------
    config, model
        Of the method.
    prefix
        Start of the names of its parameters.

    Raises
    ------
    UnsupportedUpdateError
        If PEFT has another method of that name.
    """
    there = PEFT_TYPE_TO_CONFIG_MAPPING.get(sora_type())
    if there is config:
        return
    if there is not None:
        raise UnsupportedUpdateError(
            f"PEFT has a method SORA of its own ({there.__module__}.{there.__qualname__}), whose checkpoints need not"
            " be those of rank_lab; use an older peft, or train with PEFT's."
        )
    register_peft_method(name=_NAME.lower(), config_cls=config, model_cls=model, prefix=prefix)
