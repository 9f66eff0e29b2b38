"""Which words a run asks in: a wording of the user's own, and what each training pair is asked."""

from dataclasses import replace
from pathlib import Path

from cli.train import TrainFlags
from data.interactions import Dataset
from data.own_wording import parse_own_wording, read_own_wording
from data.prompts import WORDINGS, wording_of
from data.questions import Questions, drawn_questions
from errors import FlagError
from objectives.by_name import OBJECTIVES


def in_words_of(data: Dataset, file: str | None, config: dict) -> Dataset:
    """The data set with the wording of --wordings-file, or else with the own one that a run's config.json holds.

    Raises DataError with a line for every fault of the file.
    """
    text = read_own_wording(Path(file)) if file else config.get("wording")
    if text is None or text in WORDINGS:  # the data set's own
        return data
    return replace(data, wording=text, noun=parse_own_wording(text).noun or data.noun)


def refuse_too_few(questions: Questions, paraphrases: int, negatives: int, advice: str) -> None:
    """Raises FlagError if training wants more than the wording has. advice: what to do, {} for how many it has."""
    wanted = (("paraphrases", paraphrases, questions.positives), ("negatives", negatives, questions.negatives))
    problems = [
        f"--train-{name} {count}: the wording has {len(pool)} of them; {advice.format(len(pool))}"
        for name, count, pool in wanted
        if count > len(pool)
    ]
    if problems:
        raise FlagError("\n".join(problems))


def training_questions(data: Dataset, pairs: int, flags: TrainFlags) -> list[tuple[str, str]]:
    """The positive and the negative words of each training pair. Raises FlagError if there are not so many wordings."""
    questions = wording_of(data.wording).questions
    refuse_too_few(questions, flags.train_paraphrases, flags.train_negatives, "choose 1 to {}")
    return drawn_questions(questions, flags.train_paraphrases, flags.train_negatives, pairs, flags.seed)


def seen_in_training(data: Dataset, config: dict) -> set[str]:
    """The words that the run of this config.json was trained to answer; none of a base alone, whose flags are {}."""
    if not config["flags"]:
        return set()
    questions = wording_of(data.wording).questions
    counts = {name: config["flags"].get(name, {}).get("value", 1) for name in ("train_paraphrases", "train_negatives")}
    positives, negatives = (list(words) for words in (questions.positives, questions.negatives))
    objective = OBJECTIVES.get(config["flags"].get("objective", {}).get("value"))
    no_negatives = objective is not None and objective.rows_per_pair == 1
    return {*positives[: counts["train_paraphrases"]], *negatives[: 0 if no_negatives else counts["train_negatives"]]}
