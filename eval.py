"""Score a finished run, or an untuned base, on a split.

    python eval.py --run runs/NAME                     the test split of the data the run was trained on
    python eval.py --run runs/NAME --split valid --json
    python eval.py --run runs/NAME --data movie        another data set, or the real one
    python eval.py --model DIR --data movie            the base alone, without any adapter
    python eval.py --model DIR --adapter DIR           the base with an adapter of PEFT's
    python eval.py --run runs/NAME --negations         asked in other wordings: six of them
    python eval.py --run runs/NAME --wordings          asked in all wordings, those that training held out apart
    python eval.py --run runs/NAME --merge-out DIR     and write base and adapter as one plain checkpoint
    python eval.py --predictions consistency.json      measure the answers of any model: docs/consistency-format.md
    python eval.py --predictions test.json --thresholds-from valid.json    decide where each Yes begins on other rows

The results go to standard output, everything else to standard error.

One forward pass per prompt: the logits of "Yes" and "No" are read at the prompt's last token.
"""

import installed  # noqa: F401

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cli.data import data_problems, load_data
from cli.flags import Resolved, flag, flag_name, flag_of_run, parse_flags
from cli.model import RunDataFlags, model_problems
from cli.train import TrainFlags
from cli.verb import run_verb
from data.examples import with_examples
from data.interactions import Dataset
from data.prompts import Wording, wording_of
from data.splits import READINGS, Split, Wanted, chosen_rows, encode_split, encode_wanted
from errors import FlagError, answer, notice, quoted
from files import refuse_unwritable, write_json, write_text
from machine import ranks
from metrics import Scored, evaluate
from model.demo import base_in_results, model_folder
from objectives.by_name import make_objective
from report.answers import answers_table
from report.run_page import score_page
from report.tables import score_table, wording_table
from report.wordings import wording_matrix_table
from run.answers import answers_of, measure_answers, read_answers, write_answers
from run.merge import refuse_merging_twice, refuse_unusable_output
from run.outcome import write_merged_on_request
from run.page import PAGE, shown_score
from run.predictions import write_predictions
from run.restore import refuse_other_data, resolve_settings, restore_model
from run.thresholds import thresholds_for
from run.vectors import restore_vectors
from run.wording import in_words_of, seen_in_training
from scoring.splits import log_odds_of_question, score_split, without_learning, wording_matrix


@dataclass(frozen=True)
class EvalFlags(RunDataFlags):
    """Scoring and output."""

    split: str = flag("test", "which rows", choices=("test", "valid"))
    rows: int = flag(None, "score a seeded subset of this many rows of the split", low=1)
    drop_long: bool = flag_of_run(TrainFlags, "drop_long")
    examples: int = flag(
        None, "in-context learning: so many worked examples from the training rows in front, half of them liked", low=0
    )
    examples_seed: int = flag(0, "draws the examples", low=0, high=2**32 - 1)
    probability: str = flag(
        None, "of Yes: softmax over Yes and No, or sigmoid of Yes alone; default: what was trained", choices=READINGS
    )
    negations: bool = flag(
        False,
        "ask in other words, too, six or those that a wordings file holds out: negations, and paraphrases as a control",
    )
    wordings: bool = flag(False, "ask in all words that are known: how each answer agrees, and all of them together")
    predictions: str = flag(None, "measure this consistency.json of any model, and ask none", metavar="FILE")
    thresholds_from: str = flag(
        None,
        "with --predictions: let Yes begin where most answers of this other consistency.json, of other rows, are right",
        metavar="FILE",
    )
    predictions_out: str = flag(None, "also write every answer into this consistency.json", metavar="FILE")
    merge_out: str = flag(None, "folder for a plain checkpoint with the adapter merged into the base", metavar="DIR")
    out: str = flag(
        None,
        "folder for results.json, predictions.csv, report.html; default: RUN/eval-DATA-SPLIT; a base alone only prints",
        metavar="DIR",
    )


