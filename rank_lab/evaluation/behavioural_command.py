"""What ``rank-lab behavioural`` does: cut the update of a run, measure, save the report, print it."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rank_lab.behavioural_report import BehaviouralReport
from rank_lab.behavioural_terminal import behavioural_summary, render_behavioural
from rank_lab.commands import file_name
from rank_lab.console import console, progress_bar
from rank_lab.errors import RankLabError, SchemaError, is_out_of_memory
from rank_lab.evaluation.behavioural_analysis import behavioural_report, last_of
from rank_lab.evaluation.behavioural_search import BehaviouralOptions
from rank_lab.evaluation.text_scores import TextOptions
from rank_lab.evaluation.text_sets import TextSet, read_texts
from rank_lab.evaluation.tuned_models import LoadOptions
from rank_lab.plain_text import first_line, plain

__all__ = ["BehaviouralChoices", "behavioural_and_print"]


@dataclass(frozen=True)
class BehaviouralChoices:
    """What ``behavioural`` was asked for, as typed.

    Parameters
    ----------
    targets, sources
        ``NAME=FILE``.
    text_column, limit
        Of the files.
    name
        Of the run; empty for the folder's.
    share, without_vectors, ranks, no_controls, seed
        See :class:`rank_lab.evaluation.behavioural_search.BehaviouralOptions`; ranks as ``1,2,4``.
    batch_size, max_length, stride, masked_places
        See :class:`rank_lab.evaluation.text_scores.TextOptions`.
    device, dtype, kind
        See :class:`rank_lab.evaluation.tuned_models.LoadOptions`.
    modules
        A line per matrix.
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...] = ()
    text_column: str = "text"
    limit: int | None = None
    name: str = ""
    share: float = 0.9
    without_vectors: bool = False
    ranks: str = ""
    no_controls: bool = False
    seed: int = 0
    batch_size: int = 8
    max_length: int | None = None
    stride: int | None = None
    masked_places: int = 64
    device: str = "cpu"
    dtype: str = "float32"
    kind: str | None = None
    modules: bool = False

    def options(self) -> BehaviouralOptions:
        """Checked.

        Raises
        ------
        RankLabError
            If a value is out of its range.
        """
        if self.batch_size < 1:
            raise RankLabError(f"--batch-size {self.batch_size}: expected at least 1.")
        found = BehaviouralOptions(
            share=self.share,
            vectors=not self.without_vectors,
            ranks=_ranks(self.ranks),
            seed=self.seed,
            texts=TextOptions(self.batch_size, self.max_length, self.stride, self.masked_places),
            loading=LoadOptions(device=self.device, dtype=self.dtype, kind=self.kind),
        )
        if not self.no_controls:
            return found
        return BehaviouralOptions(**{**vars(found), "controls": ()})

    def texts(self) -> list[TextSet]:
        """Read from their files.

        Raises
        ------
        RankLabError
            If one is not ``NAME=FILE``, or cannot be read.
        """
        found = []
        for role, given in (("target", self.targets), ("source", self.sources)):
            for each in given:
                name, equals, file = each.partition("=")
                if not (name and equals and file):
                    raise RankLabError(f"--{role} {plain(each)}: expected NAME=FILE, such as code=code.jsonl.")
                found.append(read_texts(name, file, column=self.text_column, limit=self.limit, role=role))
        return found


def behavioural_and_print(
    tuned: str, base: str, study: Path, choices: BehaviouralChoices, *, as_json: bool = False
) -> bool:
    """Find the behavioural rank of a run, save the report, print it.

    Parameters
    ----------
    tuned, base
        See :func:`rank_lab.evaluation.behavioural_analysis.behavioural_report`.
    study
        Folder for ``NAME.behavioural``.
    choices
        As typed.
    as_json
        As JSON, in place of tables.

    Returns
    -------
    bool
        Whether a target has no rank; why is told.

    Raises
    ------
    RankLabError
        If there is nothing to truncate or to measure, or the folder holds the report of another run.
    """
    if study.is_file():
        raise RankLabError(f"{study}: is a file; -o names the folder of the study.")
    options, texts = choices.options(), choices.texts()
    files = dict(given.split("=", maxsplit=1) for given in (*choices.targets, *choices.sources))
    one, _ = last_of(tuned, base, choices.name)
    folder = study / f"{file_name(one.run)}.behavioural"
    _refuse_to_replace_another(folder, one.source)
    report = _with_progress(tuned, texts, base, options, choices, study / f".{folder.name}.part")
    for told in report.provenance["texts"]:  # what reading them again needs
        told |= {"column": choices.text_column, "limit": choices.limit, "file": files[told["name"]]}
    report.save(folder)
    if as_json:
        sys.stdout.write(json.dumps(behavioural_summary(report) | {"report": str(folder)}, indent=1) + "\n")
    else:
        console().print(render_behavioural(report, modules=choices.modules))
        console().print(f"written: {plain(str(folder))}")
    return bool(report.ranks["rank"].isna().any())


def _ranks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise RankLabError(f"--ranks {plain(text)}: expected whole numbers, such as 1,2,4,8.") from error


def _with_progress(
    tuned: str,
    texts: Sequence[TextSet],
    base: str,
    options: BehaviouralOptions,
    choices: BehaviouralChoices,
    keep: Path,
) -> BehaviouralReport:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with progress_bar() as bar:
        task = bar.add_task("", total=None)

        def told(what: str, count: int) -> None:
            bar.update(task, completed=count, description=plain(f"model {count}: {what}")[-48:])

        try:
            return behavioural_report(
                tuned, texts, base, options=options, name=choices.name, keep=keep, told=told
            )  # fmt: skip
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RankLabError) or not is_out_of_memory(error):
                raise
            raise RankLabError(
                f"out of memory ({first_line(error)[:120]}); lower --batch-size (now {choices.batch_size}) or"
                " --max-length and run the command again, which keeps what is finished; or use --dtype bfloat16."
            ) from error


def _refuse_to_replace_another(folder: Path, source: str) -> None:
    try:
        before = BehaviouralReport.load(folder).provenance["tuned"][0]["source"]
    except SchemaError:
        return  # none there, or a damaged one, which this makes again
    if Path(before).name != Path(source).name:
        raise RankLabError(f"{folder}: is the report of {plain(before)}; give this run another name with --name.")
