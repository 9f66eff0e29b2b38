"""predict.py --interactive: titles typed at a terminal, and both answers of a run before and after tuning."""

import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cli.predict import PredictFlags
from cli.train import TrainFlags
from data.interactions import DEFAULT_WORDING, Dataset, Interaction, Item
from data.pairs import encode_pairs
from data.parts import WITHOUT_VECTORS
from data.prompts import wording_of
from data.splits import Split, answers_in_context
from data.users import User, rows_of_user, typed
from errors import DataError, notice
from metrics import Scored
from model.llama import Llama
from objectives.by_name import make_objective
from protocols import Tokenizer
from report.predictions import answers_in_words
from run.catalogue import ids_of_titles, known_of_run
from run.restore import restore_model
from run.vectors import NO_USERS, has_vectors, restore_for_titles
from scoring.splits import score_split
from tensors import trainable_parameters

MOST = 9  # titles offered at a time
INTRODUCTION = """
Type a part of a title to look it up among {count:,} {noun}s. A number chooses, an
empty line goes on, - takes the last one back. Ctrl-D or Ctrl-C ends this."""


@dataclass(frozen=True)
class Oracle:
    """A run that answers. data: its items by the titles as they are typed; longest: of a history, None for all.

    user: whose vector stands in its prompts, None for the unknown; folder: of the run; items: the id of each title.
    """

    model: Llama
    tokenizer: Tokenizer
    settings: TrainFlags
    data: Dataset
    longest: int | None
    user: str | None
    folder: Path
    items: Mapping[str, int | str]

    @property
    def reading(self) -> str:
        """Which probability of yes the run trained."""
        return make_objective(vars(self.settings)).reading

    def answers(self, user: User, target: Item) -> tuple[Scored, Scored]:
        """Both answers about one title: of the untuned base, which is asked in text alone, and of the run."""
        (row,) = rows_of_user(user, [target], self.data.wording, self.longest)
        template = self.settings.template
        self.data.test[:] = [row]  # in its prompt the tokens of both answers are looked up
        with without_adapter(self.model):
            before = score_split(self.model, self._encoded(row, self.data, WITHOUT_VECTORS.get(template, template)))
        after = self._encoded(row, self.with_vectors(row, tell=lambda line: None), template)
        return before, score_split(self.model, replace(after, reading=self.reading))

    def with_vectors(self, row: Interaction, tell: Callable[[str], None]) -> Dataset:
        """The data with the vectors of this row, if the run has any; a recommender may compute them of its history."""
        return restore_for_titles(self.model, self.data, [row], self.folder, self.items, tell)

    def _encoded(self, row: Interaction, data: Dataset, template: str) -> Split:
        pairs, truncated = encode_pairs([row], data, self.tokenizer, template, self.settings.max_len)
        return Split([row], pairs, truncated, answers_in_context(data, self.tokenizer, template))


def open_oracle(flags: PredictFlags, settings: TrainFlags, config: dict) -> Oracle:
    """The run of --run with all its items. Raises DataError if its items are not known."""
    known, why = known_of_run(Path(flags.run), config, settings, notice)
    if known is None:
        raise DataError(f"--run {flags.run}: {why}; so there are no titles to choose from")
    items = {typed(item): item for item in known.items if item.title}
    if not items:
        raise DataError(f"--run {flags.run}: its catalogue has no titles; so there are none to choose from")
    noun, wording = flags.noun or config.get("noun") or "movie", config.get("wording", DEFAULT_WORDING)
    data = Dataset("titles", "of the run", noun, items, [], [], [], wording)
    longest = known.history[1] if flags.history is None else flags.history
    folder = Path(flags.run)
    ids = ids_of_titles(folder) if has_vectors(folder) else {}
    oracle = Oracle(*restore_model(flags, settings), settings, data, longest, flags.user, folder, ids)
    if not ids and flags.user is not None:
        notice(NO_USERS)
    (row,) = rows_of_user(User(flags.user, (), (), ()), [next(iter(items.values()))], wording, longest)
    oracle.with_vectors(row, tell=notice)  # what is missing or damaged is refused before anything is asked
    return oracle


