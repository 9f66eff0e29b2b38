"""How far a run has come, which is saved with every state, and how far it may go."""

import math
from dataclasses import dataclass

from cli.train import OptimisationFlags


@dataclass
class Progress:
    """step: optimizer steps done; since_best: validations since the best one. best_auc is -1 before the first."""

    step: int = 0
    best_auc: float = -1.0
    best_step: int = 0
    since_best: int = 0

    def validated(self, auc: float) -> bool:
        """Note a validation; returns whether its AUC is better than any before."""
        self.since_best += 1
        if auc <= self.best_auc:
            return False
        self.best_auc, self.best_step, self.since_best = auc, self.step, 0
        return True

    def is_over(self, total_steps: int, patience: int) -> bool:
        """Whether the steps are done, or validation has stopped improving."""
        return self.step >= total_steps or self.since_best >= patience


def count_steps(pairs: int, flags: OptimisationFlags) -> tuple[int, int]:
    """Optimizer steps: (of an epoch, of the run at most)."""
    steps_per_epoch = math.ceil(pairs / flags.batch_size)
    return steps_per_epoch, min(flags.epochs * steps_per_epoch, flags.max_steps or math.inf)
