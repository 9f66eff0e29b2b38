"""How far a run has come, which is saved with every state, how far it may go, and what is shown of its steps."""

import math
import time
from dataclasses import dataclass

from tqdm import tqdm

from cli.train import OptimisationFlags
from errors import notice


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


def show_step(bar: tqdm, progress: Progress, record: dict[str, float]) -> None:
    """Move the progress bar; without a terminal print a line per validation instead."""
    if "valid_auc" in record and bar.disable:
        notice(f"step {progress.step}: loss {record['loss']:.3f}, validation AUC {record['valid_auc']:.3f}")
    bar.update()
    best = f"{progress.best_auc:.3f}"
    bar.set_postfix(loss=f"{record['loss']:.3f}", kl=f"{record['kl']:.2f}", valid_auc=best)


def step_timing(step: int, started: float, pairs: int, tokens: int) -> dict:
    """A line of timings.jsonl. started: time.perf_counter() at the step's beginning; time: seconds since 1970."""
    seconds = time.perf_counter() - started
    return {
        "step": step,
        "time": time.time(),
        "seconds": seconds,
        "pairs_per_s": pairs / seconds,
        "tokens_per_s": tokens / seconds,
    }
