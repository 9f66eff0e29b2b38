"""How long the missing runs of a study should take."""

import json
import statistics
import subprocess
from collections import Counter
from collections.abc import Iterable

from tqdm import tqdm

from studies.bench import Bench
from studies.calls import call_of, environment
from studies.declared import TRAIN, Run
from studies.results import Line


def expected(missing: dict[str, Run], lines: dict[str, Line], bench: Bench, first: bool = False) -> str:
    """In words, from the median time of the runs of the same verb whose folders are here; missing: by name.

    A line alone may come from another machine. first: before anything runs. Then a run of train.py that can start now
    is asked for its plan if no such run is here, which takes as long as loading the base.
    """
    if not missing:
        return "nothing is left to run"
    seconds, source = _typical_seconds(line for line in lines.values() if bench.is_finished(line.run)), ""
    if first and TRAIN not in seconds and (planned := _planned(missing, bench)):
        seconds[TRAIN], source = planned, ", by the plan of the first"
    unknown = Counter(run.verb for run in missing.values() if run.verb not in seconds)
    if unknown.total() == len(missing):
        return f"{len(missing)} to make; how long one takes is known after the first"
    left = sum(seconds[run.verb] for run in missing.values() if run.verb in seconds) / bench.jobs
    unit = "h:min:s" if left >= 3600 else "min:s"
    text = f"{len(missing)} to make in about {tqdm.format_interval(left)} ({unit}), {bench.jobs} at a time{source}"
    not_counted = " and ".join(f"{count} of {verb}" for verb, count in unknown.items())
    return text + (f"; not counted: {not_counted}, known after the first" if not_counted else "")


def _typical_seconds(lines: Iterable[Line]) -> dict[str, float]:
    """{verb: median of its runs}."""
    seconds: dict[str, list[float]] = {}
    for line in lines:
        if line.about.get("seconds"):
            seconds.setdefault(line.about.get("verb", TRAIN), []).append(line.about["seconds"])
    return {verb: statistics.median(times) for verb, times in seconds.items()}


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
