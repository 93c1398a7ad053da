"""Small studies for the dashboard: measured ones, and the names that strangers choose."""

import dataclasses
from pathlib import Path

import torch

from rank_lab import RankReport, analyze
from rank_lab.analysis import Settings
from tests.checkpoints import factors, llama, moved, save, save_adapter

HOSTILE_RUN = "<img src=x onerror=window.hacked=1> **bold** $x^2$"
HOSTILE_MODULE = "<script>window.hacked=1</script>[a](javascript:window.hacked=1) $\\frac{1}{2}$ `code` :red[x] _y_"
CONTROLS = "a\x1b[2Jb\u202ec"


def measured(folder: Path) -> dict[str, RankReport]:
    """A trajectory of a full fine-tune, with a warning and a tensor without a partner, and an adapter."""
    generator = torch.Generator().manual_seed(6)
    state = llama(generator)
    base = save(folder / "base", state)
    for step in (5, 10):
        tuned = moved(state, generator) | {"score.weight": torch.ones(2, 8)}
        save(folder / "full" / f"checkpoint-{step}", tuned)
    adapter = save_adapter(folder / "lora", factors(generator))
    return {
        "full": analyze(folder / "full", base, settings=Settings(run="full")),
        "lora": analyze(adapter, settings=Settings(run="lora")),
    }


def renamed(report: RankReport, run: str, modules: dict[str, str] | None = None) -> RankReport:
    """The same numbers under other names."""
    new = modules or {}
    tables = {}
    for name in ("updates", "spectra", "coverage"):
        table = getattr(report, name).assign(run=run)
        tables[name] = table.assign(module=[new.get(module, module) for module in table["module"]])
    settings = dict(report.provenance["settings"]) | {"run": run}
    return dataclasses.replace(report, **tables, provenance=dict(report.provenance) | {"settings": settings})


def save_study(folder: Path, reports: dict[str, RankReport]) -> Path:
    """A report a run."""
    for name, report in reports.items():
        report.save(folder / f"{name}.rank")
    return folder


def hostile(report: RankReport) -> RankReport:
    """Its run and its first matrices with names that would do something if they were taken for markup."""
    modules = list(dict.fromkeys(report.updates["module"]))
    return renamed(report, HOSTILE_RUN, {modules[0]: HOSTILE_MODULE, modules[1]: CONTROLS})
