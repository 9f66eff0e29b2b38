"""Score titles for one user, or for many from a file; the titles need not be of any data set.

    python predict.py --liked "Alien (1979)" --liked "Heat (1995)" --disliked "Clueless (1995)" \\
                      --target "Aliens (1986)" --target "Emma (1996)"       the demo model, for a first look
    python predict.py --run runs/NAME --liked ... --target ...              a finished run
    python predict.py --model DIR --liked ... --target ... --noun book      the base alone, asked about books
    python predict.py --run runs/NAME --liked ... --catalogue run --top 10  the best of all items of the run
    python predict.py --run runs/NAME --input users.csv --output scores.csv
    python predict.py --run runs/NAME --liked ... --target ... --show-prompt
    python predict.py --run runs/NAME --interactive                         type titles; answers before and after tuning

A title may have an author: "Emma::Jane Austen". users.csv has the columns user,liked,disliked,target; titles in a cell
are joined by "|". users.jsonl has the same as lists. scores.csv has a line per target. Both "will like?" and "will
dislike?" are asked: a user's targets are ranked by the log-odds of Yes to the first less those to the second, and the
same answer to both is a contradiction. Results go to standard output, everything else to standard error.
"""

import installed  # noqa: F401

import csv
import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path

from cli.flags import parse_flags
from cli.predict import TOP, PredictFlags, check_flags, skipped_file
from cli.train import TrainFlags
from cli.verb import run_verb
from data.interactions import Interaction
from data.pairs import encode_pairs
from data.prompts import prompt_pair
from data.sources.stand_in import STAND_IN
from data.splits import Split, answers_in_context
from data.users import BadRow
from errors import notice
from files import write_text
from machine import ranks
from metrics import Scored, rankings, row_metrics
from model.demo import base_in_results, is_demo
from model.llama import Llama
from objectives.by_name import make_objective
from protocols import Tokenizer
from report.predictions import batch_summary, prediction_table, shown_prompts
from run.asked import Asked, what_is_asked
from run.base import base_tokenizer
from run.catalogue import ids_of_titles
from run.interactive import ask_at_terminal, converse, open_oracle
from run.restore import resolve_settings, restore_model
from run.vectors import NO_USERS, has_vectors, restore_for_titles
from scoring.splits import score_split

SCORES = ("target", "p_yes_positive", "p_yes_negative", "score", "rank", "contradiction")
DEMO_NOTICE = (
    "DEMO MODEL: small, untuned, taught by simulated viewers, a stand-in. For a run of train.py say --run runs/NAME"
)


def main(argv: list[str]) -> None:
    """Ask both questions about every title, and show or write the answers."""
    flags, resolved = parse_flags(PredictFlags, argv, __doc__, check=check_flags)
    settings, config = resolve_settings(flags, resolved)
    if not flags.run and not flags.model:
        notice(DEMO_NOTICE)
    if flags.interactive:
        converse(open_oracle(flags, settings, config), ask_at_terminal, notice)
        return
    asked = what_is_asked(flags, settings, config)
    if flags.show_prompt:
        prompts = first_prompts(asked, base_tokenizer(settings.model), settings)
        print(json.dumps(prompts) if flags.json else shown_prompts(prompts))
        return
    model, tokenizer = restore_model(flags, settings)
    asked = with_vectors(model, asked, flags)
    rows, scores, counts = score_groups(model, tokenizer, asked, settings, flags)
    results = {
        "run": flags.run,
        **base_in_results(settings.model),
        "adapter": flags.adapter,
        "template": settings.template,
        "noun": asked.data.noun,
        "probability": make_objective(vars(settings)).reading,
        "stand_in": is_demo(settings.model) or config.get("data_source") == STAND_IN,
    }
    if flags.catalogue is not None:
        results |= {"catalogue": flags.catalogue, "top": flags.top or TOP}
    if flags.input is not None:
        results |= write_scores(flags, asked, rows, scores) | counts
        shown = batch_summary(results)
    else:
        results |= {"liked": flags.liked, "disliked": flags.disliked, "scored": counts["scored"]}
        results["predictions"] = sorted(scores, key=lambda values: values["rank"])
        shown = prediction_table(results)
    print(json.dumps(results, allow_nan=False) if flags.json else shown)


# ---- scores -------------------------------------------------------------------------------------


