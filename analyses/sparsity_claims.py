"""What the curves say of the claims made for SoRA: numbers a task, over seeds, from the kept tables alone."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import f_oneway

from rank_lab.curve import SORA
from rank_lab.names import identify
from rank_lab.scores import SCORES
from rank_lab.uncertainty import student_interval

__all__ = [
    "CURVES",
    "THIRDS",
    "against_controls",
    "depth_thirds",
    "falls",
    "half_open_stages",
    "halfway_points",
    "learned",
    "over_seeds",
    "tasks_differ",
]

CURVES = {"memorization": "train", "generalization": "validation"}
"""Each curve and the set that it is of."""

AXES = ("sparsity", "threshold")
THIRDS = ("shallow", "middle", "deep")
"""The first, second and last third of the layers."""

_SPEARMAN = ("spearman", "spearman_smallest", "spearman_largest")
_HALF = 0.5
_NEAR_HALF = 0.3
_LEAST_STAGES = 3  # for a correlation over them


def over_seeds(values: Iterable[float]) -> dict[str, float]:
    """Mean, Student's 95 % interval over seeds, and how many seeds have a value.

    Parameters
    ----------
    values
        One a seed; those without a value are left out and not counted.

    Examples
    --------
    >>> found = over_seeds([1.0, 2.0, 3.0, float("nan")])
    >>> found["seeds"], found["mean"], round(found["low"], 3), round(found["high"], 3)
    (3, 2.0, -0.484, 4.484)
    """
    known = np.array([value for value in values if np.isfinite(value)])
    mean, low, high = student_interval(known)
    return {"mean": mean, "low": low, "high": high, "seeds": len(known)}


def stages(points: pd.DataFrame) -> pd.DataFrame:
    """Rows of the algorithm itself, with the share of parameters that are gone."""
    own = points[points["control"] == SORA]
    dense = own.groupby(["task", "seed"])["nonzero_parameters"].transform("max")
    return own.assign(sparsity=1 - own["nonzero_parameters"] / dense).sort_values(["task", "seed", "stage"])


def learned(points: pd.DataFrame) -> pd.DataFrame:
    """Whether there is anything to lose: the dense score above one answer for all, and above the emptiest stage's.

    Parameters
    ----------
    points
        Of all tasks and seeds.

    Returns
    -------
    pandas.DataFrame
        A row a task and curve: ``dense``, ``chance``, ``empty`` (mean scores), ``above_chance`` and ``above_empty``
        with ``_low`` and ``_high`` over seeds, ``testable``: both intervals lie above zero. The emptiest stage still
        trains the head, so that what is above it is what the adapter gives.
    """
    rows = []
    for (task, name), own in _by_task(stages(points)):
        part = CURVES[name]
        dense, empty = (own.groupby("seed")[f"{part}_score"].nth(place).to_numpy() for place in (0, -1))
        chance = own.groupby("seed")[f"{part}_chance"].first().to_numpy()
        above = {"above_chance": over_seeds(dense - chance), "above_empty": over_seeds(dense - empty)}
        row = {"task": task, "curve": name, "score": own["score"].iloc[0], "seeds": len(dense)}
        row |= {"dense": dense.mean(), "chance": chance.mean(), "empty": empty.mean()}
        for kind, found in above.items():
            row |= {kind: found["mean"], f"{kind}_low": found["low"], f"{kind}_high": found["high"]}
        rows.append(row | {"testable": all(found["low"] > 0 for found in above.values())})
    return pd.DataFrame(rows)


def halfway_points(points: pd.DataFrame) -> pd.DataFrame:
    """Where half of what lies between the dense and the emptiest stage is lost, of each task, seed and curve.

    The last stage that keeps half, and from there straight to the next; no value where the dense stage is no better
    than the emptiest.

    Parameters
    ----------
    points
        Of all tasks and seeds.

    Returns
    -------
    pandas.DataFrame
        ``task``, ``curve``, ``axis`` (``sparsity``: share of parameters that are gone; ``threshold``), ``seed``,
        ``value``.
    """
    rows = []
    for (task, name), own in _by_task(stages(points)):
        for seed, part in own.groupby("seed"):
            score = part[f"{CURVES[name]}_score"].to_numpy(np.float64)
            for axis in AXES:
                value = halfway(part[axis].to_numpy(np.float64), score)
                rows.append({"task": task, "curve": name, "axis": axis, "seed": seed, "value": value})
    return pd.DataFrame(rows)


def halfway(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Where a curve crosses the middle between its first and its last value for good.

    Parameters
    ----------
    x
        Places, rising.
    y
        Values.

    Examples
    --------
    >>> halfway(np.array([0.0, 1.0, 2.0, 3.0]), np.array([90.0, 90.0, 60.0, 50.0]))
    1.6666666666666665
    >>> halfway(np.array([0.0, 1.0]), np.array([50.0, 60.0]))
    nan
    """
    if not y[0] > y[-1]:
        return float("nan")
    kept = (y - y[-1]) / (y[0] - y[-1])
    last = int(np.flatnonzero(kept >= _HALF)[-1])
    share = (kept[last] - _HALF) / (kept[last] - kept[last + 1])
    return float(x[last] + share * (x[last + 1] - x[last]))


