"""Fine-tune LoRA on a LLaMA so that it answers "will like?" and "will dislike?" consistently.

    python train.py --data movie --shots 64                        the built-in demo model
    python train.py --data movie --shots 64 --model DIR            LLaMA-7B or any LlamaForCausalLM folder
    python train.py --data movie --shots 64 --objective tallrec    the baseline: positive prompts only
    python train.py --data movie --shots 64 --kl-weight 0          the control: both prompts, no KL
    python train.py --out runs/NAME --resume                       resume that run
    torchrun --nproc-per-node 4 train.py --data movie ...          the same run on four GPUs

The results go to standard output, everything else to standard error.

Exit status: 0 done; 2 something to mend, said in a line; 75 stopped by SIGINT or SIGTERM during training, saved, can be
resumed; 130 and 143 stopped at once by these two; 1 a bug. docs/reliability.md says what is kept.
"""

import installed  # noqa: F401

import math
import time

import numpy as np
import torch
from torch import nn

from cli.train import OptimisationFlags
from cli.verb import run_verb
from data.pairs import EncodedPair
from data.splits import Split
from errors import notice
from machine import device, ranks
from machine.signals import Stopped, StopRequest
from objectives.base import Objective
from run.failures import StepSums, error_context, refuse_non_finite_gradient, refuse_non_finite_weights
from run.folder import RunFolder, resume_command
from run.outcome import finish, score_after, score_before
from run.progress import Progress, count_steps, ending, show_step, step_timing, training_bar
from run.start import start_run
from scoring.splits import validation_measures
from tensors import copy_tensors, trainable_parameters


def main(argv: list[str]) -> None:
    """One run, from the command line to its results."""
    start = start_run(argv, __doc__)
    if start is None:  # --plan
        return
    inputs, objective, run, flags = start.inputs, start.objective, start.run, start.flags
    rehearse(inputs.model, start.longest, objective, flags.micro_batch_size, start.planned)
    before, untrained = score_before(run, inputs, flags), copy_tensors(inputs.model)
    progress = fine_tune(inputs.model, inputs.train.pairs, inputs.valid, objective, run, flags)
    after = score_after(run, inputs, flags, progress, before, untrained)
    if ranks.is_first():
        finish(run, inputs, flags, progress, before, after)
        notice(ending(progress, start.began))


# ---- the loop -----------------------------------------------------------------------------------


