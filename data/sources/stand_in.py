"""Stand-in data: simulated viewers in the place of MovieLens, where it cannot be downloaded, and for `--data demo`."""

import numpy as np

from data.interactions import HISTORY, SPLITS, Dataset, Interaction, Item
from demo.world import STAND_IN_SEED, draw_viewer, read_world, watch

STAND_IN = "stand-in"  # Dataset.source of simulated rows; every table names them by it
ROWS_PER_VIEWER = 10
VIEWERS = {"train": 800, "valid": 40, "test": 60}


def stand_in() -> Dataset:
    """Simulated viewers' ratings in the form of MovieLens, split by viewer; the same rows every time."""
    world = read_world()
    rng = np.random.default_rng(STAND_IN_SEED)
    splits: dict[str, list[Interaction]] = {split: [] for split in SPLITS}
    viewer_splits = [split for split, viewers in VIEWERS.items() for _ in range(viewers)]
    for user, split in enumerate(viewer_splits, start=1):
        seen = watch(rng, draw_viewer(rng, world), world, HISTORY + ROWS_PER_VIEWER)
        liked = [(index + 1, rating > 3) for index, rating in seen]  # items count from 1
        for at in range(HISTORY, len(liked)):
            target, label = liked[at]
            splits[split].append(Interaction(user, tuple(liked[at - HISTORY : at]), target, label))
    catalogue = {index: Item(film.title) for index, film in enumerate(world.films, start=1)}
    return Dataset("movie", STAND_IN, "movie", catalogue, **splits)
