"""What a finished run leaves and shows: results, predictions, curves, a model card, tables, a merged checkpoint."""

import json
from pathlib import Path

import torch

from cli.train import TrainFlags
from cli.typed import train_command, verb_as_typed
from data.interactions import Dataset
from data.splits import Split, chosen_rows
from errors import answer, notice
from files import write_json, write_text
from machine.bar import at_work
from metrics import Scored, evaluate, metric_values, paired_change
from model.demo import model_folder
from model.llama import Llama
from report.card import CARD, model_card
from report.curves import draw_curves
from report.run_page import Shown, run_page
from report.tables import next_commands, result_table
from run.base_scores import score_base, shared_file
from run.config import results_heading
from run.folder import RunFolder
from run.inputs import Inputs
from run.merge import write_merged
from run.page import PAGE, contradictory_rows, facts_of_run, shown_answers
from run.predictions import write_predictions
from run.progress import Progress
from run.selection import selection
from scoring.splits import score_split, without_learning
from tensors import put_tensors, trainable_parameters


def score_before(run: RunFolder, inputs: Inputs, flags: TrainFlags) -> dict[str, Scored]:
    """The base's answers, by split."""
    return {
        name: score_base(run, name, inputs.model, split, shared_file(name, inputs, flags))
        for name, split in _scored_splits(inputs).items()
    }


def score_after(
    run: RunFolder,
    inputs: Inputs,
    flags: TrainFlags,
    progress: Progress,
    before: dict[str, Scored],
    untrained: dict[str, torch.Tensor],
) -> dict[str, Scored]:
    """The answers with the run's best adapter, by split; if no validation beat the base, the run ends as the base.

    untrained: the adapter before the first step. Both are compared by the same computation, by what --select says. The
    saved states keep the best validated adapter, so that a run that is made longer goes on as if it had never ended.
    """
    run.load_best(inputs.model)
    valid = score_split(inputs.model, inputs.valid, "tuned on valid")
    of_base, of_best = (metric_values(scored)[flags.select] for scored in (before["valid"], valid))
    if of_best <= of_base:
        put_tensors(trainable_parameters(inputs.model), untrained, "the adapter before the first step")
        run.save_best(inputs.model)
        progress.best_value, progress.best_step = of_base, 0
        return before
    return {"valid": valid, "test": score_split(inputs.model, inputs.test, "tuned on test")}


def _scored_splits(inputs: Inputs) -> dict[str, Split]:
    return {"valid": inputs.valid, "test": inputs.test}


def summary_of(progress: Progress, patience: int) -> dict:
    """What happened, for results.json."""
    return {
        "steps": progress.step,
        "best_step": progress.best_step,
        "best_valid_auc": progress.best_value,
        "stopped": "patience" if progress.since_best >= patience else "steps done",
    }


def finish(
    run: RunFolder,
    inputs: Inputs,
    flags: TrainFlags,
    progress: Progress,
    before: dict[str, Scored],
    after: dict[str, Scored],
) -> None:
    """Measure both splits, write the files of a finished run, and show the results. before, after: by split."""
    chosen = selection(run.history(), before["valid"], flags.select, progress)
    heading = results_heading(flags, inputs.data, summary_of(progress, flags.patience) | chosen)
    splits = _scored_splits(inputs).items()
    with at_work("intervals of the results"):
        results = heading | {name: measure(inputs.data, split, before[name], after[name]) for name, split in splits}
    with run.writing():
        write_predictions(run.path / "predictions.csv", inputs.test, after["test"])
        draw_curves(run.path / "curves.png", run.history(), results)
        write_text(run.path / CARD, model_card(results, inputs.adapter))
        write_text(run.path / PAGE, page_of_run(run, inputs, flags, results, {"before": before, "after": after}))
        if run.events:
            run.events.end(results)
        write_json(run.path / "results.json", results)  # last: the run is complete once it is there
    answer(result_table(results, "test"), aside=flags.json)
    notice(next_commands(run.path, flags))
    write_merged_on_request(inputs.model, flags.model, run.path, flags.merge_out)
    if flags.json:
        print(json.dumps(results, allow_nan=False))


def page_of_run(
    run: RunFolder, inputs: Inputs, flags: TrainFlags, results: dict, answers: dict[str, dict[str, Scored]]
) -> str:
    """report.html of a finished run. answers: before and after, by split."""
    scored = {name: of["test"] for name, of in answers.items()}
    command = train_command(flags).replace(verb_as_typed("train.py"), "python train.py", 1)
    shown = Shown(
        **shown_answers(scored),
        rows=contradictory_rows(inputs.test, inputs.data, inputs.tokenizer, scored["after"]),
        command=command,
        facts=facts_of_run(run.path),
        history=run.history(),
    )
    return run_page(results, shown)


def measure(data: Dataset, split: Split, before: Scored, after: Scored) -> dict:
    """The metrics of a split before and after, their change, and what its rows give without learning."""
    return {
        "before": evaluate(before),
        "after": evaluate(after),
        "change": paired_change(before, after),
        **without_learning(data.train, split.rows),
    } | chosen_rows(split)


def write_merged_on_request(model: Llama, base: str, adapter: Path, merge_out: str | None) -> None:
    """--merge-out: base and adapter as one plain checkpoint."""
    if merge_out:
        with at_work(f"merging into {merge_out}"):
            write_merged(model_folder(base), model, adapter, Path(merge_out))
        notice(f"Merged checkpoint written to {merge_out}")
