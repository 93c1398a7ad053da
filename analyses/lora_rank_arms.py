"""What :mod:`analyses.lora_rank_choice` compares: matrices that LoRA adapts, at several ranks, and full fine-tuning."""

from dataclasses import dataclass

from rank_lab.training.method import MethodChoices

__all__ = ["FULL", "MATRICES", "NORMAL", "QUICK", "Arm", "Plan"]

MATRICES = {
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "q, k": "q_proj,k_proj", "q, v": "q_proj,v_proj",
    "q, k, v, o": "attention", "MLP": "mlp", "all": "all",
}  # fmt: skip
"""What is adapted, to names of targets; all: attention and MLP."""

FULL = "full fine-tuning"
_ALPHA = 16.0


@dataclass(frozen=True)
class Arm:
    """What is trained.

    Parameters
    ----------
    matrices
        A key of :data:`MATRICES`, or :data:`FULL`.
    rank
        Of LoRA; 0 for full fine-tuning.
    """

    matrices: str
    rank: int

    @property
    def name(self) -> str:
        """As files and tables call it."""
        return "full" if self.matrices == FULL else f"{self.matrices.replace(', ', '')}-r{self.rank}"

    @property
    def method(self) -> str:
        """Of the registry."""
        return "full" if self.matrices == FULL else "lora"

    @property
    def choices(self) -> MethodChoices:
        """Alpha is the same at every rank, so that the best rate hardly depends on it (LoRA Without Regret)."""
        if self.matrices == FULL:
            return MethodChoices()
        return MethodChoices(targets=MATRICES[self.matrices], rank=self.rank, alpha=_ALPHA)


@dataclass(frozen=True)
class Plan:
    """Sizes of a study.

    Parameters
    ----------
    grid, ranks
        Choices of matrices that are trained at every rank.
    budget
        Arms of as many parameters each, where the four matrices of attention are square: of the paper's Table 5.
    swept_rank
        At which the rates of a choice of matrices are tried.
    lora_rates, full_rates
        That are tried, ascending.
    steps, batch, context
        Optimizer steps, blocks a step, tokens a block.
    pieces, documents
        Held-out texts, and files of code to learn (None for all).
    compared
        The two ranks whose subspaces are compared, of q and v.
    amplified
        The small rank whose amplification stands beside that of the larger of these.
    rounds
        Steps that are timed of each arm.
    """

    grid: tuple[str, ...] = ("q", "v", "q, v", "q, k, v, o", "MLP", "all")
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    budget: tuple[tuple[str, int], ...] = (
        ("q", 8), ("k", 8), ("v", 8), ("o", 8), ("q, k", 4), ("q, v", 4), ("q, k, v, o", 2),
    )  # fmt: skip
    swept_rank: int = 4
    lora_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    full_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    steps: int = 50
    batch: int = 4
    context: int = 128
    pieces: int = 64
    documents: int | None = None
    compared: tuple[int, int] = (8, 64)
    amplified: int = 4
    rounds: int = 16

    def arms(self) -> tuple[Arm, ...]:
        """The grid, what the budget adds to it, and full fine-tuning."""
        grid = [Arm(matrices, rank) for matrices in self.grid for rank in self.ranks]
        return tuple(dict.fromkeys([*grid, *(Arm(*row) for row in self.budget), Arm(FULL, 0)]))

    def timed(self) -> tuple[Arm, ...]:
        """Arms whose steps are timed; full fine-tuning is the last."""
        ranks = dict.fromkeys((self.ranks[0], self.amplified, self.ranks[-1]))
        return (*(Arm(matrices, rank) for matrices in ("q, v", "all") for rank in ranks), Arm(FULL, 0))

    def swept(self) -> tuple[Arm, ...]:
        """An arm of each choice of matrices."""
        matrices = dict.fromkeys(arm.matrices for arm in self.arms())
        return tuple(Arm(each, 0 if each == FULL else self.swept_rank) for each in matrices)

    def rates(self, arm: Arm) -> tuple[float, ...]:
        """That are tried of an arm."""
        return self.full_rates if arm.matrices == FULL else self.lora_rates


NORMAL = Plan()
QUICK = Plan(
    grid=("q, v", "all"), ranks=(1, 4, 8), budget=(("q", 8), ("q, v", 4)), lora_rates=(1e-3, 1e-2), full_rates=(1e-3,),
    steps=2, batch=2, context=16, pieces=4, documents=4, compared=(4, 8), amplified=1, rounds=2,
)  # fmt: skip
