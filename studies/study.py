"""What a study is: settings, each a row of its table, and the runs that follow from them."""

import hashlib
from dataclasses import dataclass, field, replace

from studies.results import BASE

LONGEST_NAME = 200  # characters; file systems have 255, and "-seed=0-wordings.log" follows
TRAIN, BASELINE, EVAL = "train.py", "baseline.py", "eval.py"
CONTROL, LCFT, LCFT_COLMF = "control", "LCFT", "LCFT-CoLMF"  # names of methods
MARK = "--"  # flags after the first are of train.py, after the second of baseline.py


@dataclass(frozen=True)
class Need:
    """A flag whose value names the folder of another run, of the same seed. form: the value, with {} for the folder."""

    setting: "Setting"
    form: str = "{}"


@dataclass(frozen=True)
class Setting:
    """One way to train, run with the seeds 0, 1, ...

    method: its name in tables; flags: of its verb, beside --shots, "" for one without a value. trials: of a search that
    the first seed makes, and whose setting the others take; 0: no search. needs_bert: whether it reads titles with the
    BERT of --bert. needs: {flag: the run that it names}. plain: whether its answers before training are those of the
    untuned base: in the data set's prompts, without vectors, with softmax over both answers. of_data: {data set:
    further flags}. seeded: whether runs with several seeds differ at all. only: the data sets that it can be run on; ()
    for all.
    """

    method: str
    shots: str
    seeds: int
    flags: dict[str, str] = field(default_factory=dict)
    verb: str = TRAIN
    trials: int = 0
    needs_bert: bool = False
    needs: dict[str, Need] = field(default_factory=dict)
    plain: bool = True
    of_data: dict[str, dict[str, str]] = field(default_factory=dict)
    seeded: bool = True
    only: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What its row is called."""
        weight = f", lambda {self.flags['kl-weight']}" if "kl-weight" in self.flags else ""
        return f"{self.method}{weight}" + (f", {self.shots} shots" if self.verb != EVAL else "")

    @property
    def has_lambda(self) -> bool:
        """Whether it is LCFT, or LCFT-CoLMF, whose lambda --kl-weights says."""
        return self.method in (LCFT, LCFT_COLMF)

    @property
    def is_control(self) -> bool:
        """Whether it is LCFT, or LCFT-CoLMF, without its KL, with which others are compared."""
        without_kl = self.has_lambda and self.flags.get("kl-weight") == "0"
        return self.method == CONTROL or without_kl

    def run_names(self) -> list[str]:
        """The folder of each run, by seed."""
        return [self.run_name(seed) for seed in range(self.seeds)]

    def run_name(self, seed: int) -> str:
        """The folder of a run. It follows from the flags alone: equal runs of two studies are one run.

        Where it would be longer than a name may be, a hash stands for what is left out.
        """
        needs = [f"{name}={'+'.join(need.setting.words())}" for name, need in sorted(self.needs.items())]
        name = "-".join([f"shots={self.shots}", *self.words(), *needs])
        if len(name) > LONGEST_NAME:
            name = f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return f"{name}-seed={seed}"

    def words(self) -> list[str]:
        """Its flags, as names of folders have them."""
        return [f"{name}={value}" if value else name for name, value in sorted(self.flags.items())]


@dataclass(frozen=True)
class Run:
    """A run of a setting. after: the names of the runs that must be finished before.

    asks: whether it asks the run before, or the base, in all wordings, and trains nothing.
    """

    setting: Setting
    seed: int
    after: tuple[str, ...] = ()
    asks: bool = False

    @property
    def verb(self) -> str:
        """The one that makes it."""
        return EVAL if self.asks else self.setting.verb

    @property
    def scores_base(self) -> bool:
        """Whether it leaves the answers of the untuned base."""
        return self.verb == TRAIN and self.setting.plain


def asking(run: str) -> str:
    """The name of what asks a run, or BASE, in all wordings."""
    return f"{run}-wordings"


@dataclass(frozen=True)
class Study:
    """about: one line for --help; over_lambda: whether a picture shows its rows against lambda.

    validation: whether its tables show the validation figures too, on which a setting may be chosen.
    data: the data sets that it is for, the first by default.
    lambda_of_data: whether LCFT has the lambda that the paper has for the data set.
    shots_of_data: {data set: the shots of the settings that it has there}; all where it is not named.
    wordings: whether the base and each of its runs are also asked in all wordings.
    """

    about: str
    settings: tuple[Setting, ...]
    over_lambda: bool = False
    validation: bool = False
    data: tuple[str, ...] = ("movie",)
    lambda_of_data: bool = False
    shots_of_data: dict[str, tuple[str, ...]] = field(default_factory=dict)
    wordings: bool = False

    def with_kl_weights(self, weights: list[str]) -> "Study":
        """The study with each row of plain LCFT once for each of these weights; a control stands for its weight 0."""
        settings: list[Setting] = []
        controls = {setting.shots for setting in self.settings if setting.method == CONTROL}
        for setting in self.settings:
            made = [setting]
            if setting.has_lambda:
                wanted = [weight for weight in weights if weight != "0" or setting.shots not in controls]
                made = [replace(setting, flags=setting.flags | {"kl-weight": weight}) for weight in wanted]
            settings += [one for one in made if one not in settings]
        return replace(self, settings=tuple(settings))

    def with_term_weights(self, weights: dict[str, str]) -> "Study":
        """The study with each of these objectives with this weight, {objective: weight}, instead of its own."""

        def weighted(setting: Setting) -> Setting:
            weight = weights.get(setting.flags.get("objective", ""))
            return setting if weight is None else replace(setting, flags=setting.flags | {"kl-weight": weight})

        made: list[Setting] = []
        for setting in map(weighted, self.settings):
            made += [setting] if setting not in made else []
        return replace(self, settings=tuple(made))

    def for_data(self, data: str) -> "Study":
        """The study with the settings, and the flags of them, that it has with this data set."""
        wanted = self.shots_of_data.get(data)
        settings = [one for one in self.settings if wanted is None or one.shots in wanted]
        settings = [one for one in settings if not one.only or data in one.only]
        return replace(
            self, settings=tuple(replace(one, flags=one.flags | one.of_data.get(data, {})) for one in settings)
        )

    def runs(self) -> dict[str, Run]:
        """{name: run}: all settings with seed 0, then all with seed 1, ..., so that a part of it is balanced.

        What a run needs is among them, whether it has a row of its own or not.
        """
        made: dict[str, Run] = {asking(BASE): Run(UNTUNED, 0, asks=True)} if self.wordings else {}
        for setting in self.settings:
            for seed in range(setting.seeds):
                _add_run(made, setting, seed)
                if self.wordings and setting.verb == TRAIN:
                    name = setting.run_name(seed)
                    made[asking(name)] = Run(setting, seed, (name,), asks=True)
        return dict(sorted(made.items(), key=lambda one: one[1].seed))


def _add_run(made: dict[str, Run], setting: Setting, seed: int) -> None:
    """Add a run to those that are to be made, after all that it needs."""
    after = [need.setting.run_name(seed) for need in setting.needs.values()]
    for need in setting.needs.values():
        _add_run(made, need.setting, seed)
    if setting.trials and seed:
        after.append(setting.run_name(0))
    made.setdefault(setting.run_name(seed), Run(setting, seed, tuple(after)))


UNTUNED = Setting("untuned base", "0", 1)
