"""Small finished runs with vectors in their prompts for bench/fuzz.py, and how the program reads their files.

The runs are made once, by the verbs themselves, and copied for each kind.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import baseline
import eval
import predict
import train
from bench.fuzz_made import World, silently
from bench.fuzz_made_data import make_collm, make_custom

FEW = ["--max-steps", "2", "--eval-every", "1", "--batch-size", "4", "--device", "cpu", "--json"]
BASE = ["--precision", "fp32", "--lora-r", "2", "--max-len", "2048"]
ASKED = ["--user", "u1", "--liked", "Thing, no. 1", "--target", "Thing, no. 2", "--target", "B"]


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name which all kinds share, made the first time."""
    if not (folder := World.folder / name).exists():
        make(folder)
    return folder


def _users() -> list:
    """Data with users."""
    return ["--data", _once("users", make_custom), "--like-threshold", "4", "--shots", "8"]


def make_recommender(method: str) -> Callable[[Path], None]:
    """A finished run of baseline.py."""

    def make(folder: Path) -> None:
        run = ["--method", method, *_users(), "--epochs", "2", "--dim", "4", "--device", "cpu", "--json"]
        shutil.copytree(_once(method, lambda out: silently(baseline.main, [*run, "--out", out])), folder)

    return make


def start_command(folder: Path, out: Path, method: str = "mf") -> list:
    """Stage 2 with the vectors of the recommender in that folder."""
    run = ["--model", World.folder / "base", *_users(), "--objective", "collm", *FEW, *BASE[:2], *BASE[4:]]
    first = ["train.py", "--model", World.folder / "base", *_users(), "--objective", "collm", *FEW, *BASE]
    stage_1 = _once("stage-1", lambda made: silently(train.main, [*first[1:], "--out", made]))
    return ["train.py", *run, "--collaborative", f"{method}:{folder}", "--init-adapter", stage_1, "--out", out / "run"]


def start(folder: Path, out: Path) -> None:
    silently(train.main, start_command(folder, out)[1:])


def make_tuned(method: str) -> Callable[[Path], None]:
    """A finished run of stage 2."""

    def make(folder: Path) -> None:
        recommender = _once(f"recommender-{method}", make_recommender(method))

        def tune(out: Path) -> None:
            silently(train.main, start_command(recommender, out, method)[1:])

        shutil.copytree(_once(f"tuned-{method}", tune) / "run", folder)

    return make


def make_soft_prompt(folder: Path) -> None:
    """A finished run of Prompt4NR-V, on rows as CoLLM publishes them."""

    def tune(out: Path) -> None:
        data = ["--data", "ml-1m", "--data-dir", _once("published", make_collm), "--shots", "4"]
        run = ["--model", World.folder / "base", *data, "--objective", "collm", "--soft-prompt", "normal"]
        silently(train.main, [*run, *FEW, *BASE, "--out", out])

    shutil.copytree(_once("tuned-soft", tune), folder)


def score_command(folder: Path, out: Path) -> list:
    """Score the run's own test rows."""
    return ["eval.py", "--run", folder, "--rows", "3", "--out", out / "scored", "--device", "cpu", "--json"]


def score(folder: Path, out: Path) -> None:
    silently(eval.main, score_command(folder, out)[1:])


def predict_command(folder: Path, out: Path) -> list:
    """Titles and a user that are looked up in the run."""
    return ["predict.py", "--run", folder, *ASKED, "--device", "cpu", "--json"]


def ask(folder: Path, out: Path) -> None:
    silently(predict.main, predict_command(folder, out)[1:])


def resume_command(folder: Path, out: Path) -> list:
    """Go on with it."""
    return ["train.py", "--resume", "--out", folder, "--json"]


def resume(folder: Path, out: Path) -> None:
    silently(train.main, resume_command(folder, out)[1:])
