"""From the folder of a finished run to its line in the results file."""

import json
import math
from pathlib import Path

from errors import RunError
from files import read_whole
from metrics import Scored, metric_values
from run.answers import read_answers
from run.base_scores import shared_answers
from run.config import versions
from run.predictions import Predictions, read_predictions
from studies.bench import Bench, known_lines
from studies.parts import own_file
from studies.results import BASE, Line, read_lines, write_lines
from studies.study import EVAL, TRAIN, Run

ANSWERS = "consistency.json"  # in the folder of what asks in all wordings
OF_A_QUESTION = ("asks", "kind", "trained_on", "held_out", "same_answer_is_right")
TOLD_APART_BY = ("auc", "contradiction_rate", "group_accuracy")
OF_THE_PLACE = (
    *("data_dir", "model", "out", "base_scores", "resume", "json", "config", "merge_out", "plan", "device"),
    *("setting", "bert", "jobs", "collaborative", "init_adapter"),
)
OF_A_RUN = (  # of results.json
    *("steps", "best_step", "best_valid_auc", "stopped", "select", "selection"),
    *("setting", "settings", "bert"),
)


def write_line(name: str, run: Run, seconds: int | None, bench: Bench) -> dict[str, Line]:
    """Add the line of a finished run, and the base's, to the file of its part; returns the lines of all parts."""
    lines = known_lines(bench)
    if run.asks:
        mine = {name: _line_of_asked(name, seconds, bench)}
    elif run.verb == EVAL:
        mine = {name: _line_of_scored(name, run, seconds, bench)}
    else:
        mine = {name: _line_of_run(name, run, seconds, bench)}
        if run.scores_base and BASE not in lines:
            mine[BASE] = _line_of_base(name, bench)
    own = own_file(bench.results, bench.part)
    write_lines(own, (read_lines(own) if bench.part else lines) | mine)
    return known_lines(bench)  # with the digits that a later table has


def _left_by(name: str, bench: Bench) -> tuple[dict, dict, Predictions, dict]:
    """What a finished run of train.py or baseline.py left.

    Its results.json, its flags, its predictions, and what its line and the base's have in common.
    """
    folder = bench.out / name
    results, config = (json.loads(read_whole(folder / file)) for file in ("results.json", "config.json"))
    predictions = read_predictions(folder / "predictions.csv")
    flags = {flag: entry["value"] for flag, entry in config["flags"].items() if flag not in OF_THE_PLACE}
    about = bench.common | {"versions": config["versions"], "threads": bench.threads}
    return results, flags, predictions, about | _rows(results["test"], predictions)


def _rows(results: dict, predictions: Predictions) -> dict:
    """{"rows": their numbers in the whole split} if these are results of a part of it."""
    return {"rows": [int(number) for number in predictions.numbers]} if results.get("chosen") else {}


def _of_a_run(results: dict) -> dict:
    """What results.json says of the run, without folders of this machine."""
    found = {key: results[key] for key in OF_A_RUN if key in results}
    if "setting" in found:
        found["setting"] = Path(found["setting"]).name  # a name, or the run that searched
    if "settings" in found:
        found["settings"] = {name: value for name, value in found["settings"].items() if name not in OF_THE_PLACE}
    return found


def _line_of_run(name: str, run: Run, seconds: int | None, bench: Bench) -> Line:
    results, flags, predictions, about = _left_by(name, bench)
    of_run = _of_a_run(results) | {"seconds": seconds, "flags": flags}
    of_run |= {"verb": run.verb} if run.verb != TRAIN else {}
    scored = predictions.scored
    answers = (scored.z_pos, scored.z_neg) if scored.has_answers else (scored.z_pos,)
    return Line(name, about | of_run | _metrics(results["test"]["after"]), *answers)


def _line_of_base(name: str, bench: Bench) -> Line:
    """The answers before training, which the runs share. name: of a run that was compared with them.

    Other answers may be there too, to the prompts of another objective: they do not give this run's figures.
    """
    results, _, predictions, about = _left_by(name, bench)
    before, scored = results["test"]["before"], predictions.scored
    for columns in shared_answers(bench.out / BASE, "test"):
        if len(columns["log_yes_pos"]) != len(scored.labels):
            continue
        asked = Scored(scored.users, scored.labels, **columns)
        values = metric_values(asked)
        if all(math.isclose(values[name], before[name], rel_tol=1e-9, abs_tol=1e-12) for name in TOLD_APART_BY):
            return Line(BASE, about | _metrics(before), asked.z_pos, asked.z_neg)
    raise RunError(f"{bench.out / BASE}: has no answers that give the figures of the base in {name}; delete that run")


def _line_of_scored(name: str, run: Run, seconds: int | None, bench: Bench) -> Line:
    """The line of a setting that eval.py scores, without any training."""
    folder = bench.out / name
    results, predictions = json.loads(read_whole(folder / "results.json")), read_predictions(folder / "predictions.csv")
    scored = predictions.scored
    about = _about_scored(results, predictions, seconds, bench) | {"flags": run.setting.flags}
    measured = {key: results[key] for key in metric_values(scored) if key in results}
    return Line(name, about | _metrics(measured), scored.z_pos, scored.z_neg)


def _line_of_asked(name: str, seconds: int | None, bench: Bench) -> Line:
    """The line of what eval.py --wordings left: the answers to all questions, and which questions these are."""
    folder = bench.out / name
    results, answers = json.loads(read_whole(folder / "results.json")), read_answers(folder / ANSWERS)
    of_question = {row["asks"]: {key: row[key] for key in OF_A_QUESTION} for row in results["wordings"]["rows"]}
    about = _about_scored(results, read_predictions(folder / "predictions.csv"), seconds, bench)
    about |= {"questions": [of_question[words] for words in answers.questions]}
    measured = {key: results[key] for key in metric_values(answers.scored) if key in results}
    z = answers.odds.T
    return Line(name, about | _metrics(measured), z[0], z[1], z[2:])


def _about_scored(results: dict, predictions: Predictions, seconds: int | None, bench: Bench) -> dict:
    about = bench.common | {"versions": versions(), "threads": bench.threads} | _rows(results, predictions)
    return about | {"seconds": seconds, "verb": EVAL}


def _metrics(values: dict) -> dict:
    """The test figures of results.json without their intervals."""
    return {"test": {name: value for name, value in values.items() if name not in ("interval_95", "counts")}}
