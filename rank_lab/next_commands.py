"""What to run next: commands with the paths that a study's reports name, ready to be copied."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rank_lab.plain_text import plain
from rank_lab.study import ReportEntry, Study

__all__ = ["evaluate_command", "export_command", "extract_command", "plan_command", "schedule_command", "steps_command"]

_BASE, _TUNED = "BASE", "TUNED"


def evaluate_command(study: Study) -> str:
    """Scores of all runs and their base: learning and forgetting.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> evaluate_command(Study(mkdtemp(prefix="study-"))).split(" -o ")[0]
    'rank-lab evaluate TUNED --base BASE --source-text NAME=FILE --target-text NAME=FILE'
    """
    entries = study.reports()
    tuned = [_run_source(entry) for entry in entries] or [_TUNED]
    bases = {_base_of(entry) for entry in entries} - {_BASE}
    base = bases.pop() if len(bases) == 1 else _BASE
    texts = ["--source-text", "NAME=FILE", "--target-text", "NAME=FILE"]
    return _line("evaluate", *dict.fromkeys(tuned), "--base", base, *texts, "-o", study.folder)


def schedule_command(study: Study) -> str:
    """Algorithm 1, its curve written into this study."""
    bases = {_base_of(entry) for entry in study.reports()} - {_BASE}
    base = bases.pop() if len(bases) == 1 else _BASE
    choices = ["--task", "TASK", "--data", "FOLDER", "--thresholds", "0,0.5,1,2"]
    return _line("schedule", base, *choices, "-o", study.folder)


def steps_command(study: Study) -> str:
    """Ranks along training: all checkpoints of one trainer's folder as one run."""
    entry = next(iter(study.reports()), None)
    source, base = (_TUNED, _BASE) if entry is None else (_run_source(entry), _base_of(entry))
    return _line("analyze", source, "--base", base, "-o", study.folder)


def plan_command(study: Study, run: str, step: int | None, choices: Mapping[str, Any]) -> str:
    """The plan that a page shows, made in the terminal.

    Parameters
    ----------
    study, run, step
        Of which spectra.
    choices
        Name of an option, without its dashes, to its value; True stands alone, None and False are left out.
    """
    of = ["--run", run, *([] if step is None else ["--step", step])]
    return _line("plan", study.folder, *of, *_options(choices))


def extract_command(study: Study, run: str, step: int | None, choices: Mapping[str, Any]) -> str:
    """From the checkpoint that was analysed to a LoRA.

    Parameters
    ----------
    study, run, step
        Of which spectra.
    choices
        As of :func:`plan_command`, such as ``{"plan": "plan.json"}``.
    """
    entry = next((each for each in study.reports() if each.run == run), None)
    source, base = (_TUNED, _BASE) if entry is None else (_source_at(entry, step), _base_of(entry))
    of_base = [] if base == _BASE and entry is not None and entry.provenance.get("base") is None else ["--base", base]
    return _line("extract", source, *of_base, *_options(choices), "-o", f"{run}-extracted")


def export_command(study: Study, formats: Sequence[str] = (), folder: str = "export") -> str:
    """Everything as files, in some formats or in all."""
    return _line("export", study.folder, "-o", folder, *(part for name in formats for part in ("-f", name)))


def _options(choices: Mapping[str, Any]) -> list[object]:
    found: list[object] = []
    for name, value in choices.items():
        if value is not None and value is not False:
            found += [f"--{name}", *([] if value is True else [value])]
    return found


def _line(verb: str, *arguments: object) -> str:
    return plain(shlex.join(["rank-lab", verb, *map(str, arguments)]), limit=4000)


def _tuned(entry: ReportEntry) -> Sequence[Mapping[str, Any]]:
    found = entry.provenance.get("tuned")
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list | tuple) else []


def _run_source(entry: ReportEntry) -> str:
    """Of one checkpoint itself, of several the folder that holds them all."""
    sources = [str(each.get("source", _TUNED)) for each in _tuned(entry)]
    parents = {str(Path(source).parent) for source in sources}
    if len(sources) > 1 and len(parents) == 1:
        return parents.pop()
    return sources[-1] if sources else _TUNED


def _source_at(entry: ReportEntry, step: int | None) -> str:
    at = [str(each.get("source", _TUNED)) for each in _tuned(entry) if each.get("step") == step]
    return at[-1] if at else _run_source(entry)


def _base_of(entry: ReportEntry) -> str:
    base = entry.provenance.get("base")
    return str(base.get("source", _BASE)) if isinstance(base, Mapping) else _BASE
