"""What is compared of one checkpoint: the caller's choices and the start that its training kept, as a plan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import Plan
from rank_lab.errors import SchemaError
from rank_lab.kept_start import kept_start
from rank_lab.pairing import plan_updates
from rank_lab.training_record import TrainingRecord, record_beside

__all__ = ["RunSource", "Settings", "plan_since", "planned", "recorded_choices", "start_of", "training_records"]


@dataclass(frozen=True)
class Settings:
    """Choices of an analysis beyond how an update is measured.

    Parameters
    ----------
    run
        Name of the run in the tables; default the name of the folder, of a ``checkpoint-N`` the folder above it.
    workers
        Processes; 0 for as many as cores where that pays. More than one starts
        fresh Python processes, which a script must allow by its
        ``if __name__ == "__main__":``.
    lora_alpha
        For LoRA files that do not record it.
    base_rounded
        The base file was rounded after training had started from its parent, so that its rounding is in
        the difference, too; see :func:`rank_lab.noise.noise_of`.
    split_fused
        Take fused weights apart; see :func:`rank_lab.pairing.plan_updates`.
    initial
        The adapter as it was saved before training; see :func:`rank_lab.pairing.plan_updates`. Default, where the
        record of a training says that its method starts from a part of the base: the one that it kept.
    """

    run: str = ""
    workers: int = 1
    lora_alpha: float | None = None
    base_rounded: bool = False
    split_fused: bool = False
    initial: Checkpoint | str | Path | None = None


@dataclass(frozen=True)
class RunSource:
    """A run and how its files are read, where one stands beside another or is made into something else.

    Parameters
    ----------
    source
        Checkpoint, path or hub id.
    settings
        Of its files: alpha, start, fused weights, a rounded base, and its name. Its ``workers`` say nothing here.
    """

    source: Checkpoint | str | Path
    settings: Settings = Settings()

    @classmethod
    def of(cls, given: "Checkpoint | str | Path | RunSource") -> "RunSource":
        """What was given, with the settings that files mostly need where it brings none."""
        return given if isinstance(given, RunSource) else cls(given)


def planned(checkpoint: Checkpoint, base: Checkpoint | None, settings: Settings) -> Plan:
    """What :func:`rank_lab.analysis.analyze` compares of one checkpoint since the base, from headers alone.

    Parameters
    ----------
    checkpoint, base, settings
        As it takes them.

    Raises
    ------
    RankLabError
        If nothing can be compared: see :func:`rank_lab.pairing.plan_updates`.
    """
    return plan_since(checkpoint, base, settings, start_of(checkpoint, settings))


def start_of(
    checkpoint: Checkpoint, settings: Settings, training: Mapping[Path, TrainingRecord] | None = None
) -> Checkpoint | None:
    """The adapter before training: the one that was named, else the one that its training kept.

    Parameters
    ----------
    checkpoint, settings
        Of the run.
    training
        Records by the checkpoints' folders, where they have been read.
    """
    if settings.initial is not None:
        return settings.initial if isinstance(settings.initial, Checkpoint) else Checkpoint.open(settings.initial)
    records = training_records([checkpoint])[0] if training is None else training
    return kept_start(checkpoint, checkpoint.folder, records.get(checkpoint.folder))


def plan_since(checkpoint: Checkpoint, base: Checkpoint | None, settings: Settings, start: Checkpoint | None) -> Plan:
    """The plan of one checkpoint, its adapter's start taken out.

    Parameters
    ----------
    checkpoint, base, settings
        As :func:`rank_lab.analysis.analyze` takes them.
    start
        From :func:`start_of`.

    Raises
    ------
    RankLabError
        See :func:`rank_lab.pairing.plan_updates`.
    """
    plan = plan_updates(
        checkpoint, base, lora_alpha=settings.lora_alpha, initial=start, split_fused=settings.split_fused
    )
    if not settings.base_rounded:
        return plan
    return replace(plan, specs=tuple(replace(spec, base_rounded=True) for spec in plan.specs))


def training_records(checkpoints: Sequence[Checkpoint]) -> tuple[dict[Path, TrainingRecord], str]:
    """Records of the trainings by the checkpoints' folders, and why one that is there could not be read.

    Parameters
    ----------
    checkpoints
        Of one run.
    """
    found, unread = {}, ""
    for folder in dict.fromkeys(checkpoint.folder for checkpoint in checkpoints):
        try:
            record = record_beside(folder)
        except SchemaError as error:  # any tool may have written a file of that name
            unread = str(error)
            continue
        if record is not None:
            found[folder] = record
    return found, unread


def recorded_choices(settings: Settings, starts: Iterable[Checkpoint | None]) -> dict[str, Any]:
    """The settings that numbers depend on, for a provenance.

    Parameters
    ----------
    settings
        Of the run.
    starts
        What :func:`start_of` found for its checkpoints.

    Examples
    --------
    >>> recorded_choices(Settings(lora_alpha=16, base_rounded=True), [None])
    {'lora_alpha': 16, 'split_fused': False, 'base_rounded': True}
    """
    chosen: dict[str, Any] = {"lora_alpha": settings.lora_alpha, "split_fused": settings.split_fused}
    if settings.base_rounded:
        chosen["base_rounded"] = True
    if sources := dict.fromkeys(start.source for start in starts if start is not None):
        chosen |= {"initial": ", ".join(sources), "initial_kept_by_training": settings.initial is None}
    return chosen
