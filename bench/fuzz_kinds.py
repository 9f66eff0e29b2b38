"""How every kind of file that bench/fuzz.py damages is read: as the program does, in this process and on the command line."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import predict
from baselines.rules import all_rules
from bench import fuzz_made as made
from bench.fuzz_made import World
from cli.data import load_data
from cli.flags import Resolved, parse_flags
from cli.model import RunDataFlags
from cli.train import TrainFlags, adapter_settings, check_flags, presets
from data.interactions import Dataset, not_cold
from data.leaks import leaks
from data.load import load_dataset
from data.sources import amazon_book, movie, tallrec
from data.splits import answers_in_context, encode_split
from errors import notice
from model import convert
from model.demo import is_demo
from model.llama import Llama
from run.base import base_identity, load_base
from run.checkpoint import MANIFEST
from run.folder import RunFolder
from run.merge import refuse_merging_twice, write_merged
from run.restore import resolve_settings, restore_model
from run.resume import config_of_resumed, flags_of_run
from scoring.splits import score_split

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Kind:
    """make: writes a valid folder; mutate: glob of the files to damage; read: (folder, out) -> None, as the program does;
    command: (folder, out) -> the same on the command line; repair: run after the damage, so that checksums fit again.
    """

    make: Callable[[Path], None]
    mutate: str
    read: Callable[[Path, Path], None]
    command: Callable[[Path, Path], list]
    repair: Callable[[Path], None] = lambda folder: None
    lines: int = 1  # that a refusal may have; 0 for any number


# ---- checkpoints --------------------------------------------------------------------------------


def ask(model: Llama, tokenizer, data: Dataset) -> None:
    """Both answers to the first rows."""
    rows = data.test[:2]
    answers = answers_in_context(data, tokenizer, "paper")
    score_split(model, encode_split(rows, data, tokenizer, "paper", 2048, notice), answers)


def some_rows() -> Dataset:
    return tallrec.read_folder(World.folder / "rows", "rows")


def read_base(folder: Path, out: Path) -> None:
    is_demo(str(folder))
    model, tokenizer = load_base(str(folder), "fp32", CPU)
    base_identity(str(folder))
    ask(model, tokenizer, some_rows())
    [tokenizer.piece(i) for i in range(model.config.vocab_size)]
    tokenizer.decode(tokenizer.encode("Ünïcödé ▁ \u3000 <s> <0x41>"))


def read_adapter(folder: Path, out: Path) -> None:
    base = str(World.folder / "base")
    argv = ["--model", base, "--init-adapter", str(folder)]
    adapter_settings(parse_flags(TrainFlags, argv, "", presets, check_flags)[0])
    model, tokenizer = restore_model(
        replace(RunDataFlags(), adapter=str(folder), device="cpu"),
        {"model": base, "precision": "fp32", "base_dtype": "same"},
    )
    ask(model, tokenizer, some_rows())


def read_and_merge(folder: Path, out: Path) -> None:
    refuse_merging_twice(folder, World.folder / "adapter")
    model, _ = restore_model(
        replace(RunDataFlags(), adapter=str(World.folder / "adapter"), device="cpu"),
        {"model": str(folder), "precision": "fp32", "base_dtype": "same"},
    )
    write_merged(folder, model, World.folder / "adapter", out / "merged")


def convert_folder(folder: Path, out: Path) -> None:
    convert.convert_checkpoint(folder, out / "converted")
    load_base(str(out / "converted"), "fp32", CPU)


# ---- data ---------------------------------------------------------------------------------------


def repair_prepared(folder: Path) -> None:
    """Checksums of the damaged files, so that what is behind the check is read."""
    if not all(path.is_file() and path.stat().st_size < 2**24 for path in folder.iterdir()):
        return
    try:
        manifest = json.loads((folder / "prepared.json").read_bytes())
        for name in manifest["sha256"]:
            manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / "prepared.json").write_text(json.dumps(manifest))
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        pass


def read_amazon_pass(folder: Path, out: Path) -> None:
    saved = amazon_book._saved_pass(out / "cache" / "unfinished", folder / "Books_5.json.gz")
    saved.parent.mkdir(parents=True)
    saved.symlink_to(folder / "pass.npz")
    read_data("amazon-book")(folder, out)


def read_data(name: str | None) -> Callable[[Path, Path], None]:
    """As train.py, eval.py and prepare.py show read a data set; None: a folder of the user's own."""

    def read(folder: Path, out: Path) -> None:
        options = {"like_threshold": 4.0} if (folder / "interactions.csv").exists() else {}
        data = load_dataset(
            str(folder) if name is None else name, None if name is None else str(folder), True, notice, options
        )
        data.fingerprint()
        leaks(data)
        _, tokenizer = load_base(str(World.folder / "base"), "fp32", CPU)
        for split in ("train", "valid", "test"):
            rows = getattr(data, split)
            not_cold(data, rows)
            encode_split(rows[:3], data, tokenizer, "paper", 2048, notice)
        all_rules(data.train, data.test)
        ask(World.model, tokenizer, data)
        if name:
            load_dataset(name, str(folder), True, notice, options)  # from the cache

    return read


