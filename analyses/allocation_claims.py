"""Where SoRA leaves its ranks: whether tasks or seeds decide, and how far from a uniform allocation it is."""

from itertools import combinations
from math import factorial, prod

import numpy as np
import numpy.typing as npt
import pandas as pd

from analyses.sparsity_claims import half_open_stages, over_seeds
from rank_lab.curve import SORA
from rank_lab.names import identify
from rank_lab.scores import SCORES

__all__ = ["GROUPS", "agreement", "allocations", "by_kind", "dispersion", "of_task_or_seed", "pairs_of"]

GROUPS = {
    "same task": "same task, other seed",
    "other task": "other task, other seed",
    "same start": "other task, same seed",
}
"""What a pair of runs may share; runs of one seed start from the same factors."""

Counts = npt.NDArray[np.float64]


def allocations(points: pd.DataFrame, gates: pd.DataFrame) -> pd.DataFrame:
    """Open gates of each module at the stage of each task that is half open.

    Parameters
    ----------
    points, gates
        The tables of the runs; see :func:`analyses.sparsity_claims.half_open_stages`.

    Returns
    -------
    pandas.DataFrame
        Index ``task``, ``seed``, ``stage``; a column a module. Tasks without such a stage are not in it.
    """
    chosen = half_open_stages(points)
    wanted = [chosen.get(str(task), -1) == stage for task, stage in zip(gates["task"], gates["stage"], strict=True)]
    own = gates[(gates["control"] == SORA) & pd.Series(wanted, index=gates.index)]
    return own.drop(columns="control").set_index(["task", "seed", "stage"])


