"""What reproduce.py can run: each study is a list of settings, as data. A setting is a row of the study's table."""

from dataclasses import dataclass, field, replace

from studies.results import BASE

TRAIN, BASELINE, EVAL = "train.py", "baseline.py", "eval.py"


@dataclass(frozen=True)
class Setting:
    """One way to train, run with the seeds 0, 1, ...

    method: its name in tables; flags: of its verb, beside --shots, "" for one without a value. trials: of a search that
    the first seed makes, and whose setting the others take; 0: no search. needs_bert: whether it reads titles with the
    BERT of --bert.
    """

    method: str
    shots: str
    seeds: int
    flags: dict[str, str] = field(default_factory=dict)
    verb: str = TRAIN
    trials: int = 0
    needs_bert: bool = False

    @property
    def label(self) -> str:
        """What its row is called."""
        weight = f", lambda {self.flags['kl-weight']}" if "kl-weight" in self.flags else ""
        return f"{self.method}{weight}, {self.shots} shots"

    @property
    def is_control(self) -> bool:
        """Whether it is LCFT without its KL, with which others are compared."""
        return self.flags == {"kl-weight": "0"}

    def run_names(self) -> list[str]:
        """The folder of each run, by seed. They follow from the flags alone: equal runs of two studies are one run."""
        words = [f"{name}={value}" if value else name for name, value in sorted(self.flags.items())]
        return ["-".join([f"shots={self.shots}", *words, f"seed={seed}"]) for seed in range(self.seeds)]


@dataclass(frozen=True)
class Run:
    """A run of a setting. after: the name of a run that must be finished before, None for none.

    asks: whether it asks that run, or the base, in all wordings, and trains nothing.
    """

    setting: Setting
    seed: int
    after: str | None = None
    asks: bool = False

    @property
    def verb(self) -> str:
        """The one that makes it."""
        return EVAL if self.asks else self.setting.verb


def asking(run: str) -> str:
    """The name of what asks a run, or BASE, in all wordings."""
    return f"{run}-wordings"


@dataclass(frozen=True)
class Study:
    """about: one line for --help; over_lambda: whether a picture shows its rows against lambda.

    validation: whether its tables show the validation figures too, on which a setting may be chosen. wordings: whether
    the base and each of its runs are also asked in all wordings.
    """

    about: str
    settings: tuple[Setting, ...]
    over_lambda: bool = False
    validation: bool = False
    wordings: bool = False

    def with_kl_weights(self, weights: list[str]) -> "Study":
        """The study with each row of plain LCFT once for each of these weights."""
        settings: list[Setting] = []
        for setting in self.settings:
            made = [setting]
            if setting.method == LCFT:
                made = [replace(setting, flags=setting.flags | {"kl-weight": weight}) for weight in weights]
            settings += [one for one in made if one not in settings]
        return replace(self, settings=tuple(settings))

    def runs(self) -> dict[str, Run]:
        """{name: run}: all settings with seed 0, then all with seed 1, ..., so that a part of it is balanced."""
        made = [(asking(BASE), Run(UNTUNED, 0, asks=True))] if self.wordings else []
        for setting in self.settings:
            names = setting.run_names()
            for seed, name in enumerate(names):
                made.append((name, Run(setting, seed, names[0] if setting.trials and seed else None)))
                if self.wordings and setting.verb == TRAIN:
                    made.append((asking(name), Run(setting, seed, after=name, asks=True)))
        return dict(sorted(made, key=lambda one: one[1].seed))


