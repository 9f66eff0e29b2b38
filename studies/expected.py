"""How long the missing runs of a study should take."""

import json
import statistics
import subprocess
from collections import Counter
from collections.abc import Iterable

from tqdm import tqdm

from studies.bench import Bench
from studies.calls import call_of, environment
from studies.declared import TRIALS
from studies.results import Line
from studies.study import BASELINE, TRAIN, Run

SEARCH = f"{BASELINE} --search"


def expected(missing: dict[str, Run], lines: dict[str, Line], bench: Bench, first: bool = False) -> str:
    """In words, from the median time of the runs of the same kind whose folders are here; missing: by name.

    A line alone may come from another machine. first: before anything runs. Then a run of train.py that can start now
    is asked for its plan if no such run is here, which takes as long as loading the base.
    """
    if not missing:
        return "nothing is left to run"
    seconds, source = _typical_seconds(line for line in lines.values() if bench.is_finished(line.run)), ""
    if first and TRAIN not in seconds and (planned := _planned(missing, bench)):
        seconds[TRAIN], source = planned, ", by the plan of the first"
    if SEARCH in seconds:
        seconds.setdefault(BASELINE, seconds[SEARCH] / (TRIALS + 1))  # a search is so many runs
    unknown = Counter(kind for run in missing.values() if (kind := _kind(run)) not in seconds)
    if unknown.total() == len(missing):
        return f"{len(missing)} to make; how long one takes is known after the first"
    left = sum(seconds.get(_kind(run), 0) for run in missing.values()) / bench.jobs
    unit = "h:min:s" if left >= 3600 else "min:s"
    text = f"{len(missing)} to make in about {tqdm.format_interval(left)} ({unit}), {bench.jobs} at a time{source}"
    not_counted = " and ".join(f"{count} of {kind}" for kind, count in unknown.items())
    return text + (f"; not counted: {not_counted}, known after the first" if not_counted else "")


def _kind(run: Run) -> str:
    """Runs of a kind take about as long as each other: those of a verb, or the searches of a recommender's setting."""
    return SEARCH if run.setting.trials and run.seed == 0 else run.verb


def _typical_seconds(lines: Iterable[Line]) -> dict[str, float]:
    """{kind: median of its runs}."""
    seconds: dict[str, list[float]] = {}
    for line in lines:
        if line.about.get("seconds"):
            kind = SEARCH if line.about.get("setting") == "searched" else line.about.get("verb", TRAIN)
            seconds.setdefault(kind, []).append(line.about["seconds"])
    return {kind: statistics.median(times) for kind, times in seconds.items()}


def _planned(missing: dict[str, Run], bench: Bench) -> float | None:
    """Seconds that train.py --plan expects of the first run that needs no other; None if there is none.

    None, too, if that call fails: the run itself will say why.
    """
    name = next((name for name, run in missing.items() if run.verb == TRAIN and not run.after), None)
    if name is None:
        return None
    call = [*call_of(name, missing[name], bench), "--plan", "--json"]
    found = subprocess.run(call, env=environment(bench), stdin=subprocess.DEVNULL, capture_output=True)
    return json.loads(found.stdout)["run_s"] if found.returncode == 0 else None
