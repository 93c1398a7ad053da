"""Own members of PEFT's ``PeftType``, and the registration of own methods under their names.

An own type keeps a checkpoint from being loaded as one of PEFT's, which drops
settings that it does not know with no more than a warning.
"""

from typing import Any

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from rank_lab.errors import UnsupportedUpdateError

__all__ = ["peft_type", "register"]


def peft_type(name: str) -> Any:
    """The member of ``PeftType`` of that name, added when it is not there yet.

    PEFT registers methods under its own enumeration only, and transformers asks
    for the ``value`` of a type: a plain string would not do.

    Parameters
    ----------
    name
        In upper case.

    Examples
    --------
    >>> peft_type("SORA") is peft_type("SORA"), peft_type("SORA").value
    (True, 'SORA')
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    member._sort_order_ = len(PeftType.__members__)
    member.__objclass__ = PeftType
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)  # the enumeration's own refuses its members
    return member


def register(name: str, config: type, model: type, prefix: str) -> None:
    """Tell PEFT which classes make an adapter of a type; once is enough, again does nothing.

    Parameters
    ----------
    name
        Of the type, in upper case.
    config, model
        Of the method.
    prefix
        Start of the names of its parameters.

    Raises
    ------
    UnsupportedUpdateError
        If PEFT has another method of that name.
    """
    there = PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type(name))
    if there is config:
        return
    if there is not None:
        raise UnsupportedUpdateError(
            f"PEFT has a method {name} of its own ({there.__module__}.{there.__qualname__}), whose checkpoints need not"
            " be those of rank_lab; use an older peft, or train with PEFT's."
        )
    register_peft_method(name=name.lower(), config_cls=config, model_cls=model, prefix=prefix)