UNTUNED = Setting("untuned base", "0", 1)
LCFT = "LCFT"
KL_WEIGHTS = ("0", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1")  # Figure 3
# That of --objective paper. The other objectives have another one by default; TALLRec would then differ in two things.
DROPOUT = {"lora-dropout": "0.005"}
SHOTS = ("16", "64", "256")
TRIALS = 12  # of every searched row of a table: the same budget for each


def _few_shot(shots: str, seeds: int) -> tuple[Setting, ...]:
    """They share everything but the prompts that they train on, and lambda."""
    return (
        Setting("TALLRec", shots, seeds, {"objective": "tallrec", **DROPOUT}),
        Setting("control", shots, seeds, {"kl-weight": "0"}),
        Setting(LCFT, shots, seeds, {"kl-weight": "1e-4"}),
    )


# Terms in the place of the KL, with the weights that are tried. That of jeffreys has no bound, so it gets small ones.
CONTRAST_WEIGHTS = {
    **dict.fromkeys(("js", "margin", "complement", "xor", "arbitrage", "bundle", "unlikelihood"), ("0.1", "1", "10")),
    "jeffreys": ("1e-4", "1e-3", "1e-2"),
}
# Of these, the one with the best informative consistency on the validation rows of the demo: docs/consistency.md.
CHOSEN_WEIGHTS = dict.fromkeys(CONTRAST_WEIGHTS, "1") | {"jeffreys": "1e-4"}


def _contrast(objective: str, weight: str, shots: str, seeds: int) -> Setting:
    return Setting(objective, shots, seeds, {"objective": objective, "kl-weight": weight})


def _on_several(setting: Setting, negatives: int, paraphrases: int = 1) -> Setting:
    """The setting trained on so many negative and positive questions."""
    counts = {"negatives": negatives, "paraphrases": paraphrases}
    said = [f"{count} {name}" for name, count in counts.items() if count > 1]
    flags = {f"train-{name}": str(count) for name, count in counts.items() if count > 1}
    return replace(setting, method=", ".join([setting.method, *said]), flags=setting.flags | flags)


def _several_wordings(shots: str, seeds: int) -> tuple[Setting, ...]:
    """TALLRec, the control and LCFT; the control on more and more negations; and all but TALLRec, with four terms in
    the place of the KL, on four questions of each side.
    """
    tallrec, control, lcft = _few_shot(shots, seeds)
    terms = (
        _contrast(name, CHOSEN_WEIGHTS[name], shots, seeds) for name in ("bundle", "complement", "xor", "jeffreys")
    )
    return (
        *(tallrec, control, lcft),
        *(_on_several(control, count) for count in (2, 4, 8)),
        *(_on_several(setting, 4, 4) for setting in (control, lcft, *terms)),
    )


def _selected(measure: str, setting: Setting) -> Setting:
    """The setting with its best state chosen by another validation measure than AUC."""
    return replace(setting, method=f"{setting.method}, by {measure}", flags=setting.flags | {"select": measure})


def _recommender(name: str, method: str, shots: str, seeds: int, **more) -> Setting:
    """A row of baseline.py. name: in tables; method: of --method."""
    return Setting(name, shots, seeds, {"method": method, **more.pop("flags", {})}, BASELINE, **more)


def _few_shot_recommenders(shots: str, seeds: int) -> tuple[Setting, ...]:
    """The rows of Table 1 that are no language model, in the paper's order; and the share of liked items, fitted."""
    sequence = (("GRU4Rec", "gru4rec"), ("Caser", "caser"), ("SASRec", "sasrec"), ("DROS", "dros"))
    titles = (("GRU-BERT", "gru-bert"), ("DROS-BERT", "dros-bert"))
    return (
        *(_recommender(name, method, shots, seeds, trials=TRIALS) for name, method in sequence),
        *(_recommender(name, method, shots, seeds, trials=TRIALS, needs_bert=True) for name, method in titles),
        _recommender("history share, logistic regression", "history-logreg", shots, seeds),
    )


STUDIES = {
    "few-shot": Study(
        "TALLRec, the control and LCFT with 16, 64 and 256 shots, 5 seeds",
        tuple(setting for shots in SHOTS for setting in _few_shot(shots, 5)),
    ),
    "table1": Study(
        "Table 1 of the paper for one data set: six recommenders, TALLRec, the control and LCFT, 5 seeds",
        tuple(setting for shots in SHOTS for setting in (*_few_shot_recommenders(shots, 5), *_few_shot(shots, 5))),
    ),
    "table2-recommenders": Study(
        "the rows of Table 2 that are no language model: MF, LightGCN, SASRec on all training rows, 5 seeds",
        (
            _recommender("MF, published setting", "mf", "all", 5, flags={"setting": "published"}),
            _recommender("MF", "mf", "all", 5),
            _recommender("MF with biases", "mf", "all", 5, flags={"bias": ""}),
            _recommender("LightGCN, published setting", "lightgcn", "all", 5, flags={"setting": "published"}),
            _recommender("SASRec, published setting", "sasrec-full", "all", 5, flags={"setting": "published"}),
            _recommender("logistic regression, user and item", "logreg", "all", 1),
        ),
    ),
    "consistency-weights": Study(
        "the terms in the place of the KL with three weights each, one seed, to choose one on validation",
        tuple(_contrast(name, weight, "64", 1) for name, weights in CONTRAST_WEIGHTS.items() for weight in weights),
        validation=True,
    ),
    "consistency": Study(
        "TALLRec, the control, LCFT, and eight other terms in the place of the KL; 64 shots, 5 seeds",
        (*_few_shot("64", 5), *(_contrast(name, weight, "64", 5) for name, weight in CHOSEN_WEIGHTS.items())),
        validation=True,
    ),
    "wordings": Study(
        "TALLRec, the control, LCFT and four other terms, trained on one or several wordings, asked in all; 64 shots",
        _several_wordings("64", 3),
        validation=True,
        wordings=True,
    ),
    "selection": Study(
        "TALLRec, the control and LCFT with the best state chosen by each validation measure; 64 shots, 5 seeds",
        tuple(
            made
            for setting in _few_shot("64", 5)
            for made in (setting, *(_selected(name, setting) for name in ("auc_combined", "informative_consistency")))
        ),
        validation=True,
    ),
    "figure3": Study(
        "lambda from 0 to 1, as in Figure 3 of the paper; 64 shots, 3 seeds",
        tuple(Setting(LCFT, "64", 3, {"kl-weight": weight}) for weight in KL_WEIGHTS),
        over_lambda=True,
    ),
    "laptop": Study(
        "64 shots with 5 seeds, also with a large lambda; 16 and 256 shots and the published code with 3 seeds",
        (
            *_few_shot("64", 5),
            Setting("LCFT, KL cap 1", "64", 5, {"kl-weight": "0.1", "kl-cap": "1"}),
            Setting("the published code's loss", "64", 3, {"objective": "released"}),
            *_few_shot("16", 3),
            *_few_shot("256", 3),
        ),
    ),
}
