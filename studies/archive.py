"""A study as one folder that can be passed on and checked: what was run, on what, with which result.

It holds no user, item or label: lines have the answers by row number, and predictions.csv of the runs is left out. What
it takes to check the figures is the data set, which everybody fetches from its publisher.
"""

import hashlib
import json
import os
import platform
import sys
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from data.interactions import Dataset
from errors import DataError, RunError, quoted
from files import new_folder, read_whole, write_flushed
from metrics import metric_values
from studies.results import BASE, DIGITS, Line, content_of, read_lines
from studies.tables import NAMES

FORM = 1  # of archive.json; another form is refused
ABOUT, LINES, LOCK = "archive.json", "results.jsonl", "requirements.lock"
STUDY = "study.json"  # in the folder of a study: how it was called
OF_A_RUN = ("config.json", "results.json", "metrics.jsonl", "trials.jsonl", "setting.json")
CODE = Path(__file__).parent.parent
HALF_DIGIT = 0.5 * 10.0**-DIGITS  # of a log-odds in a line
ROUNDING = 1e-9


@dataclass(frozen=True)
class Check:
    """One thing that was verified. what: in words; problem: None if it holds."""

    what: str
    problem: str | None = None


def read_study(out: Path, flag: str) -> dict:
    """How the study in a folder was called: study, argv, base. Raises RunError, naming the flag, if it holds none."""
    path = out / STUDY
    if not path.is_file():
        raise RunError(f"{flag} {out}: holds no study ({STUDY} is missing); name the --out of reproduce.py STUDY")
    return _read(path, ("study", "argv", "base", "results"))


def make_archive(out: Path, to: Path, lines: dict[str, Line]) -> list[str]:
    """Write the archive of the study in `out` to a new folder. Returns the names of its runs without a folder here.

    Raises RunError if `out` has no table of the study.
    """
    study = read_study(out, "--out")
    of_study = (f"{study['study']}.", f"{study['study']}-questions.")
    files = [path for path in sorted(out.iterdir()) if path.name.startswith(of_study)]
    tables = [path for path in files if path.suffix in (".md", ".csv", ".tex", ".png")]
    if not tables:
        raise RunError(f"--out {out}: has no table of {study['study']}; make it: reproduce.py {study['study']} --table")
    with new_folder(to) as folder:
        for path in tables:
            write_flushed(folder / path.name, read_whole(path))
        write_flushed(folder / LINES, content_of(Path(study["results"])))
        missing = [name for name in lines if not _copy_run(out / name, folder / "runs" / name)]
        write_flushed(folder / LOCK, "".join(f"{line}\n" for line in installed_packages()).encode())
        about = {"form": FORM, **study, **surroundings(), "sha256": digests(folder)}
        write_flushed(folder / ABOUT, json.dumps(about, indent=2).encode() + b"\n")
    return [name for name in missing if name != BASE]


def _copy_run(run: Path, to: Path) -> bool:
    """What a run folder says of its run, without the rows of the data; False if there is no such folder."""
    there = [name for name in OF_A_RUN if (run / name).is_file()]
    if there:
        to.mkdir(parents=True)
    for name in there:
        write_flushed(to / name, read_whole(run / name))
    return bool(there)


def surroundings() -> dict:
    """When and where it was made: date, interpreter, system, processor, cores, and a sha256 of the code."""
    return {
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "code_sha256": digest_of_code(),
    }


def _processor() -> str:
    """Its name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if sys.platform == "linux" and info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def digest_of_code() -> str:
    """sha256 over every Python file of the program, but for tests and measurements."""
    digest = hashlib.sha256()
    rooms = [path for path in CODE.iterdir() if (path / "__init__.py").exists() and path.name not in ("tests", "bench")]
    files = [*CODE.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    for path in sorted(files):
        digest.update(f"{path.relative_to(CODE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def installed_packages() -> list[str]:
    """name==version of everything that is installed beside this program."""
    named = {(one.metadata["Name"] or "").lower(): one.version for one in distributions()}
    return [f"{name}=={version}" for name, version in sorted(named.items()) if name]


def digests(folder: Path) -> dict[str, str]:
    """{path: sha256} of every file below a folder, but for archive.json itself."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ABOUT)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(read_whole(path)).hexdigest() for path in paths}


# ---- verifying ----------------------------------------------------------------------------------


def read_archive(folder: Path) -> dict:
    """archive.json. Raises RunError if it is something else or of another form."""
    path = folder / ABOUT
    if not path.is_file():
        raise RunError(f"--archive {folder}: no archive there ({ABOUT} is missing); reproduce.py archive makes one")
    about = _read(path, ("form", "study", "argv", "base", "sha256"))
    if about["form"] != FORM or not isinstance(about["sha256"], dict):
        raise RunError(f"{path}: is of form {quoted(about['form'])}, and this version reads form {FORM}")
    return about