def small_rules() -> None:
    """Data sets of a few rows instead of thousands: the same code, in a hundredth of the time."""
    movie.SPLIT_SIZES = (80, 10, 10)
    amazon_book.MORE_REVIEWS_THAN = 2


# ---- a run --------------------------------------------------------------------------------------


def resume(folder: Path, out: Path) -> None:
    flags, resolved = parse_flags(TrainFlags, ["--resume", "--out", str(folder)], "", presets, check_flags)
    flags, resolved = flags_of_run(flags, resolved)
    run = RunFolder(folder, True)
    config_of_resumed(folder, made.config_of(resolved))
    model, optimizer = made.tuned()
    progress = run.restore_state(model, optimizer) or {"step": 0, "best_auc": -1.0, "best_step": 0, "since_best": 0}
    progress["step"] < 60 and progress["since_best"] < flags.patience and progress["best_auc"] < 0.5
    made.step_once(model, optimizer)
    [f"{record[name]:.3f}" for record in run.history() for name in ("step", "ce_pos", "ce_neg", "kl")]


def repair_state(folder: Path) -> None:
    """The manifest of each saved state, so that what is behind the check is read."""
    for state in (folder / "last").glob("step-*"):
        if not state.is_dir() or not all(path.is_file() and path.stat().st_size < 2**24 for path in state.iterdir()):
            continue
        try:
            manifest = json.loads((state / MANIFEST).read_bytes())
            for name in manifest:
                content = (state / name).read_bytes()
                manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (state / MANIFEST).write_text(json.dumps(manifest))
        except (ValueError, TypeError, AttributeError, OSError, RecursionError):
            pass


def score_run(folder: Path, out: Path) -> None:
    flags = replace(RunDataFlags(), run=str(folder), device="cpu")
    chosen, _ = resolve_settings(flags, Resolved(vars(flags), dict.fromkeys(vars(flags), "default")))
    data = load_data(chosen)
    model, tokenizer = restore_model(flags, chosen)
    ask(model, tokenizer, data)
    predict.main(
        ["--run", str(folder), "--liked", "A", "--target", "B", "--max-len", "2048", "--device", "cpu", "--json"]
    )


def score_users(folder: Path, out: Path) -> None:
    predict.main(
        [
            "--model",
            str(World.folder / "base"),
            "--input",
            str(folder / "users.csv"),
            "--output",
            str(out / "scores.csv"),
            "--precision",
            "fp32",
            "--device",
            "cpu",
            "--json",
        ]
    )


# ---- the list -----------------------------------------------------------------------------------


def _predict(model, adapter=None) -> list:
    return [
        "predict.py",
        "--model",
        model,
        *(["--adapter", adapter] if adapter else []),
        "--liked",
        "A",
        "--target",
        "B",
        "--max-len",
        "2048",
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]


