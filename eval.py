"""Score a finished run, or an untuned base, on a split.

    python eval.py --run runs/NAME                     the test split of the data the run was trained on
    python eval.py --run runs/NAME --split valid --json
    python eval.py --run runs/NAME --data movie        another data set, or the real one
    python eval.py --model DIR --data movie            the base alone, without any adapter
    python eval.py --model DIR --adapter DIR           the base with an adapter of PEFT's
    python eval.py --run runs/NAME --negations         asked in six other wordings
    python eval.py --run runs/NAME --wordings          asked in all wordings, those that training held out apart
    python eval.py --run runs/NAME --merge-out DIR     and write base and adapter as one plain checkpoint
    python eval.py --predictions consistency.json      measure the answers of any model: docs/consistency-format.md

The results go to standard output, everything else to standard error.

One forward pass per prompt: the logits of "Yes" and "No" are read at the prompt's last token.
"""

import installed  # noqa: F401

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baselines.rules import all_rules
from cli.data import data_problems, load_data
from cli.flags import Resolved, flag, flag_name, flag_of_run, parse_flags
from cli.model import RunDataFlags, model_problems
from cli.train import TrainFlags
from cli.verb import run_verb
from data.interactions import Dataset
from data.prompts import Wording, wording_of
from data.splits import Split, Wanted, chosen_rows, encode_split, encode_wanted
from errors import DataError, FlagError, answer, notice
from files import write_json
from machine import ranks
from metrics import Scored, evaluate
from model.demo import base_in_results, model_folder
from report.answers import answers_table
from report.tables import adapter_in_words, model_in_words, score_table, wording_table
from report.wordings import wording_matrix_table
from run.answers import Answers, measure_answers, read_answers, write_answers
from run.merge import refuse_merging_twice, refuse_unusable_output
from run.outcome import write_merged_on_request
from run.predictions import write_predictions
from run.restore import resolve_settings, restore_model
from run.wording import in_words_of, seen_in_training
from scoring.splits import log_odds_of_question, score_split, without_learning, wording_matrix


@dataclass(frozen=True)
class EvalFlags(RunDataFlags):
    """Scoring and output."""

    split: str = flag("test", "which rows", choices=("test", "valid"))
    rows: int = flag(None, "score a seeded subset of this many rows of the split", low=1)
    drop_long: bool = flag_of_run(TrainFlags, "drop_long")
    negations: bool = flag(False, "ask in six other words, too: negations, and paraphrases as a control")
    wordings: bool = flag(False, "ask in all words that are known: how each answer agrees, and all of them together")
    predictions: str = flag(None, "measure this consistency.json of any model, and ask none", metavar="FILE")
    predictions_out: str = flag(None, "also write every answer into this consistency.json", metavar="FILE")
    merge_out: str = flag(None, "folder for a plain checkpoint with the adapter merged into the base", metavar="DIR")
    out: str = flag(
        None,
        "folder for results.json and predictions.csv; default: RUN/eval-DATA-SPLIT; a base alone only prints",
        metavar="DIR",
    )


