"""``rank-lab behavioural``."""

from pathlib import Path
from typing import Annotated

import typer

from rank_lab.verbs.options import Modules

__all__ = ["behavioural"]

_TEXT, _MODEL = "Texts", "The model"


def behavioural(
    tuned: Annotated[
        str, typer.Argument(help="Full checkpoint, adapter that changes weights, or a trainer's folder (the last).")
    ],
    target: Annotated[list[str], typer.Option(help="NAME=FILE: text that was learned.", rich_help_panel=_TEXT)],
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for the report, NAME.behavioural.")],
    base: Annotated[
        str, typer.Option(help="What it was tuned from; default what its files name.", rich_help_panel=_MODEL)
    ] = "",
    source: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE: text that the base can (forgetting).", rich_help_panel=_TEXT),
    ] = None,
    share: Annotated[float, typer.Option(help="Of what was learned, to keep.")] = 0.9,
    ranks: Annotated[str, typer.Option(help="To try, such as 1,2,4; default doubling, then halving.")] = "",
    without_vectors: Annotated[
        bool, typer.Option("--without-vectors", help="Norms and biases as in the base while matrices are truncated.")
    ] = False,
    no_controls: Annotated[
        bool, typer.Option("--no-controls", help="Leave out random directions, the shrunk update and the tail.")
    ] = False,
    name: Annotated[str, typer.Option(help="Of the run; default the folder's.", rich_help_panel=_MODEL)] = "",
    kind: Annotated[
        str | None, typer.Option(help="causal or masked; default the files'.", rich_help_panel=_MODEL)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=_MODEL)] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 (rounds truncated weights) ...", rich_help_panel=_MODEL)
    ] = "float32",
    text_column: Annotated[str, typer.Option(help="Of JSON lines.", rich_help_panel=_TEXT)] = "text",
    limit: Annotated[int | None, typer.Option(help="Texts of each set, the first.", rich_help_panel=_TEXT)] = None,
    batch_size: Annotated[int, typer.Option(help="Inputs at a time.", rich_help_panel=_TEXT)] = 8,
    max_length: Annotated[int | None, typer.Option(help="Tokens of the longest input.", rich_help_panel=_TEXT)] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens between windows; default no overlap.", rich_help_panel=_TEXT)
    ] = None,
    masked_places: Annotated[
        int, typer.Option(help="Masked models: places asked of each text.", rich_help_panel=_TEXT)
    ] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of random directions, which are drawn once.")] = 0,
    modules: Modules = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """The least number of directions of the update that keeps a share of what was learned, and what that forgets.

    Example: rank-lab behavioural lora/ --base base/ --target code=code.jsonl --source prose=prose.jsonl -o study/

    Truncated models are made in memory. A command that was stopped goes on where it was; exit code 1 where a
    target has no rank.
    """
    from rank_lab.evaluation.behavioural_command import BehaviouralChoices, behavioural_and_print

    choices = BehaviouralChoices(
        targets=tuple(target), sources=tuple(source or ()), text_column=text_column, limit=limit, name=name,
        share=share, without_vectors=without_vectors, ranks=ranks, no_controls=no_controls, seed=seed,
        batch_size=batch_size, max_length=max_length, stride=stride, masked_places=masked_places, device=device,
        dtype=dtype, kind=kind, modules=modules,
    )  # fmt: skip
    missing = behavioural_and_print(tuned, base, study, choices, as_json=as_json)
    raise typer.Exit(1 if missing else 0)