def score_groups(
    model: Llama, tokenizer: Tokenizer, asked: Asked, settings: TrainFlags, flags: PredictFlags
) -> tuple[list[Interaction], list[dict], dict]:
    """(rows, what is shown of each, counts over all that was scored). Of a catalogue only the best of each user stay.

    A user's rows follow each other, so the history goes through the model once for many of them (scoring/forward.py).
    """
    kept, shown, scored_rows, truncated, begin = [], [], 0, 0, time.perf_counter()
    contradictions = dict.fromkeys(("Yes/Yes", "No/No"), 0)
    answers = answers_in_context(asked.data, tokenizer, settings.template)
    for rows in asked.groups():
        if not rows:  # the history has the whole catalogue
            continue
        pairs, lost = encode_pairs(rows, asked.data, tokenizer, settings.template, settings.max_len)
        split = Split(rows, pairs, lost, answers, reading=make_objective(vars(settings)).reading)
        scores = predictions(rows, score_split(model, split, "titles" if flags.input or flags.catalogue else None))
        for both in contradictions:
            contradictions[both] += sum(values["contradiction"] == both for values in scores)
        scored_rows, truncated = scored_rows + len(rows), truncated + lost
        order = range(len(rows))
        if flags.catalogue is not None:
            order = sorted(order, key=lambda i: scores[i]["rank"])[: flags.top or TOP]
        for i in order:
            item = asked.data.catalogue[rows[i].target]
            kept.append(rows[i])
            shown.append({**scores[i], "target": item.title, "author": item.author})
    if truncated:
        notice(
            f"--max-len {settings.max_len}: {truncated:,} of {scored_rows:,} prompts lost their oldest history items"
        )
    if flags.catalogue is not None:
        seconds = time.perf_counter() - begin
        notice(
            f"{scored_rows:,} titles for {len(asked.users):,} users, both questions, in {seconds:.1f} s: "
            f"{scored_rows / seconds:.1f} titles a second"
        )
    return kept, shown, {"scored": scored_rows, "contradictions": contradictions}


def with_vectors(model: Llama, asked: Asked, flags: PredictFlags) -> Asked:
    """The same with the vectors of the run, if its prompts have any; users and titles are looked up in its data."""
    folder = Path(flags.run or "")
    if not has_vectors(folder):
        if flags.user is not None:
            notice(NO_USERS)
        return asked
    rows = [row for rows in asked.groups() for row in rows]
    return replace(asked, data=restore_for_titles(model, asked.data, rows, folder, ids_of_titles(folder)))


def predictions(rows: list[Interaction], scored: Scored) -> list[dict]:
    """What is shown of every row, in their order; rank 1 is the user's best, equal scores keep their order."""
    scores, columns = rankings(scored)["auc_combined"], row_metrics(scored)
    ranks, ranked = [0] * len(rows), {}
    for i in sorted(range(len(rows)), key=lambda i: -scores[i]):
        ranks[i] = ranked[rows[i].user] = ranked.get(rows[i].user, 0) + 1
    contradictions = [
        "Yes/Yes" if yes else "No/No" if no else None for yes, no in zip(columns["yes_yes"], columns["no_no"])
    ]
    values = (scored.p_pos.tolist(), scored.p_neg.tolist(), scores.tolist(), ranks, contradictions)
    return [dict(zip(SCORES, of_row)) for of_row in zip([row.target for row in rows], *values)]


def first_prompts(asked: Asked, tokenizer: Tokenizer, settings: TrainFlags) -> dict:
    """Both prompts of the first target, without the titles that --max-len has no room for."""
    row, dropped = asked.data.test[0], 0
    while encode_pairs([row], asked.data, tokenizer, settings.template, settings.max_len)[1]:
        row, dropped = replace(row, history=row.history[1:]), dropped + 1
    if dropped:
        notice(f"--max-len {settings.max_len}: the oldest {dropped:,} titles of the history are left out")
    pair, item = prompt_pair(row, asked.data, settings.template), asked.data.catalogue[row.target]
    return {
        "user": row.user,
        "target": item.title,
        "author": item.author,
        "positive": pair.positive,
        "negative": pair.negative,
    }


# ---- files --------------------------------------------------------------------------------------


def write_scores(flags: PredictFlags, asked: Asked, rows: list[Interaction], scores: list[dict]) -> dict:
    """Write --output, and what --skip-bad left out; returns what the results say of it."""
    write_text(Path(os.path.realpath(flags.output)), scores_csv(rows, scores))
    results = {
        "input": flags.input,
        "output": flags.output,
        "users": len({user.name for user in asked.users}),
        "targets": len(rows),
    }
    if flags.skip_bad:
        path = skipped_file(flags.output)
        write_text(path, skipped_csv(asked.bad))
        results["skipped"] = {"rows": len(asked.bad), "file": str(path)}
    return results


def scores_csv(rows: list[Interaction], scores: list[dict]) -> str:
    """A line per row, in their order, below the header; with authors if any target has one."""
    author = ["author"] if any(values.get("author") for values in scores) else []
    text = io.StringIO()
    writer = csv.DictWriter(text, ["user", "target", *author, *SCORES[1:]], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row, values in zip(rows, scores):
        rounded = {name: f"{value:.6f}" if isinstance(value, float) else value for name, value in values.items()}
        writer.writerow({"user": row.user, **rounded})
    return text.getvalue()


def skipped_csv(bad: list[BadRow]) -> str:
    """A line per row that was left out: its line in the input, every reason, and the row as it is there."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["line", "problem", "row"])
    writer.writerows([row.line, "; ".join(row.problems), row.text] for row in bad)
    return text.getvalue()


if __name__ == "__main__":
    run_verb(ranks.single_process(main))
