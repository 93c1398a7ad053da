"""The command line: one function per verb; each parses, calls and prints."""

import os
import sys
from pathlib import Path
from typing import Annotated

# Read by OpenMP when torch is loaded: spinning threads cost a factor of five on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

from rank_lab.errors import RankLabError
from rank_lab.plain_text import plain

__all__ = ["app", "main"]

app = typer.Typer(
    name="rank-lab",
    help="What fine-tuning changed: spectra and effective ranks of weight updates, each beside its null.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130  # typer leaves with it on Ctrl-C, after which nothing of its own is printed

Study = Annotated[Path, typer.Argument(help="A study (folder of reports) or one report, NAME.rank.")]

Alpha = Annotated[float | None, typer.Option(help="Alpha of LoRA files that do not record it (loralib, torchtune).")]
SplitFused = Annotated[
    bool, typer.Option("--split-fused", help="Take fused weights (qkv, gate and up) of full checkpoints apart.")
]
InitialAdapter = Annotated[
    str | None, typer.Option(help="The adapter as it was saved before training (PiSSA, CorDA, LoRA-GA ...).")
]
BaseRounded = Annotated[
    bool, typer.Option("--base-rounded", help="The base file is a rounded copy of what training started from.")
]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        from rank_lab import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def analyze(
    tuned: Annotated[
        list[str],
        typer.Argument(
            help="Full checkpoint, adapter of any known format, hub id, or a trainer's folder of checkpoint-*."
        ),
    ],
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for the reports.")],
    base: Annotated[
        str | None,
        typer.Option(help="What it was tuned from; default what its training.json names. LoRA needs none."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the run; default the folder's.")] = "",
    method: Annotated[str, typer.Option(help="auto, gram, svd or randomized.")] = "auto",
    k: Annotated[int | None, typer.Option(min=1, help="Number of values for --method randomized.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    noise: Annotated[
        str, typer.Option(help="off, rounding (a test where it matters) or full (also against i.i.d. noise).")
    ] = "rounding",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for as many as cores where that pays.")] = 0,
    lora_alpha: Alpha = None,
    split_fused: SplitFused = False,
    initial_adapter: InitialAdapter = None,
    base_rounded: BaseRounded = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Measure the spectra of every update and write a report.

    Example: rank-lab analyze tuned/ --base base/ -o study/

    A run that was stopped goes on where it was: measured updates are kept in
    STUDY/.spectra by content, and a changed input is measured afresh.
    """
    from rank_lab.commands import Choices, analyze_runs

    choices = Choices(
        name=name, method=method, k=k, device=device, noise=noise, workers=workers,
        lora_alpha=lora_alpha, initial_adapter=initial_adapter, split_fused=split_fused,
        base_rounded=base_rounded,
    )  # fmt: skip
    failed = analyze_runs(tuned, base, study, choices, as_json=as_json)
    raise typer.Exit(1 if failed else 0)


@app.command()
def subspace(
    first: Annotated[str, typer.Argument(help="Full checkpoint, adapter, hub id, or a checkpoint-N of a run.")],
    second: Annotated[str, typer.Argument(help="Another one, of the same base.")],
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for the report, NAME.subspace.")],
    base: Annotated[
        str | None,
        typer.Option(help="What both were tuned from; adapters need one only for amplification and intruders."),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the comparison; default both runs'.")] = "",
    k: Annotated[int, typer.Option(min=1, max=128, help="Leading directions of each update.")] = 16,
    intruder_k: Annotated[
        int, typer.Option(min=1, max=256, help="Leading directions of the tuned weight looked at for intruders.")
    ] = 64,
    no_intruders: Annotated[bool, typer.Option("--no-intruders", help="Leave them out: they cost the most.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for as many as cores where that pays.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    lora_alpha: Alpha = None,
    second_lora_alpha: Annotated[float | None, typer.Option(help="The same of the second.")] = None,
    split_fused: SplitFused = False,
    initial_adapter: InitialAdapter = None,
    second_initial_adapter: Annotated[str | None, typer.Option(help="The same of the second.")] = None,
    base_rounded: BaseRounded = False,
    modules: Annotated[bool, typer.Option("--modules", help="One line per module.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Compare the directions of two updates: angles, LoRA's phi, amplification, intruder dimensions.

    Example: rank-lab subspace lora/ full/ --base base/ -o study/

    Every number stands beside what random subspaces or white noise of the same size would show.
    """
    from rank_lab.subspace_command import SubspaceChoices, subspace_and_print

    choices = SubspaceChoices(
        name=name, k=k, intruder_k=intruder_k, intruders=not no_intruders, workers=workers, device=device,
        modules=modules, lora_alpha=(lora_alpha, second_lora_alpha), split_fused=split_fused,
        initial_adapter=(initial_adapter, second_initial_adapter), base_rounded=base_rounded,
    )  # fmt: skip
    failed = subspace_and_print(first, second, base, study, choices, as_json=as_json)
    raise typer.Exit(1 if failed else 0)


@app.command()
def functional(
    tuned: Annotated[str, typer.Argument(help="Full checkpoint, any adapter, a trainer's folder, hub id.")],
    texts: Annotated[str, typer.Option(help="Probe texts: .jsonl or .jsonl.gz, a text a row; .txt, one text.")],
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for the report, NAME.functional.")],
    base: Annotated[str, typer.Option(help="What it was tuned from; default what its files name.")] = "",
    name: Annotated[str, typer.Option(help="Of the run; default the folder's.")] = "",
    text_column: Annotated[str, typer.Option(help="Of JSON lines.")] = "text",
    join_rows: Annotated[bool, typer.Option("--join-rows", help="The rows are lines of one text.")] = False,
    limit: Annotated[int | None, typer.Option(help="Rows, the first; default all.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of the longest input.")] = None,
    skip_tokens: Annotated[int, typer.Option(min=0, help="Tokens at the start of each input not looked at.")] = 0,
    scope: Annotated[list[str] | None, typer.Option(help="layer or module; default both.")] = None,
    every_step: Annotated[bool, typer.Option("--every-step", help="All checkpoints, not the last alone.")] = False,
    centered: Annotated[bool, typer.Option("--centered", help="Take the mean of each change off.")] = False,
    resamples: Annotated[int, typer.Option(min=0, help="Of texts, for the intervals; 0 for none.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
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


@app.command()
def show(
    study: Study,
    modules: Annotated[bool, typer.Option("--modules", help="One line per matrix.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print coverage and ranks, worst coverage first, and the curve of a schedule.

    Example: rank-lab show study/ --modules
    """
    from rank_lab.commands import show_study

    show_study(study, modules=modules, as_json=as_json)


@app.command()
def export(
    study: Study,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            help="csv, json, parquet, latex, html, svg, pdf or png; repeatable; default all that work.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON.")] = False,
) -> None:
    """Write the tables and figures of a study, with captions, BibTeX and a README of how each file was made.

    Example: rank-lab export study/ -o paper/ -f latex -f pdf

    Pictures (svg, pdf, png) are drawn by Chromium or Chrome; html, data and LaTeX need none.
    """
    from rank_lab.export_command import export_study

    export_study(study, out, formats, as_json=as_json)


_RANKS, _FACTORS = "How ranks are chosen", "The adapter"

Budget = Annotated[int | None, typer.Option(help="Parameters of all factors together.", rich_help_panel=_RANKS)]
Energy = Annotated[
    float | None, typer.Option(help="Share of the squared norm to keep, e.g. 0.9.", rich_help_panel=_RANKS)
]
Allocation = Annotated[
    str,
    typer.Option(
        help="greedy (most kept for the parameters), uniform or per_layer (one share each).", rich_help_panel=_RANKS
    ),
]
Most = Annotated[int | None, typer.Option(help="Largest rank of a module.", rich_help_panel=_RANKS)]
WithRounding = Annotated[
    bool,
    typer.Option(
        "--with-rounding", help="Also directions that the rounding of the files explains.", rich_help_panel=_RANKS
    ),
]
Modules = Annotated[bool, typer.Option("--modules", help="One line per matrix.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@app.command()
def plan(
    study: Study,
    budget: Budget = None,
    energy: Energy = None,
    run: Annotated[str | None, typer.Option(help="Which, where the study has several.")] = None,
    step: Annotated[int | None, typer.Option(help="Of its checkpoint; default the last.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File .json, or folder; default beside the report.")
    ] = None,
    method: Allocation = "greedy",
    most: Most = None,
    with_rounding: WithRounding = False,
    modules: Modules = False,
    as_json: AsJson = False,
) -> None:
    """Ranks per module under a budget of parameters or for a share of the energy, and the PEFT config of them.

    Example: rank-lab plan study/ --run tuned --budget 2000000
    """
    from rank_lab.budget_command import RankOptions, plan_and_print

    options = RankOptions(budget, energy, method=method, most=most, with_rounding=with_rounding)
    missed = plan_and_print(study, options, run=run, step=step, out=out, modules=modules, as_json=as_json)
    raise typer.Exit(1 if missed else 0)


@app.command()
def extract(
    tuned: Annotated[str, typer.Argument(help="Full checkpoint, or adapter of any known format; folder or hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the LoRA.")],
    base: Annotated[
        str | None, typer.Option(help="What it was tuned from; default what its training.json names.")
    ] = None,
    budget: Budget = None,
    energy: Energy = None,
    rank: Annotated[int | None, typer.Option(help="One rank for all modules.", rich_help_panel=_RANKS)] = None,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="File that 'rank-lab plan' wrote.", rich_help_panel=_RANKS)
    ] = None,
    method: Allocation = "greedy",
    most: Most = None,
    with_rounding: WithRounding = False,
    dtype: Annotated[
        str, typer.Option(help="Of the factors: float32, bfloat16 or float16.", rich_help_panel=_FACTORS)
    ] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=_FACTORS)] = "cpu",
    lora_alpha: Alpha = None,
    initial_adapter: InitialAdapter = None,
    base_rounded: BaseRounded = False,
    modules: Modules = False,
    as_json: AsJson = False,
) -> None:
    """Write the LoRA that keeps most of a change, read it again, and say what it misses.

    Example: rank-lab extract tuned/ --base base/ --energy 0.9 -o lora/
    """
    from rank_lab.budget_command import RankOptions, extract_and_print
    from rank_lab.planned import Settings

    options = RankOptions(
        budget, energy, rank, plan_file, method=method, most=most, with_rounding=with_rounding, dtype=dtype,
        device=device, read=Settings(lora_alpha=lora_alpha, initial=initial_adapter, base_rounded=base_rounded),
    )  # fmt: skip
    extract_and_print(tuned, base, out, options, modules=modules, as_json=as_json)


@app.command()
def verify(
    study: Study,
    sample: Annotated[
        int, typer.Option(min=0, help="Rows of each report, of the scores and of the curve; 0 for all.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Which rows: the same seed takes the same ones.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON, an entry a row.")] = False,
) -> None:
    """Compute a sample of the numbers again from the recorded inputs; exit code 1 if one differs or an input is gone.

    Example: rank-lab verify study/ --sample 20
    """
    from rank_lab.verify_command import verify_and_print

    if verify_and_print(study, sample=sample, seed=seed, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def dashboard(
    study: Study,
    host: Annotated[str, typer.Option(help="Address to listen on; others than localhost are seen by others.")] = (
        "localhost"
    ),
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default the first that is free from 8501.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only serve; open the address yourself.")] = False,
) -> None:
    """Look at a study in the browser: what was changed where, spectra, comparisons, curves.

    Example: rank-lab dashboard study/

    The study may still be being written: what is new shows by itself.
    """
    from rank_lab.dashboard_command import dashboard_and_wait

    raise typer.Exit(dashboard_and_wait(study, host=host, port=port, browser=not no_browser))


@app.command()
def demo(
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for everything that the demo makes.")] = Path(
        "demo-study"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each fine-tuning.")] = 100,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the dashboard in the end.")] = False,
) -> None:
    """Fine-tune a small real model in six ways and look at them with all that rank_lab has; minutes on two cores.

    Example: rank-lab demo -o demo-study/

    One that was stopped goes on where it was: run the same command again.
    """
    from rank_lab.demo.demo_plan import DemoPlan
    from rank_lab.demo.run import run_demo

    run_demo(study, DemoPlan(steps=steps), browser=not no_browser)


@app.command()
def fold(
    adapter: Annotated[str, typer.Argument(help="A SoRA adapter: folder or hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the plain LoRA adapter.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Its base: also compare the outputs of the whole model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write a SoRA adapter as an ordinary LoRA adapter, which loads where rank_lab is not installed.

    Example: rank-lab fold sora-adapter/ -o lora-adapter/ --model base/
    """
    from rank_lab.sora.fold_command import fold_and_print

    fold_and_print(adapter, out, model, as_json=as_json)


_PLAN, _SORA, _STEPS, _DATA = "What is raised", "The adapter", "Training", "The task"


@app.command()
def schedule(
    model: Annotated[str, typer.Argument(help="Base model: folder or hub id.")],
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for curve, stages and configuration.")],
    task: Annotated[
        str, typer.Option(help="One of GLUE's (rte, mrpc, cola ...), or a name of your own.", rich_help_panel=_DATA)
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of train.jsonl and validation.jsonl; default the hub.", rich_help_panel=_DATA),
    ] = None,
    model_name: Annotated[str, typer.Option(help="Name of the model in tables; default the folder's.")] = "",
    revision: Annotated[
        str | None, typer.Option(help="Of GLUE on the hub: branch, tag or commit.", rich_help_panel=_DATA)
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(help="Own task: column of text, or of prompt and completion.", rich_help_panel=_DATA),
    ] = None,
    label_column: Annotated[str, typer.Option(help="Own task: column of the label.", rich_help_panel=_DATA)] = "",
    kind: Annotated[
        str | None,
        typer.Option(help="Own task: classification (default), regression or causal.", rich_help_panel=_DATA),
    ] = None,
    score: Annotated[
        str, typer.Option(help="Own task: accuracy, f1, matthews_correlation, pearson ...", rich_help_panel=_DATA)
    ] = "",
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of the longest example.", rich_help_panel=_DATA)
    ] = None,
    train_limit: Annotated[
        int | None, typer.Option(help="Training examples, a fixed choice; default all.", rich_help_panel=_DATA)
    ] = None,
    subset: Annotated[
        int, typer.Option(help="Training examples that memorization is measured on.", rich_help_panel=_DATA)
    ] = 1000,
    subset_seed: Annotated[int, typer.Option(help="Of their choice.", rich_help_panel=_DATA)] = 42,
    thresholds: Annotated[str, typer.Option(help="Increasing, e.g. 0,0.5,1,2.", rich_help_panel=_PLAN)] = "",
    start: Annotated[
        float | None, typer.Option(help="First of a list by formula; default 0.", rich_help_panel=_PLAN)
    ] = None,
    stop: Annotated[float | None, typer.Option(help="Last of a list by formula.", rich_help_panel=_PLAN)] = None,
    count: Annotated[int | None, typer.Option(help="How many; default 7.", rich_help_panel=_PLAN)] = None,
    list_kind: Annotated[
        str | None,
        typer.Option("--list", help="linear (default), log_linear or exp_linear.", rich_help_panel=_PLAN),
    ] = None,
    target_ranks: Annotated[
        str, typer.Option(help="Mean gates per module to reach, e.g. 6,4,2.", rich_help_panel=_PLAN)
    ] = "",
    target_parameters: Annotated[
        str, typer.Option(help="Non-zero parameters to reach, e.g. 200000,50000.", rich_help_panel=_PLAN)
    ] = "",
    controls: Annotated[
        str | None,
        typer.Option(
            help="as_shipped (the published loop: learning rate 0), one_shot, one_shot_importance (dense gates pruned"
            " once), svd (of the dense update); 'none' for none; default all.",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    reference: Annotated[
        str, typer.Option(help="What is 100 %: stage_0, or best (of the stages so far).", rich_help_panel=_PLAN)
    ] = "stage_0",
    seeds: Annotated[str, typer.Option(help="Each a run of its own, e.g. 0,1,2.", rich_help_panel=_PLAN)] = "0",
    rank: Annotated[int, typer.Option(help="Largest rank, r.", rich_help_panel=_SORA)] = 8,
    alpha: Annotated[float, typer.Option(help="LoRA's alpha; the scaling is alpha / r.", rich_help_panel=_SORA)] = 16.0,
    dropout: Annotated[float, typer.Option(help="LoRA's.", rich_help_panel=_SORA)] = 0.0,
    targets: Annotated[
        str, typer.Option(help="all-linear, or names such as query,value.", rich_help_panel=_SORA)
    ] = "all-linear",
    mode: Annotated[
        str,
        typer.Option(help="lr (the paper's), adam (in units of the loss) or constant.", rich_help_panel=_SORA),
    ] = "lr",
    operator: Annotated[
        str, typer.Option(help="soft (the paper's) or gapped (the published code's).", rich_help_panel=_SORA)
    ] = "soft",
    gate_init: Annotated[str, typer.Option(help="ones or normal.", rich_help_panel=_SORA)] = "ones",
    gate_lr: Annotated[float | None, typer.Option(help="Of the gates; default --lr.", rich_help_panel=_SORA)] = None,
    l1_weight: Annotated[float, typer.Option(help="Of mean |gate| in the training loss.", rich_help_panel=_SORA)] = 0.0,
    gate_clip: Annotated[
        float | None, typer.Option(help="Norm of the gates' gradient; default with all others.", rich_help_panel=_SORA)
    ] = None,
    prox_start_step: Annotated[
        int, typer.Option(help="First step of a stage that shrinks gates.", rich_help_panel=_SORA)
    ] = 0,
    adam_rms: Annotated[
        bool, typer.Option("--adam-rms", help="Mode adam: one metric per module.", rich_help_panel=_SORA)
    ] = False,
    no_revive: Annotated[
        bool, typer.Option("--no-revive", help="Zero gates stay zero.", rich_help_panel=_SORA)
    ] = False,
    leave_out_zeros: Annotated[
        bool,
        typer.Option("--leave-out-zeros", help="Skip pruned directions; needs --no-revive.", rich_help_panel=_SORA),
    ] = False,
    freeze_head: Annotated[
        bool,
        typer.Option("--freeze-head", help="Leave the new head as it starts (as published).", rich_help_panel=_SORA),
    ] = False,
    lr: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=_STEPS)] = 1e-3,
    scheduler: Annotated[
        str, typer.Option(help="Shape of the learning rate, anew each stage.", rich_help_panel=_STEPS)
    ] = "constant_with_warmup",
    warmup: Annotated[float, typer.Option(help="Fraction of a stage.", rich_help_panel=_STEPS)] = 0.06,
    weight_decay: Annotated[float, typer.Option(help="Of all but the gates.", rich_help_panel=_STEPS)] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.", rich_help_panel=_STEPS)] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Examples.", rich_help_panel=_STEPS)] = 16,
    accumulation: Annotated[int, typer.Option(help="Batches per step.", rich_help_panel=_STEPS)] = 1,
    evaluation_batch_size: Annotated[
        int, typer.Option(help="Examples at a time when measuring.", rich_help_panel=_STEPS)
    ] = 64,
    min_steps: Annotated[int, typer.Option(help="Of each stage.", rich_help_panel=_STEPS)] = 100,
    max_steps: Annotated[int, typer.Option(help="Of each stage.", rich_help_panel=_STEPS)] = 1000,
    dense_steps: Annotated[
        int | None,
        typer.Option(help="Of stage 0, exactly; default as the other stages.", rich_help_panel=_STEPS),
    ] = None,
    check_steps: Annotated[int, typer.Option(help="Steps from check to check.", rich_help_panel=_STEPS)] = 20,
    patience: Annotated[int, typer.Option(help="Checks without change.", rich_help_panel=_STEPS)] = 3,
    tolerance: Annotated[float, typer.Option(help="Relative change of a flat loss.", rich_help_panel=_STEPS)] = 0.01,
    reset_moments: Annotated[
        bool, typer.Option("--reset-moments", help="New optimizer moments each stage.", rich_help_panel=_STEPS)
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Mixed precision.", rich_help_panel=_STEPS)] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=_STEPS)] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print rows and knees as JSON.")] = False,
) -> None:
    """Memorization and generalization of SoRA as its threshold rises (Algorithm 1), beside its controls.

    Example: rank-lab schedule base/ --task rte --data rte/ --thresholds 0,0.5,1,2 --gate-lr 0.01 -o study/

    A run that was stopped goes on where it was: run the same command again. Longer
    lists of thresholds, targets, seeds or controls extend it.
    """
    from rank_lab.sora.schedule_choices import Adapter, Inputs, Plan, Training
    from rank_lab.sora.schedule_command import run_and_print

    inputs = Inputs(
        model=model, name=model_name, task=task, data=data, revision=revision,
        text_columns=tuple(text_column or ()),
        label_column=label_column, kind=kind, score=score, max_length=max_length, train_limit=train_limit,
    )  # fmt: skip
    plan = Plan(
        thresholds=thresholds, start=start, stop=stop, count=count, kind=list_kind, target_ranks=target_ranks,
        target_parameters=target_parameters, controls=controls, reference=reference, seeds=seeds, subset=subset,
        subset_seed=subset_seed, min_steps=min_steps, max_steps=max_steps, dense_steps=dense_steps,
        check_steps=check_steps, patience=patience, tolerance=tolerance, keep_moments=not reset_moments,
    )  # fmt: skip
    adapter = Adapter(
        rank=rank, alpha=alpha, dropout=dropout, targets=targets, mode=mode, operator=operator, gate_init=gate_init,
        gate_lr=gate_lr, gate_clip=gate_clip, l1_weight=l1_weight, prox_start_step=prox_start_step, adam_rms=adam_rms,
        revive=not no_revive, leave_out_zeros=leave_out_zeros, freeze_head=freeze_head,
    )  # fmt: skip
    training = Training(
        learning_rate=lr, scheduler=scheduler, warmup=warmup, weight_decay=weight_decay, clip=clip,
        batch_size=batch_size, accumulation=accumulation, evaluation_batch_size=evaluation_batch_size, bf16=bf16,
        device=device,
    )  # fmt: skip
    run_and_print(inputs, study, adapter, training, plan.schedule(), as_json=as_json)


_RUN, _METHOD, _TEXT, _CODE, _MODEL = "The run", "The method", "Texts and tasks", "Generated code", "The model"


@app.command()
def finetune(
    model: Annotated[str, typer.Argument(help="Base model: folder or hub id.")],
    method: Annotated[
        str,
        typer.Option(
            help="full, bitfit, lora, rslora, dora, pissa, loftq, adalora, sora, vera, ia3, prefix, prompt, prelayer,"
            " series, parallel or compacter."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder of the run, such as STUDY/NAME; its ranks go to STUDY/NAME.rank."),
    ],
    task: Annotated[
        str, typer.Option(help="One of GLUE's (rte, mrpc, cola ...), or a name of your own.", rich_help_panel=_DATA)
    ] = "",
    data: Annotated[
        Path | None, typer.Option(help="Folder of train.jsonl and validation.jsonl.", rich_help_panel=_DATA)
    ] = None,
    dataset: Annotated[str, typer.Option(help="A data set on the hub, ORG/NAME.", rich_help_panel=_DATA)] = "",
    dataset_config: Annotated[str | None, typer.Option(help="Its configuration.", rich_help_panel=_DATA)] = None,
    train_split: Annotated[
        str, typer.Option(help="Its split to learn, e.g. train[:90%].", rich_help_panel=_DATA)
    ] = "train",
    validation_split: Annotated[
        str, typer.Option(help="Its split to validate on.", rich_help_panel=_DATA)
    ] = "validation",
    revision: Annotated[
        str | None, typer.Option(help="Of the data on the hub: branch, tag or commit.", rich_help_panel=_DATA)
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(help="Of a text (default 'text'), or of prompt and completion.", rich_help_panel=_DATA),
    ] = None,
    label_column: Annotated[str, typer.Option(help="Of a class or number.", rich_help_panel=_DATA)] = "",
    kind: Annotated[
        str | None,
        typer.Option(help="causal (default), masked, classification or regression.", rich_help_panel=_DATA),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of the longest example, or of a block.", rich_help_panel=_DATA)
    ] = None,
    packing: Annotated[
        bool, typer.Option("--packing", help="Join texts and cut them into blocks.", rich_help_panel=_DATA)
    ] = False,
    train_limit: Annotated[
        int | None, typer.Option(help="Training examples, a fixed choice; default all.", rich_help_panel=_DATA)
    ] = None,
    validation_limit: Annotated[
        int | None, typer.Option(help="Validation examples, likewise.", rich_help_panel=_DATA)
    ] = None,
    subset_seed: Annotated[int, typer.Option(help="Of their choice.", rich_help_panel=_DATA)] = 42,
    targets: Annotated[
        str | None,
        typer.Option(help="attention, mlp, all (default), or names of modules.", rich_help_panel=_METHOD),
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Adapt the input embedding, too.", rich_help_panel=_METHOD)
    ] = False,
    head: Annotated[bool, typer.Option("--head", help="Adapt the output head, too.", rich_help_panel=_METHOD)] = False,
    rank: Annotated[int | None, typer.Option(help="LoRA family; default 16.", rich_help_panel=_METHOD)] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA family; default 2 x rank.", rich_help_panel=_METHOD)] = None,
    dropout: Annotated[float | None, typer.Option(help="LoRA family.", rich_help_panel=_METHOD)] = None,
    bottleneck: Annotated[
        int | None, typer.Option(help="Adapters: width; default 64.", rich_help_panel=_METHOD)
    ] = None,
    place: Annotated[
        str | None, typer.Option(help="Adapters: attention, mlp or both (default).", rich_help_panel=_METHOD)
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Prompts and prefixes: virtual tokens; default 20.", rich_help_panel=_METHOD)
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="SoRA: sparsity threshold.", rich_help_panel=_METHOD)] = None,
    gate_lr: Annotated[
        float | None, typer.Option(help="SoRA: learning rate of the gates.", rich_help_panel=_METHOD)
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Default where a search for the method's begins.", rich_help_panel=_STEPS)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Default 1000.", rich_help_panel=_STEPS)] = None,
    epochs: Annotated[float | None, typer.Option(help="Instead of steps.", rich_help_panel=_STEPS)] = None,
    optimizer: Annotated[str, typer.Option(help="By transformers' name.", rich_help_panel=_STEPS)] = "adamw_torch",
    scheduler: Annotated[str, typer.Option(help="Shape of the learning rate.", rich_help_panel=_STEPS)] = "cosine",
    warmup: Annotated[float, typer.Option(help="Share of the steps.", rich_help_panel=_STEPS)] = 0.06,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=_STEPS)] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.", rich_help_panel=_STEPS)] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Examples, of each process.", rich_help_panel=_STEPS)] = 16,
    accumulation: Annotated[int, typer.Option(help="Batches per step.", rich_help_panel=_STEPS)] = 1,
    evaluation_batch_size: Annotated[
        int, typer.Option(help="Examples at a time when validating.", rich_help_panel=_STEPS)
    ] = 16,
    seed: Annotated[int, typer.Option(help="Of everything random.", rich_help_panel=_STEPS)] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Mixed precision.", rich_help_panel=_STEPS)] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.", rich_help_panel=_STEPS)
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=_STEPS)] = "cpu",
    checkpoints: Annotated[
        int, typer.Option(help="How many, spaced by the logarithm of the step.", rich_help_panel=_RUN)
    ] = 8,
    save_at: Annotated[str, typer.Option(help="Their steps instead, e.g. 1,10,100.", rich_help_panel=_RUN)] = "",
    track_at: Annotated[
        str,
        typer.Option(
            help="Steps after which ranks are measured; default some of the checkpoints, within 2 % of the time.",
            rich_help_panel=_RUN,
        ),
    ] = "",
    no_track: Annotated[
        bool, typer.Option("--no-track", help="Do not follow ranks along training.", rich_help_panel=_RUN)
    ] = False,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a run to compare with: what would be unfair is said.", rich_help_panel=_RUN),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print record and losses as JSON.")] = False,
) -> None:
    """Train one method, save on a logarithmic schedule, follow its ranks along the way.

    Example: rank-lab finetune base/ --method lora --data code/ --packing --max-length 512 --steps 500 -o study/lora

    A run that was stopped goes on where it was: run the same command again. On several
    GPUs: accelerate launch --multi_gpu --num_processes N -m rank_lab finetune ...
    """
    from rank_lab.training.finetune_choices import Adaptation, DataChoices, TrainingChoices
    from rank_lab.training.finetune_command import finetune_and_print

    learnt = DataChoices(
        model, task=task, data=data, dataset=dataset, dataset_config=dataset_config, train_split=train_split,
        validation_split=validation_split, revision=revision, text_columns=tuple(text_column or ()),
        label_column=label_column, kind=kind, max_length=max_length, packing=packing, train_limit=train_limit,
        validation_limit=validation_limit, subset_seed=subset_seed,
    )  # fmt: skip
    adaptation = Adaptation(
        method, targets=targets, embeddings=embeddings, head=head, rank=rank, alpha=alpha, dropout=dropout,
        bottleneck=bottleneck, place=place, prompt_tokens=prompt_tokens, threshold=threshold, gate_lr=gate_lr,
    )  # fmt: skip
    training = TrainingChoices(
        learning_rate=lr, steps=steps, epochs=epochs, optimizer=optimizer, scheduler=scheduler, warmup=warmup,
        weight_decay=weight_decay, clip=clip, batch_size=batch_size, accumulation=accumulation,
        evaluation_batch_size=evaluation_batch_size, checkpoints=checkpoints, save_at=save_at, seed=seed, bf16=bf16,
        gradient_checkpointing=gradient_checkpointing, device=device,
    )  # fmt: skip
    finetune_and_print(
        learnt,
        adaptation,
        training,
        out,
        track_at=None if no_track else track_at,
        against=tuple(against or ()),
        as_json=as_json,
    )


