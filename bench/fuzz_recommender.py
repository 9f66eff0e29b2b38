"""A small finished run of baseline.py for bench/fuzz.py, and how the program reads its files."""

from pathlib import Path

import baseline
import compare
from bench.fuzz_made import World, silently
from run.settings import read_setting

METHOD = ["--method", "gru4rec", "--dim", "4", "--batch-size", "8"]


def _rows() -> list[str]:
    return ["--data", str(World.folder / "rows"), "--shots", "4", "--device", "cpu"]


def make_searched(folder: Path) -> None:
    """A run with a search of two settings: config.json, trials.jsonl, setting.json, a state, predictions.csv."""
    search = ["--search", "--trials", "2", "--epochs", "2"]
    silently(baseline.main, [*METHOD, *_rows(), *search, "--out", folder, "--json"])


def make_pair(folder: Path) -> None:
    """The run, and one like it that no case damages."""
    make_searched(folder)
    if not (whole := World.folder / "searched").exists():
        make_searched(whole)


def resume_command(folder: Path, out: Path) -> list:
    """Go on with it: the run is read, scored again, and written."""
    return ["baseline.py", "--resume", "--out", folder, "--json"]


def resume(folder: Path, out: Path) -> None:
    silently(baseline.main, resume_command(folder, out)[1:])


def setting_command(folder: Path, out: Path) -> list:
    """A new run with the setting that the search chose."""
    run = ["--method", "gru4rec", *_rows(), "--epochs", "1", "--json"]
    return ["baseline.py", *run, "--setting", folder / "setting.json", "--out", out / "run"]


def use_setting(folder: Path, out: Path) -> None:
    read_setting(str(folder / "setting.json"), "gru4rec")


def config_command(folder: Path, out: Path) -> list:
    """A new run with the flags of this one."""
    run = ["--config", folder / "config.json", "--out", out / "run", "--json"]
    return ["baseline.py", *run]


def use_config(folder: Path, out: Path) -> None:
    silently(baseline.main, config_command(folder, out)[1:])


def compare_command(folder: Path, out: Path) -> list:
    """Beside a run that is whole."""
    return ["compare.py", folder, World.folder / "searched"]


def compare_runs(folder: Path, out: Path) -> None:
    silently(compare.main, compare_command(folder, out)[1:])