@contextmanager
def without_adapter(model: Llama) -> Iterator[None]:
    """The model as if it had no LoRA: every B is zero inside the block."""
    kept = {name: tensor for name, tensor in trainable_parameters(model).items() if name.endswith("lora_B")}
    values = {name: tensor.detach().clone() for name, tensor in kept.items()}
    try:
        with torch.no_grad():
            for tensor in kept.values():
                tensor.zero_()
        yield
    finally:
        with torch.no_grad():
            for name, tensor in kept.items():
                tensor.copy_(values[name])


def converse(oracle: Oracle, ask: Callable[[str], str], say: Callable[[str], None]) -> None:
    """Ask for titles and show the answers until the person ends it; returns then.

    ask(prompt): the next line, raising EOFError or KeyboardInterrupt where the person ends it. say: for what helps;
    the answers go to standard output.
    """
    items = sorted(oracle.data.catalogue.values(), key=lambda item: (item.title, item.author or ""))
    noun = oracle.data.noun
    say(INTRODUCTION.format(count=len(items), noun=noun))
    try:
        while True:
            say(f"\nWhich {noun}s do you like?")
            liked = several(items, "like> ", ask, say)
            rest, disliked = [item for item in items if item not in liked], []
            if wording_of(oracle.data.wording).latest_likes is None:  # another wording has no place for them
                say(f"Which {noun}s do you dislike?")
                disliked = several(rest, "dislike> ", ask, say)
            say(f"Which {noun} shall it judge? An empty line begins anew.")
            rest = [item for item in rest if item not in disliked]
            user = User(oracle.user, tuple(liked), tuple(disliked), ())
            while target := one(rest, "judge> ", ask, say):
                print(answers_in_words(typed(target), *oracle.answers(user, target), oracle.reading), flush=True)
    except (EOFError, KeyboardInterrupt):
        say("")


def several(items: list[Item], prompt: str, ask: Callable[[str], str], say: Callable[[str], None]) -> list[Item]:
    """The titles that the person chooses, in that order."""
    chosen: list[Item] = []
    while (item := one(items, prompt, ask, say, chosen)) is not None:
        chosen.append(item)
    return chosen


def one(
    items: list[Item],
    prompt: str,
    ask: Callable[[str], str],
    say: Callable[[str], None],
    chosen: list[Item] | None = None,
) -> Item | None:
    """A title that the person chooses; None for an empty line. chosen: not offered again; `-` takes back the last."""
    offered: list[Item] = []
    while line := ask(prompt).strip():
        if line == "-" and chosen:
            say(f"  without {shown(chosen.pop())}")
            continue
        if line.isdecimal() and 1 <= int(line) <= len(offered):
            say(f"  {shown(offered[int(line) - 1])}")
            return offered[int(line) - 1]
        found = matches([item for item in items if item not in (chosen or [])], line)
        offered = found[:MOST]
        for number, item in enumerate(offered, start=1):
            say(f"  {number}  {shown(item)}")
        if not found:
            say(f"  no title has {ascii(line)}; type another part of it")
        elif len(found) > MOST:
            say(f"  and {len(found) - MOST:,} more: type more of the title, or a number")
        else:
            say("  type a number, or another part of a title")
    return None


def matches(items: list[Item], text: str) -> list[Item]:
    """The items that have every word of the text, whatever its case and accents; those that begin with it first."""
    words, whole = plain(text).split(), plain(text)
    found = [item for item in items if all(word in plain(typed(item)) for word in words)]
    return sorted(found, key=lambda item: not plain(item.title).startswith(whole))


def plain(text: str) -> str:
    """The text in small letters without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if not unicodedata.combining(c))


def shown(item: Item) -> str:
    """A title, with its author, as it may stand on a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in typed(item))


def ask_at_terminal(prompt: str) -> str:
    """The next line of standard input, after a prompt on standard error: standard output is for answers."""
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()
