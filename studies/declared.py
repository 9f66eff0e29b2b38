"""What reproduce.py can run: each study is a list of settings, as data. A setting is a row of the study's table."""

from dataclasses import replace

from studies.study import BASELINE, CONTROL, EVAL, LCFT, LCFT_COLMF, Need, Setting, Study

COLMF = "lcft-colmf"
KL_WEIGHTS = ("0", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1")  # Figure 3
# That of --objective paper. The other objectives have another one by default; TALLRec would then differ in two things.
DROPOUT = {"lora-dropout": "0.005"}
SHOTS = ("16", "64", "256")
FEW_SHOT, FULL_DATA = ("movie", "book"), ("ml-1m", "amazon-book")  # data sets of the paper
TRIALS = 12  # of every searched row of a table: the same budget for each


# Of a small base with more shots: docs/consistency.md.
ALL_LINEAR = {
    "lora-targets": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
    **{"lora-r": "16", "lora-alpha": "32", "lr": "5e-4", "max-steps": "128", "eval-every": "32"},
}

# Of the study whole-bundle: each of movie's 8,000 training rows once; and asked in one of 14 questions.
ALL_ROWS = ALL_LINEAR | {"batch-size": "16", "max-steps": "500", "eval-every": "125"}
IN_14_QUESTIONS = ALL_ROWS | {"train-negatives": "8", "train-paraphrases": "6"}


def _few_shot(shots: str, seeds: int, more: dict[str, str] | None = None) -> tuple[Setting, ...]:
    """They share everything but the prompts that they train on, and lambda. more: flags of all three."""
    more = more or {}
    return (
        Setting("TALLRec", shots, seeds, {"objective": "tallrec", **DROPOUT, **more}),
        Setting(CONTROL, shots, seeds, {"kl-weight": "0", **more}),
        Setting(LCFT, shots, seeds, {"kl-weight": "1e-4", **more}),
    )


# Terms in the place of the KL, with the weights that are tried. That of jeffreys has no bound, so it gets small ones.
CONTRAST_WEIGHTS = {
    **dict.fromkeys(("js", "margin", "complement", "xor", "arbitrage", "bundle", "unlikelihood"), ("0.1", "1", "10")),
    "jeffreys": ("1e-4", "1e-3", "1e-2"),
}
# Of these, the one with the best informative consistency on the validation rows of the demo: docs/consistency.md.
CHOSEN_WEIGHTS = {
    **dict.fromkeys(("js", "margin"), "1"),
    **dict.fromkeys(("complement", "xor", "arbitrage", "bundle", "unlikelihood"), "0.1"),
    "jeffreys": "1e-2",
}


def _contrast(objective: str, weight: str, shots: str, seeds: int, more: dict[str, str] | None = None) -> Setting:
    return Setting(objective, shots, seeds, {"objective": objective, "kl-weight": weight, **(more or {})})


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


def _few_shot_recommenders(shots: str, seeds: int, histories: tuple[str, ...] = ()) -> tuple[Setting, ...]:
    """The rows of Table 1 that are no language model, in the paper's order; and the share of liked items, fitted.

    histories: further ones to read, each as a row after that of the whole history.
    """
    sequence = (("GRU4Rec", "gru4rec"), ("Caser", "caser"), ("SASRec", "sasrec"), ("DROS", "dros"))
    titles = (("GRU-BERT", "gru-bert"), ("DROS-BERT", "dros-bert"))
    ways = [("", {}), *((f", {history} history", {"history": history}) for history in histories)]
    return (
        *(
            _recommender(name + said, method, shots, seeds, trials=TRIALS, flags=flags)
            for name, method in sequence
            for said, flags in ways
        ),
        *(_recommender(name, method, shots, seeds, trials=TRIALS, needs_bert=True) for name, method in titles),
        _recommender("history share, logistic regression", "history-logreg", shots, seeds),
    )


MF = _recommender("MF, published setting", "mf", "all", 5, flags={"setting": "published"})
FULL_DATA_RECOMMENDERS = (
    MF,
    _recommender("MF", "mf", "all", 5),
    _recommender("MF with biases", "mf", "all", 5, flags={"bias": ""}),
    _recommender("LightGCN, published setting", "lightgcn", "all", 5, flags={"setting": "published"}),
    _recommender("SASRec, published setting", "sasrec-full", "all", 5, flags={"setting": "published"}),
    _recommender("logistic regression, user and item", "logreg", "all", 1, seeded=False),
)
STAGE_1 = Setting("CoLLM, stage 1", "all", 5, {"objective": "collm"}, plain=False)
# CoLLM's second stage has these on Amazon-Book: docs/collaborative.md.
STAGE_2_OF_DATA = {"amazon-book": {"lr": "1e-2", "batch-size": "8", "eval-every": "100"}}


def _with_vectors(method: str, flags: dict[str, str]) -> Setting:
    """A row of CoLLM's second stage: MF's vectors in the prompt, and the adapter of the first."""
    needs = {"collaborative": Need(MF, "mf:{}"), "init-adapter": Need(STAGE_1)}
    return Setting(method, "all", 5, flags, needs=needs, plain=False, of_data=STAGE_2_OF_DATA)


FULL_DATA_LANGUAGE_MODELS = (
    Setting("ICL", "all", 1, {"examples": "0"}, EVAL, seeded=False),
    Setting("ICL, 4 examples", "all", 1, {"examples": "4", "max-len": "1536"}, EVAL),
    Setting("Prompt4NR-V", "all", 5, {"objective": "collm", "soft-prompt": "uniform"}, plain=False, only=FULL_DATA),
    Setting("TALLRec", "all", 5, {"objective": "tallrec", "eval-every": "50"}),
    STAGE_1,
    _with_vectors("CoLLM-MF", {"objective": "collm"}),
    _with_vectors(CONTROL, {"objective": COLMF, "kl-weight": "0"}),
    _with_vectors(LCFT_COLMF, {"objective": COLMF, "kl-weight": "1e-4"}),
)

STUDIES = {
    "few-shot": Study(
        "TALLRec, the control and LCFT with 16, 64 and 256 shots, 5 seeds",
        tuple(setting for shots in SHOTS for setting in _few_shot(shots, 5)),
    ),
    "table1": Study(
        "Table 1 of the paper for one data set: six recommenders, TALLRec, the control and LCFT, 5 seeds",
        tuple(setting for shots in SHOTS for setting in (*_few_shot_recommenders(shots, 5), *_few_shot(shots, 5))),
        data=FEW_SHOT,
        lambda_of_data=True,
    ),
    "table1-recommenders": Study(
        "the rows of Table 1 that are no language model, also with liked items alone or with likes as signs, 5 seeds",
        tuple(setting for shots in SHOTS for setting in _few_shot_recommenders(shots, 5, ("liked", "signed"))),
        data=FEW_SHOT,
    ),
    "table2-recommenders": Study(
        "the rows of Table 2 that are no language model: MF, LightGCN, SASRec on all training rows, 5 seeds",
        FULL_DATA_RECOMMENDERS,
        data=FULL_DATA,
    ),
    "table2": Study(
        "Table 2 of the paper for one data set: recommenders, ICL, Prompt4NR-V, CoLLM-MF, LCFT-CoLMF, 5 seeds",
        (*FULL_DATA_RECOMMENDERS, *FULL_DATA_LANGUAGE_MODELS),
        data=FULL_DATA,
        lambda_of_data=True,
    ),
    "table4": Study(
        "Table 4 of the paper: TALLRec, the control and LCFT with the shots that it shows of each data set, 5 seeds",
        tuple(setting for shots in SHOTS for setting in _few_shot(shots, 5)),
        data=FEW_SHOT,
        lambda_of_data=True,
        shots_of_data={"movie": ("256",), "book": ("16", "64")},
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
    "capacity": Study(
        "TALLRec, the control and LCFT with 1,024 shots and LoRA in every linear layer, for a small base; 3 seeds",
        _few_shot("1024", 3, ALL_LINEAR),
        validation=True,
    ),
    "whole-bundle": Study(
        "as capacity, on all training rows and in 14 questions, asked in all; with the margin beside LCFT; 3 seeds",
        (
            Setting("TALLRec", "all", 3, {"objective": "tallrec", **DROPOUT, **ALL_ROWS}),
            Setting(CONTROL, "all", 3, {"kl-weight": "0", **IN_14_QUESTIONS}),
            Setting(LCFT, "all", 3, {"kl-weight": "1e-4", **IN_14_QUESTIONS}),
            _contrast("margin", CHOSEN_WEIGHTS["margin"], "all", 3, IN_14_QUESTIONS),
        ),
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
            Setting("the published code's loss", "64", 3, {"objective": "released"}, plain=False),  # prompts of its own
            *_few_shot("16", 3),
            *_few_shot("256", 3),
        ),
    ),
}
