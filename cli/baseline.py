"""What baseline.py can be asked for: its flags, those of single methods among them, and which of them fit together."""

from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path

from baselines.base import OPTIMISER, Direct, Option
from baselines.methods import METHODS, all_options, options_of, problem_with
from cli.data import DataFlags, data_problems
from cli.flags import Resolved, flag, flag_name
from cli.train import shot_count
from errors import FlagError

SETTINGS = ("default", "published")


@dataclass(frozen=True)
class _MethodFlags(DataFlags):
    """Method and rows."""

    method: str = flag("mf", f"{', '.join(METHODS)}; see docs/baselines.md", choices=tuple(METHODS), metavar="NAME")
    shots: str = flag("all", "training rows drawn as train.py draws them: a number, or all")
    seed: int = flag(0, "draws the shots, the first weights, the order and the dropout", low=0, high=2**32 - 1)
    setting: str = flag(
        "default",
        "published: as the paper's authors ran it; default: the same, but for what docs/baselines.md says; or the "
        "setting.json of a search",
        metavar="{default,published,FILE}",
    )


@dataclass(frozen=True)
class _SearchFlags:
    """Search."""

    search: bool = flag(False, "try the method's grid on validation AUC first, and train with the best setting")
    trials: int = flag(24, "settings that a search tries, at most: a seeded choice of the grid", low=1, high=10**4)
    jobs: int = flag(1, "processes that try settings at the same time", low=1, high=256)


@dataclass(frozen=True)
class _OutputFlags:
    """Machine and output."""

    device: str = flag("auto", "auto, cpu, cuda, cuda:1, ...")
    out: str = flag(None, "run folder; default runs/DATA-SHOTS-METHOD-seedSEED", metavar="DIR")
    resume: bool = flag(False, "resume the run, or the search, in --out")
    config: str = flag(None, "take every flag that is not given from this config.json of a run", metavar="FILE")
    json: bool = flag(False, "print the results as one JSON line on standard output")


def _flags_of(options: tuple[Option, ...]) -> list:
    """A flag for each option; None: what the setting says."""
    return [
        (
            option.name,
            type(option.default),
            flag(
                False if type(option.default) is bool else None,
                f"{option.help}; default: the setting's",
                choices=option.choices,
                low=option.low,
                high=option.high,
            ),
        )
        for option in options
    ]


_OptimiserFlags = make_dataclass(
    "_OptimiserFlags", _flags_of(OPTIMISER), namespace={"__doc__": "Optimisation."}, frozen=True
)
_OptionFlags = make_dataclass(
    "_OptionFlags",
    _flags_of(tuple(all_options().values())),
    namespace={"__doc__": "Options of single methods."},
    frozen=True,
)


@dataclass(frozen=True)
class BaselineFlags(_OutputFlags, _SearchFlags, _OptionFlags, _OptimiserFlags, _MethodFlags):
    """Every flag of baseline.py."""


def check_baseline(flags: BaselineFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that is unused or contradicts another."""
    if flags.resume:  # checked when the run was started; what may be given now, run/resume.py says
        if not flags.out:
            raise FlagError("--resume: say which run with --out DIR")
        if flags.config:
            raise FlagError("--config: a resumed run takes its flags from its own config.json; leave it out")
        return
    method = METHODS[flags.method]
    given = {name for name, source in resolved.sources.items() if source == "flag"}
    problems = data_problems(flags.data, resolved)
    plain = {field.name: field.default for field in fields(BaselineFlags)}
    said = given | {name for name, source in resolved.sources.items() if source.startswith("config ")}
    said = {name for name in said if name in given or resolved.values[name] != plain[name]}
    problems += [
        f"{flag_name(name)}{_of_config(name, resolved)}: has no effect with --method {method.name}; "
        + ("leave it out" if name in given else "give the flags that you want instead of --config")
        for name in resolved.values
        if name in said & _unused(flags)
    ]
    problems += [
        f"{flag_name(option.name)} {getattr(flags, option.name)}{_of_config(option.name, resolved)}: with --method "
        f"{method.name} {problem}"
        for option in options_of(method)
        if option.name in said and (problem := problem_with(option, getattr(flags, option.name)))
    ]
    if flags.search and isinstance(method, Direct):
        problems.append(f"--search: --method {method.name} has nothing to search; leave it out")
    elif flags.search:
        problems += [
            f"{flag_name(name)}: is what --search tries; leave one of them out" for name in method.grid if name in given
        ]
        if flags.setting not in SETTINGS:
            problems.append("--setting: is what --search chooses; leave one of them out")
    else:
        problems += [
            f"{flag_name(name)}: has no effect without --search" for name in ("trials", "jobs") if name in given
        ]
    try:
        shot_count(flags.shots)
    except FlagError as error:
        problems.append(str(error))
    if problems:
        raise FlagError("\n".join(problems))


def _of_config(name: str, resolved: Resolved) -> str:
    """Where a value comes from that nobody typed."""
    return f" (of {resolved.sources[name]})" if resolved.sources[name] != "flag" else ""


def _unused(flags: BaselineFlags) -> set[str]:
    """The flags that this method does not use."""
    method = METHODS[flags.method]
    of_methods = set(all_options()) - {option.name for option in options_of(method)}
    return of_methods | ({option.name for option in OPTIMISER} | {"setting"} if isinstance(method, Direct) else set())


def given_settings(flags: BaselineFlags) -> dict:
    """The settings that flags say, by name."""
    names = [option.name for option in (*OPTIMISER, *options_of(METHODS[flags.method]))]
    return {name: value for name in names if (value := getattr(flags, name)) is not None and value is not False}


def baseline_run_name(flags: BaselineFlags) -> str:
    """What the run folder is called unless --out says."""
    return f"{Path(flags.data).name}-{flags.shots}-{flags.method}-seed{flags.seed}"
