"""Scores of truncated models as they are measured, so that a run that was stopped goes on where it was."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rank_lab.durable import append_line, cut_torn_line
from rank_lab.errors import SchemaError
from rank_lab.score_row import ScoreRow

__all__ = ["KeptScores"]


@dataclass(eq=False)
class KeptScores:
    """Lines of a file, a measured model each; those of other settings are left alone and not read.

    Parameters
    ----------
    file
        Made where it is not there; None to keep nothing.
    told
        What the scores depend on, plain values.
    """

    file: Path | None
    told: Mapping[str, Any]
    _found: dict[str, tuple[ScoreRow, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Read what is there."""
        if self.file is None or not self.file.is_file():
            return
        cut_torn_line(self.file)
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                content = json.loads(line)
                if content["of"] == self._fingerprint:
                    self._found[content["key"]] = tuple(_row(each) for each in content["rows"])
            except (ValueError, KeyError, TypeError, SchemaError):
                continue  # of another rank_lab, or damaged: it is measured again

    def get(self, key: str) -> tuple[ScoreRow, ...] | None:
        """Scores of a model that was measured with these settings; None where it was not."""
        return self._found.get(key)

    def add(self, key: str, rows: Sequence[ScoreRow]) -> None:
        """Keep scores on the disk."""
        self._found[key] = tuple(rows)
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            content = {"of": self._fingerprint, "key": key, "rows": [asdict(row) for row in rows]}
            append_line(self.file, json.dumps(content))

    def done(self) -> None:
        """Remove the file: what it held is in the report."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    @property
    def _fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(dict(self.told), sort_keys=True, default=str).encode()).hexdigest()


def _row(content: Mapping[str, Any]) -> ScoreRow:
    return ScoreRow(**content)
