"""``rank-lab import-scores``."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["import_scores"]


def import_scores(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="results_*.json of lm-eval, evaluation_results.json of the BigCode harness, PEFT's MetaMathQA results,"
            " or .csv."
        ),
    ],
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder whose scores.parquet receives the scores.")],
    run: Annotated[str | None, typer.Option(help="Which model it was; 'base' for the untuned one.")] = None,
    method: Annotated[str | None, typer.Option(help="Of it, such as lora; 'base' for the untuned one.")] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Of its checkpoint; 0 for the untuned one.")] = None,
    role: Annotated[
        list[str] | None, typer.Option(help="TASK=source, TASK=target or TASK= (none), where not the usual.")
    ] = None,
    chance: Annotated[list[str] | None, typer.Option(help="TASK=SCORE of a model that guesses.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Bring results that other programs left into the study's scores.

    Example: rank-lab import-scores results_2026.json --run lora --method lora --step 500 --role gsm8k=target -o study/
    """
    from rank_lab.import_command import import_and_print, origin_of

    import_and_print(files, study, origin_of(run, method, step, role or [], chance or []), as_json=as_json)
