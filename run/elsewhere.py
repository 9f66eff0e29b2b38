"""Folders that a run recorded as they were typed, and that are not found from the folder in which it is used now."""

import os
from collections.abc import Collection
from pathlib import Path

from cli.flags import flag_name
from data.load import NAMES
from errors import RunError
from model.demo import is_demo

FOLDERS = ("data", "data_dir", "model", "init_adapter")  # flags of train.py


def refuse_missing(used: str, values: dict, names: Collection[str], run: Path, resumed: bool = False) -> None:
    """Raises RunError with a line for each folder of a run that is not found: the cause, and the cure.

    used: how the run was named, such as "--run runs/A". values: of the flags as they apply, names: which of them are
    the run's own. resumed: whether they may not be given anew.
    """
    lines = []
    for name in FOLDERS:
        value = values.get(name)
        if name in names and value is not None and not _is_no_folder(name, values) and not Path(value).exists():
            lines.append(
                f"{used}: was started with {flag_name(name)} {value}, {_cause_and_cure(name, value, run, resumed)}"
            )
    if lines:
        raise RunError("\n".join(lines))


def _is_no_folder(name: str, values: dict) -> bool:
    """Whether the value is a name that is known everywhere, or has no effect."""
    if name == "model":
        return is_demo(values[name])
    is_known = values["data"] in (*NAMES, "demo")
    return is_known if name == "data" else name == "data_dir" and not is_known


def _cause_and_cure(name: str, value: str, run: Path, resumed: bool) -> str:
    flag = flag_name(name)
    if Path(value).is_absolute():
        return f"which is not there any more; {'bring it back' if resumed else f'say where it is with {flag} DIR'}"
    cause = f"a folder that is not found from here ({Path.cwd()})"
    began = next((parent for parent in run.absolute().parents if (parent / value).exists()), None)
    if resumed:
        where = f", which may be {os.path.relpath(began)}" if began else ""
        return f"{cause}; resume in the folder in which the run was started{where}"
    return f"{cause}; name it with {flag} {os.path.relpath(began / value) if began else 'DIR'}"
