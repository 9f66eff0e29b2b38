"""Fine-tune LoRA on a LLaMA so that it answers "will like?" and "will dislike?" consistently.

    python train.py --data movie --shots 64                        the built-in demo model
    python train.py --data movie --shots 64 --model DIR            LLaMA-7B or any LlamaForCausalLM folder
    python train.py --data movie --shots 64 --objective tallrec    the baseline: positive prompts only
    python train.py --data movie --shots 64 --kl-weight 0          the control: both prompts, no KL
    python train.py --out runs/NAME --resume                       go on where that run stopped
    torchrun --nproc-per-node 4 train.py --data movie ...          the same run on four GPUs

Exit status: 0 done; 2 something to mend, said in a line; 75 stopped by SIGINT or SIGTERM while training, saved, to be
resumed; 130 and 143 ended at once by these two; 1 a bug. docs/reliability.md says what is kept.
"""

import json
import math
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cli.data import load_data
from cli.flags import parse_flags
from cli.train import TrainFlags, adapter_settings, check_flags, presets, run_name, shot_count
from cli.verb import run_verb
from data.interactions import Dataset, select_shots
from data.pairs import EncodedPair, aligned_positions, collate, next_tokens
from data.splits import Split, answers_in_context, encode_split
from errors import DataError, notice
from files import write_json
from lora.adapter import load_adapter, targets_named_in
from lora.inject import add_lora, lora_parameters, lora_state
from loss import (
    PairTerms,
    answer_terms,
    log_probabilities,
    paper_loss,
    released_loss,
    sequence_terms,
    token_cross_entropy,
)
from machine import ranks
from machine.device import compile_layers, pick_device
from machine.plan import longest_pairs, make_plan
from machine.signals import Stopped, StopRequest
from metrics import evaluate, paired_change
from model.demo import model_folder
from model.llama import Llama
from model.prefix_tree import prefix_tree, take
from report.curves import draw_curves
from report.tables import next_commands, plan_table, result_table, step_plan
from run.base import load_base, warn_of_misfit
from run.config import chosen_flags, fingerprints, results_heading, run_config
from run.failures import error_context, refuse_non_finite_gradient, refuse_non_finite_loss, refuse_non_finite_weights
from run.folder import RunFolder, fresh_name, refuse_unusable, resume_command
from run.merge import refuse_unusable_output, write_merged
from run.predictions import write_predictions
from run.resume import config_of_resumed, flags_of_run
from scoring.splits import positive_auc, rules_without_learning, score_base, score_split


def main(argv: list[str]) -> None:
    flags, resolved = parse_flags(TrainFlags, argv, __doc__, presets, check_flags)
    if flags.resume:
        flags, resolved = flags_of_run(flags, resolved)
    out = Path(flags.out or ranks.broadcast(lambda: str(fresh_name(Path("runs"), run_name(flags)))))
    refuse_unusable(out, flags.resume)  # now, and not after minutes of loading
    if flags.merge_out:
        refuse_unusable_output(Path(flags.merge_out), "--merge-out")
    device = pick_device(flags.device)

    data = load_data(vars(flags))
    selection = data.selection_rows()
    if len({row.label for row in selection}) < 2:
        raise DataError(f"--data {flags.data}: all validation rows have one label, so no AUC can choose the best state")
    shots = select_shots(data.train, shot_count(flags.shots), flags.seed)
    model, tokenizer = load_base(flags.model, flags.precision, device, flags.base_dtype, flags.fsdp)
    train, valid, test = (
        encode_split(rows, data, tokenizer, flags.template, flags.max_len) for rows in (shots, selection, data.test)
    )
    answers = answers_in_context(data, tokenizer, flags.template)

    adapter = adapter_settings(flags)
    trainable = start_adapter(model, adapter, flags)
    if flags.compile:
        compile_layers(model)
    plan = make_plan(model, train.pairs, valid.pairs, flags)
    planned = plan_table(plan.as_dict(), count_steps(len(train.pairs), flags)[1])
    if flags.plan:
        notice(planned)
        return print(json.dumps(plan.as_dict())) if flags.json else None
    # One decision for all: memory is not equally free on every rank.
    model.model.checkpointed_layers, micro_batch_size = ranks.broadcast(lambda: [plan.checkpointed, plan.pairs])
    flags, resolved.values["micro_batch_size"] = replace(flags, micro_batch_size=micro_batch_size), micro_batch_size

    seen = fingerprints(
        data,
        {"train": train, "valid": valid, "test": test},
        flags.model,
        adapter["base_fingerprint"],
        flags.init_adapter,
    )
    config = run_config(resolved, data, device, seen)
    run = RunFolder(out, flags.resume)
    run.write_config(config_of_resumed(out, config) if flags.resume else config)
    notice(
        f"{run.path}: {data.name} from {data.source}; base {flags.model}, {flags.precision} on {device}; {trainable:,} trainable parameters"
    )
    notice(chosen_flags(resolved))
    rehearse(model, train.pairs, flags, planned)

    before = {name: score_base(run, name, model, split, answers) for name, split in (("valid", valid), ("test", test))}
    summary = fine_tune(model, train.pairs, flags, run, adapter, lambda: positive_auc(model, valid, answers))
    run.load_best(model)
    after = {
        name: score_split(model, split, answers, f"tuned on {name}")
        for name, split in (("valid", valid), ("test", test))
    }
    if not ranks.is_first():
        return None

    results = write_outcome(
        run, results_heading(flags, data, summary), data, {"valid": valid, "test": test}, before, after
    )
    notice(result_table(results, "test"))
    notice(next_commands(run.path, flags))
    if flags.merge_out:
        write_merged(model_folder(flags.model), model, run.path, Path(flags.merge_out))
        notice(f"Merged checkpoint written to {flags.merge_out}")
    if flags.json:
        print(json.dumps(results, allow_nan=False))