def check_files(folder: Path, about: dict) -> list[Check]:
    """Whether every file is there, unchanged, and no other."""
    there, said = digests(folder), about["sha256"]
    checks = [
        Check(f"{name} is unchanged", None if there.get(name) == digest else "is missing or was changed")
        for name, digest in said.items()
    ]
    return checks + [
        Check(f"{name} belongs to it", "is not named in archive.json") for name in there if name not in said
    ]


def check_lines(folder: Path, data: Dataset) -> list[Check]:
    """Whether the figures that each run reported follow from its answers and the labels of the data set."""
    checks = []
    for name, line in read_lines(folder / LINES).items():
        what = f"{name}: its figures follow from its answers"
        if line.about.get("data") != data.fingerprint():
            checks.append(Check(what, "it was scored on other data than these"))
            continue
        try:
            bounds = possible_figures(line, data)
        except DataError as error:
            checks.append(Check(what, str(error)))
            continue
        said = {key: value for key, value in line.about["test"].items() if key in bounds and value is not None}
        wrong = [key for key, value in said.items() if not bounds[key][0] <= value <= bounds[key][1]]
        listed = [f"{key} {said[key]:.6f}, here {bounds[key][0]:.6f} to {bounds[key][1]:.6f}" for key in wrong]
        checks.append(Check(what, ", ".join(listed) or None))
    return checks


def check_runs(folder: Path) -> list[Check]:
    """Whether results.json and config.json of each run say what its line says, which the figures were checked by."""
    checks = []
    for name, line in read_lines(folder / LINES).items():
        run = folder / "runs" / Path(name).name  # whoever made the archive may have written a path
        if (run / "results.json").is_file():
            said = _read_json(run / "results.json")
            said = _part(_part(said, "test"), "after") or said  # eval.py has the figures at the top
            wrong = [key for key, value in line.about["test"].items() if said.get(key) != value]
            checks.append(Check(f"{name}: results.json has its figures", _listed(wrong)))
        if (run / "config.json").is_file() and "flags" in line.about:
            flags = _part(_read_json(run / "config.json"), "flags")
            wrong = [key for key, value in line.about["flags"].items() if _part(flags, key).get("value") != value]
            checks.append(Check(f"{name}: config.json has its flags", _listed(wrong)))
    return checks


def _part(content: dict, name: str) -> dict:
    """An object in an object; an empty one if there is none."""
    return part if isinstance(part := content.get(name), dict) else {}


def _listed(wrong: list[str]) -> str | None:
    return f"another {', '.join(wrong)} than its line" if wrong else None


def _read_json(path: Path) -> dict:
    """Raises RunError if it is no object."""
    try:
        content = json.loads(read_whole(path))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise RunError(f"{path}: not what train.py, baseline.py or eval.py write")
    return content


def possible_figures(line: Line, data: Dataset) -> dict[str, tuple[float, float]]:
    """{metric: (low, high)}: between these a figure must lie, since a line has four digits of each log-odds.

    Moving every answer by half a digit towards what is right, or away from it, gives the extremes of each AUC and of
    both answers right. An answer that near to 0 may count on either side.
    """
    chosen = [data.test[number] for number in line.numbers(data.test)]
    towards = HALF_DIGIT * np.array([1 if row.label else -1 for row in chosen])
    if line.z_neg is None:
        moved, unclear = [line], 0.0
    else:
        moved = [replace(line, z_pos=line.z_pos + by, z_neg=line.z_neg - by) for by in (-towards, 0 * towards, towards)]
        unclear = sum(float(np.mean(np.abs(z) <= HALF_DIGIT)) for z in (line.z_pos, line.z_neg))
    found = [metric_values(one.scored(data.test)) for one in moved]
    return {
        name: (min(values) - unclear - ROUNDING, max(values) + unclear + ROUNDING)
        for name in NAMES
        if name in found[0] and not np.isnan(values := [one[name] for one in found]).any()
    }


def check_tables(folder: Path, texts: dict[str, str]) -> list[Check]:
    """Whether the tables come out again, byte for byte. texts: {file: what is made of the lines here}."""
    found = {name: read_whole(folder / name) if (folder / name).is_file() else None for name in texts}
    other = {name: "is missing" if found[name] is None else "differs from what the lines make here" for name in texts}
    return [
        Check(f"{name} comes out again", None if found[name] == text.encode() else other[name])
        for name, text in texts.items()
    ]


def _read(path: Path, keys: tuple[str, ...]) -> dict:
    try:
        content = json.loads(read_whole(path))
        if not all(key in content for key in keys) or not all(isinstance(word, str) for word in content["argv"]):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise RunError(f"{path}: not what reproduce.py writes") from None
    return content
