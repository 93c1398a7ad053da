"""Studies that hold comparisons of subspaces, and names in them that nobody vouches for."""

import dataclasses
from pathlib import Path

import torch

from rank_lab.subspace_analysis import compare_runs
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_schema import SUBSPACE_TABLES
from tests.checkpoints import factors, llama, moved, save, save_adapter
from tests.figure_texts import HOSTILE

Q = "model.layers.0.self_attn.q_proj"
"""The one module that both adapters have."""


def made(home: Path) -> Path:
    """Two adapters, of which the second has a module more, and a full fine-tune beside the first, on one base."""
    generator = torch.Generator().manual_seed(3)
    state = llama(generator)
    base = save(home / "base", state)
    one = save_adapter(home / "one", factors(generator))
    two = save_adapter(home / "two", factors(generator) | factors(generator, "model.layers.1.self_attn.q_proj"))
    full = save(home / "full", moved(state, generator))
    for first, second in ((one, two), (full, one)):
        compare_runs(first, second, base).save(home / "study" / f"{first.name}-{second.name}.subspace")
    return home / "study"


def hostile(report: SubspaceReport) -> SubspaceReport:
    """The same numbers, of a run and of modules with names that are markup."""
    tables = {name: getattr(report, name) for name in SUBSPACE_TABLES}
    tables = {name: table.assign(run=HOSTILE, module=HOSTILE + table["module"]) for name, table in tables.items()}
    told = dict(report.provenance) | {"first": dict(report.provenance["first"]) | {"run": HOSTILE, "source": HOSTILE}}
    return dataclasses.replace(report, **tables, provenance=told)