def pairs_of(found: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of the allocations of each two runs.

    Parameters
    ----------
    found
        From :func:`allocations`.

    Returns
    -------
    pandas.DataFrame
        ``task``, ``seed``, ``other_task``, ``other_seed``, ``group`` (one of :data:`GROUPS`), ``spearman``: missing
        where a run's modules all have as many gates.
    """
    keys = [(str(task), int(seed)) for task, seed, _ in found.index]
    values = found.to_numpy(np.float64)
    rows = []
    for one, other in combinations(range(len(keys)), 2):
        (task, seed), (other_task, other_seed) = keys[one], keys[other]
        group = "same task" if task == other_task else "same start" if seed == other_seed else "other task"
        rank = SCORES["spearman"].of(values[one], values[other])
        rows.append({"task": task, "seed": seed, "other_task": other_task, "other_seed": other_seed, "group": group,
                     "spearman": rank})  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "seed", "other_task", "other_seed", "group", "spearman"])


def agreement(pairs: pd.DataFrame) -> pd.DataFrame:
    """Mean correlation of each group of pairs, and its range.

    Parameters
    ----------
    pairs
        From :func:`pairs_of`.
    """
    rows = []
    for group, words in GROUPS.items():
        values = pairs.loc[pairs["group"] == group, "spearman"].dropna()
        rows.append({"group": words, "pairs": len(values), "mean": values.mean(), "smallest": values.min(),
                     "largest": values.max()})  # fmt: skip
    return pd.DataFrame(rows)


def of_task_or_seed(found: pd.DataFrame, *, permutations: int = 2000, seed: int = 0) -> dict[str, float]:
    """Whether runs of one task agree more than runs of different tasks and seeds do.

    The names of the tasks are permuted within each seed, so that what runs of one seed share stays where it is.

    Parameters
    ----------
    found
        From :func:`allocations`.
    permutations, seed
        Of the test.

    Returns
    -------
    dict
        ``apart``: mean correlation of the same task less that of other tasks, pairs of different seeds only; ``p``,
        one-sided; ``least``: the smallest p that so many runs can give. Missing without pairs of both.
    """
    keys = np.array([(str(task), str(number)) for task, number, _ in found.index])
    values = found.to_numpy(np.float64)
    ranks = pd.DataFrame(values.T).rank().corr().to_numpy()  # Spearman's; missing where all are equal
    tasks, seeds = keys[:, 0], keys[:, 1]
    pairs = [(a, b) for a, b in combinations(range(len(keys)), 2) if seeds[a] != seeds[b] and np.isfinite(ranks[a, b])]
    observed = _apart(ranks, tasks, pairs)
    if not np.isfinite(observed):
        return dict.fromkeys(("apart", "p", "least"), float("nan"))
    generator, above = np.random.default_rng(seed), 0
    for _ in range(permutations):
        moved = tasks.copy()
        for each in np.unique(seeds):
            places = np.flatnonzero(seeds == each)
            moved[places] = moved[generator.permutation(places)]
        above += bool(_apart(ranks, moved, pairs) >= observed - 1e-12)
    sizes = np.unique(seeds, return_counts=True)[1]
    different = prod(factorial(int(size)) for size in sizes) / factorial(int(sizes.max()))  # names of tasks are names
    least = max(1 / different, 1 / (1 + permutations))
    return {"apart": observed, "p": (1 + above) / (1 + permutations), "least": least}


def _apart(ranks: Counts, tasks: npt.NDArray[np.str_], pairs: list[tuple[int, int]]) -> float:
    same = [ranks[a, b] for a, b in pairs if tasks[a] == tasks[b]]
    other = [ranks[a, b] for a, b in pairs if tasks[a] != tasks[b]]
    return float(np.mean(same) - np.mean(other)) if same and other else float("nan")


def dispersion(counts: Counts, rank: int, *, draws: int = 2000, seed: int = 0) -> dict[str, float]:
    r"""How unevenly open gates lie over modules, against as many gates drawn from all alike.

    Of M modules with r gates each, K open in all: under the null each module's count is hypergeometric, with variance
    :math:`r \frac{K}{N} (1 - \frac{K}{N}) \frac{N - r}{N - 1}`, N = M r.

    Parameters
    ----------
    counts
        Open gates of each module.
    rank
        Gates of each.
    draws, seed
        Of the null.

    Returns
    -------
    dict
        ``ratio``: variance over modules over that of the null (1: as uniform as chance), ``low`` and ``high``: the
        middle 95 % of the null's ratios, ``p``: how often the null's is as large.

    Examples
    --------
    >>> found = dispersion(np.array([8.0] * 5 + [0.0] * 5), 8)
    >>> round(found["ratio"], 1), found["p"] < 0.001, found["low"] < 1 < found["high"]
    (8.9, True, True)
    """
    modules, whole, total = len(counts), len(counts) * rank, int(counts.sum())
    share = total / whole
    expected = rank * share * (1 - share) * (whole - rank) / (whole - 1)
    if expected == 0:
        return dict.fromkeys(("ratio", "low", "high", "p"), float("nan"))
    generator = np.random.default_rng(seed)
    null = generator.multivariate_hypergeometric([rank] * modules, total, size=draws)
    ratios = ((null - total / modules) ** 2).mean(axis=1) / expected
    ratio = float(((counts - total / modules) ** 2).mean() / expected)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return {
        "ratio": ratio, "low": float(low), "high": float(high),
        "p": float((1 + (ratios >= ratio - 1e-12).sum()) / (1 + draws)),
    }  # fmt: skip


def by_kind(found: pd.DataFrame) -> pd.DataFrame:
    """Open gates a module of each kind less the mean of all modules, over seeds.

    Parameters
    ----------
    found
        From :func:`allocations`.

    Returns
    -------
    pandas.DataFrame
        ``task``, ``kind``, ``mean``, ``low``, ``high``, ``seeds``.
    """
    kinds = {str(name): _kind(str(name)) for name in found}
    rows = []
    for task, own in found.groupby(level="task", sort=False):
        means = own.T.groupby(kinds).mean()
        for kind, values in means.iterrows():
            rows.append({"task": task, "kind": kind} | over_seeds(values.to_numpy() - own.mean(axis=1).to_numpy()))
    return pd.DataFrame(rows, columns=["task", "kind", "mean", "low", "high", "seeds"])


def _kind(module: str) -> str:
    return identify(module).kind or "other"
