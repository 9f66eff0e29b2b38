"""The built-in demo's world: films from a hand-written catalogue and simulated viewers who rate them.

Nobody in it is real. A viewer has favourite and unwelcome genres, a leniency and a weight for
acclaim; a rating follows from these and the film, plus noise. `data/sources/stand_in.py` puts such
ratings into the form of a data set; `demo/corpus.py` writes prose about other viewers of the same world.

Shape letters: I films, G genres.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CATALOGUE = Path(__file__).parent / "catalogue.csv"
STAND_IN_SEED, CORPUS_SEED = (1998, 0), (1998, 1)  # two: the corpus must not describe viewers of the data set

MEAN_RATING = 3.4  # stars, of an average viewer for a film of average acclaim and neutral genres
LENIENCY_SD = 0.35
NOISE_SD = 0.6


@dataclass(frozen=True)
class Film:
    """A film of the catalogue."""

    title: str  # MovieLens style: "Godfather, The (1972)"
    genres: tuple[str, ...]
    acclaim: float  # 1 to 5 stars

    @property
    def year(self) -> int:
        """The year in the title."""
        return int(self.title[-5:-1])


@dataclass(frozen=True)
class World:
    """The films, with the share of each genre in a film (equal shares) and its acclaim."""

    films: list[Film]
    genres: list[str]
    genre_shares: np.ndarray  # (I, G), rows sum to 1
    acclaim: np.ndarray  # (I,) stars above the mean


@dataclass(frozen=True)
class Viewer:
    """A simulated viewer's taste."""

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
    """A random viewer: four favourite genres, four unwelcome ones, nearly neutral about the rest."""
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

    Acclaimed films and films of the viewer's favourite genres are somewhat more likely to be seen.
    """
    favoured = world.genre_shares[:, [world.genres.index(genre) for genre in viewer.favourites]].sum(1) > 0
    # The largest of log-weight + Gumbel noise: a draw without replacement, in random order.
    log_weight = 0.3 * world.acclaim + 0.3 * favoured
    chosen = np.argsort(-(log_weight + rng.gumbel(size=len(world.films))))[:count]
    stars = expected_ratings(viewer, world)[chosen] + rng.normal(0, NOISE_SD, count)
    return list(zip(chosen.tolist(), np.clip(np.rint(stars), 1, 5).astype(int).tolist()))
