"""What a study has, brought together for those who write all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rank_lab.behavioural_report import BehaviouralReport
from rank_lab.curve import Curve
from rank_lab.functional_report import FunctionalReport
from rank_lab.outcomes import Outcomes
from rank_lab.report import RankReport
from rank_lab.subspace_report import SubspaceReport

__all__ = ["StudyParts"]


@dataclass(frozen=True)
class StudyParts:
    """The parts of a study that are there.

    Parameters
    ----------
    reports
        Of ranks.
    outcomes, curve
        None for what the study does not have.
    subspaces, behavioural, functional
        Comparisons of subspaces, behavioural ranks and functional ranks, by name.

    Examples
    --------
    >>> StudyParts().beside_ranks
    False
    """

    reports: Sequence[RankReport] = ()
    outcomes: Outcomes | None = None
    curve: Curve | None = None
    subspaces: Mapping[str, SubspaceReport] = field(default_factory=dict)
    behavioural: Mapping[str, BehaviouralReport] = field(default_factory=dict)
    functional: Mapping[str, FunctionalReport] = field(default_factory=dict)

    @property
    def beside_ranks(self) -> bool:
        """Whether there is anything but reports of ranks."""
        others = (self.subspaces, self.behavioural, self.functional)
        return self.outcomes is not None or self.curve is not None or any(others)
