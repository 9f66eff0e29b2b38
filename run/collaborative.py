"""--collaborative METHOD:RUN: the vectors of a trained recommender, and which of them stand in the prompt of a row."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from baselines.base import Training, history_form
from baselines.methods import METHODS
from baselines.rows import encode_rows, number_ids
from baselines.sasrec_full import SASRecFull
from baselines.vectors import READS_HISTORIES, WITH_VECTORS, history_vectors, sasrec_of, user_and_item_vectors
from cli.baseline import BaselineFlags
from cli.train import shot_count
from data.interactions import Dataset, Interaction, select_shots
from errors import RunError, notice, quoted
from files import read_whole
from run.folder import read_run_config
from run.settings import BEST, SETTING, VERB, checked_settings, read_setting
from run.validate import recorded_flags
from tensors import put_tensors, trainable_parameters

USER, ITEM = "<UserID>", "<TargetItemID>"  # placeholders of data/prompts.py
INIT_STD = 0.1  # of vectors that begin anew, as ours of the recommenders do


@dataclass(frozen=True)
class Recommender:
    """A trained recommender as train.py uses it. users, items: the number of each that it knows, from 1.

    tensors: "users" (U, d) and "items" (I, d); of a method that reads histories all its tensors by name instead; where:
    the file that these are from.
    """

    method: str
    settings: dict
    users: dict[int | str, int]
    items: dict[int | str, int]
    tensors: dict[str, Tensor]
    where: Path

    @property
    def reads_histories(self) -> bool:
        """Whether its user is the state after a history, and not a vector of a table."""
        return self.method in READS_HISTORIES


@dataclass(frozen=True)
class Placed:
    """table: (R, d), the vectors by number, 0 for unknown; numbers: of a row, (of its user, of its target)."""

    table: Tensor
    numbers: Callable[[Interaction], tuple[int, int]]

    def ids(self, vocabulary: int) -> Callable[[Interaction], dict[str, int]]:
        """What Dataset.vectors is for a model of that many tokens."""

        def of_row(row: Interaction) -> dict[str, int]:
            user, item = self.numbers(row)
            return {USER: vocabulary + user, ITEM: vocabulary + item}

        return of_row


# ---- from a run of baseline.py ------------------------------------------------------------------


def load_recommender(named: str, data: Dataset) -> Recommender:
    """The best state of the run that --collaborative names, as METHOD:FOLDER.

    Raises RunError if the folder holds no finished run of that method, or one that was trained on other data.
    """
    flag = f"--collaborative {named}"
    method, _, folder = named.partition(":")
    path = Path(folder)
    config = read_run_config(path, "--collaborative", VERB)
    flags = recorded_flags(BaselineFlags, config, path / "config.json")
    if flags["method"] != method:
        raise RunError(f"{flag}: is a run of {flags['method']}; write {flags['method']}:{folder}, or name another run")
    recorded = str(config.get("fingerprints", {}).get("data", ""))
    if not recorded.startswith(data.fingerprint()):
        raise RunError(
            f"{flag}: was trained on other rows than --data {data.name}; train it with the same flags of the data, "
            "--noun included, so that its users and items are those of the prompts and no row of its is tested here"
        )
    settings = _settings(path, config, method)
    shots = select_shots(data.train, shot_count(flags["shots"]), flags["seed"])
    ids, form = number_ids(data, shots), history_form(METHODS[method], settings)
    tensors = _read(path / BEST)
    if method in READS_HISTORIES:
        recommender = Recommender(method, settings, {}, ids.items, tensors, path / BEST)
        return replace(recommender, tensors=dict(trainable_parameters(filled(recommender))))
    module = METHODS[method].build(Training(ids, encode_rows(shots, ids, form)), settings)
    put_tensors(trainable_parameters(module), tensors, str(path / BEST))
    users, items = user_and_item_vectors(module)
    if settings.get("bias"):
        notice(f"{flag}: only the vectors stand in the prompt; its biases do not")
    tensors = {"users": users.detach().clone(), "items": items.detach().clone()}
    return Recommender(method, settings, ids.users, ids.items, tensors, path / BEST)


def _settings(path: Path, config: dict, method: str) -> dict:
    """Every setting of a run by name: of its search if it had one. Raises RunError if one cannot be."""
    if (path / SETTING).is_file():
        return read_setting(path / SETTING, method)
    return checked_settings(config.get("settings"), method, str(path / "config.json"), "train it again")


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise RunError(f"{path}: missing; is the run finished? Resume it with baseline.py --out {path.parent} --resume")
    try:
        return load(read_whole(path))
    except SafetensorError as error:
        raise RunError(f"{path}: damaged or truncated ({quoted(str(error), 80)}); do that run again") from None


# ---- vectors for rows ---------------------------------------------------------------------------


def place(recommender: Recommender, rows: list[Interaction]) -> Placed:
    """A table with every vector that these rows need, and where in it a row's are.

    Without histories the table is the same whatever the rows are: unknown, users, items. Otherwise it is: unknown, a
    state for each distinct history of the rows, items.
    """
    items = recommender.items
    if not recommender.reads_histories:
        users = recommender.users
        tables = [recommender.tensors[name] for name in ("users", "items")]

        def user_number(row: Interaction) -> int:
            return users.get(row.user, 0)
    else:
        module = filled(recommender)
        numbers = {key: n for n, key in enumerate(dict.fromkeys(_history(recommender, row) for row in rows), start=1)}
        histories = torch.tensor([(0,) * (recommender.settings["length"] - len(key)) + key for key in numbers])
        tables = [history_vectors(module, histories), module.item.weight[1:].detach()]

        def user_number(row: Interaction) -> int:
            return numbers.get(_history(recommender, row), 0)

    table = torch.cat([torch.zeros(1, tables[0].shape[1]), *tables])
    first = len(tables[0])

    def of_row(row: Interaction) -> tuple[int, int]:
        item = items.get(row.target)
        return user_number(row), 0 if item is None else first + item

    return Placed(table, of_row)


def filled(recommender: Recommender) -> SASRecFull:
    """The model of a method that reads histories, with its tensors.

    Raises AdapterError if they do not fit, before memory is taken: settings in a file may ask for any size.
    """
    build = partial(sasrec_of, len(recommender.items), recommender.settings)
    with torch.device("meta"):
        put_tensors(trainable_parameters(build()), recommender.tensors, str(recommender.where))
    module = build()
    put_tensors(trainable_parameters(module), recommender.tensors, str(recommender.where))
    return module


def _history(recommender: Recommender, row: Interaction) -> tuple[int, ...]:
    """The numbers of the latest history items that the recommender knows and reads, oldest first."""
    liked_only, length = recommender.settings["history"] == "liked", recommender.settings["length"]
    known = (recommender.items.get(item) for item, liked in row.history if liked or not liked_only)
    return tuple(number for number in known if number is not None)[-length:]


def fresh_table(table: Tensor) -> Tensor:
    """A table of the same shape that has learnt nothing: N(0, 0.1^2), zeros for the unknown."""
    drawn = torch.randn_like(table) * INIT_STD
    drawn[0] = 0
    return drawn


def tell_unknown(placed: Placed, rows: list[Interaction], split: str) -> None:
    """Say for how many rows of a split the recommender has no vector."""
    numbers = [placed.numbers(row) for row in rows]
    users, items = (sum(pair[side] == 0 for pair in numbers) for side in (0, 1))
    if users or items:
        notice(
            f"{users:,} of {len(rows):,} {split} rows are of users, and {items:,} of items, that the recommender does "
            "not know: they get the vector of the unknown"
        )


# ---- in a run folder ----------------------------------------------------------------------------


def as_record(recommender: Recommender) -> dict:
    """All but the tensors, for JSON: users and items in the order of their numbers."""
    return {
        "method": recommender.method,
        "settings": recommender.settings,
        "users": list(recommender.users),
        "items": list(recommender.items),
    }


def from_record(record: dict, tensors: dict[str, Tensor], path: Path, where: Path) -> Recommender:
    """What as_record gave. Raises RunError, naming its file, if it is something else. where: the tensors' file."""
    method = record.get("method")
    if method not in WITH_VECTORS:
        raise RunError(f"{path}: the method is {quoted(method)}; was the file changed?")
    known = {}
    for name in ("users", "items"):
        names = record.get(name)
        if not isinstance(names, list) or not all(type(entry) in (int, str) for entry in names):
            raise RunError(f"{path}: {name} is no list of ids; was the file changed?")
        known[name] = {entry: number for number, entry in enumerate(names, start=1)}
        if len(known[name]) != len(names):
            raise RunError(f"{path}: {name} has an id twice; was the file changed?")
    return Recommender(
        method,
        checked_settings(record.get("settings"), method, str(path), "was the file changed?"),
        **known,
        tensors=tensors,
        where=where,
    )
