"""``rank-lab evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["evaluate"]

_TEXT, _CODE, _MODEL = "Texts and tasks", "Generated code", "The model"


def evaluate(
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder whose scores.parquet receives the scores.")],
    tuned: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints, adapters, trainers' folders, hub ids; none for the base alone."),
    ] = None,
    base: Annotated[
        str, typer.Option(help="What they were tuned from; default what adapters name.", rich_help_panel=_MODEL)
    ] = "",
    name: Annotated[str, typer.Option(help="Of the run; default the folder's.", rich_help_panel=_MODEL)] = "",
    kind: Annotated[
        str | None,
        typer.Option(help="causal, masked, classification or regression; default the files'.", rich_help_panel=_MODEL),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=_MODEL)] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=_MODEL)] = "auto",
    skip_base: Annotated[
        bool, typer.Option("--skip-base", help="Without its scores there is no forgetting.", rich_help_panel=_MODEL)
    ] = False,
    source_text: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE: text that the base can (forgetting).", rich_help_panel=_TEXT),
    ] = None,
    target_text: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: text that is learned.", rich_help_panel=_TEXT)
    ] = None,
    text_column: Annotated[str, typer.Option(help="Of JSON lines.", rich_help_panel=_TEXT)] = "text",
    join_rows: Annotated[
        bool, typer.Option("--join-rows", help="The rows are lines of one text.", rich_help_panel=_TEXT)
    ] = False,
    kl: Annotated[
        bool, typer.Option("--kl", help="Also the divergence from the base on these texts.", rich_help_panel=_TEXT)
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="hellaswag, arc_challenge, winogrande, gsm8k or another of lm-eval; humaneval, mbpp; GLUE's.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help="TASK=source or TASK=target, where not the usual.", rich_help_panel=_TEXT),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of local files of the tasks; default the hub.", rich_help_panel=_TEXT)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Examples of each set, the first; default all.", rich_help_panel=_TEXT)
    ] = None,
    few_shot: Annotated[
        int | None, typer.Option(help="Solved examples in prompts; default the task's.", rich_help_panel=_TEXT)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Inputs at a time.", rich_help_panel=_TEXT)] = 8,
    max_length: Annotated[int | None, typer.Option(help="Tokens of the longest input.", rich_help_panel=_TEXT)] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens between windows; default no overlap.", rich_help_panel=_TEXT)
    ] = None,
    masked_places: Annotated[
        int, typer.Option(help="Masked models: places asked of each text.", rich_help_panel=_TEXT)
    ] = 64,
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Run what the model wrote, in a limited process.", rich_help_panel=_CODE),
    ] = False,
    samples: Annotated[int, typer.Option(help="Answers to each problem.", rich_help_panel=_CODE)] = 1,
    temperature: Annotated[float, typer.Option(help="0 for the likeliest token.", rich_help_panel=_CODE)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Of sampling.", rich_help_panel=_CODE)] = 0.95,
    new_tokens: Annotated[
        int | None, typer.Option(help="Longest answer; default the task's, of code 512.", rich_help_panel=_CODE)
    ] = None,
    seconds: Annotated[float, typer.Option(help="Longest time for a batch of answers.", rich_help_panel=_CODE)] = 600.0,
    code_seconds: Annotated[int, typer.Option(help="Processor time of each program.", rich_help_panel=_CODE)] = 5,
    seed: Annotated[int, typer.Option(help="Of sampling and masked places.", rich_help_panel=_TEXT)] = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Measure what is there already, too.", rich_help_panel=_MODEL)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Scores of models and their base: what was learned, what was forgotten.

    Example: rank-lab evaluate study/lora --source-text prose=prose.jsonl --target-text code=code.jsonl --kl -o study/

    What is there is not measured again: a command that was stopped goes on.
    """
    from rank_lab.evaluation.evaluate_choices import Choices
    from rank_lab.evaluation.evaluate_command import evaluate_and_print
    from rank_lab.evaluation.tuned_models import LoadOptions

    choices = Choices(
        source_texts=tuple(source_text or ()), target_texts=tuple(target_text or ()), text_column=text_column,
        join_rows=join_rows, kl=kl, tasks=tuple(task or ()), roles=tuple(role or ()), data=data, limit=limit,
        few_shot=few_shot, batch_size=batch_size, max_length=max_length, stride=stride, masked_places=masked_places,
        samples=samples, temperature=temperature, top_p=top_p, new_tokens=new_tokens, seconds=seconds, seed=seed,
        allow_code=allow_code, code_seconds=code_seconds, again=again,
    )  # fmt: skip
    loading = LoadOptions(base=base, device=device, dtype=dtype, kind=kind)
    failed = evaluate_and_print(tuned or [], study, loading, choices, name=name, skip_base=skip_base, as_json=as_json)
    raise typer.Exit(1 if failed else 0)
