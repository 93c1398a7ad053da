"""``rank-lab functional``."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["functional"]


def functional(
    tuned: Annotated[str, typer.Argument(help="Full checkpoint, any adapter, a trainer's folder, hub id.")],
    texts: Annotated[str, typer.Option(help="Probe texts: .jsonl or .jsonl.gz, a text a row; .txt, one text.")],
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for the report, NAME.functional.")],
    base: Annotated[str, typer.Option(help="What it was tuned from; default what its files name.")] = "",
    name: Annotated[str, typer.Option(help="Of the run; default the folder's.")] = "",
    text_column: Annotated[str, typer.Option(help="Of JSON lines.")] = "text",
    join_rows: Annotated[bool, typer.Option("--join-rows", help="The rows are lines of one text.")] = False,
    limit: Annotated[int | None, typer.Option(help="Rows, the first; default all.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of the longest input; one for all runs.")] = None,
    skip_tokens: Annotated[int, typer.Option(min=0, help="Tokens at the start of each input not looked at.")] = 0,
    scope: Annotated[list[str] | None, typer.Option(help="layer or module; default both.")] = None,
    every_step: Annotated[bool, typer.Option("--every-step", help="All checkpoints, not the last alone.")] = False,
    centered: Annotated[bool, typer.Option("--centered", help="Take the mean of each change off.")] = False,
    resamples: Annotated[int, typer.Option(min=0, help="Of texts, for the intervals; 0 for none.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs at a time.")] = 8,
    memory: Annotated[int, typer.Option(min=1, help="MiB for the sums that are kept at a time.")] = 2048,
    kind: Annotated[str | None, typer.Option(help="causal, masked or classification; default the files'.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, auto, bfloat16 or float16: in which models run.")] = "float32",
    modules: Annotated[bool, typer.Option("--modules", help="One line per place.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Rank of what an update does to real texts, for any method, beside nulls and with intervals over texts.

    Example: rank-lab functional prefix/ --base base/ --texts probe.jsonl -o study/

    Adapters without a weight update (prefix, prompt, bottlenecks) stand on one axis with the others.
    """
    from rank_lab.evaluation.functional_command import FunctionalChoices, functional_and_print
    from rank_lab.evaluation.functional_options import FunctionalOptions
    from rank_lab.evaluation.tuned_models import LoadOptions

    choices = FunctionalChoices(
        texts=texts, column=text_column, join=join_rows, limit=limit, context=max_length, skip=skip_tokens, name=name,
        every_step=every_step,
    )  # fmt: skip
    options = FunctionalOptions(
        scopes=tuple(scope or ("layer", "module")), batch_size=batch_size, resamples=resamples, seed=seed,
        centered=centered, memory=memory << 20,
    )  # fmt: skip
    loading = LoadOptions(base=base, device=device, dtype=dtype, kind=kind)
    functional_and_print(tuned, study, loading, choices, options, modules=modules, as_json=as_json)
