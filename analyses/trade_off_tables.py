"""Tables of :mod:`analyses.learning_vs_forgetting`, from the rows of its cells."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.trade_off_arms import Arm
from analyses.trade_off_pairs import pairs
from analyses.trade_off_texts import PROSE, TARGETS
from rank_lab.pareto import forgetting_at
from rank_lab.rank_forgetting import rank_correlation
from rank_lab.uncertainty import student_interval

__all__ = ["tables"]

_SHARES = (0.25, 0.5, 0.75, 1.0)
_RANKS = ("energy_rank_90", "null_energy_rank_90", "effective_rank", "stable_rank", "relative_frobenius")
_ASSOCIATED = ("energy_rank_90", "effective_rank", "relative_frobenius")
_AT_END = (
    "intruders",
    "directions",
    "functional_energy_rank_90",
    "null_functional_energy_rank_90",
    "functional_effective_rank",
    "linear_share",
)
_KEY = ["target", "arm", "rate", "seed", "step"]


def tables(rows: pd.DataFrame, arms: Sequence[Arm]) -> dict[str, pd.DataFrame]:
    """All that is kept.

    Parameters
    ----------
    rows
        Of all cells.
    arms
        Of the study.

    Returns
    -------
    dict
        ``runs``, a row a checkpoint; ``settings``, a row an arm and rate at the last step; ``curves``, a row an arm and
        step at its chosen rate; ``equal_learning``; ``pairs``; ``parts``, k90 of kinds of matrix and of layers;
        ``associations`` of ranks with forgetting; ``base``.
    """
    base = rows[rows["arm"] == "base"].set_index("target")
    names = [arm.name for arm in arms]
    measured = rows[(rows["arm"] != "base") & rows["loss_report"].notna()]
    checkpoints = _in_order(_checkpoints(measured, base), names)
    chosen = _in_order(_chosen(rows, checkpoints), names)
    ends = chosen[chosen["step"] == chosen["step"].max()]
    prose = ["loss_report", "loss_choose", "loss_prose", *(f"loss_{name}" for name in PROSE)]
    return {
        "base": base.reset_index()[["target", *prose]],
        "runs": checkpoints.drop(columns=["losses", "kinds", "layers"], errors="ignore"),
        "settings": _settings(checkpoints, arms),
        "curves": _curves(chosen),
        "equal_learning": _equal(chosen, names),
        "pairs": pairs(ends, names),
        "parts": _parts(chosen),
        "associations": _associations(checkpoints, ends),
    }


def _checkpoints(rows: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """With what was learned and forgotten since the base, and the parameters of the run in each of its rows."""
    found = rows.sort_values(_KEY, kind="stable").reset_index(drop=True)
    before = base.loc[found["target"]].reset_index(drop=True)
    found["learned"] = before["loss_report"] - found["loss_report"]
    found["forgotten"] = found["loss_prose"] - before["loss_prose"]
    for name in PROSE:
        found[f"forgotten_{name}"] = found[f"loss_{name}"] - before[f"loss_{name}"]
    found["parameters"] = found.groupby(["target", "arm"])["parameters"].transform("max").astype(int)
    measured = ["learned", "forgotten", *(f"forgotten_{name}" for name in PROSE), "loss_choose"]
    there = [name for name in (*_RANKS, "kinds", "layers") if name in found]
    return found[[*_KEY, "parameters", *measured, *there, "losses"]]


def _in_order(rows: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Targets and arms as they are listed everywhere."""
    places = {name: place for place, name in enumerate([*TARGETS, *arms])}
    keys = rows[["target", "arm"]].map(places.__getitem__).assign(**rows[["rate", "seed", "step"]])
    return rows.loc[keys.sort_values(list(keys.columns), kind="stable").index].reset_index(drop=True)


def _chosen(rows: pd.DataFrame, checkpoints: pd.DataFrame) -> pd.DataFrame:
    """All seeds at the rate that was chosen, with the intruders of their ends."""
    along = rows[rows["part"] == "along"]
    rates = along[["target", "arm", "rate"]].drop_duplicates()
    found = checkpoints.merge(rates, on=["target", "arm", "rate"])
    counted = along[along["end"].notna()] if "end" in along else along.iloc[:0]
    return found.merge(counted.reindex(columns=[*_KEY, *_AT_END]), on=_KEY, how="left")


