"""Records of trainings that were none, for tests."""

from typing import Any

from rank_lab.training_record import TrainingRecord

LORA = {"targets": "all", "embeddings": True, "head": True, "rank": 16, "alpha": 32.0, "dropout": 0.0}


def record(method: str = "full", rate: float = 1e-5, seed: int = 0, **others: Any) -> TrainingRecord:
    given: dict[str, Any] = {
        "kind": "causal", "base": "model", "revision": None, "choices": LORA if method != "full" else {},
        "optimizer": "adamw_torch", "scheduler": "constant", "warmup": 0.0, "weight_decay": 0.0, "clip": 1.0,
        "batch_size": 8, "steps": 500, "trainable_parameters": 10, "parameters": 100, "precision": "float32",
        "data": {"train": "abc"},
    }  # fmt: skip
    return TrainingRecord(method=method, learning_rate=rate, seed=seed, **given | others)
