"""The settings of a recommender as a file of baseline.py records them, checked when they are read."""

import json
from pathlib import Path

from baselines.base import OPTIMISER
from baselines.methods import METHODS, options_of, problem_with
from cli.baseline import SETTINGS
from errors import RunError, quoted
from files import missing_advice, read_whole

VERB = "baseline.py"
SETTING, BEST = "setting.json", "best.safetensors"  # what a search chose; every trained tensor of the best state


def read_setting(setting: str, method: str) -> dict:
    """The settings in the file, written by a search, that --setting names; {} if it names none.

    Raises RunError if it is something else, or of another method.
    """
    if setting in SETTINGS:
        return {}
    path = Path(setting)
    path = path / "setting.json" if path.is_dir() else path
    if not path.is_file():
        raise RunError(
            f"--setting {path}: neither {' nor '.join(SETTINGS)}, and no such file; name a setting.json"
            + missing_advice(path)
        )
    try:
        content = json.loads(read_whole(path))
        of, settings = content["method"], dict(content["settings"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RunError(f"--setting {path}: not the {SETTING} of a search") from None
    if of != method:
        raise RunError(f"--setting {path}: is of another method than {method}")
    return checked_settings(settings, method, f"--setting {path}", "search again")


def checked_settings(settings: object, method: str, where: str, advice: str) -> dict:
    """The settings if they are what the method takes. Raises RunError, beginning with `where`, if they are not."""
    options = {option.name: option for option in (*OPTIMISER, *options_of(METHODS[method]))}
    if not isinstance(settings, dict) or set(settings) != set(options):
        raise RunError(f"{where}: has other settings than {method} of this version; {advice}")
    for name, value in settings.items():
        if problem := problem_with(options[name], value):
            raise RunError(f"{where}: {name} is {quoted(value)}; {problem}; {advice}")
    return settings
