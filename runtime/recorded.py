"""What a run wrote down of itself, read again: its flags and its steps. Checked, since a folder may come from anywhere."""

import json
import math
from dataclasses import fields
from pathlib import Path

from data.files import read_whole
from data.prompts import WORDINGS
from runtime.flags import FlagError, RunError, convert

TEXTS = ("data_source", "noun", "wording", "data_fingerprint")  # of config.json, beside its flags


def refuse_config(config: object, path: Path) -> None:
    """Raises RunError unless this is what config.json of a run holds, as far as another verb uses it."""
    try:
        for entry in config["flags"].values():
            entry["value"], entry["source"]
        texts = [config[name] for name in TEXTS if name in config]
    except (KeyError, TypeError, AttributeError):
        texts = [None]
    if not all(isinstance(text, str) and text.isprintable() for text in texts) or config.get("wording", "tallrec") not in WORDINGS:
        raise RunError(f"{path}: not the config.json of a run; give the folder that train.py wrote")


def recorded_flags(verb: type, config: dict, path: Path) -> dict:
    """{flag: value} of a run, each of the type and within the bounds of the verb's flag of that name.

    Raises RunError naming the file and the flag that is not.
    """
    known = {f.name: f for f in fields(verb)}
    found = {name: entry["value"] for name, entry in config["flags"].items()}
    for name, value in found.items():
        if name in known and not _is_value_of(known[name], value):
            raise RunError(f"{path}: {name} is {repr(value)[:60]}, which that flag cannot be; was the file changed? Start another run")
    return found


def shown(value: object) -> str:
    """A recorded value in a message: as it is, or as Python writes it if it could spoil a terminal."""
    text = str(value)
    return text if text.isprintable() and len(text) <= 200 else repr(text[:200])


def _is_value_of(f, value: object) -> bool:
    if value is None:
        return f.default is None
    if type(value) is not f.type and not (f.type is float and type(value) is int):
        return False
    if f.type is str and ("\0" in value or not value):
        return False
    try:
        return f.type is bool or convert(f.name, f, str(value)) == value
    except FlagError:
        return False


def step_records(path: Path) -> list[dict]:
    """The lines of metrics.jsonl; one cut off by a crash is left out, and there are none if there is no file.

    Raises RunError naming the line that is no record of a step.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(read_whole(path).split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            step, values = record["step"], [record[name] for name in ("ce_pos", "ce_neg", "kl")] + list(record.values())
            if type(step) is not int or not all(type(value) in (int, float) and abs(value) < math.inf for value in values):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RunError(f"{path} line {number}: not the record of a step, found {line[:60]!r}; take that line out, or start another run") from None
        records.append(record)
    return records
