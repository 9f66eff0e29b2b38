"""--resume: what must not have changed since the run was started, what may change, and what the user is told."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from cli.flags import Resolved, flag_name
from cli.train import TrainFlags, presets
from data.own_wording import read_own_wording
from errors import FlagError, RunError, notice, quoted
from files import missing_advice
from objectives.by_name import make_objective
from run.folder import read_config_file, read_run_config
from run.validate import recorded_flags, shown

Flags = TypeVar("Flags")  # the dataclass of a verb

FOR_ONE_CALL = ("resume", "out", "json", "merge_out", "fsdp", "plan", "base_scores")
NEVER_TAKEN = (*FOR_ONE_CALL, "config", "tensorboard")  # by --config
# Flags that runs of version 0.1.0 lack. Their defaults change nothing.
SINCE_0_1 = (
    *("drop_long", "valid_rows", "test_rows", "config", "zeros", "skip_bad"),
    *("tensorboard", "base_scores", "deterministic", "select"),
    *("collaborative", "stage", "train_collaborative", "tuning", "soft_prompt"),
    *("main_loss", "lcft_stage", "schedule", "end_lr"),
    *("wordings_file", "train_negatives", "train_paraphrases"),
)
AS_IN_0_1 = {"select": "auc"}  # what such a run did, whatever the default is today
_LONGER = "the learning rate now falls to 0 at the new last step, unlike in a run that was longer from the start"
ANYWHERE = {
    "device": "another device rounds differently, so what follows is not the same to the last bit",
    "data_dir": "the rows must be the same, which is checked",
}
OF_BASELINE = ANYWHERE | {"jobs": "changes no bit of the result"}
MAY_CHANGE = ANYWHERE | {  # flag: what a change means for the result; it lasts until the flag is given again
    "deterministic": "sums on a GPU are rounded differently, so what follows is not the same to the last bit",
    "checkpointing": "changes no bit of the result",
    "tensorboard": "changes no bit of the result; where there are no events yet, those of all steps are written",
    "micro_batch_size": "the same pairs per step; sums are rounded differently and dropout draws differently",
    "epochs": _LONGER,
    "max_steps": _LONGER,
}
ONLY_UPWARD = {"epochs": lambda value: value, "max_steps": lambda value: value or math.inf}


def flags_of_run(
    flags: Flags, resolved: Resolved, verb: str = "train.py", may_change: Mapping = MAY_CHANGE
) -> tuple[Flags, Resolved]:
    """The flags that the run of `verb` in --out was started with, changed where may_change allows it.

    The source of a changed flag is "resume". Raises FlagError with a line for each flag that may not change but does.
    """
    config = read_run_config(Path(flags.out), "--resume --out", verb)
    then = recorded_flags(type(flags), config, Path(flags.out) / "config.json")
    new = {
        f.name: AS_IN_0_1.get(f.name, f.default) for f in fields(flags) if f.name in SINCE_0_1 and f.name not in then
    }
    then |= new
    if set(then) != set(resolved.values):
        raise FlagError(f"--resume: {flags.out}/config.json is from another version of {verb}; start another run")
    now = resolved.values
    changed = [
        name
        for name, source in resolved.sources.items()
        if source == "flag" and name not in FOR_ONE_CALL and then[name] != now[name]
    ]
    problems = [
        f"{_given(name, now[name])}: {problem}"
        for name in changed
        if (problem := _refusal(name, then, now, flags.out, may_change))
    ]
    if problems:
        raise FlagError("\n".join(problems))
    values = then | {name: now[name] for name in (*FOR_ONE_CALL, *changed) if name in now}
    sources = {name: entry["source"] for name, entry in config["flags"].items()} | dict.fromkeys(new, "default")
    sources |= dict.fromkeys(changed, "resume")
    return type(flags)(**values), Resolved(values, sources)


def presets_or_config(values: dict) -> dict:
    """{flag: (value, source)} for what presets decide; with --config FILE for every flag that the run of FILE had."""
    taken = flags_of_config(values, TrainFlags, "train.py")
    return presets(values | {name: value for name, (value, _) in taken.items()}) | taken


def refuse_other_objective(config: str, objective: str) -> None:
    """Raises FlagError if the run of --config has another objective: its lambda and presets are of that one."""
    path = Path(config) / "config.json" if Path(config).is_dir() else Path(config)
    recorded = read_config_file(path)["flags"].get("objective", {}).get("value")
    if recorded != objective:
        raise FlagError(
            f"--objective {objective}: the run of --config {config} has {quoted(recorded)}, with settings of its own; "
            "leave out one of them"
        )


def flags_of_config(values: dict, flags: type, verb: str) -> dict:
    """{flag: (value, source)} of the run of `verb` that --config names; {} without --config. flags: of the verb.

    What belongs to one call (FOR_ONE_CALL) is not taken. Raises RunError if it is not the config.json of such a run.
    """
    if not values["config"]:
        return {}
    path = Path(values["config"])
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise RunError(
            f"--config {values['config']}: no such file; name the config.json of a run"
            + missing_advice(values["config"])
        )
    recorded = recorded_flags(flags, read_config_file(path, verb), path)
    if left := [flag_name(name) for name in recorded if name not in values]:
        notice(f"--config {path}: from another version of {verb}; not taken: {', '.join(left)}")
    taken = {name: value for name, value in recorded.items() if name in values and name not in NEVER_TAKEN}
    file, words = taken.get("wordings_file"), read_config_file(path, verb).get("wording")
    if file and values["wordings_file"] is None and Path(file).is_file() and read_own_wording(Path(file)) != words:
        raise FlagError(
            f"--config {path}: its run asked in other words than {file} holds now; bring that file back, or name "
            "one with --wordings-file"
        )
    return {name: (value, f"config {path}") for name, value in taken.items()}


def _refusal(name: str, then: dict, now: dict, out: str, may_change: Mapping) -> str | None:
    """Why this flag may not be what it is now; None if it may."""
    started = f"the run in {out} was started " + ("without it" if then[name] is None else f"with {shown(then[name])}")
    if name not in may_change:
        return f"{started}; leave it out, or start another run"
    if name in ONLY_UPWARD and ONLY_UPWARD[name](now[name]) < ONLY_UPWARD[name](then[name]):
        return f"{started}, and this may only be raised; leave it out, or start another run"
    if name == "micro_batch_size" and not make_objective(then).any_micro_batch:
        return f"{started}, and this loss depends on it: the published code divides by the micro-batch; leave it out"
    if name == "micro_batch_size" and now[name] > then["batch_size"]:
        return f"is larger than --batch-size {then['batch_size']}"
    return None


def _given(name: str, value: object) -> str:
    return f"{flag_name(name)} {value}"


def config_of_resumed(path: Path, now: dict) -> dict:
    """config.json of a resumed run: the old one with what changed, listed in `changes`, too. Reports what changed.

    now: what run.config.run_config gives. Raises RunError with a line for every fingerprint that differs.
    """
    then = read_run_config(path, "--resume --out", now.get("verb", "train.py"))
    differences = _differences(then.get("fingerprints"), now["fingerprints"])
    if differences:
        raise RunError(
            "\n".join(
                f"--resume --out {path}: {line}; start another run, or bring back what it began with"
                for line in differences
            )
        )
    changes, meanings = {}, OF_BASELINE | MAY_CHANGE
    for name, entry in now["flags"].items():
        if name in meanings and name in then["flags"] and then["flags"][name]["value"] != entry["value"]:
            changes[flag_name(name)] = [then["flags"][name]["value"], entry["value"], meanings[name]]
    for name, (old, new) in _software(then, now).items():
        changes[name] = [old, new, "what follows may not be the same to the last bit"]
    for name, (old, new, meaning) in changes.items():
        notice(f"changed since the run began: {name} was {shown(old)}, is {shown(new)} ({meaning})")
    earlier = then.get("changes")
    flags = now["flags"] | {name: then["flags"][name] for name in FOR_ONE_CALL if name in then["flags"]}
    return now | {
        "flags": flags,
        "changes": (earlier if isinstance(earlier, list) else []) + ([changes] if changes else []),
    }


def _differences(then: dict | None, now: dict) -> list[str]:
    """A line for everything that the run depends on and that has changed."""
    if not isinstance(then, dict) or set(then) != set(now):
        return ["config.json is from another version of train.py"]
    return [
        f"{name}: not what the run was started with (then {_abbreviated(then[name])}, now {_abbreviated(now[name])})"
        for name in now
        if then[name] != now[name]
    ]


def _abbreviated(fingerprint: object) -> str:
    """A sha256 by its first digits, and the words after it."""
    return shown(str(fingerprint)[:12] + str(fingerprint)[64:])


def _software(then: dict, now: dict) -> dict[str, tuple]:
    """{what: (then, now)} of the device and the versions, where they differ."""
    versions = then.get("versions")
    old = {"device": then.get("device"), **(versions if isinstance(versions, dict) else {})}
    new = {"device": now["device"], **now["versions"]}
    return {name: (old.get(name), new[name]) for name in new if old.get(name) != new[name]}