def tasks_differ(values: pd.DataFrame) -> dict[str, float]:
    """Whether tasks differ more than seeds do: the F test of their means.

    Parameters
    ----------
    values
        ``task`` and ``value``, a row a seed.

    Returns
    -------
    dict
        ``p``, and how many ``tasks``; p is missing where fewer than two tasks have two values.
    """
    groups = [own.to_numpy() for _, own in values.dropna(subset="value").groupby("task")["value"] if len(own) > 1]
    if len(groups) < 2:
        return {"p": float("nan"), "tasks": len(groups)}
    return {"p": float(f_oneway(*groups).pvalue), "tasks": len(groups)}


def falls(points: pd.DataFrame) -> pd.DataFrame:
    """Whether both curves of a task fall together.

    Parameters
    ----------
    points
        Of all tasks and seeds.

    Returns
    -------
    pandas.DataFrame
        A row a task: ``later``: the halfway point of generalization less that of memorization, on the axis
        ``sparsity``, with ``_low`` and ``_high`` over seeds; ``spearman`` between both curves over stages, its mean,
        smallest and largest seed.
    """
    half = halfway_points(points)
    wide = half[half["axis"] == "sparsity"].pivot(index=["task", "seed"], columns="curve", values="value")
    rows = []
    for task, own in stages(points).groupby("task", sort=False):
        if own["stage"].nunique() < _LEAST_STAGES:
            continue
        pairs = [each[["train_score", "validation_score"]].to_numpy() for _, each in own.groupby("seed")]
        ranks = [SCORES["spearman"].of(pair[:, 0], pair[:, 1]) for pair in pairs]
        mine = wide[wide.index.get_level_values("task") == task]
        later = over_seeds((mine["generalization"] - mine["memorization"]).to_numpy(np.float64))
        rows.append(
            {"task": task, "later": later["mean"], "later_low": later["low"], "later_high": later["high"],
             "seeds": later["seeds"], "spearman": float(np.mean(ranks)), "spearman_smallest": min(ranks),
             "spearman_largest": max(ranks)}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["task", *_ended("later"), "seeds", *_SPEARMAN])


def half_open_stages(points: pd.DataFrame) -> dict[str, int]:
    """The stage of each task whose share of open gates, mean over seeds, is nearest to one half, if it is 0.2 to 0.8.

    Allocations can be compared at equal sparsity only: near none and near all there is nothing to allocate.

    Parameters
    ----------
    points
        Of all tasks and seeds.
    """
    own = stages(points)
    share = (own["nonzero_gates"] / own["gates"]).groupby([own["task"], own["stage"]]).mean()
    away = (share - _HALF).abs()
    return {
        str(task): int(away.loc[task].idxmin()) for task in own["task"].unique() if away.loc[task].min() <= _NEAR_HALF
    }


