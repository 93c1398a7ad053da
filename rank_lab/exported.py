"""What an export wrote: each file with what it is and the command that makes it again."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Exported", "described"]


@dataclass(frozen=True)
class Exported:
    """One file of an export.

    Parameters
    ----------
    file
        Where it lies.
    what
        What it holds and from which part of the study, in a few words.
    command
        The one command that makes it again.
    caption
        What may stand under it in a paper; empty for what is no figure or table.
    """

    file: Path
    what: str
    command: str
    caption: str = ""


_TABLES = {
    "updates": "a row per matrix, step and delta of every report: norms, ranks, nulls, noise",
    "coverage": "a row per tensor of every report: what became of it, and why",
    "spectra": "a row per singular value of every matrix",
    "provenance": "inputs, settings, versions and machine of every report",
    "curve": "a row per stage and control of the sparsity schedule (curve.jsonl)",
    "curve_modules": "non-zero gates per stage, control and module (curve.jsonl)",
    "curve_bands": "means over seeds with Student's intervals (curve.jsonl)",
    "curve_knees": "where the curves bend, with intervals (knees.json)",
    "scores": "a row per score (scores.parquet)",
    "score_examples": "a row per score and example (scores.parquet)",
    "outcomes": "a row per run and checkpoint: how it was trained, ranks, forgetting (reports, scores.parquet)",
    "outcome_kinds": "ranks of each run and kind of module (reports)",
    "learning": "a row per run, checkpoint and target (scores.parquet)",
    "trade_offs": "learning and forgetting of each checkpoint, and which are on the front (scores.parquet)",
    "pareto": "hypervolumes of the fronts (scores.parquet)",
    "seed_groups": "means over seeds of each method and learning rate (scores.parquet)",
    "equal_learning": "forgetting at equal learning (scores.parquet)",
    "rank_forgetting": "correlation of ranks with forgetting, per module and kind (reports, scores.parquet)",
    "subspace_angles": "a row per principal angle between two updates, module by module (comparisons)",
    "subspace_phi": "similarity of the leading directions of two updates, a row per i and j (comparisons)",
    "subspace_intruders": "intruder dimensions of each tuned weight, at every k and epsilon (comparisons)",
    "subspace_amplification": "amplification of each update in its weight, at every r (comparisons)",
    "subspace_coverage": "a row per module of either run of a comparison: what became of it, and why",
    "subspace_provenance": "inputs, settings, versions and machine of every comparison",
    "behavioural_ranks": "a row per run and target: the rank that keeps a share of what was learned (behavioural)",
    "behavioural_points": "what each truncated model kept of what was learned and forgotten (behavioural)",
    "behavioural_matrices": "a row per matrix that was truncated, and per vector that changed (behavioural)",
    "behavioural_scores": "a row per truncated model, task and example (behavioural)",
    "behavioural_provenance": "inputs, texts, settings, versions and machine of every behavioural rank",
    "functional_ranks": "ranks of what each update does to real inputs, with intervals and nulls (functional ranks)",
    "functional_changes": "sizes and shares of these changes, and what a linear map explains of them",
    "functional_coverage": "a row per linear module of the base: whether its change was measured, and why not",
    "functional_spectra": "a row per singular value of each change of activations",
    "functional_provenance": "models, probe texts, settings, versions and machine of every report of functional ranks",
    "scores_left_out": "scores that are in none of the other tables, with the reason (scores.parquet)",
}


def described(file: Path, command: str) -> Exported:
    """The row of a table that was written as data.

    Parameters
    ----------
    file
        Named as :mod:`rank_lab.export` and :mod:`rank_lab.outcomes_export` name tables.
    command
        That makes it again.

    Examples
    --------
    >>> described(Path("tables/spectra.csv"), "rank-lab export study -o tables -f csv").what
    'a row per singular value of every matrix'
    """
    return Exported(file, _TABLES.get(file.stem, "a table of the study"), command)