@app.command()
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


@app.command("import-scores")
def import_scores(
    files: Annotated[
        list[Path],
        typer.Argument(help="results_*.json of lm-eval, evaluation_results.json of the BigCode harness, or .csv."),
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


@app.command()
def fairness(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs that finetune made.")],
    train_text: Annotated[
        Path | None, typer.Option(help="JSON lines that were learned, to be looked through for test questions.")
    ] = None,
    test_text: Annotated[Path | None, typer.Option(help="JSON lines of test questions.")] = None,
    train_column: Annotated[str, typer.Option(help="Column of the learned text.")] = "text",
    test_column: Annotated[str, typer.Option(help="Column of the question.")] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """What would make a comparison of these runs unfair, with where that was seen.

    Example: rank-lab fairness study/full-1e-5 study/lora-1e-4
    """
    from rank_lab.fairness_command import fairness_and_print

    fairness_and_print(runs, train_text, test_text, train_column=train_column, test_column=test_column, as_json=as_json)


def main() -> None:
    """Entry point: what rank_lab or the system refuses becomes one line and exit code 2."""
    try:
        app()
    except (RankLabError, OSError) as error:
        sys.stderr.write(f"error: {plain(' '.join(_text(error).split()))}\n")
        raise SystemExit(2) from None
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:
            sys.stderr.write("stopped; what was finished is kept: run the same command to go on.\n")
        raise


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path, its permissions and the free disk space."
    return str(error) or type(error).__name__