def depth_thirds(points: pd.DataFrame, gates: pd.DataFrame) -> pd.DataFrame:
    """Open gates a module in each third of the layers at the stage that is half open, and how far apart its ends are.

    Parameters
    ----------
    points
        Of all tasks and seeds.
    gates
        Open gates: a row a stage, a column a module.

    Returns
    -------
    pandas.DataFrame
        A row a task: ``stage``, the means of :data:`THIRDS`, ``deep_less_shallow`` with ``_low`` and ``_high``.
    """
    chosen, modules = half_open_stages(points), [str(name) for name in gates if name not in _KEYS]
    layers = {name: identify(name).layer for name in modules}
    placed = {name: layer for name, layer in layers.items() if layer is not None}
    order = sorted(set(placed.values()))
    third = {layer: THIRDS[3 * place // len(order)] for place, layer in enumerate(order)}
    rows = []
    for task, stage in chosen.items():
        own = gates[(gates["task"] == task) & (gates["stage"] == stage) & (gates["control"] == SORA)]
        means = own[list(placed)].T.groupby(lambda name: third[placed[name]]).mean()
        apart = over_seeds(means.T["deep"].to_numpy(np.float64) - means.T["shallow"].to_numpy(np.float64))
        rows.append(
            {"task": task, "stage": stage, **means.mean(axis=1)[list(THIRDS)], "deep_less_shallow": apart["mean"],
             "deep_less_shallow_low": apart["low"], "deep_less_shallow_high": apart["high"], "seeds": apart["seeds"]}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "stage", *THIRDS, *_ended("deep_less_shallow"), "seeds"])


_KEYS = ("task", "seed", "control", "stage")


def against_controls(points: pd.DataFrame) -> pd.DataFrame:
    """What SoRA's stages score above each control with as many parameters, in points of 100.

    Over the stages that are neither dense nor empty, whose mean is one value a seed. A control's curve, the dense stage
    its first point, is read at the stage's number of parameters, between its points along straight lines.

    Parameters
    ----------
    points
        Of all tasks and seeds.

    Returns
    -------
    pandas.DataFrame
        ``task``, ``control``, ``curve``, ``points``, ``low``, ``high``, ``seeds``.
    """
    rows = []
    for (task, name), own in _by_task(stages(points)):
        column = f"{CURVES[name]}_score"
        beside = points[(points["task"] == task) & (points["control"] != SORA)]
        for control, of_control in beside.groupby("control", sort=False):
            apart = [_apart(part, of_control[of_control["seed"] == seed], column) for seed, part in own.groupby("seed")]
            found = over_seeds(apart)
            rows.append(
                {"task": task, "control": control, "curve": name, "points": found["mean"], "low": found["low"],
                 "high": found["high"], "seeds": found["seeds"]}
            )  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "control", "curve", "points", "low", "high", "seeds"])


def _apart(own: pd.DataFrame, control: pd.DataFrame, column: str) -> float:
    partly = own[(own["nonzero_gates"] > 0) & (own["sparsity"] > 0)]
    curve = pd.concat([own.head(1), control]).groupby("nonzero_parameters")[column].mean()
    if partly.empty or control.empty:
        return float("nan")
    read = np.interp(partly["nonzero_parameters"], curve.index.to_numpy(np.float64), curve.to_numpy(np.float64))
    return float(100 * (partly[column].to_numpy() - read).mean())


def _ended(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def _by_task(rows: pd.DataFrame) -> Iterable[tuple[tuple[str, str], pd.DataFrame]]:
    for task, own in rows.groupby("task", sort=False):
        for name in CURVES:
            yield (str(task), name), own