def write_outcome(
    run: RunFolder, results: dict, data: Dataset, splits: dict[str, Split], before: dict, after: dict
) -> dict:
    """Measure both splits, write the files of a finished run, and return results.json, of which the heading is given."""
    for name, split in splits.items():
        results[name] = {
            "before": evaluate(before[name]),
            "after": evaluate(after[name]),
            "change": paired_change(before[name], after[name]),
            "rules": rules_without_learning(data.train, split.rows),
        }
    with run.writing():
        write_predictions(run.path / "predictions.csv", [row.target for row in splits["test"].rows], after["test"])
        draw_curves(run.path / "curves.png", run.history(), results)
        write_json(run.path / "results.json", results)  # last: where it is, the run is whole
    return results


def start_adapter(model: Llama, adapter: dict, flags: TrainFlags) -> int:
    """A fresh adapter, or the one to go on from; returns the number of trainable parameters."""
    init_adapter = flags.init_adapter and Path(flags.init_adapter)
    where = targets_named_in(init_adapter) if init_adapter else "--lora-targets"
    torch.manual_seed(flags.seed)  # LoRA's A, then its dropout
    trainable = add_lora(
        model, *(adapter[name] for name in ("targets", "r", "alpha", "dropout", "rslora")), where=where
    )
    if init_adapter:
        load_adapter(model, init_adapter)
        warn_of_misfit(init_adapter, adapter)
    ranks.seed_dropout(flags.seed)
    return trainable


# ---- the loop -----------------------------------------------------------------------------------


