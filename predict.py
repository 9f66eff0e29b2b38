"""Score titles for one user, or for many from a CSV file; the titles need not be of any data set.

    python predict.py --liked "Alien (1979)" --liked "Heat (1995)" --disliked "Clueless (1995)" \\
                      --target "Aliens (1986)" --target "Emma (1996)"       the demo model, for a first look
    python predict.py --run runs/NAME --liked ... --target ...              a finished run
    python predict.py --model DIR --liked ... --target ... --noun book      the base alone, asked about books
    python predict.py --run runs/NAME --input users.csv --output scores.csv

users.csv has the columns user,liked,disliked,target; titles in a cell are joined by "|". scores.csv has a line per
target. Both "will like?" and "will dislike?" are asked: a user's targets are ranked by the log-odds of Yes to the
first less those to the second, and the same answer to both is a contradiction.
"""

import installed  # noqa: F401

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

from cli.flags import Resolved, flag, parse_flags
from cli.model import ModelFlags, model_contradictions
from cli.verb import run_verb
from data.interactions import DEFAULT_WORDING, Dataset, Interaction, Item
from data.sources.stand_in import STAND_IN
from data.splits import encode_split
from data.users import TITLES, UNPRINTABLE, read_users, title_problems, user_rows
from errors import FlagError, notice
from files import write_text
from machine import ranks
from metrics import Scored, rankings, row_metrics
from model.demo import is_demo
from report.tables import batch_summary, prediction_table
from run.restore import resolve_settings, restore_model
from scoring.splits import score_split

SCORES = ("target", "p_yes_positive", "p_yes_negative", "score", "rank", "contradiction")
DEMO_NOTICE = (
    "DEMO MODEL: small, untuned, taught by simulated viewers, a stand-in. For a run of train.py say --run runs/NAME"
)


@dataclass(frozen=True)
class PredictFlags(ModelFlags):
    """Titles and output."""

    liked: tuple = flag((), "a title that the user liked; once for each, oldest first")
    disliked: tuple = flag((), "a title that the user disliked; once for each, oldest first")
    target: tuple = flag((), "a title to score; once for each")
    input: str = flag(None, "CSV file of many users, in the place of --liked, --disliked and --target")
    output: str = flag(None, "CSV file to write the scores of --input to; replaced if it is there")
    noun: str = flag(None, "what the prompts call a title; default: the run's, or movie")


def check_flags(flags: PredictFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that is missing, unused or would overwrite the input."""
    problems = model_contradictions(flags)
    if flags.adapter and not flags.run and not flags.model:
        problems.append("--adapter: say which base it belongs to with --model DIR (or --model demo)")
    if flags.noun is not None and (not flags.noun.strip() or UNPRINTABLE.search(flags.noun)):
        problems.append(f"--noun {flags.noun!r}: expected a word, such as book")
    if flags.input is not None:
        given = [f"--{name}" for name in TITLES if getattr(flags, name)]
        problems += [f"{name}: contradicts --input, whose columns say it; leave one of them out" for name in given]
        problems += _output_problems(flags.output, flags.input)
    elif flags.output is not None:
        problems.append(
            "--output: is for the scores of --input; name that file too, or leave it out (--json prints the scores)"
        )
    elif not flags.target:
        problems.append(
            "--target: say which title to score with --target TITLE, or name a file with --input FILE --output FILE"
        )
    problems += title_problems({name: getattr(flags, name) for name in TITLES}, "--")
    if problems:
        raise FlagError("\n".join(problems))


def _output_problems(output: str | None, source: str) -> list[str]:
    if not output:
        return [f"--input {source}: say where its scores go with --output FILE"]
    path = Path(os.path.realpath(output))
    if path.exists() and not path.is_file():
        return [f"--output {output}: is there and is not a plain file; name the CSV file to write"]
    if path.exists() and Path(source).exists() and path.samefile(source):
        return [f"--output {output}: is the --input itself; name another file"]
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        why = "not writable" if path.parent.is_dir() else "not a folder"
        return [f"--output {output}: cannot be written ({path.parent} is {why})"]
    return []


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


def scores_csv(rows: list[Interaction], scores: list[dict]) -> str:
    """A line per row, in their order, below the header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["user", *SCORES], lineterminator="\n")
    writer.writeheader()
    for row, values in zip(rows, scores):
        rounded = {name: f"{value:.6f}" if isinstance(value, float) else value for name, value in values.items()}
        writer.writerow({"user": row.user, **rounded})
    return text.getvalue()


def main(argv: list[str]) -> None:
    """Ask both questions about every title, and show or write the answers."""
    flags, resolved = parse_flags(PredictFlags, argv, __doc__, check=check_flags)
    settings, config = resolve_settings(flags, resolved)
    rows = (
        read_users(Path(flags.input))
        if flags.input is not None
        else user_rows(None, flags.liked, flags.disliked, flags.target)
    )
    if not flags.run and not flags.model:
        notice(DEMO_NOTICE)
    catalogue = {title: Item(title) for row in rows for title in (row.target, *(title for title, _ in row.history))}
    noun, wording = flags.noun or config.get("noun") or "movie", config.get("wording", DEFAULT_WORDING)
    data = Dataset("titles", "given by the user", noun, catalogue, [], [], rows, wording)
    if wording == "collm" and any(not liked for row in rows for _, liked in row.history):
        notice("disliked titles have no place in the prompts that this run was trained on, and are left out")
    model, tokenizer = restore_model(flags, settings)
    split = encode_split(rows, data, tokenizer, settings.template, settings.max_len)
    scores = predictions(rows, score_split(model, split, "titles" if flags.input is not None else None))
    results = {
        "run": flags.run,
        "model": settings.model,
        "adapter": flags.adapter,
        "template": settings.template,
        "noun": data.noun,
    }
    results["demo_model"] = is_demo(settings.model)
    results["stand_in"] = results["demo_model"] or config.get("data_source") == STAND_IN
    if flags.input is not None:
        write_text(Path(os.path.realpath(flags.output)), scores_csv(rows, scores))
        results |= {
            "input": flags.input,
            "output": flags.output,
            "users": len({row.user for row in rows}),
            "targets": len(rows),
        }
        results["contradictions"] = {
            both: sum(values["contradiction"] == both for values in scores) for both in ("Yes/Yes", "No/No")
        }
        notice(batch_summary(results))
    else:
        results |= {
            "liked": flags.liked,
            "disliked": flags.disliked,
            "predictions": sorted(scores, key=lambda values: values["rank"]),
        }
        notice(prediction_table(results))
    if flags.json:
        print(json.dumps(results, allow_nan=False))


if __name__ == "__main__":
    run_verb(ranks.single_process(main))
