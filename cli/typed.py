"""Commands as a user can type them: with the interpreter, the place and the flags that made this run what it is."""

import shlex
import sys
from dataclasses import fields, replace
from pathlib import Path

from cli.flags import flag_name
from cli.train import ObjectiveFlags, OutputFlags, TrainFlags, presets
from machine import ranks
from objectives.by_name import flags_of, make_objective

FROM_ADAPTER = ("lora_r", "lora_alpha", "lora_targets")  # --init-adapter brings them
ALWAYS = ("data", "shots")


def verb_as_typed(name: str) -> str:
    """`python train.py`, with the interpreter and the folder that were typed to start this process."""
    place = Path(sys.argv[0])
    script = place.with_name(name) if place.with_name("train.py").is_file() else Path(name)
    if ranks.count() > 1:
        return f"torchrun ... {shlex.quote(str(script))}"
    typed = (getattr(sys, "orig_argv", None) or [sys.executable or "python"])[0]
    return f"{shlex.quote(typed)} {shlex.quote(str(script))}"


def resume_command(path: Path, verb: str = "train.py") -> str:
    """What to type to resume the run in this folder."""
    return f"{verb_as_typed(verb)} --out {shlex.quote(str(path))} --resume"


def train_command(flags: TrainFlags, **changes: object) -> str:
    """The command of a run that differs from this one in `changes` alone, whatever the presets of these are."""
    wanted = replace(flags, **changes)
    left_out = {field.name for field in fields(OutputFlags)} | {"plan"}
    left_out |= set(FROM_ADAPTER if wanted.init_adapter else ())
    left_out |= {field.name for field in fields(ObjectiveFlags)} - {"objective", *flags_of(wanted.objective)}
    left_out |= {"train_negatives"} if make_objective(vars(wanted)).rows_per_pair == 1 else set()
    plain = {field.name: field.default for field in fields(TrainFlags)}
    chosen = {name: getattr(wanted, name) for name in ("data", "model", "objective", "device")}
    plain |= {name: value for name, (value, _) in presets(plain | chosen).items()}
    words = [verb_as_typed("train.py")]
    for name in [*ALWAYS, *(name for name in plain if name not in ALWAYS)]:
        value = getattr(wanted, name)
        if name in left_out or (value == plain[name] and name not in ALWAYS):
            continue
        words.append(flag_name(name) if value is True else f"{flag_name(name)} {shlex.quote(str(value))}")
    return " ".join(words)
