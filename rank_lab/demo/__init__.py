"""The demonstration: its text, its shipped base model, and a study made of them by all that rank_lab does."""

from pathlib import Path

__all__ = ["BASE"]

BASE = Path(__file__).parent / "base"
"""The shipped base model, a Llama of 0.9 M parameters that has read English prose only."""
