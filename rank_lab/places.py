"""Runs and steps by the names under which they can be chosen."""

import pandas as pd

from rank_lab.run_comparison import Place

__all__ = ["places_of"]


def places_of(updates: pd.DataFrame, delta: str = "cumulative") -> dict[str, Place]:
    """Every run and step, the last step of every run first: name to run and step.

    Parameters
    ----------
    updates
        Of one or more reports.
    delta
        ``cumulative`` or ``step``.

    Examples
    --------
    >>> rows = pd.DataFrame({"run": ["full", "full", "lora"], "step": [10, 20, 20], "delta": "cumulative"})
    >>> places_of(rows)
    {'full, step 20': ('full', 20), 'lora, step 20': ('lora', 20), 'full, step 10': ('full', 10)}
    """
    pairs = updates.loc[updates["delta"] == delta, ["run", "step"]].drop_duplicates()
    steps: dict[str, list[int | None]] = {}
    for run, step in pairs.itertuples(index=False):
        steps.setdefault(str(run), []).append(None if pd.isna(step) else int(step))
    ordered = {
        run: sorted(own, key=lambda step: -1 if step is None else step, reverse=True) for run, own in steps.items()
    }
    last = [(run, own[0]) for run, own in ordered.items()]
    before = [(run, step) for run, own in ordered.items() for step in own[1:]]
    return {_name(run, step): (run, step) for run, step in (*last, *before)}


def _name(run: str, step: int | None) -> str:
    return run if step is None else f"{run}, step {step}"
