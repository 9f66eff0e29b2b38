"""What a recommender without a language model is: the contract that baselines/NAME.py fulfils.

There are two kinds. A `Method` is a torch module that baselines/fit.py trains. A `Direct` method computes its scores
in one go. baselines/methods.py lists all of them; flags, search, run folder and tables follow from the declarations.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from baselines.rows import History, Ids, Rows
from data.interactions import Interaction

ANY = ""  # the data sets for which a paper says nothing of its own
# Every learned method is searched over these two, on validation AUC and with the same number of trials.
GRID = {"lr": (1e-1, 1e-2, 1e-3, 1e-4), "l2": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)}


@dataclass(frozen=True)
class Option:
    """A setting that is an argument of a method's module, and a flag of baseline.py.

    default: also gives the type. A bool begins as False, since its flag can only turn it on. Raises ValueError.
    """

    name: str
    default: int | float | str | bool
    help: str
    choices: tuple = ()
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.default is True:
            raise ValueError(f"{self.name}: a bool begins as False, since its flag turns it on; name the opposite")


# Options that several methods share.
DIM = Option("dim", 64, "numbers in the vector of a user or an item", low=1, high=4096)
INIT_STD = Option("init_std", 0.1, "standard deviation of the vectors' first values", low=0, high=10)
HISTORY = Option(
    "history",
    "all",
    "which history items are read: all, the liked ones alone, or all with a learnt sign for liked and disliked",
    choices=("all", "liked", "signed"),
)
DROPOUT = Option("dropout", 0.1, "probability", low=0, high=0.99)


@dataclass(frozen=True)
class Training:
    """What a method may see when it is built: the numbers of users and items, titles, and the training rows."""

    ids: Ids
    rows: Rows

    @property
    def users(self) -> int:
        """How many users the training rows have; a table of users has one row more, number 0."""
        return len(self.ids.users)

    @property
    def items(self) -> int:
        """How many items the catalogue has; a table of items has one row more, number 0."""
        return len(self.ids.items)


class Recommender(Protocol):
    """A torch module with these two. Parameters that require a gradient are trained."""

    def forward(self, rows: Rows) -> Tensor:
        """A score per row, (B,); only the order counts."""
        ...

    def loss(self, rows: Rows) -> Tensor:
        """What one step of training makes smaller, a scalar: a mean over the rows of the batch."""
        ...


def binary_cross_entropy(scores: Tensor, rows: Rows) -> Tensor:
    """The loss of most methods: -log sigmoid(s) of a liked target, -log sigmoid(-s) of another; mean over rows."""
    return binary_cross_entropy_with_logits(scores, rows.labels)


def no_inputs(settings: dict) -> dict[str, str]:
    """Of a method that reads nothing beside the rows."""
    return {}


@dataclass(frozen=True)
class Method:
    """A method that baselines/fit.py trains.

    build(training, settings) returns a Recommender. settings: the values of `options` by name, and those of OPTIMISER.
    published: {data set: {name: value}}, with ANY for every other data set; ours: what we decided otherwise.
    grid: {name: values} that --search tries. needs_users: refuses data without users. inputs(settings): what is read
    beside the rows, {what: which one}; it raises a UserError, before a run folder is made, for what is unusable.
    """

    name: str
    about: str
    build: Callable[[Training, dict], nn.Module]
    options: tuple[Option, ...] = ()
    history: History = History()
    published: dict[str, dict] = field(default_factory=dict)
    ours: dict = field(default_factory=dict)
    grid: dict[str, tuple] = field(default_factory=lambda: GRID)
    needs_users: bool = False
    inputs: Callable[[dict], dict[str, str]] = no_inputs


@dataclass(frozen=True)
class Direct:
    """A method that needs no loop. scores(train, rows): a score per row, (N,), from training rows and rows to score."""

    name: str
    about: str
    scores: Callable[[list[Interaction], list[Interaction]], np.ndarray]
    needs_users: bool = False


# How every Method is trained, unless its published settings say otherwise.
OPTIMISER = (
    Option("lr", 1e-3, "learning rate of Adam", low=0, high=10),
    Option("l2", 0.0, "L2 added to the gradient (adam) or weight decay (adamw)", low=0, high=10),
    Option(
        "optimizer", "adam", "adam, with L2 in the gradient; adamw, with decoupled decay", choices=("adam", "adamw")
    ),
    Option("batch_size", 256, "rows per step", low=1, high=10**6),
    Option("epochs", 500, "passes over the training rows, at most", low=1, high=10**6),
    Option("patience", 100, "stop after this many epochs without a better validation AUC", low=1),
)


def settings_of(method: Method, data: str, published: bool) -> dict:
    """Every setting of a method on a data set by name. published: without what we decided otherwise."""
    defaults = {option.name: option.default for option in (*OPTIMISER, *method.options)}
    found = defaults | method.published.get(data, method.published.get(ANY, {}))
    return found if published else found | method.ours


def history_form(method: Method, settings: dict) -> History:
    """The history that a method reads with these settings: `history` and `length` among them change its default."""
    changes = {"which": settings.get("history"), "length": settings.get("length")}
    return replace(method.history, **{name: value for name, value in changes.items() if value is not None})
