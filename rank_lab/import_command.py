"""What ``rank-lab import-scores`` does: read other programs' results, put them into a study's scores, print them."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rank_lab.console import console
from rank_lab.durable import held
from rank_lab.errors import RankLabError
from rank_lab.plain_text import plain
from rank_lab.score_import import import_scores, with_usual_roles
from rank_lab.score_origin import Imported, Origin
from rank_lab.score_table import SCORES_FILE, SCORES_LOCK, ScoreRow, ScoreTable
from rank_lab.score_terminal import render_scores, scores_summary

__all__ = ["import_and_print", "origin_of"]


def origin_of(
    run: str | None, method: str | None, step: int | None, roles: Sequence[str], chances: Sequence[str]
) -> Origin:
    """What the caller knows of the model, as typed.

    Parameters
    ----------
    run, method, step
        Which model it was; None where the file says it.
    roles, chances
        ``TASK=source``, ``TASK=target`` or ``TASK=`` (for none), and ``TASK=SCORE``.

    Raises
    ------
    RankLabError
        If one is not of that form.

    Examples
    --------
    >>> origin_of("lora", "lora", 9, ["gsm8k=target"], ["arc=0.25"]).chance
    {'arc': 0.25}
    """
    return Origin(run, method, step, _roles(roles), _chances(chances))


def import_and_print(files: Sequence[Path], study: Path, origin: Origin, *, as_json: bool = False) -> None:
    """Read every file, then keep all of their scores or, where one is wrong, none.

    Parameters
    ----------
    files
        Of lm-eval, of the BigCode harness, of PEFT's method comparison, or CSV.
    study
        Its ``scores.parquet`` receives the rows; a score that is there already is replaced, and said to be.
    origin
        From :func:`origin_of`. A task of which it says no role gets its usual one, see
        :data:`rank_lab.score_row.USUAL_ROLES`, and that is said.
    as_json
        What was read as JSON, in place of a table.

    Raises
    ------
    RankLabError
        If a file holds no score, or two hold the same one.
    """
    if study.is_file():
        raise RankLabError(f"{study}: is a file; -o names the folder of the study.")
    found = [import_scores(file, origin) for file in files]
    rows, by_default = with_usual_roles((row for each in found for row in each.rows), origin.roles)
    new = ScoreTable.of(rows)
    _refuse_unknown_tasks(new, origin)
    study.mkdir(parents=True, exist_ok=True)
    with held(study / SCORES_LOCK):
        there = ScoreTable.load(study / SCORES_FILE) if (study / SCORES_FILE).is_file() else ScoreTable()
        replaced = {row.key for row in there.rows} & {row.key for row in new.rows}
        there.merged(new).save(study / SCORES_FILE)
    for line in _notes(found, new.rows, by_default, len(replaced)):
        sys.stderr.write(f"note: {plain(line)}\n")
    _print(new.rows, found, study, as_json=as_json)


def _roles(given: Sequence[str]) -> dict[str, str]:
    return dict(_pair(each, "--role", "source, target or nothing (for none)", empty=True) for each in given)


def _chances(given: Sequence[str]) -> dict[str, float]:
    found = {}
    for each in given:
        task, value = _pair(each, "--chance", "a score")
        try:
            found[task] = float(value)
        except ValueError:
            raise RankLabError(f"--chance {plain(each)}: {plain(value)!r} is no number.") from None
    return found


def _pair(given: str, option: str, what: str, *, empty: bool = False) -> tuple[str, str]:
    task, equals, value = given.partition("=")
    if not (task and equals and (value or empty)):
        raise RankLabError(f"{option} {plain(given)}: expected TASK= and {what}.")
    return task, value


def _refuse_unknown_tasks(table: ScoreTable, origin: Origin) -> None:
    known = {row.task for row in table.rows}
    for task in [*origin.roles, *origin.chance]:
        if task not in known:
            raise RankLabError(f"task {task!r} is in none of the files; they hold {', '.join(sorted(known))}.")


def _notes(
    found: Sequence[Imported], rows: Sequence[ScoreRow], by_default: Mapping[str, str], replaced: int
) -> list[str]:
    told = [f"{left.name}: {left.reason}" for each in found for left in each.left_out]
    told += [f"{task}: has the role {role} by default; --role {task}= for none" for task, role in by_default.items()]
    if replaced:
        told.append(f"{replaced} scores that were there are replaced")
    if not any(row.role for row in rows):
        told.append("no task has a role: say what is learned and what may be forgotten (--role TASK=target, =source)")
    return told


def _print(rows: Sequence[ScoreRow], found: Sequence[Imported], study: Path, *, as_json: bool) -> None:
    if as_json:
        left = [asdict(left) for each in found for left in each.left_out]
        sys.stdout.write(json.dumps({"scores": scores_summary(rows), "left_out": left}, indent=1) + "\n")
        return
    console().print(render_scores(rows))
    console().print(plain(f"written: {study / SCORES_FILE}"))
