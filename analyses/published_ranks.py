"""What white noise of Llama-2-7B's shapes would show, beside the ranks that were published of its fine-tuning.

"LoRA Learns Less and Forgets Less" (https://arxiv.org/abs/2405.09673, section 4.6 and Figure 6) counts the directions
that hold 90 % of the variance of the change, finds them 10 to 100 times typical ranks of LoRA already at its earliest
checkpoint, more with more data, more in MLP than in attention, fewer in the first and last layers. It states no null.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rank_lab.null import null_ranks, null_spectrum

__all__ = ["LORA_RANKS", "MULTIPLES", "SHAPES", "noise_share_table", "published_table", "white_noise_table"]

SHAPES = {"attention (q, k, v, o)": (4096, 4096), "MLP (gate, up, down)": (11008, 4096)}
"""Of Llama-2-7B's matrices."""

LORA_RANKS = (16, 64, 256)
"""Those of the paper."""

MULTIPLES = (10, 100)
"""How many times typical ranks the paper finds."""

_NOISE_SHARES = (0.05, 0.1, 0.12, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)


def white_noise_table() -> pd.DataFrame:
    """The rank at 90 % of the energy that white noise has, exactly, and how many times each rank of LoRA that is.

    Examples
    --------
    >>> white_noise_table()["null"].round().astype(int).tolist()
    [2088, 2916]
    """
    rows = []
    for name, shape in SHAPES.items():
        null = null_ranks(shape)["energy_rank_90"]
        rows.append(
            {"matrices": name, "out": shape[0], "in": shape[1], "null": null, "share_of_bound": null / min(shape)}
            | {f"times_{rank}": null / rank for rank in LORA_RANKS}
        )
    return pd.DataFrame(rows)


def published_table() -> pd.DataFrame:
    """The published range in directions, for each rank that may be called typical, as a share of what noise shows.

    Examples
    --------
    >>> published_table()[["lora_rank", "directions", "possible"]].head(3).values.tolist()
    [[16, 160, True], [16, 1600, True], [64, 640, True]]
    """
    nulls = {name: null_ranks(shape)["energy_rank_90"] for name, shape in SHAPES.items()}
    rows = []
    for rank in LORA_RANKS:
        for times in MULTIPLES:
            shares = {f"over_null_{name.split(' ')[0].lower()}": rank * times / null for name, null in nulls.items()}
            possible = rank * times <= min(min(shape) for shape in SHAPES.values())
            rows.append({"lora_rank": rank, "times": times, "directions": rank * times, "possible": possible} | shares)
    return pd.DataFrame(rows)


def noise_share_table(rank: int = LORA_RANKS[0]) -> pd.DataFrame:
    r"""What a change of low rank seems to have once white noise, such as rounding, holds a share of its energy.

    A number of equal directions hold :math:`1 - f` of the energy, the Marchenko-Pastur law the rest.

    Parameters
    ----------
    rank
        Of the change without noise.

    Examples
    --------
    >>> found = noise_share_table().set_index(["matrices", "noise_share"])["energy_rank_90"]
    >>> int(found["attention (q, k, v, o)", 0.05]), abs(int(found["attention (q, k, v, o)", 1.0]) - 2088) <= 1
    (16, True)
    """
    return pd.DataFrame(_noise_shares(rank))


def _noise_shares(rank: int) -> Iterator[dict[str, object]]:
    for name, shape in SHAPES.items():
        noise = np.square(null_spectrum(shape).values)  # sums to one
        for share in _NOISE_SHARES:
            signal = np.full(rank if share < 1 else 0, (1 - share) / rank)
            energy = np.sort(np.concatenate([signal, share * noise]))[::-1].cumsum()
            count = int(np.searchsorted(energy, 0.9 - 1e-12)) + 1
            yield {"matrices": name, "noise_share": share, "energy_rank_90": count, "times": count / rank}
