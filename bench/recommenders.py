"""How long an epoch of each recommender takes, and how much memory, on rows of Amazon-Book's or ML-1M's size.

    python -m bench.recommenders                                    one epoch of mf and lightgcn, Amazon-Book's size
    python -m bench.recommenders --size ml-1m --methods mf --epochs 5
    python -m bench.recommenders --device cuda

The rows are drawn at random: users, items, histories and labels mean nothing, and only their numbers are those of the
data set. Settings are the published ones. Prints one JSON line per method.
"""

import argparse
import json
import time

import torch

from baselines.base import Training, history_form, settings_of
from baselines.fit import make_optimizer, score_rows, train_epoch
from baselines.methods import METHODS
from baselines.rows import History, Ids, Rows
from bench.measure import PeakMemory, seconds_of

SIZES = {  # training rows, validation rows, users, items
    "amazon-book": (727_463, 25_747, 22_966, 34_153),
    "ml-1m": (33_891, 10_401, 740, 3_255),
}


def random_rows(count: int, users: int, items: int, form: History) -> Rows:
    """Rows of random users and items, with full histories."""
    return Rows(
        torch.randint(1, users + 1, (count,)),
        torch.randint(1, items + 1, (count,)),
        torch.randint(1, items + 1, (count, form.length)),
        torch.ones(count, form.length, dtype=torch.bool),
        torch.full((count,), form.length),
        torch.randint(0, 2, (count,)).float(),
    )


def measure(name: str, size: str, epochs: int, device: torch.device) -> dict:
    """Seconds of each epoch and of scoring the validation rows; peak_mb is above what torch itself takes.

    epoch_cpu_s: processor seconds, all threads together, which do not depend on what else the machine does.
    """
    torch.manual_seed(0)
    method = METHODS[name]
    settings = settings_of(method, size, True)
    train_rows, valid_rows, users, items = SIZES[size]
    memory = PeakMemory(device)
    form = history_form(method, settings)
    train, valid = (random_rows(count, users, items, form).to(device) for count in (train_rows, valid_rows))
    ids = Ids(dict.fromkeys(range(users)), dict.fromkeys(range(items)), ("",) * (items + 1))
    module = method.build(Training(ids, train), settings).to(device)
    optimizer = make_optimizer(module, settings)
    began = time.process_time()
    seconds = [
        seconds_of(lambda: train_epoch(module, optimizer, train, settings["batch_size"]), device)[0]
        for _ in range(epochs)
    ]
    processor = (time.process_time() - began) / epochs
    scoring, _ = seconds_of(lambda: score_rows(module, valid), device)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {
        "method": name,
        "size": size,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "parameters": parameters,
        "epoch_s": [round(value, 2) for value in seconds],
        "epoch_cpu_s": round(processor, 2),
        "scoring_s": round(scoring, 2),
        "peak_mb": round(memory.above() / 1e6),
    }


def main() -> None:
    """Measure each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="mf,lightgcn", help="names of baseline.py, with commas")
    parser.add_argument("--size", default="amazon-book", choices=SIZES)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    for name in arguments.methods.split(","):
        print(json.dumps(measure(name, arguments.size, arguments.epochs, torch.device(arguments.device))), flush=True)


if __name__ == "__main__":
    main()
