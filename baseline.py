"""Train a recommender that is no language model, and score it on the rows that train.py scores.

    python baseline.py --method mf --data ml-1m                        matrix factorisation on all training rows
    python baseline.py --method mf --data ml-1m --setting published    as the paper's authors ran it
    python baseline.py --method sasrec --data movie --shots 64 --search   the best of 24 settings on validation AUC
    python baseline.py --method item-mean --data movie                 a rule that learns nothing
    python baseline.py --out runs/NAME --resume                        resume that run, or its search
    python compare.py runs/A runs/B                                    beside a run of train.py

The run folder is that of train.py: config.json, metrics.jsonl, predictions.csv, results.json, curves.png, report.html.
The results go to standard output, everything else to standard error. docs/baselines.md says what each method computes.

Exit status: 0 done; 2 something to mend, said in a line; 75 stopped by SIGINT or SIGTERM during training, saved, can be
resumed; 130 and 143 stopped at once by these two; 1 a bug.
"""

import installed  # noqa: F401

import json
import time
from pathlib import Path

import numpy as np

from baselines.base import Direct
from cli.baseline import BaselineFlags, baseline_run_name, check_baseline
from cli.flags import parse_flags
from cli.verb import run_verb
from data.interactions import Interaction
from errors import answer, notice
from files import write_json, write_text
from metrics import Scored, evaluate
from report.recommender import draw_recommender_curves, recommender_table
from run.folder import fresh_name, refuse_unusable
from run.outcome import summary_of
from run.page import PAGE
from run.predictions import write_scores
from run.progress import ending
from run.recommender import (
    VERB,
    RecommenderFolder,
    Task,
    chosen_settings,
    encode_task,
    load_task,
    open_run,
    page_of_run,
    scores_of,
    train,
)
from run.resume import OF_BASELINE, flags_of_config, flags_of_run
from run.search import Budget, search
from run.settings import read_setting
from scoring.splits import labels_of, users_of, without_learning
from tensors import trainable_parameters


def main(argv: list[str]) -> None:
    """One run, from the command line to its results."""
    began = time.monotonic()
    flags, resolved = parse_flags(BaselineFlags, argv, __doc__, of_config, check_baseline)
    if flags.resume:
        flags, resolved = flags_of_run(flags, resolved, VERB, OF_BASELINE)
    out = Path(flags.out or fresh_name(Path("runs"), baseline_run_name(flags)))
    refuse_unusable(out, flags.resume)  # now, and not after the data are loaded
    searched = read_setting(flags.setting, flags.method)
    task = load_task(flags)
    settings = chosen_settings(flags, task, searched)
    direct = isinstance(task.method, Direct)
    if direct:  # before there is a folder: what cannot be fitted is refused
        summary = {"settings": {}}
        scores = {name: task.method.scores(task.shots, rows) for name, rows in splits_of(task).items()}
    run, device = open_run(out, flags, resolved, task, settings)
    if not direct:
        encoded = encode_task(task, settings, flags.seed, device)
        if flags.search:
            settings = search(run, encoded, Budget(flags.trials, flags.jobs))
            encoded = encode_task(task, settings, flags.seed, device)
        module, progress = train(run, encoded)
        parameters = sum(parameter.numel() for parameter in trainable_parameters(module).values())
        summary = {
            "settings": settings,
            **task.method.inputs(settings),
            "parameters": parameters,
            **summary_of(progress, settings["patience"]),
        }
        scores = {name: scores_of(module, encoded, rows) for name, rows in splits_of(task).items()}
        notice(ending(progress, began))
    finish(run, task, flags, summary, scores)


def of_config(values: dict) -> dict:
    """{flag: (value, source)} of the run that --config names."""
    return flags_of_config(values, BaselineFlags, VERB)


def splits_of(task: Task) -> dict[str, list[Interaction]]:
    """The rows to score, by split. All validation rows choose the best state."""
    return {"valid": task.data.valid, "test": task.data.test}


def finish(
    run: RecommenderFolder, task: Task, flags: BaselineFlags, summary: dict, scores: dict[str, np.ndarray]
) -> None:
    """Measure both splits, write the files of a finished run, and show the results. scores: by split."""
    results = {
        "data": task.data.name,
        "data_source": task.data.source,
        "method": task.method.name,
        "about": task.method.about,
        "setting": "searched" if flags.search else flags.setting,
        "shots": flags.shots,
        "seed": flags.seed,
        "train_rows": len(task.shots),
        **summary,
    }
    for name, rows in splits_of(task).items():
        scored = Scored(users_of(rows), labels_of(rows), score=scores[name])
        results[name] = {"after": evaluate(scored), "rules": without_learning(task.data.train, rows)["rules"]}
    with run.writing():
        write_scores(run.path / "predictions.csv", task.data.test, scores["test"])
        if history := run.history():
            draw_recommender_curves(run.path / "curves.png", history, results)
        write_text(run.path / PAGE, page_of_run(run, results))
        write_json(run.path / "results.json", results)  # last: the run is complete once it is there
    answer(recommender_table(results), aside=flags.json)
    notice(f"\nWritten to {run.path}: results.json, predictions.csv, {PAGE}")
    if flags.json:
        print(json.dumps(results, allow_nan=False))


if __name__ == "__main__":
    run_verb(main)
