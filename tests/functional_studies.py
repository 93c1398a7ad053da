"""Studies that hold reports of functional ranks with planted numbers, made without any model."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rank_lab.functional_metrics import functional_ranks
from rank_lab.functional_report import FunctionalReport
from rank_lab.functional_rows import functional_tables
from rank_lab.functional_schema import FUNCTIONAL_TABLES
from rank_lab.place_change import NO_SHARE, PlaceChange
from rank_lab.spectrum import Spectrum
from rank_lab.text_intervals import RankInterval
from rank_lab.uncertainty import Interval

LAYERS = 3
WIDTH = 6


def place(
    scope: str, name: str, form: str, *, rank: int = 3, open_above: bool = False, warnings: tuple[str, ...] = ()
) -> PlaceChange:
    """Equal singular values: every rank of the change is the number of these."""
    spectrum = Spectrum.from_values(np.ones(rank), shape=(WIDTH, WIDTH))
    values = functional_ranks(spectrum)
    ranks = {
        metric: RankInterval(value, value - 1, WIDTH if open_above else value + 1, -0.1, open_above)
        for metric, value in values.items()
    }
    affine = form == "affine"
    share = Interval(1.0, None, None) if affine else Interval(0.6, 0.5, 0.7)
    return PlaceChange(
        scope, name, form, (WIDTH, WIDTH), 500, 20, spectrum, ranks, dict.fromkeys(values, 4.5),
        dict.fromkeys(values, 5.0) if affine else {}, 0.1, 0.2, 0.01, share, 0.05,
        share if affine else NO_SHARE, warnings,
    )  # fmt: skip


def report(
    run: str, form: str = "affine", *, step: int | None = 10, texts: str = "a", **changes: Any
) -> FunctionalReport:
    """Hidden states of three layers and, unless the form is ``layer``, their q and down projections."""
    places = [place("layer", f"model.layers.{at}", "layer", rank=3 + at, **changes) for at in range(LAYERS)]
    for at in range(LAYERS):
        for module in ("self_attn.q_proj", "mlp.down_proj") if form != "layer" else ():
            scopes = ("module", "weighted") if form == "affine" else ("module",)
            places += [place(scope, f"model.layers.{at}.{module}", form, **changes) for scope in scopes]
    left_out = {"lm_head": "not in a layer", "model.layers.0.mlp.up_proj": "identical"}
    tables = functional_tables(places, left_out, {"run": run, "method": form, "step": step})
    about = {
        "tuned": [{"source": f"/nowhere/{run}", "sha256": "0", "step": step, "method": form, "files": []}],
        "base": {"source": "/nowhere/base", "sha256": "0"},
        "texts": {"file": "/nowhere/probe.jsonl", "sha256": texts, "texts": 20, "tokens": 500},
        "settings": {"run": run},
    }
    return FunctionalReport(**tables, provenance=about)


def renamed(given: FunctionalReport, name: str) -> FunctionalReport:
    """The same numbers, of a run and of modules with that name."""
    tables: dict[str, pd.DataFrame] = {}
    for table in FUNCTIONAL_TABLES:
        frame = getattr(given, table)
        tables[table] = frame.assign(run=name, module=name + frame["module"])
    settings = dict(given.provenance["settings"]) | {"run": name}
    return FunctionalReport(**tables, provenance=dict(given.provenance) | {"settings": settings})


def made(folder: Path) -> Path:
    """LoRA, a bottleneck adapter and a prefix on the same texts."""
    for run, form in (("lora", "affine"), ("series", "function"), ("prefix", "layer")):
        report(run, form).save(folder / f"{run}.functional")
    return folder