def check_flags(flags: EvalFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that is missing, unused or would overwrite something."""
    if flags.predictions:
        given = [name for name, source in resolved.sources.items() if source == "flag"]
        asking = [flag_name(name) for name in given if name not in ("predictions", "thresholds_from", "json", "out")]
        problems = [f"{name}: has no effect with --predictions, which asks no model" for name in asking]
    else:
        problems = model_problems(flags) + data_problems(flags.data, resolved) + asking_problems(flags, resolved)
    problems += output_problems(flags)
    if problems:
        raise FlagError("\n".join(problems))
    if flags.out:
        refuse_unwritable(Path(flags.out), "--out", FlagError)


def asking_problems(flags: EvalFlags, resolved: Resolved) -> list[str]:
    """A line for every flag that has no effect where a model is asked, or cannot be followed."""
    problems = []
    if flags.thresholds_from:
        problems.append("--thresholds-from: has no effect without --predictions; leave it out")
    if flags.merge_out and not flags.run and not flags.adapter:
        problems.append("--merge-out: there is no adapter to merge; say which with --run or --adapter")
    if flags.examples is None and resolved.sources["examples_seed"] == "flag":
        problems.append("--examples-seed: has no effect without --examples")
    if flags.examples is not None and flags.examples % 2:
        problems.append(f"--examples {flags.examples}: half of them are liked; choose an even number")
    return problems


def output_problems(flags: EvalFlags) -> list[str]:
    """A line for everything that would overwrite something, or has no place."""
    problems = []
    if flags.predictions_out and not Path(flags.predictions_out).absolute().parent.is_dir():
        problems.append(f"--predictions-out {flags.predictions_out}: no such folder; make it first")
    if flags.predictions_out and Path(flags.predictions_out).exists():
        problems.append(f"--predictions-out {flags.predictions_out}: already exists; name another file")
    if flags.out and (Path(flags.out) / "config.json").exists():
        problems.append(f"--out {flags.out}: is a run folder, whose results.json this would replace; choose another")
    if flags.run and not flags.out and Path(flags.run).is_dir():
        links = sorted(quoted(path.name)[1:-1] for path in Path(flags.run).glob("eval-*") if path.is_symlink())
        problems += [
            f"--run {flags.run}: {name} is a link, and results would go elsewhere; say --out" for name in links
        ]
    if flags.out and Path(flags.out).exists() and not Path(flags.out).is_dir():
        problems.append(f"--out {flags.out}: is not a folder")
    return problems


def main(argv: list[str]) -> None:
    """Measure what a model answers, or what a file says that it answered."""
    flags, resolved = parse_flags(EvalFlags, argv, __doc__, check=check_flags)
    if flags.predictions:
        measure_predictions(flags)
    else:
        score_model(flags, resolved, f"python eval.py {shlex.join(argv)}")


def score_model(flags: EvalFlags, resolved: Resolved, command: str) -> None:
    """Score one split, show it, and write what was asked for. command: as typed."""
    settings, config = resolve_settings(flags, resolved)
    base, adapter = model_folder(settings.model), flags.run or flags.adapter
    if flags.merge_out:
        refuse_unusable_output(Path(flags.merge_out), "--merge-out", Path(flags.out) if flags.out else None)
        refuse_merging_twice(base, Path(adapter))
    data = in_words_of(load_data(vars(settings)), settings.wordings_file, config)
    refuse_other_data(flags, resolved, data, config)
    words = wording_of(data.wording)
    if flags.negations and not words.held_out:
        raise FlagError("--negations: the wordings file holds no question out; use --wordings, which asks all of them")
    model, tokenizer = restore_model(flags, settings)
    questions = tuple(words.questions.kinds) if flags.wordings else tuple(words.held_out) if flags.negations else ()
    wanted = Wanted(
        flags.split, settings.template, settings.max_len, settings.drop_long, flags.rows, questions=questions
    )
    data = restore_vectors(model, data, getattr(data, flags.split), Path(flags.run or ""))
    if flags.examples is not None:
        data = with_examples_in_front(flags, data)
    reading = flags.probability or make_objective(vars(settings)).reading
    split = replace(encode_wanted(getattr(data, flags.split), data, tokenizer, wanted), reading=reading)
    scored = score_split(model, split, f"{data.name} {flags.split}")
    results = heading(flags, settings, data) | {"probability": reading, **evaluate(scored)}
    results |= without_learning(data.train, split.rows) | chosen_rows(split)
    if flags.examples is not None:
        rows = data.selection_rows()
        wanted = replace(wanted, split="validation", count=flags.rows and min(flags.rows, len(rows)), questions=())
        valid = replace(encode_wanted(rows, data, tokenizer, wanted), reading=reading)
        corrected = prior_corrected(scored, score_split(model, valid, "validation, for the prior"))
        results |= {"examples": flags.examples, "examples_seed": flags.examples_seed, "prior_corrected": corrected}
    answer(score_table(results), aside=flags.json)
    asked = {words.like: scored.z_pos, words.dislike: scored.z_neg}
    for question in questions:
        if question not in asked:
            other = encode_split(split.rows, data, tokenizer, settings.template, settings.max_len, question=question)
            asked[question] = log_odds_of_question(model, replace(other, reading=reading), question)
    if questions:
        results |= agreement_of_all(flags, words, scored, asked, seen_in_training(data, config))
    if ranks.is_first():
        if flags.predictions_out:
            write_answers(Path(flags.predictions_out), answers_of(results, data, split, asked))
        shown = shown_score(split, data, tokenizer, scored, command, adapter)
        write_outcome(flags, results, split, scored, score_page(results, shown))
        write_merged_on_request(model, settings.model, Path(adapter or ""), flags.merge_out)
        if flags.json:
            print(json.dumps(results, allow_nan=False))


def heading(flags: EvalFlags, settings: TrainFlags, data: Dataset) -> dict:
    """Which model was asked about which rows, for results.json."""
    return {
        "run": flags.run,
        **base_in_results(settings.model),
        "adapter": flags.adapter,
        "data": data.name,
        "data_source": data.source,
        "template": settings.template,
        "split": flags.split,
    }


def agreement_of_all(
    flags: EvalFlags, words: Wording, scored: Scored, asked: dict[str, np.ndarray], trained: set[str]
) -> dict:
    """How the answers in other words agree with those to "will like", shown and for results.json.

    asked: {question: log-odds of Yes, (N,)}; trained: the questions that training asked.
    """
    z = {question: asked[question] for question in words.questions.kinds if question in asked}
    matrix, found = wording_matrix(scored, z, words.questions, trained), {}
    if flags.wordings:
        found["wordings"] = matrix
        answer(wording_matrix_table(matrix), aside=flags.json)
    if flags.negations:
        by_question = {row["asks"]: row for row in matrix["rows"]}
        found["negations"] = [by_question[question] for question in (words.dislike, *words.held_out)]
        answer(wording_table(found["negations"]), aside=flags.json)
    return found


def with_examples_in_front(flags: EvalFlags, data: Dataset) -> Dataset:
    """The data set of in-context learning. Raises FlagError if its prompts have vectors, which no example has."""
    if flags.examples and data.vectors:
        raise FlagError("--examples: the prompts of this run have vectors, and a worked example has none; leave it out")
    return with_examples(data, flags.examples, flags.examples_seed)


def prior_corrected(scored: Scored, valid: Scored) -> dict:
    """The metrics of both answers' log-odds less their means over validation rows, and these means.

    A base that is inclined to say Yes says it whoever is asked. The order within a split, and so each AUC of one
    question, does not change; answers, contradictions and calibration do.
    """
    means = {side: float(getattr(valid, side).mean()) for side in ("z_pos", "z_neg")}
    logs = {}
    for side, mean in means.items():
        z = getattr(scored, side) - mean
        logs |= {f"log_yes_{side[2:]}": -np.logaddexp(0, -z), f"log_no_{side[2:]}": -np.logaddexp(0, z)}
    return {"mean_log_odds": means, **evaluate(replace(scored, **logs))}


def measure_predictions(flags: EvalFlags) -> None:
    """Measure a consistency.json, show the results, and write them if asked."""
    answers = read_answers(Path(flags.predictions))
    chosen = {}
    if flags.thresholds_from:
        begins = thresholds_for(answers, read_answers(Path(flags.thresholds_from)), flags.thresholds_from)
        answers = replace(answers, odds=answers.odds - begins)
        chosen = {"thresholds": dict(zip(answers.questions, begins.tolist()))}
    results = measure_answers(answers) | chosen
    answer(answers_table(results), aside=flags.json)
    if flags.out:
        Path(flags.out).mkdir(parents=True, exist_ok=True)
        write_json(Path(flags.out) / "results.json", results)
        notice(f"\nWritten to {flags.out}: results.json")
    if flags.json:
        print(json.dumps(results, allow_nan=False))


def write_outcome(flags: EvalFlags, results: dict, split: Split, scored: Scored, page: str) -> None:
    """results.json, predictions.csv and the page, unless a base alone was scored without --out."""
    if flags.out or flags.run:
        out = Path(flags.out) if flags.out else Path(flags.run) / f"eval-{results['data']}-{flags.split}"
        if (out / "results.json").exists():
            notice(f"{out}: the results that were there are replaced")
        out.mkdir(parents=True, exist_ok=True)
        write_predictions(out / "predictions.csv", split, scored)
        write_text(out / PAGE, page)
        write_json(out / "results.json", results)  # last: the others are there once it is
        notice(f"\nWritten to {out}: results.json, predictions.csv, {PAGE}")


if __name__ == "__main__":
    run_verb(ranks.distributed(main))
