"""A plan of ranks in sentences: what it comes to, and what kept ranks from being higher."""

import math
from collections import Counter

from rank_lab.rank_plan import RankPlan

__all__ = ["plan_caps", "plan_totals"]

_CAPS = {
    "rounding": "hold more only below the rounding of their files (--with-rounding takes that, too)",
    "most": "are at the largest rank that was allowed (--most)",
    "truncated": "are at the end of a truncated spectrum: what follows is not known (analyze with --method auto)",
}


def plan_totals(plan: RankPlan) -> str:
    """What was asked for, and what that comes to, in one line.

    Examples
    --------
    >>> import numpy as np
    >>> from rank_lab.budget import ModuleSpectrum, plan_ranks
    >>> plan_totals(plan_ranks([ModuleSpectrum("q", 4, 4, np.array([2.0, 1.0]))], rank=1))
    'rank 1 (uniform): 1 of 1 modules, 8 parameters (50.00% of the matrices), kept 80.00%, error 0.4472'
    >>> plan_totals(plan_ranks([ModuleSpectrum("q", 4, 4, np.array([2.0, 2.0, 2.0, 2.0]))], rank=4)).split("; ")[1]
    'the factors are larger than the matrices that they would replace'
    """
    asked = {
        "parameters": f"a budget of {plan.target:,.0f} parameters",
        "energy": f"{plan.target:.4g} of the energy",
        "rank": f"rank {plan.target:.0f}",
    }[plan.asked]
    share = plan.parameters / plan.full_parameters if plan.full_parameters else math.nan
    text = (
        f"{asked} ({plan.method}): {len(plan.ranks)} of {len(plan.rows)} modules, {plan.parameters:,} parameters"
        f" ({share:.2%} of the matrices), kept {plan.kept_energy:.2%}, error {plan.relative_error:.4g}"
    )
    if share > 1:
        text += "; the factors are larger than the matrices that they would replace"
    if plan.energy_bound is not None:
        text += f"; no plan of that budget keeps more than {plan.energy_bound:.4%}"
    if plan.parameters_bound is not None:
        text += f"; no plan that keeps as much as asked for has fewer than {plan.parameters_bound:,}"
    return text


def plan_caps(plan: RankPlan) -> list[str]:
    """What kept ranks from being higher, a sentence a reason; the first says it where the plan falls short."""
    found = []
    if not plan.reached:
        found.append(f"{plan.target:.4g} is out of reach: all that may be bought holds {plan.kept_energy:.4g}")
    counts = Counter(row.capped_by for row in plan.rows if row.capped_by)
    return found + [f"{count} modules {_CAPS[cap]}" for cap, count in counts.items()]