def check_flags(flags: EvalFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that is missing, unused or would overwrite something."""
    if flags.predictions:
        given = [name for name, source in resolved.sources.items() if source == "flag"]
        asking = [flag_name(name) for name in given if name not in ("predictions", "json", "out")]
        if asking:
            raise FlagError(
                "\n".join(f"{name}: has no effect with --predictions, which asks no model" for name in asking)
            )
        return
    problems = model_problems(flags) + data_problems(flags.data, resolved)
    if flags.predictions_out and not Path(flags.predictions_out).absolute().parent.is_dir():
        problems.append(f"--predictions-out {flags.predictions_out}: no such folder; make it first")
    if flags.predictions_out and Path(flags.predictions_out).exists():
        problems.append(f"--predictions-out {flags.predictions_out}: already exists; name another file")
    if flags.out and (Path(flags.out) / "config.json").exists():
        problems.append(f"--out {flags.out}: is a run folder, whose results.json this would replace; choose another")
    if flags.out and Path(flags.out).exists() and not Path(flags.out).is_dir():
        problems.append(f"--out {flags.out}: is not a folder")
    if flags.merge_out and not flags.run and not flags.adapter:
        problems.append("--merge-out: there is no adapter to merge; say which with --run or --adapter")
    if problems:
        raise FlagError("\n".join(problems))


def main(argv: list[str]) -> None:
    """Measure what a model answers, or what a file says that it answered."""
    flags, resolved = parse_flags(EvalFlags, argv, __doc__, check=check_flags)
    if flags.predictions:
        measure_predictions(flags)
    else:
        score_model(flags, resolved)


def score_model(flags: EvalFlags, resolved: Resolved) -> None:
    """Score one split, show it, and write what was asked for."""
    settings, config = resolve_settings(flags, resolved)
    base, adapter = model_folder(settings.model), flags.run or flags.adapter
    if flags.merge_out:
        refuse_unusable_output(Path(flags.merge_out), "--merge-out")
        refuse_merging_twice(base, Path(adapter))
    data = in_words_of(load_data(vars(settings)), settings.wordings_file, config)
    if flags.run and not flags.data and data.source != config.get("data_source"):
        raise DataError(
            f"--run {flags.run}: was trained on {config.get('data_source')}, which is not here ({data.source} is); "
            "name the folder with --data-dir, or name other data to score with --data"
        )
    model, tokenizer = restore_model(flags, settings)
    words = wording_of(data.wording)
    questions = tuple(words.questions.kinds) if flags.wordings else tuple(words.held_out) if flags.negations else ()
    wanted = Wanted(
        flags.split, settings.template, settings.max_len, settings.drop_long, flags.rows, questions=questions
    )
    split = encode_wanted(getattr(data, flags.split), data, tokenizer, wanted)
    scored = score_split(model, split, f"{data.name} {flags.split}")
    results = {
        "run": flags.run,
        **base_in_results(settings.model),
        "adapter": flags.adapter,
        "data": data.name,
        "data_source": data.source,
        "template": settings.template,
        "split": flags.split,
        **evaluate(scored),
        **without_learning(data.train, split.rows),
    } | chosen_rows(split)
    answer(score_table(results), aside=flags.json)
    z = {words.like: scored.z_pos, words.dislike: scored.z_neg}
    for question in questions:
        if question not in z:
            asked = encode_split(split.rows, data, tokenizer, settings.template, settings.max_len, question=question)
            z[question] = log_odds_of_question(model, asked, question)
    if questions:
        ordered = {question: z[question] for question in words.questions.kinds if question in z}
        matrix = wording_matrix(scored, ordered, words.questions, seen_in_training(data, config))
        results |= show_wordings(flags, words, matrix)
    if ranks.is_first():
        if flags.predictions_out:
            write_answers(Path(flags.predictions_out), answers_of(results, data, split, z))
        write_outcome(flags, results, split, scored)
        write_merged_on_request(model, settings.model, Path(adapter or ""), flags.merge_out)
        if flags.json:
            print(json.dumps(results, allow_nan=False))


def measure_predictions(flags: EvalFlags) -> None:
    """Measure a consistency.json, show the results, and write them if asked."""
    results = measure_answers(read_answers(Path(flags.predictions)))
    answer(answers_table(results), aside=flags.json)
    if flags.out:
        Path(flags.out).mkdir(parents=True, exist_ok=True)
        write_json(Path(flags.out) / "results.json", results)
        notice(f"\nWritten to {flags.out}: results.json")
    if flags.json:
        print(json.dumps(results, allow_nan=False))


def show_wordings(flags: EvalFlags, words: Wording, matrix: dict) -> dict:
    """The tables of --wordings and --negations; returns what results.json has of them."""
    found = {}
    if flags.wordings:
        found["wordings"] = matrix
        answer(wording_matrix_table(matrix), aside=flags.json)
    if flags.negations:
        by_question = {row["asks"]: row for row in matrix["rows"]}
        found["negations"] = [by_question[question] for question in (words.dislike, *words.held_out)]
        answer(wording_table(found["negations"]), aside=flags.json)
    return found


def answers_of(results: dict, data: Dataset, split: Split, z: dict[str, np.ndarray]) -> Answers:
    """What consistency.json holds. z: {question: log-odds of Yes, (N,)}, "will like" and "will dislike" first."""
    rows = [(None if row.user is None else str(row.user), str(row.target), bool(row.label)) for row in split.rows]
    same = np.array([wording_of(data.wording).questions.same_answer(question) for question in z])
    name = f"{model_in_words(results)}; {adapter_in_words(results)}"
    rules, odds = all_rules(data.train, split.rows), np.stack(list(z.values()), axis=1)
    return Answers(name, data.name, results["split"], list(z), same, rows, odds, rules)


def write_outcome(flags: EvalFlags, results: dict, split: Split, scored: Scored) -> None:
    """results.json and predictions.csv, unless a base alone was scored without --out."""
    if flags.out or flags.run:
        out = Path(flags.out) if flags.out else Path(flags.run) / f"eval-{results['data']}-{flags.split}"
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "results.json", results)
        write_predictions(out / "predictions.csv", split, scored)
        notice(f"\nWritten to {out}: results.json, predictions.csv")


if __name__ == "__main__":
    run_verb(ranks.distributed(main))