def _over_seeds(own: pd.DataFrame, name: str) -> dict[str, float]:
    mean, low, high = student_interval(own[name])
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _settings(checkpoints: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """At the last step; a rate is ``chosen`` by the first seed's loss on the texts to choose by."""
    last = checkpoints[checkpoints["step"] == checkpoints["step"].max()]
    found = []
    for (target, name, rate), own in last.groupby(["target", "arm", "rate"], sort=False):
        rates = next(arm.rates for arm in arms if arm.name == name)
        first = last[(last["target"] == target) & (last["arm"] == name) & (last["seed"] == last["seed"].min())]
        best = float(first.loc[first["loss_choose"].idxmin(), "rate"])
        row = {"target": target, "arm": name, "rate": rate, "seeds": len(own), "parameters": own["parameters"].iloc[0]}
        row |= {"chosen": rate == best, "at_edge": rate == best and len(rates) > 1 and rate in (rates[0], rates[-1])}
        row |= {"loss_choose": float(own.loc[own["seed"] == last["seed"].min(), "loss_choose"].iloc[0])}
        row |= _over_seeds(own, "learned") | _over_seeds(own, "forgotten")
        found.append(row | {name: float(own[name].mean()) for name in _RANKS if name in own})
    return pd.DataFrame(found)


def _curves(chosen: pd.DataFrame) -> pd.DataFrame:
    found = []
    for (target, arm, rate, step), own in chosen.groupby(["target", "arm", "rate", "step"], sort=False):
        row = {"target": target, "arm": arm, "rate": rate, "step": step, "seeds": len(own)}
        row |= _over_seeds(own, "learned") | _over_seeds(own, "forgotten")
        row |= {name: float(own[name].mean()) for name in _RANKS if name in own}
        row |= {name: float(own[name].mean()) for name in _AT_END} | _over_seeds(own, "intruders")
        row |= {f"forgotten_{name}": float(own[f"forgotten_{name}"].mean()) for name in PROSE}
        found.append(row)
    return pd.DataFrame(found)


def _equal(chosen: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Forgetting where each run's curve, from the base on, reaches shares of what full fine-tuning learned."""
    found = []
    for target, own in chosen.groupby("target", sort=False):
        ends = own[own["step"] == own["step"].max()]
        most = float(ends.loc[ends["arm"] == "full", "learned"].mean())
        for share in _SHARES:
            at = {arm: _at(own[own["arm"] == arm], share * most) for arm in arms}
            found += [
                {"target": target, "share": share, "at_learned": share * most, "arm": arm}
                | _against(at[arm], at["full"])
                for arm in arms
            ]
    return pd.DataFrame(found)


def _at(own: pd.DataFrame, level: float) -> dict[int, float | None]:
    return {
        int(str(seed)): forgetting_at([0.0, *curve["learned"]], [0.0, *curve["forgotten"]], level)
        for seed, curve in own.sort_values("step").groupby("seed")
    }


def _against(own: Mapping[int, float | None], full: Mapping[int, float | None]) -> dict[str, Any]:
    """Nothing is said of an arm of which a seed does not reach the level: the others would be a choice of the best."""
    reached = [value for value in own.values() if value is not None]
    row: dict[str, Any] = {"seeds": len(own), "reached": len(reached)}
    whole = len(reached) == len(own)
    mean, low, high = student_interval(reached) if whole else (np.nan,) * 3
    row |= {"forgotten": mean, "low": low, "high": high}
    both = [(own[seed], full.get(seed)) for seed in own]
    apart = [one - other for one, other in both if one is not None and other is not None]
    mean, low, high = student_interval(apart) if len(apart) == len(own) else (np.nan,) * 3
    return row | {"than_full": mean, "than_full_low": low, "than_full_high": high}


def _parts(chosen: pd.DataFrame) -> pd.DataFrame:
    found = []
    for (target, arm, step), own in chosen.groupby(["target", "arm", "step"], sort=False):
        for level in ("kinds", "layers"):
            dicts = [each for each in own.get(level, []) if isinstance(each, dict)]
            for part in dict.fromkeys(name for each in dicts for name in each):
                rank, null = np.mean([each[part] for each in dicts], axis=0)
                key = {"target": target, "arm": arm, "step": step, "level": level[:-1], "part": part}
                found.append(key | {"energy_rank_90": rank, "null_energy_rank_90": null})
    return pd.DataFrame(found, columns=["target", "arm", "step", "level", "part", *_RANKS[:2]])


def _associations(checkpoints: pd.DataFrame, ends: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlations with forgetting, plain and given what was learned.

    Of ranks over all arms and rates with the first seed, one run each; of what is measured at the ends only, over the
    runs at chosen rates.
    """
    last = checkpoints[checkpoints["step"] == checkpoints["step"].max()]
    sweep = last[last["seed"] == last["seed"].min()]
    found = []
    for target in dict.fromkeys(sweep["target"]):
        of_ends = ((name, ends) for name in ("intruders", "functional_effective_rank"))
        for name, of in (*((rank, sweep) for rank in _ASSOCIATED if rank in sweep), *of_ends):
            own = of[(of["target"] == target) & of[name].notna()]
            for given in (None, "learned"):
                third = None if given is None else own[given]
                told = rank_correlation(own[name], own["forgotten"], third)
                row = {"target": target, "of": name, "given": given or "", "runs": told.runs}
                found.append(
                    row
                    | {
                        "correlation": told.value,
                        "low": told.low,
                        "high": told.high,
                        "p": told.p,
                        "reason": told.reason,
                    }
                )
    return pd.DataFrame(found)
