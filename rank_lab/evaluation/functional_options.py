"""How functional ranks are measured."""

from dataclasses import dataclass

from rank_lab.errors import RankLabError

__all__ = ["FunctionalOptions"]


@dataclass(frozen=True)
class FunctionalOptions:
    """How it is measured.

    Parameters
    ----------
    scopes
        ``layer``, ``module`` or both; with the second the weighted ranks come along.
    modules
        Only these modules, by name; None for all that differ.
    batch_size
        Inputs at a time.
    groups
        Groups of texts that are resampled.
    resamples, seed
        Of the bootstrap; the seed deals texts to groups, too.
    centered
        Whether the mean of a change is taken off.
    memory
        Bytes for what is kept of the places that are watched at a time.
    """

    scopes: tuple[str, ...] = ("layer", "module")
    modules: frozenset[str] | None = None
    batch_size: int = 8
    groups: int = 24
    resamples: int = 100
    seed: int = 0
    centered: bool = False
    memory: int = 2 << 30

    def __post_init__(self) -> None:
        """Check all values."""
        if not self.scopes or set(self.scopes) - {"layer", "module"}:
            raise RankLabError(f"scopes {self.scopes!r}: expected layer, module or both.")
        for name in ("batch_size", "groups", "memory"):
            if getattr(self, name) < 1:
                raise RankLabError(f"{name} {getattr(self, name)}: expected 1 or more.")
        if self.seed < 0:
            raise RankLabError(f"seed {self.seed}: expected 0 or more.")
        if self.resamples < 0:
            raise RankLabError(f"resamples {self.resamples}: expected 0, for no intervals, or more.")
