"""What an extraction made: each module's error, and what of the change is not in the adapter."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["EXTRACTED_FILE", "ExtractedModule", "Extraction", "LeftOut"]

EXTRACTED_FILE = "extracted.json"


@dataclass(frozen=True)
class ExtractedModule:
    """One module of the adapter.

    Parameters
    ----------
    module, path, kind
        Its name in the plan, its path in the model, its layer.
    out_features, in_features, rank
        Of its update and its factors.
    frobenius_norm
        Of the update.
    promised_error
        The least that any matrix of that rank leaves, from the spectrum, over the norm.
    relative_error
        What the stored factors leave, measured.
    rounding_error
        Of that, the size of what rounding the factors to their type changed.
    method
        How the factors were computed.
    """

    module: str
    path: str
    kind: str
    out_features: int
    in_features: int
    rank: int
    frobenius_norm: float
    promised_error: float
    relative_error: float
    rounding_error: float
    method: str

    @property
    def parameters(self) -> int:
        """Of its two factors."""
        return self.rank * (self.out_features + self.in_features)


@dataclass(frozen=True)
class LeftOut:
    """A part of the change that is not in the adapter.

    Parameters
    ----------
    name
        Module or tensor.
    reason
        Why.
    frobenius_norm
        Of its change; NaN where it has none that is known.
    """

    name: str
    reason: str
    frobenius_norm: float


@dataclass(frozen=True)
class Extraction:
    """An adapter that was written and checked.

    Parameters
    ----------
    modules
        In the adapter.
    left_out
        Not in it: of rank 0, or what a LoRA cannot carry.
    dtype
        Of the stored factors.
    asked
        What was prescribed.
    """

    modules: tuple[ExtractedModule, ...]
    left_out: tuple[LeftOut, ...]
    dtype: str
    asked: Mapping[str, Any]

    @property
    def parameters(self) -> int:
        """Of all factors."""
        return sum(module.parameters for module in self.modules)

    @property
    def relative_error(self) -> float:
        r"""Measured error of the adapter's modules together, :math:`\lVert \Delta W - B A \rVert_F` over the norm."""
        left = math.fsum((one.relative_error * one.frobenius_norm) ** 2 for one in self.modules)
        return math.sqrt(left / math.fsum(one.frobenius_norm**2 for one in self.modules))

    @property
    def whole_error(self) -> float:
        """The same of the whole change of the model, with all that is left out and has a norm."""
        left = math.fsum((one.relative_error * one.frobenius_norm) ** 2 for one in self.modules)
        return math.sqrt((left + self._energy_left_out) / self._energy)

    def share(self, norm: float) -> float:
        """Share of a change of that norm in the squared change of the model; NaN where it is not known."""
        return norm**2 / self._energy

    @property
    def _energy_left_out(self) -> float:
        return math.fsum(one.frobenius_norm**2 for one in self.left_out if not math.isnan(one.frobenius_norm))

    @property
    def _energy(self) -> float:
        return math.fsum(one.frobenius_norm**2 for one in self.modules) + self._energy_left_out

    def content(self) -> dict[str, Any]:
        """Plain values for ``extracted.json``, without NaN."""
        modules = [
            asdict(one) | {"parameters": one.parameters, "change_share": self.share(one.frobenius_norm)}
            for one in self.modules
        ]
        left_out = [
            {
                "name": one.name,
                "reason": one.reason,
                "change_share": None if math.isnan(one.frobenius_norm) else self.share(one.frobenius_norm),
            }
            for one in self.left_out
        ]
        return {
            "asked": dict(self.asked),
            "dtype": self.dtype,
            "totals": {
                "modules": len(self.modules),
                "parameters": self.parameters,
                "relative_error": self.relative_error,
                "relative_error_of_whole_change": self.whole_error,
                "change_share_left_out": self._energy_left_out / self._energy,
            },
            "modules": modules,
            "left_out": left_out,
        }
