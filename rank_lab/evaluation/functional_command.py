"""What ``rank-lab functional`` does: run base and tuned model on texts, save what changed, print it."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.commands import file_name
from rank_lab.console import console, progress_bar
from rank_lab.errors import RankLabError, SchemaError
from rank_lab.evaluation.functional_changes import functional_changes
from rank_lab.evaluation.functional_options import FunctionalOptions
from rank_lab.evaluation.model_folders import model_folder
from rank_lab.evaluation.model_identity import content_digest
from rank_lab.evaluation.probe import Probe, probe_of
from rank_lab.evaluation.sources import Tuned, kind_of_source, tuned_of
from rank_lab.evaluation.text_sets import TextSet, read_texts
from rank_lab.evaluation.tuned_models import EvaluatedModel, LoadOptions, Shelf, context_of
from rank_lab.functional_report import FunctionalReport
from rank_lab.functional_rows import functional_tables
from rank_lab.functional_terminal import functional_summary, render_functional
from rank_lab.plain_text import plain
from rank_lab.provenance import versions_and_machine

__all__ = ["FunctionalChoices", "functional_and_print", "functional_report", "probe_for"]


@dataclass(frozen=True)
class FunctionalChoices:
    """What ``functional`` was asked for, as typed.

    Parameters
    ----------
    texts
        File of the probe texts.
    column, join, limit
        Of that file, see :func:`rank_lab.evaluation.text_sets.read_texts`.
    context
        Tokens of the longest input; None for what the models take.
    skip
        Tokens at the start of each input that are not looked at.
    name
        Of the run; empty for the folder's.
    every_step
        Whether all checkpoints of a trainer's folder are measured, or the last.
    """

    texts: str
    column: str = "text"
    join: bool = False
    limit: int | None = None
    context: int | None = None
    skip: int = 0
    name: str = ""
    every_step: bool = False


def functional_and_print(
    source: str,
    study: Path,
    loading: LoadOptions,
    choices: FunctionalChoices,
    options: FunctionalOptions,
    *,
    modules: bool = False,
    as_json: bool = False,
) -> None:
    """Measure a run, save ``NAME.functional``, print it.

    Parameters
    ----------
    source
        Full checkpoint, adapter, trainer's folder or hub id.
    study
        Folder for the report.
    loading, choices, options
        As typed.
    modules
        A line per place.
    as_json
        As JSON, in place of tables.

    Raises
    ------
    RankLabError
        If it cannot be measured, or the study has another run of that name.
    """
    if study.is_file():
        raise RankLabError(f"{study}: is a file; -o names the folder of the study.")
    _quiet()
    texts = _texts(choices)
    models = tuned_of(source, name=choices.name)
    models = models if choices.every_step else models[-1:]
    folder = study / f"{file_name(models[0].run)}.functional"
    _refuse_to_replace_another(folder, models)
    report = functional_report(models, texts, loading, choices, options)
    report.save(folder)
    if as_json:
        sys.stdout.write(json.dumps(functional_summary(report) | {"report": str(folder)}, indent=1) + "\n")
        return
    console().print(render_functional(report, modules=modules))
    console().print(f"written: {plain(str(folder))}", highlight=False, markup=False)


def functional_report(
    models: Sequence[Tuned],
    texts: TextSet,
    loading: LoadOptions,
    choices: FunctionalChoices,
    options: FunctionalOptions,
) -> FunctionalReport:
    """Measure the steps of a run; progress on standard error.

    Parameters
    ----------
    models
        Of one run.
    texts
        The probe.
    loading, choices, options
        How.

    Raises
    ------
    RankLabError
        If the base is not known, or a model cannot be measured.
    """
    source = _base(models[-1], loading)
    kind = loading.kind or models[-1].kind or kind_of_source(source)
    shelf = Shelf(replace(loading, base=source, kind=kind))
    tables: list[dict[str, pd.DataFrame]] = []
    probes: list[Probe] = []
    with progress_bar() as bar:
        for each in models:
            with shelf.loaded(each) as model:
                base = shelf.untuned(model, source)
                probes.append(probe_for(model, texts, choices))
                where = each.run if each.step is None else f"{each.run} at step {each.step}"
                task = bar.add_task(plain(where)[-48:])

                def advance(done: int, total: int, name: str, *, task: Any = task) -> None:
                    bar.update(task, completed=done, total=total, description=plain(name)[-48:])

                found = functional_changes(base, model.model, probes[-1], options, progress=advance)
                tables.append(functional_tables(found.places, found.left_out, model.named))
    joined = {name: pd.concat([each[name] for each in tables], ignore_index=True) for name in tables[0]}
    about = _provenance(models, source, probes[-1], loading, choices, options)
    return FunctionalReport(**joined, provenance=about)


def probe_for(model: EvaluatedModel, texts: TextSet, choices: FunctionalChoices) -> Probe:
    """The probe texts in a model's tokens.

    Parameters
    ----------
    model
        Whose tokenizer is asked, and how long its inputs may be.
    texts, choices
        Which, and how.
    """
    return probe_of(model.tokenizer, model.kind, texts, context=context_of(model, choices.context), skip=choices.skip)


def _quiet() -> None:
    """No load reports and bars of other libraries."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _texts(choices: FunctionalChoices) -> TextSet:
    return read_texts("probe", choices.texts, column=choices.column, join=choices.join, limit=choices.limit)


def _base(tuned: Tuned, loading: LoadOptions) -> str:
    named = loading.base or tuned.base
    if not named:
        raise RankLabError(f"{tuned.source}: its files do not say what it was tuned from; give it with --base.")
    try:
        return str(model_folder(named))
    except RankLabError as error:
        if loading.base:
            raise
        raise RankLabError(f"base {plain(named, limit=200)}, which {tuned.source} names: {error}") from error


def _provenance(
    models: Sequence[Tuned], base: str, probe: Probe, loading: LoadOptions, choices: FunctionalChoices,
    options: FunctionalOptions,
) -> dict[str, Any]:  # fmt: skip
    measured = asdict(options) | {
        "modules": None if options.modules is None else sorted(options.modules),
        "scopes": list(options.scopes),
    }
    how = {"run": models[0].run, "device": loading.device, "dtype": loading.dtype, "kind": loading.kind}
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [*sys.argv],
        "tuned": [_model(each) for each in models],
        "base": {"source": base, "sha256": content_digest(base)},
        "texts": {
            "file": choices.texts, "column": choices.column, "join": choices.join, "limit": choices.limit,
            "sha256": probe.texts.sha256(), "texts": probe.count, "tokens": probe.tokens,
            "tokens_sha256": probe.sha256(), "context": probe.context, "skip": probe.skip, "truncated": probe.truncated,
            "source": probe.texts.source,
        },
        "settings": how | measured,
        **versions_and_machine(loading.device, packages=("transformers", "peft")),
    }  # fmt: skip


def _model(tuned: Tuned) -> dict[str, Any]:
    about = {"source": tuned.source, "step": tuned.step, "method": tuned.method}
    return about | {"sha256": content_digest(tuned.source), "files": []}


def _refuse_to_replace_another(folder: Path, models: Sequence[Tuned]) -> None:
    try:
        before: Mapping[str, Any] = FunctionalReport.load(folder).provenance
    except SchemaError:
        return  # none there, or a damaged one, which this makes again
    there, now = before["tuned"][-1]["source"], models[-1].source
    if _ends(there) != _ends(now):
        raise RankLabError(f"{folder}: is of {there}; give this run another --name.")


def _ends(source: str) -> tuple[str, ...]:
    """The end of a path, which stays when a study is moved."""
    return Path(source).parts[-2:]
