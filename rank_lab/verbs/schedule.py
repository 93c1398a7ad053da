"""``rank-lab schedule``."""

from pathlib import Path
from typing import Annotated

import typer

from rank_lab.verbs.options import DATA, STEPS

__all__ = ["schedule"]

_PLAN, _SORA = "What is raised", "The adapter"


def schedule(
    model: Annotated[str, typer.Argument(help="Base model: folder or hub id.")],
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for curve, stages and configuration.")],
    task: Annotated[
        str, typer.Option(help="One of GLUE's (rte, mrpc, cola ...), or a name of your own.", rich_help_panel=DATA)
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of train.jsonl and validation.jsonl; default the hub.", rich_help_panel=DATA),
    ] = None,
    model_name: Annotated[str, typer.Option(help="Name of the model in tables; default the folder's.")] = "",
    revision: Annotated[
        str | None, typer.Option(help="Of GLUE on the hub: branch, tag or commit.", rich_help_panel=DATA)
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(help="Own task: column of text, or of prompt and completion.", rich_help_panel=DATA),
    ] = None,
    label_column: Annotated[str, typer.Option(help="Own task: column of the label.", rich_help_panel=DATA)] = "",
    kind: Annotated[
        str | None,
        typer.Option(help="Own task: classification (default), regression or causal.", rich_help_panel=DATA),
    ] = None,
    score: Annotated[
        str, typer.Option(help="Own task: accuracy, f1, matthews_correlation, pearson ...", rich_help_panel=DATA)
    ] = "",
    max_length: Annotated[int | None, typer.Option(help="Tokens of the longest example.", rich_help_panel=DATA)] = None,
    train_limit: Annotated[
        int | None, typer.Option(help="Training examples, a fixed choice; default all.", rich_help_panel=DATA)
    ] = None,
    subset: Annotated[
        int, typer.Option(help="Training examples that memorization is measured on.", rich_help_panel=DATA)
    ] = 1000,
    subset_seed: Annotated[int, typer.Option(help="Of their choice.", rich_help_panel=DATA)] = 42,
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
    lr: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=STEPS)] = 1e-3,
    scheduler: Annotated[
        str, typer.Option(help="Shape of the learning rate, anew each stage.", rich_help_panel=STEPS)
    ] = "constant_with_warmup",
    warmup: Annotated[float, typer.Option(help="Fraction of a stage.", rich_help_panel=STEPS)] = 0.06,
    weight_decay: Annotated[float, typer.Option(help="Of all but the gates.", rich_help_panel=STEPS)] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.", rich_help_panel=STEPS)] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Examples.", rich_help_panel=STEPS)] = 16,
    accumulation: Annotated[int, typer.Option(help="Batches per step.", rich_help_panel=STEPS)] = 1,
    evaluation_batch_size: Annotated[
        int, typer.Option(help="Examples at a time when measuring.", rich_help_panel=STEPS)
    ] = 64,
    min_steps: Annotated[int, typer.Option(help="Of each stage.", rich_help_panel=STEPS)] = 100,
    max_steps: Annotated[int, typer.Option(help="Of each stage.", rich_help_panel=STEPS)] = 1000,
    dense_steps: Annotated[
        int | None,
        typer.Option(help="Of stage 0, exactly; default as the other stages.", rich_help_panel=STEPS),
    ] = None,
    check_steps: Annotated[int, typer.Option(help="Steps from check to check.", rich_help_panel=STEPS)] = 20,
    patience: Annotated[int, typer.Option(help="Checks without change.", rich_help_panel=STEPS)] = 3,
    tolerance: Annotated[float, typer.Option(help="Relative change of a flat loss.", rich_help_panel=STEPS)] = 0.01,
    reset_moments: Annotated[
        bool, typer.Option("--reset-moments", help="New optimizer moments each stage.", rich_help_panel=STEPS)
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Mixed precision.", rich_help_panel=STEPS)] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=STEPS)] = "cpu",
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