def fine_tune(
    model: nn.Module,
    pairs: list[EncodedPair],
    valid: Split,
    objective: Objective,
    run: RunFolder,
    flags: OptimisationFlags,
) -> Progress:
    """Train until the steps are done or --select on `valid` stops improving; the run folder gets the best adapter."""
    trained = trainable_parameters(model)
    parameters = list(trained.values())
    optimizer = torch.optim.AdamW(parameters, lr=flags.lr, weight_decay=flags.weight_decay)
    steps_per_epoch, total_steps = count_steps(len(pairs), flags)
    progress = run.restore_state(model, optimizer)
    report_resumed(run, progress, progress.is_over(total_steps, flags.patience))
    with StopRequest() as stop, training_bar(total_steps, progress) as bar:
        while not progress.is_over(total_steps, flags.patience):
            step, started = progress.step, time.perf_counter()
            due = (step + 1) % flags.eval_every == 0 or step + 1 == total_steps
            lr = learning_rate(step, total_steps, flags)
            batch = batch_of_step(pairs, step, steps_per_epoch, flags.batch_size, flags.seed)
            with error_context(f"step {step + 1}"):
                sums = accumulate_gradients(model.train(), batch, objective, flags.micro_batch_size)
                norm = torch.nn.utils.clip_grad_norm_(parameters, flags.clip)
                record = sums.read(norm, trained)  # the one time in a step that a GPU is waited for
                refuse_non_finite_gradient(record["grad_norm"], model, objective, batch)
                optimizer.param_groups[0]["lr"] = record["lr"] = lr
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if due:
                    refuse_non_finite_weights(trained)

            progress.step = step + 1
            timing = step_timing(progress.step, started, len(batch), record.pop("tokens"))
            if due:
                with error_context(f"validation after step {progress.step}"):
                    record |= validation_measures(model, valid)
                if progress.validated(record[f"valid_{flags.select}"]):
                    run.save_best(model)
            run.log({"step": progress.step, "epoch": step // steps_per_epoch, **record}, timing)
            stopping = ranks.any_rank(stop.signal is not None)
            if stopping and not due:
                refuse_non_finite_weights(trained)
            if due or stopping:
                run.save_state(model, optimizer, progress)
            if stopping:
                signal = stop.signal or "a signal to another process"
                raise Stopped(f"{signal}: saved after step {progress.step}; resume with: {resume_command(run.path)}")
            show_step(bar, progress, record, run.times, total_steps, flags)
    return progress


def report_resumed(run: RunFolder, progress: Progress, over: bool) -> None:
    """Say where a resumed run stands; results of an end that is no longer the run's are deleted."""
    if not run.resume:
        return
    if over:
        notice(f"Nothing is left to train: the run ended after step {progress.step:,}; it is scored again")
    else:
        run.forget_results()
        notice(f"Resuming after step {progress.step:,}")


def rehearse(model: nn.Module, longest: list[EncodedPair], objective: Objective, micro: int, planned: str) -> None:
    """Run the longest micro-batch once and forget it: an out-of-memory error appears now, next to the plan.

    micro: pairs of a micro-batch.
    """
    here = model.lm_head.weight.device
    with error_context("the longest micro-batch, tried before step 1", planned), device.forked_rng(here):
        accumulate_gradients(model.train(), longest, objective, micro).read()
        model.zero_grad(set_to_none=True)


def batch_of_step(
    pairs: list[EncodedPair], step: int, steps_per_epoch: int, batch_size: int, seed: int
) -> list[EncodedPair]:
    """The pairs of one optimizer step, a function of seed and step alone: nothing to save, nothing to restore."""
    epoch, position = divmod(step, steps_per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(len(pairs))
    chosen = order[position * batch_size : (position + 1) * batch_size]
    # By length, so that a micro-batch has little padding; which pairs make a step does not change.
    return sorted((pairs[i] for i in chosen), key=lambda pair: pair.length)


def accumulate_gradients(
    model: nn.Module, batch: list[EncodedPair], objective: Objective, micro_batch_size: int
) -> StepSums:
    """Forward and backward over the micro-batches of one step, on all ranks; returns what they add up to."""
    sums, even = StepSums(len(batch), objective.terms, model.lm_head.weight.device), ranks.is_sharded(model)
    for pairs, weight in ranks.rank_micro_batches(batch, micro_batch_size, objective.any_micro_batch, even):
        loss, terms, tokens = objective.loss(model, pairs, len(batch))
        (weight * loss).backward()
        sums.add(pairs, weight, loss, terms, tokens)
    ranks.sum_over_ranks(list(trainable_parameters(model).values()), sums.totals)
    return sums


def learning_rate(step: int, total_steps: int, flags: OptimisationFlags) -> float:
    """Linear from lr / warmup_steps up to lr, then linear down to 0 at total_steps, or along a cosine to end_lr.

    The cosine is counted from step 0, as CoLLM's code does, so that after the warm-up it begins a little below lr.
    """
    warm_up = min(1.0, (step + 1) / max(1, flags.warmup_steps))
    if flags.schedule == "cosine":
        cosine = flags.end_lr + (flags.lr - flags.end_lr) * (1 + math.cos(math.pi * step / total_steps)) / 2
        return flags.lr * warm_up if step < flags.warmup_steps else cosine
    decay = min(1.0, (total_steps - step) / max(1, total_steps - flags.warmup_steps))
    return flags.lr * min(warm_up, decay)


if __name__ == "__main__":
    run_verb(ranks.distributed(main))