def _show(data, *more) -> list:
    model = ["--model", World.folder / "base", "--max-len", "2048"]
    return ["prepare.py", "show", "--data", data, *more, *model, "--json"]


def kinds() -> dict[str, Kind]:
    """Every kind by name."""

    def named(name: str) -> tuple:
        return read_data(name), lambda folder, out: _show(name, "--data-dir", folder)

    own = (
        read_data(None),
        lambda folder, out: _show(
            folder, *(["--like-threshold", "4"] if (folder / "interactions.csv").exists() else [])
        ),
    )
    base = (read_base, lambda folder, out: _predict(folder))
    adapter = (read_adapter, lambda folder, out: _predict(World.folder / "base", folder))
    to_convert = (convert_folder, lambda folder, out: ["-m", "model.convert", folder, "--out", out / "converted"])
    resumed = (resume, lambda folder, out: ["train.py", "--resume", "--out", folder])
    merging = [
        "--adapter",
        World.folder / "adapter",
        "--data",
        World.folder / "rows",
        "--max-len",
        "2048",
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]
    return {
        "model.safetensors": Kind(made.make_base, "model.safetensors", *base),
        "model, tied": Kind(lambda folder: made.make_base(folder, tied=True), "[cm]o*", *base),
        "model shards": Kind(lambda folder: made.make_base(folder, 3), "*.safetensors", *base),
        "model index": Kind(lambda folder: made.make_base(folder, 3), "*.index.json", *base),
        "model config.json": Kind(made.make_base, "config.json", *base),
        "tokenizer.model": Kind(made.make_base, "tokenizer.model", *base),
        "merging": Kind(
            made.make_base,
            "[cm]o*",
            read_and_merge,
            lambda folder, out: ["eval.py", "--model", folder, *merging, "--merge-out", out / "merged"],
        ),
        "adapter .safetensors": Kind(made.make_adapter, "*.safetensors", *adapter),
        "adapter .bin": Kind(made.make_pickled_adapter, "*.bin", *adapter),
        "adapter_config.json": Kind(made.make_adapter, "*.json", *adapter),
        "convert .bin": Kind(made.make_bins, "*.bin*", *to_convert),
        "convert .bin, tied": Kind(lambda folder: made.make_bins(folder, tied=True), "*.bin*", *to_convert),
        "convert .pth, params": Kind(made.make_meta, "[cp]*", *to_convert),
        "prepared": Kind(made.make_prepared, "*", *named("movie"), repair_prepared),
        "TALLRec JSON": Kind(made.make_tallrec, "*", *own),
        "CoLLM CSV": Kind(made.make_collm, "*", *named("ml-1m")),
        "own CSV": Kind(made.make_custom, "*", *own),
        "Book-Crossing ;": Kind(made.make_book, "*", *named("book")),
        "Book-Crossing ,": Kind(lambda folder: made.make_book(folder, False), "*", *named("book")),
        "u.data, u.item": Kind(made.make_movie, "*", *named("movie")),
        "ratings.dat, movies.dat": Kind(made.make_ml_1m, "*", *named("ml-1m")),
        "Amazon .json.gz": Kind(made.make_amazon, "*", *named("amazon-book")),
        "Amazon, saved pass": Kind(made.make_amazon_pass, "*.npz", read_amazon_pass, named("amazon-book")[1]),
        "resume state": Kind(made.make_run, "last/*/*", *resumed),
        "resume state, signed": Kind(made.make_run, "last/*/*", *resumed, repair_state),
        "run config.json (resume)": Kind(made.make_run, "config.json", *resumed, lines=0),
        "run config.json (score)": Kind(
            made.make_run,
            "config.json",
            score_run,
            lambda folder, out: ["eval.py", "--run", folder, "--out", out / "scored"],
        ),
        "metrics.jsonl": Kind(made.make_run, "metrics.jsonl", *resumed),
        "users.csv": Kind(
            made.make_users,
            "*",
            score_users,
            lambda folder, out: ["predict.py", "--input", folder / "users.csv", "--output", out / "scores.csv"],
            lines=0,
        ),
    }
