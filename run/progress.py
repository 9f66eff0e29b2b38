"""How far a run has come, which is saved with every state, how far it may go, and what is shown of its steps."""

import math
import time
from dataclasses import dataclass

import torch
from tqdm import tqdm

from cli.train import OptimisationFlags
from errors import notice
from machine.bar import Bar
from machine.device import peak_memory

OF_A_LOG = {  # name in metrics.jsonl: label
    "loss": "loss",
    "valid_auc": "validation AUC",
    "valid_contradiction_rate": "contradiction",
    "valid_group_accuracy": "both right",
}


@dataclass
class Progress:
    """step: optimizer steps done; since_best: validations since the best one. best_value is -1 before the first."""

    step: int = 0
    best_value: float = -1.0  # of the measure that chooses
    best_step: int = 0
    since_best: int = 0

    def validated(self, value: float) -> bool:
        """Note a validation; returns whether the measure that chooses is better than ever before."""
        self.since_best += 1
        if value <= self.best_value:
            return False
        self.best_value, self.best_step, self.since_best = value, self.step, 0
        return True

    def is_over(self, total_steps: int, patience: int) -> bool:
        """Whether the steps are done, or validation has stopped improving."""
        return self.step >= total_steps or self.since_best >= patience

    def ends_at(self, total_steps: int, eval_every: int, patience: int) -> int:
        """The step after which the run ends if no further validation is better."""
        return min(total_steps, (self.step // eval_every + patience - self.since_best) * eval_every)


def count_steps(pairs: int, flags: OptimisationFlags) -> tuple[int, int]:
    """Optimizer steps: (of an epoch, of the run at most)."""
    steps_per_epoch = math.ceil(pairs / flags.batch_size)
    return steps_per_epoch, min(flags.epochs * steps_per_epoch, flags.max_steps or math.inf)


@dataclass
class Times:
    """Seconds that the plan expects, of a step, a validation, and of scoring both splits once in both wordings.

    steps, seconds: of the steps that were made since, which correct the plan.
    """

    step: float
    validation: float
    scoring: float
    steps: int = 0
    seconds: float = 0.0

    def measured(self, seconds: float) -> None:
        """Note how long a step took."""
        self.steps += 1
        self.seconds += seconds

    def left(self, step: int, total_steps: int, eval_every: int) -> float:
        """After this step, to the end of the run: with all validations and the final scoring."""
        validations = math.ceil(total_steps / eval_every) - step // eval_every if step < total_steps else 0
        planned = (total_steps - step) * self.step + validations * self.validation + self.scoring
        return planned * self.seconds / (self.steps * self.step) if self.steps else planned


def training_bar(total_steps: int, progress: Progress) -> Bar:
    """The bar of the loop, from where the run stands."""
    return Bar(total_steps, "training", "steps", progress.step, keep=True)


def show_step(
    bar: Bar,
    progress: Progress,
    record: dict[str, float],
    times: Times | None,
    total_steps: int,
    flags: OptimisationFlags,
) -> None:
    """Move the progress bar; in a log print a line per validation too.

    What is left is counted to where patience ends, as if no validation were better. times: None if nothing is known.
    """
    if "valid_auc" in record and bar.is_log:
        shown = [f"{label} {record[name]:.3f}" for name, label in OF_A_LOG.items() if name in record]
        notice(f"step {progress.step}: {', '.join(shown)}")
    term = f"contrast {record['contrast']:.3f}" if "contrast" in record else f"KL {record['kl']:.2f}"
    note = f"loss {record['loss']:.3f}, {term}"
    note += f", best {progress.best_value:.3f}" if progress.best_step else ""
    if times is None:
        bar.update(1, note)
        return
    end = progress.ends_at(total_steps, flags.eval_every, flags.patience)
    left = times.left(progress.step, end, flags.eval_every)
    bar.update(1, note, left, "validation improves" if end < total_steps else "")


def ending(progress: Progress, began: float) -> str:
    """The last line of a run. began: time.monotonic() at its start.

    The plan counts tensors, and holes between them as far as can be foreseen; this counts all that the system gave.
    """
    counted = "allocated on the GPU" if torch.cuda.is_available() else "resident, the whole process counted"
    memory = f"; at most {size / 1e6:,.0f} MB {counted}" if (size := peak_memory()) else ""
    return (
        f"\nDone in {tqdm.format_interval(time.monotonic() - began)} (min:s){memory}; "
        f"best step {progress.best_step} of {progress.step}"
    )


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
