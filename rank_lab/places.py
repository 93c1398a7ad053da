"""Runs and steps by the names under which they can be chosen."""

import pandas as pd

from rank_lab.run_comparison import Place

__all__ = ["last_steps", "places_of"]


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


def last_steps(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last step of each run; of a run whose files tell of no step, all.

    Parameters
    ----------
    table
        With ``run`` and ``step``.

    Examples
    --------
    >>> rows = pd.DataFrame({"run": ["full", "full", "old"], "step": [10, 20, None]})
    >>> last_steps(rows)["run"].tolist(), last_steps(rows)["step"].dropna().tolist()
    (['full', 'old'], [20.0])
    """
    last = table.groupby("run", sort=False)["step"].transform("max")
    return table[((table["step"] == last) | last.isna()).fillna(False).astype(bool)]


def _name(run: str, step: int | None) -> str:
    return run if step is None else f"{run}, step {step}"
