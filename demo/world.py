"""The built-in demo's world: films from a hand-written catalogue and simulated viewers who rate them.

Nobody in it is real. A viewer has favourite and unwelcome genres, a leniency and a regard for
acclaim; a rating follows from these and the film, plus noise. `stand_in` gives ratings in the
form the real data sets have; `demo/corpus.py` writes prose about other viewers of the same world.

Shape letters: I films, G genres.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.interactions import Dataset, Interaction, Item

CATALOGUE = Path(__file__).parent / "catalogue.csv"
HISTORY = 10  # films before the target, as in the prompts for MovieLens
ROWS_PER_VIEWER = 10
VIEWERS = {"train": 800, "valid": 40, "test": 60}
STAND_IN_SEED, CORPUS_SEED = (1998, 0), (1998, 1)  # different viewers: the corpus never tells of those in the splits

MEAN_RATING = 3.4  # stars, of an average viewer for a film of average acclaim and neutral genres
LENIENCY_SD = 0.35
NOISE_SD = 0.6


@dataclass(frozen=True)
class Film:
    title: str  # MovieLens style: "Godfather, The (1972)"
    genres: tuple[str, ...]
    acclaim: float  # 1 to 5 stars

    @property
    def year(self) -> int:
        return int(self.title[-5:-1])


@dataclass(frozen=True)
class World:
    """The films, and what viewers feel them to be: each film's genres in equal parts."""

    films: list[Film]
    genres: list[str]
    genre_shares: np.ndarray  # (I, G), rows sum to 1
    acclaim: np.ndarray  # (I,) stars above the mean


@dataclass(frozen=True)
class Viewer:
    favourites: tuple[str, ...]
    unwelcome: tuple[str, ...]
    taste: np.ndarray  # (G,) stars added by a film all of that genre
    leniency: float  # stars added to every film
    acclaim_weight: float  # stars per star of acclaim


def read_world() -> World:
    """The films of catalogue.csv, in its order."""
    with CATALOGUE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    films = [Film(row["title"], tuple(row["genres"].split("|")), float(row["acclaim"])) for row in rows]
    genres = sorted({genre for film in films for genre in film.genres})
    has_genre = np.array([[genre in film.genres for genre in genres] for film in films])  # (I, G)
    acclaim = np.array([film.acclaim for film in films])
    return World(films, genres, has_genre / has_genre.sum(1, keepdims=True), acclaim - acclaim.mean())


def draw_viewer(rng: np.random.Generator, world: World) -> Viewer:
    """A random viewer: four favourite genres, four unwelcome ones, mild feelings about the rest."""
    order = rng.permutation(len(world.genres))
    taste = rng.normal(0, 0.1, len(world.genres))
    taste[order[:4]] = rng.uniform(0.9, 1.5, 4)
    taste[order[4:8]] = -rng.uniform(0.9, 1.5, 4)
    favourites, unwelcome = (tuple(world.genres[i] for i in part) for part in (order[:4], order[4:8]))
    return Viewer(favourites, unwelcome, taste, rng.normal(0, LENIENCY_SD), rng.uniform(0.7, 1.3))


def expected_ratings(viewer: Viewer, world: World) -> np.ndarray:
    """(I,) stars before noise and rounding."""
    return MEAN_RATING + viewer.leniency + world.genre_shares @ viewer.taste + viewer.acclaim_weight * world.acclaim


def watch(rng: np.random.Generator, viewer: Viewer, world: World, count: int) -> list[tuple[int, int]]:
    """(index of the film, rating 1 to 5) of `count` different films, in viewing order.

    Acclaimed films and films of the viewer's favourite genres are somewhat likelier to be seen.
    """
    favoured = world.genre_shares[:, [world.genres.index(genre) for genre in viewer.favourites]].sum(1) > 0
    # The largest of log-weight + Gumbel noise: a draw without replacement, in random order.
    log_weight = 0.3 * world.acclaim + 0.3 * favoured
    chosen = np.argsort(-(log_weight + rng.gumbel(size=len(world.films))))[:count]
    stars = expected_ratings(viewer, world)[chosen] + rng.normal(0, NOISE_SD, count)
    return list(zip(chosen.tolist(), np.clip(np.rint(stars), 1, 5).astype(int).tolist()))


def stand_in() -> Dataset:
    """Simulated viewers' ratings in the form of MovieLens, split by viewer; the same rows every time."""
    world = read_world()
    rng = np.random.default_rng(STAND_IN_SEED)
    splits: dict[str, list[Interaction]] = {split: [] for split in VIEWERS}
    viewer_splits = [split for split, viewers in VIEWERS.items() for _ in range(viewers)]
    for user, split in enumerate(viewer_splits, start=1):
        seen = watch(rng, draw_viewer(rng, world), world, HISTORY + ROWS_PER_VIEWER)
        liked = [(index + 1, rating > 3) for index, rating in seen]  # items count from 1
        for at in range(HISTORY, len(liked)):
            target, label = liked[at]
            splits[split].append(Interaction(user, tuple(liked[at - HISTORY : at]), target, label))
    catalogue = {index: Item(film.title) for index, film in enumerate(world.films, start=1)}
    return Dataset("movie", "stand-in", "movie", catalogue, **splits)
