"""All updates of one point measured, several at a time where there are cores for it."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from rank_lab.change import WeightNorms, weight_norms
from rank_lab.errors import RankLabError
from rank_lab.measurement import Measurement, MeasurementOptions, measure_live
from rank_lab.spec import UpdateSpec
from rank_lab.training.tracking_points import asks_peft

__all__ = ["best_device", "measured_live", "norms_of_weights"]

Found = TypeVar("Found")

_UNKNOWN = WeightNorms(float("nan"), float("nan"))
_GRAM_BYTES = 4 << 30  # of all that are measured at a time
_COPIES_OF_GRAM = 3


def best_device(model_device: torch.device) -> str:
    """Where spectra are computed: where the weights are if that has float64 at full speed, else on the CPU.

    NVIDIA's cards of compute capability x.0 (P100, V100, A100, H100, B200) compute in float64 at half the
    rate of float32; others at a 32nd or less.

    Examples
    --------
    >>> best_device(torch.device("cpu"))
    'cpu'
    """
    if model_device.type != "cuda":
        return "cpu"
    major, minor = torch.cuda.get_device_capability(model_device)
    return str(model_device) if major >= 6 and minor == 0 and torch.version.hip is None else "cpu"


def norms_of_weights(specs: Sequence[UpdateSpec]) -> dict[str, WeightNorms]:
    """Norms of the base weights by module; NaN where there is no weight, or it is no matrix or not finite."""
    return dict(zip((spec.module for spec in specs), _mapped(specs, _norms), strict=True))


def measured_live(
    specs: Sequence[UpdateSpec], options: MeasurementOptions, norms: Mapping[str, WeightNorms]
) -> dict[UpdateSpec, Measurement]:
    """Measure every update, each on one thread, as many at a time as torch has threads.

    One thread each gives the bits that :func:`rank_lab.analyze` has, whatever their number.

    Parameters
    ----------
    specs
        Of one point, no two alike.
    options
        Method, noise, device.
    norms
        Of :func:`norms_of_weights`.
    """

    def one(spec: UpdateSpec) -> Measurement:
        return measure_live(spec, options, norms.get(spec.module, _UNKNOWN))

    if options.device != "cpu":
        return {spec: one(spec) for spec in specs}
    return dict(zip(specs, _mapped(specs, one), strict=True))


def _norms(spec: UpdateSpec) -> WeightNorms:
    if spec.weight is None or len(spec.weight.shape) != 2:
        return _UNKNOWN
    try:
        return weight_norms(spec.weight)
    except (RankLabError, OSError):
        return _UNKNOWN


def _mapped(specs: Sequence[UpdateSpec], function: Callable[[UpdateSpec], Found]) -> list[Found]:
    threads = torch.get_num_threads()
    largest = max((min(spec.shape) for spec in specs), default=1)
    workers = max(1, min(threads, _GRAM_BYTES // (8 * _COPIES_OF_GRAM * largest**2)))
    if any(asks_peft(spec) for spec in specs):  # whose warnings and random numbers are the process's
        workers = 1
    torch.set_num_threads(1)
    try:
        if workers == 1:
            with torch.no_grad():
                return [function(spec) for spec in specs]
        with ThreadPoolExecutor(workers, initializer=_one_thread) as pool:
            return list(pool.map(function, specs))
    finally:
        torch.set_num_threads(threads)


def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
