"""``rank-lab finetune``."""

from pathlib import Path
from typing import Annotated

import typer

from rank_lab.verbs.options import DATA, STEPS

__all__ = ["finetune"]

_RUN, _METHOD = "The run", "The method"


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
        str, typer.Option(help="One of GLUE's (rte, mrpc, cola ...), or a name of your own.", rich_help_panel=DATA)
    ] = "",
    data: Annotated[
        Path | None, typer.Option(help="Folder of train.jsonl and validation.jsonl.", rich_help_panel=DATA)
    ] = None,
    dataset: Annotated[str, typer.Option(help="A data set on the hub, ORG/NAME.", rich_help_panel=DATA)] = "",
    dataset_config: Annotated[str | None, typer.Option(help="Its configuration.", rich_help_panel=DATA)] = None,
    train_split: Annotated[
        str, typer.Option(help="Its split to learn, e.g. train[:90%].", rich_help_panel=DATA)
    ] = "train",
    validation_split: Annotated[
        str, typer.Option(help="Its split to validate on.", rich_help_panel=DATA)
    ] = "validation",
    revision: Annotated[
        str | None, typer.Option(help="Of the data on the hub: branch, tag or commit.", rich_help_panel=DATA)
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(help="Of a text (default 'text'), or of prompt and completion.", rich_help_panel=DATA),
    ] = None,
    label_column: Annotated[str, typer.Option(help="Of a class or number.", rich_help_panel=DATA)] = "",
    kind: Annotated[
        str | None,
        typer.Option(help="causal (default), masked, classification or regression.", rich_help_panel=DATA),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of the longest example, or of a block.", rich_help_panel=DATA)
    ] = None,
    packing: Annotated[
        bool, typer.Option("--packing", help="Join texts and cut them into blocks.", rich_help_panel=DATA)
    ] = False,
    train_limit: Annotated[
        int | None, typer.Option(help="Training examples, a fixed choice; default all.", rich_help_panel=DATA)
    ] = None,
    validation_limit: Annotated[
        int | None, typer.Option(help="Validation examples, likewise.", rich_help_panel=DATA)
    ] = None,
    subset_seed: Annotated[int, typer.Option(help="Of their choice.", rich_help_panel=DATA)] = 42,
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
        float | None, typer.Option(help="Default where a search for the method's begins.", rich_help_panel=STEPS)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Default 1000.", rich_help_panel=STEPS)] = None,
    epochs: Annotated[float | None, typer.Option(help="Instead of steps.", rich_help_panel=STEPS)] = None,
    optimizer: Annotated[str, typer.Option(help="By transformers' name.", rich_help_panel=STEPS)] = "adamw_torch",
    scheduler: Annotated[str, typer.Option(help="Shape of the learning rate.", rich_help_panel=STEPS)] = "cosine",
    warmup: Annotated[float, typer.Option(help="Share of the steps.", rich_help_panel=STEPS)] = 0.06,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=STEPS)] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.", rich_help_panel=STEPS)] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Examples, of each process.", rich_help_panel=STEPS)] = 16,
    accumulation: Annotated[int, typer.Option(help="Batches per step.", rich_help_panel=STEPS)] = 1,
    evaluation_batch_size: Annotated[
        int, typer.Option(help="Examples at a time when validating.", rich_help_panel=STEPS)
    ] = 16,
    seed: Annotated[int, typer.Option(help="Of everything random.", rich_help_panel=STEPS)] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Mixed precision.", rich_help_panel=STEPS)] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.", rich_help_panel=STEPS)
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=STEPS)] = "cpu",
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

    learned = DataChoices(
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
        learned,
        adaptation,
        training,
        out,
        track_at=None if no_track else track_at,
        against=tuple(against or ()),
        as_json=as_json,
    )