def fine_tune(
    model: Llama,
    pairs: list[EncodedPair],
    flags: TrainFlags,
    run: RunFolder,
    adapter: dict,
    validate: Callable[[], float],
) -> dict:
    """Train until the steps are done or validation stops improving; the best adapter is left in the run folder.

    validate: () -> AUC on the validation split. Returns what happened, for results.json.
    """
    parameters = lora_parameters(model)
    optimizer = torch.optim.AdamW(parameters, lr=flags.lr, weight_decay=flags.weight_decay)
    steps_per_epoch, total_steps = count_steps(len(pairs), flags)
    progress = {"step": 0, "best_auc": -1.0, "best_step": 0, "since_best": 0}
    if flags.resume:
        progress = run.restore_state(model, optimizer) or progress
    notice(step_plan(len(pairs), steps_per_epoch, total_steps, flags))
    if flags.resume and is_over(progress, total_steps, flags):
        notice(f"Nothing is left to train: the run ended after step {progress['step']:,}; it is scored again")
    elif flags.resume:
        run.forget_results()
        notice(f"Going on after step {progress['step']:,}")

    with StopRequest() as stop, tqdm(total=total_steps, initial=progress["step"], unit="step", disable=None) as bar:
        while not is_over(progress, total_steps, flags):
            step = progress["step"]
            started = time.perf_counter()
            set_learning_rate(optimizer, flags, step, total_steps)
            batch = batch_of_step(pairs, step, steps_per_epoch, flags)
            with error_context(f"step {step + 1}"):
                record = accumulate_gradients(model.train(), batch, flags)
                norm = torch.nn.utils.clip_grad_norm_(parameters, flags.clip)
                refuse_non_finite_gradient(
                    norm, parameters, batch, lambda pairs: share_of_loss(model, pairs, len(batch), flags)
                )
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                refuse_non_finite_weights(lora_state(model))

            progress["step"] = step + 1
            timing = step_timing(progress["step"], started, len(batch), record.pop("tokens"), model)
            record |= {"grad_norm": float(norm), "lr": optimizer.param_groups[0]["lr"]}
            due = progress["step"] % flags.eval_every == 0 or progress["step"] == total_steps
            if due:
                with error_context(f"validation after step {progress['step']}"):
                    record["valid_auc"] = validate()
                keep_if_best(progress, record["valid_auc"], model, run, adapter)
            run.log({"step": progress["step"], "epoch": step // steps_per_epoch, **record}, timing)
            stopping = ranks.any_rank(stop.signal is not None)
            if due or stopping:
                run.save_state(model, optimizer, progress)
            if stopping:
                raise Stopped(
                    f"{stop.signal or 'a signal to another process'}: saved after step {progress['step']}; go on with: {resume_command(run.path)}"
                )
            if due and bar.disable:
                notice(f"step {progress['step']}: loss {record['loss']:.3f}, validation AUC {record['valid_auc']:.3f}")
            bar.update()
            bar.set_postfix(
                loss=f"{record['loss']:.3f}", kl=f"{record['kl']:.2f}", valid_auc=f"{progress['best_auc']:.3f}"
            )
    stopped = "patience" if progress["since_best"] >= flags.patience else "steps done"
    return {
        "steps": progress["step"],
        "best_step": progress["best_step"],
        "best_valid_auc": progress["best_auc"],
        "stopped": stopped,
    }


def count_steps(pairs: int, flags: TrainFlags) -> tuple[int, int]:
    """Optimizer steps (an epoch, at most)."""
    steps_per_epoch = math.ceil(pairs / flags.batch_size)
    return steps_per_epoch, min(flags.epochs * steps_per_epoch, flags.max_steps or math.inf)


def rehearse(model: Llama, pairs: list[EncodedPair], flags: TrainFlags, planned: str) -> None:
    """Run the longest micro-batch and forget it: memory that is too small shows now, with the plan beside it, and not after hours."""
    longest = longest_pairs(pairs, min(flags.batch_size, flags.micro_batch_size * ranks.count()))
    with error_context("the longest micro-batch, tried before step 1", planned), torch.random.fork_rng():
        accumulate_gradients(model.train(), longest, flags)
        model.zero_grad(set_to_none=True)


def is_over(progress: dict, total_steps: int, flags: TrainFlags) -> bool:
    """Whether the steps are done or validation has stopped improving."""
    return progress["step"] >= total_steps or progress["since_best"] >= flags.patience


def batch_of_step(pairs: list[EncodedPair], step: int, steps_per_epoch: int, flags: TrainFlags) -> list[EncodedPair]:
    """The pairs of one optimizer step, a function of seed and step alone: nothing to save, nothing to restore."""
    epoch, position = divmod(step, steps_per_epoch)
    order = np.random.default_rng([flags.seed, epoch]).permutation(len(pairs))
    chosen = order[position * flags.batch_size : (position + 1) * flags.batch_size]
    # By length, so that a micro-batch has little padding; which pairs make a step is not changed.
    return sorted((pairs[i] for i in chosen), key=lambda pair: pair.length)


def accumulate_gradients(model: Llama, batch: list[EncodedPair], flags: TrainFlags) -> dict:
    """Forward and backward over the micro-batches of one step.

    Returns the step's loss, its terms in nats per pair, and the tokens that went through the model.
    Raises RunError naming the pair and the term that is not finite.
    """
    record = {"loss": 0.0, "ce_pos": 0.0, "ce_neg": 0.0, "kl": 0.0, "tokens": 0}
    for pairs, weight in ranks.rank_micro_batches(
        batch, flags.micro_batch_size, recut=not flags.whole_sequence, even=flags.fsdp
    ):
        loss, terms, tokens = share_of_loss(model, pairs, len(batch), flags)
        refuse_non_finite_loss(loss, terms, pairs)
        (weight * loss).backward()
        record["loss"] += weight * float(loss.detach())
        record["tokens"] += weight * tokens
        for name, values in terms.items():  # (P,)
            record[name] += weight * float(values.detach().sum()) / len(batch)
    ranks.sum_over_ranks(lora_parameters(model), record)
    return record


def share_of_loss(model: Llama, pairs: list[EncodedPair], pairs_in_step: int, flags: TrainFlags):
    """What the objective makes of a micro-batch: (its share of the step's loss, its terms per pair, tokens)."""
    return (sequence_share if flags.whole_sequence else answer_share)(model, pairs, pairs_in_step, flags)


def answer_share(model: Llama, pairs: list[EncodedPair], pairs_in_step: int, flags: TrainFlags):
    """Eq. 1-3 on a micro-batch: (its share of the step's loss, its terms per pair, tokens).

    Rows come in blocks of P: positive, negative, and with shared forcing (X-, Y+).
    """
    device = model.lm_head.weight.device
    negatives = flags.objective == "paper"
    shared = negatives and flags.kl_forcing == "shared"
    batch = collate(pairs, negatives, shared)
    P, targets = batch.pairs, batch.targets.to(device)  # (B, A), B = P, 2P or 3P
    tree = prefix_tree(model, batch.input_ids, batch.lengths, batch.positions)
    logits = model.lm_head(model.model(tree.input_ids, tree)).view(*targets.shape, -1)  # (B, A, V)
    if negatives:
        terms = answer_terms(
            logits[:P],
            logits[P : 2 * P],
            targets[:P],
            targets[P : 2 * P],
            logits_shared=logits[2 * P :] if shared else None,
            kl_tokens=flags.kl_tokens,
            kl_cap=flags.kl_cap,
        )
    else:
        ce_pos = token_cross_entropy(log_probabilities(logits), targets)  # (P, A)
        terms = PairTerms(ce_pos, torch.zeros_like(ce_pos), torch.zeros_like(ce_pos))
    loss = paper_loss(terms, flags.kl_weight, pairs_in_step)
    return loss, {name: term.sum(-1) for name, term in terms._asdict().items()}, int(batch.lengths.sum())


def sequence_share(model: Llama, pairs: list[EncodedPair], pairs_in_step: int, flags: TrainFlags):
    """The published code's loss on a micro-batch, or for tallrec --train-on-prompt its cross-entropy alone.

    Returns as answer_share does. pairs_in_step has no part in it: the published code divides by
    the micro-batch.
    """
    negatives = flags.objective == "released"
    batch = collate(pairs, negatives)
    P, lengths = batch.pairs, batch.lengths
    # (N,) each, N the tokens of all positive rows
    row, column, column_neg, has_partner = aligned_positions(lengths[:P], lengths[P:] if negatives else lengths[:P])
    targets = next_tokens(batch.input_ids[:P], lengths[:P])[row, column]
    tree = prefix_tree(model, batch.input_ids[:P], lengths[:P])
    tree_neg = prefix_tree(model, batch.input_ids[P:], lengths[P:]) if negatives else tree
    # A position that several rows share, with its partner and its next token, has the same terms in all of them.
    kinds = torch.stack((tree.index[row, column], tree_neg.index[row, column_neg], targets))
    (token, token_neg, target), place = kinds.unique(dim=1, return_inverse=True)  # (U,) each; (N,)
    device = model.lm_head.weight.device
    hidden_pos = take(model.model(tree.input_ids, tree), token.to(device))  # (U, D)
    hidden_neg = None
    if negatives:
        with torch.no_grad():  # the published code detaches this side: it needs no graph
            hidden_neg = take(model.model(tree_neg.input_ids, tree_neg), token_neg.to(device))  # (U, D)
    ce, kl = sequence_terms(model.lm_head, hidden_pos, hidden_neg, target.to(device))
    ce, kl = (term[place.to(device)] for term in (ce, kl))  # (N,) each
    row, has_partner, targets = row.to(device), has_partner.to(device), targets.to(device)
    kl = kl.masked_fill(~has_partner, 0.0)
    accumulation_steps = math.ceil(flags.batch_size / flags.micro_batch_size)
    loss = released_loss(ce, kl, targets, flags.kl_weight, P, accumulation_steps)
    per_pair = {name: term.new_zeros(P).index_add(0, row, term.detach()) for name, term in (("ce_pos", ce), ("kl", kl))}
    return loss, per_pair, int(batch.lengths.sum())


def set_learning_rate(optimizer: torch.optim.Optimizer, flags: TrainFlags, step: int, total_steps: int) -> None:
    """Linear from lr / warmup_steps up to lr, then linear down to 0 at total_steps."""
    warm_up = min(1.0, (step + 1) / max(1, flags.warmup_steps))
    decay = min(1.0, (total_steps - step) / max(1, total_steps - flags.warmup_steps))
    for group in optimizer.param_groups:
        group["lr"] = flags.lr * min(warm_up, decay)


def keep_if_best(progress: dict, valid_auc: float, model: Llama, run: RunFolder, adapter: dict) -> None:
    """Note a validation in `progress`; a better AUC than any before makes this adapter the run's result."""
    progress["since_best"] += 1
    if valid_auc > progress["best_auc"]:
        progress |= {"best_auc": valid_auc, "best_step": progress["step"], "since_best": 0}
        run.save_best(model, adapter)


def step_timing(step: int, started: float, pairs: int, tokens: int, model: Llama) -> dict:
    """A line of timings.jsonl. started: time.perf_counter() at the step's beginning; time: seconds since 1970."""
    seconds = time.perf_counter() - started
    rates = {"pairs_per_s": pairs / seconds, "tokens_per_s": tokens / seconds}
    return {"step": step, "time": time.time(), "seconds": seconds, **rates, "peak_memory_bytes": peak_memory(model)}


def peak_memory(model: Llama) -> int:
    """Bytes: allocated on the GPU at most so far, or resident in this process at most so far."""
    device = model.lm_head.weight.device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    run_verb(ranks.distributed(main))
