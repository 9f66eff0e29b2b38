"""How bench/fuzz.py reads every kind of file that it damages: as the program does, here and on the command line."""

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import eval
import predict
from baselines.rules import all_rules
from bench import fuzz_bert as made_bert
from bench import fuzz_made as made
from bench import fuzz_made_data as made_data
from bench import fuzz_recommender as recommender
from bench import fuzz_vectors as vectors
from bench.fuzz_made import World
from cli.data import load_data
from cli.flags import Resolved, parse_flags
from cli.model import RunDataFlags
from cli.train import TrainFlags, check_flags, presets
from data.interactions import Dataset, not_cold
from data.leaks import leaks
from data.load import load_dataset
from data.sources import amazon_book, movie, tallrec
from data.splits import encode_split
from errors import notice
from model import convert
from model.demo import is_demo
from model.llama import Llama
from run import outcome
from run.base import base_identity, load_base
from run.checkpoint import MANIFEST
from run.folder import RunFolder
from run.inputs import adapter_settings
from run.merge import refuse_merging_twice, write_merged
from run.restore import resolve_settings, restore_model
from run.resume import config_of_resumed, flags_of_run
from scoring.splits import score_split

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    make: writes a valid folder. mutate: glob of the files to damage. read: (folder, out) -> None, reads as the
    program does. command: (folder, out) -> the command line that does the same. repair: corrects the checksums
    after the damage. lines: how many lines a refusal has, 0 for any number.
    """

    make: Callable[[Path], None]
    mutate: str
    read: Callable[[Path, Path], None]
    command: Callable[[Path, Path], list]
    repair: Callable[[Path], None] = lambda folder: None
    lines: int = 1


# ---- checkpoints --------------------------------------------------------------------------------


def ask(model: Llama, tokenizer, data: Dataset) -> None:
    """Score the first rows with both prompts."""
    rows = data.test[:2]
    score_split(model, encode_split(rows, data, tokenizer, "tallrec", 2048))


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
        TrainFlags(model=base, precision="fp32"),
    )
    ask(model, tokenizer, some_rows())


def read_and_merge(folder: Path, out: Path) -> None:
    refuse_merging_twice(folder, World.folder / "adapter")
    model, _ = restore_model(
        replace(RunDataFlags(), adapter=str(World.folder / "adapter"), device="cpu"),
        TrainFlags(model=str(folder), precision="fp32"),
    )
    write_merged(folder, model, World.folder / "adapter", out / "merged")


def convert_folder(folder: Path, out: Path) -> None:
    convert.convert_checkpoint(folder, out / "converted")
    load_base(str(out / "converted"), "fp32", CPU)


# ---- data ---------------------------------------------------------------------------------------


def repair_prepared(folder: Path) -> None:
    """Write the checksums of the damaged files, so that the code after the check reads them."""
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
    """Reads a data set as train.py, eval.py and prepare.py show do. name: None for a folder of the user."""

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
            encode_split(rows[:3], data, tokenizer, "tallrec", 2048)
        all_rules(data.train, data.test)
        ask(World.model, tokenizer, data)
        if name:
            load_dataset(name, str(folder), True, notice, options)  # from the cache

    return read


def small_rules() -> None:
    """Let data sets have a few rows instead of thousands, and runs no picture: the same code in less time."""
    outcome.draw_curves = lambda path, history, results: None
    movie.SPLIT_SIZES = (80, 10, 10)
    amazon_book.MORE_REVIEWS_THAN = 2


# ---- a run --------------------------------------------------------------------------------------


def resume(folder: Path, out: Path) -> None:
    flags, resolved = parse_flags(TrainFlags, ["--resume", "--out", str(folder)], "", presets, check_flags)
    flags, resolved = flags_of_run(flags, resolved)
    run = RunFolder(folder, True)
    config_of_resumed(folder, made.config_of(resolved))
    model, optimizer = made.tuned()
    progress = run.restore_state(model, optimizer)
    progress.is_over(60, flags.patience)
    made.step_once(model, optimizer)
    [f"{record[name]:.3f}" for record in run.history() for name in ("step", "ce_pos", "ce_neg", "kl")]


def repair_state(folder: Path) -> None:
    """Correct the manifest of each saved state, so that the code after the check reads the state."""
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
    settings, _ = resolve_settings(flags, Resolved(vars(flags), dict.fromkeys(vars(flags), "default")))
    data = load_data(vars(settings))
    model, tokenizer = restore_model(flags, settings)
    ask(model, tokenizer, data)
    asked = ["--liked", "A", "--target", "B", "--max-len", "2048"]
    predict.main(["--run", str(folder), *asked, "--device", "cpu", "--json"])


def score_users(folder: Path, out: Path) -> None:
    files = ["--input", str(folder / "users.csv"), "--output", str(out / "scores.csv")]
    model = ["--model", str(World.folder / "base"), "--precision", "fp32"]
    predict.main([*model, *files, "--device", "cpu", "--json"])


def measure_file(folder: Path, out: Path) -> None:
    with redirect_stdout(io.StringIO()):
        eval.main(["--predictions", str(folder / "consistency.json"), "--out", str(out / "measured")])


def read_wordings(folder: Path, out: Path) -> None:
    model = ["--model", str(World.folder / "base"), "--wordings-file", str(folder / "wordings.json")]
    with redirect_stdout(io.StringIO()):
        predict.main([*model, "--liked", "A", "--target", "B", "--max-len", "2048", "--precision", "fp32"])


# ---- the list -----------------------------------------------------------------------------------


CPU_FLAGS = ["--max-len", "2048", "--precision", "fp32", "--device", "cpu"]


def _predict(model, adapter=None) -> list:
    adapter_flags = ["--adapter", adapter] if adapter else []
    return ["predict.py", "--model", model, *adapter_flags, "--liked", "A", "--target", "B", *CPU_FLAGS]


def _show(data, *more) -> list:
    model = ["--model", World.folder / "base", "--max-len", "2048"]
    return ["prepare.py", "show", "--data", data, *more, *model, "--json"]


def _show_own(folder: Path, out: Path) -> list:
    rated = (folder / "interactions.csv").exists()
    return _show(folder, *(["--like-threshold", "4"] if rated else []))


def _merge(folder: Path, out: Path) -> list:
    base = ["eval.py", "--model", folder, "--adapter", World.folder / "adapter", "--data", World.folder / "rows"]
    return [*base, *CPU_FLAGS, "--merge-out", out / "merged"]


def kinds() -> dict[str, Kind]:
    """Every kind by name. The order decides which case damages which kind."""
    return checkpoint_kinds() | data_kinds() | run_kinds() | bert_kinds() | recommender_kinds() | vector_kinds()


def checkpoint_kinds() -> dict[str, Kind]:
    """Bases, tokenizers, adapters, and checkpoints to convert."""
    base = (read_base, lambda folder, out: _predict(folder))
    adapter = (read_adapter, lambda folder, out: _predict(World.folder / "base", folder))
    to_convert = (convert_folder, lambda folder, out: ["-m", "model.convert", folder, "--out", out / "converted"])
    converted_file = (
        lambda folder, out: convert_folder(folder / "model.gguf", out),
        lambda folder, out: ["-m", "model.convert", folder / "model.gguf", "--out", out / "converted"],
    )
    return {
        "model.safetensors": Kind(made.make_base, "model.safetensors", *base),
        "model, tied": Kind(lambda folder: made.make_base(folder, tied=True), "[cm]o*", *base),
        "model shards": Kind(lambda folder: made.make_base(folder, 3), "*.safetensors", *base),
        "model index": Kind(lambda folder: made.make_base(folder, 3), "*.index.json", *base),
        "model config.json": Kind(made.make_base, "config.json", *base),
        "tokenizer.model": Kind(made.make_base, "tokenizer.model", *base),
        "tokenizer.json": Kind(made.make_bpe, "tokenizer.json", *base),
        "tokenizer_config.json": Kind(made.make_bpe, "tokenizer_config.json", *base),
        "tiktoken": Kind(made.make_tiktoken, "tokenizer.model", *base),
        "added_tokens.json": Kind(made.make_with_added_tokens, "added_tokens.json", *base),
        "merging": Kind(made.make_base, "[cm]o*", read_and_merge, _merge),
        "adapter .safetensors": Kind(made.make_adapter, "*.safetensors", *adapter),
        "adapter .bin": Kind(made.make_pickled_adapter, "*.bin", *adapter),
        "adapter_config.json": Kind(made.make_adapter, "*.json", *adapter),
        "convert .bin": Kind(made.make_bins, "*.bin*", *to_convert),
        "convert .bin, tied": Kind(lambda folder: made.make_bins(folder, tied=True), "*.bin*", *to_convert),
        "convert .pth, params": Kind(made.make_meta, "[cp]*", *to_convert),
        "convert .gguf": Kind(made.make_gguf, "*.gguf", *converted_file),
    }


def data_kinds() -> dict[str, Kind]:
    """Prepared, published and raw data."""

    def named(name: str) -> tuple:
        return read_data(name), lambda folder, out: _show(name, "--data-dir", folder)

    own = (read_data(None), _show_own)
    return {
        "prepared": Kind(made_data.make_prepared, "*", *named("movie"), repair_prepared),
        "TALLRec JSON": Kind(made_data.make_tallrec, "*", *own),
        "CoLLM CSV": Kind(made_data.make_collm, "*", *named("ml-1m")),
        "own CSV": Kind(made_data.make_custom, "*", *own, lines=0),  # a line for each fault
        "Book-Crossing ;": Kind(made_data.make_book, "*", *named("book")),
        "Book-Crossing ,": Kind(lambda folder: made_data.make_book(folder, False), "*", *named("book")),
        "u.data, u.item": Kind(made_data.make_movie, "*", *named("movie")),
        "ratings.dat, movies.dat": Kind(made_data.make_ml_1m, "*", *named("ml-1m")),
        "Amazon .json.gz": Kind(made_data.make_amazon, "*", *named("amazon-book")),
        "Amazon, saved pass": Kind(made_data.make_amazon_pass, "*.npz", read_amazon_pass, named("amazon-book")[1]),
    }


def run_kinds() -> dict[str, Kind]:
    """Files of a run, and the users to predict for."""
    resumed = (resume, lambda folder, out: ["train.py", "--resume", "--out", folder])

    def score(folder: Path, out: Path) -> list:
        return ["eval.py", "--run", folder, "--out", out / "scored"]

    def show_wordings(folder: Path, out: Path) -> list:
        model = ["--model", World.folder / "base", "--wordings-file", folder / "wordings.json"]
        return ["predict.py", *model, "--liked", "A", "--target", "B", *CPU_FLAGS]

    def predict_users(folder: Path, out: Path) -> list:
        return ["predict.py", "--input", folder / "users.csv", "--output", out / "scores.csv"]

    def measure(folder: Path, out: Path) -> list:
        return ["eval.py", "--predictions", folder / "consistency.json", "--json"]

    return {
        "resume state": Kind(made.make_run, "last/*/*", *resumed),
        "resume state, signed": Kind(made.make_run, "last/*/*", *resumed, repair_state),
        "run config.json (resume)": Kind(made.make_run, "config.json", *resumed, lines=0),
        "run config.json (score)": Kind(made.make_run, "config.json", score_run, score),
        "metrics.jsonl": Kind(made.make_run, "metrics.jsonl", *resumed),
        "wordings.json": Kind(made_data.make_wordings, "*", read_wordings, show_wordings, lines=0),
        "users.csv": Kind(made_data.make_users, "*", score_users, predict_users, lines=0),
        "consistency.json": Kind(made_data.make_answers, "*", measure_file, measure, lines=0),
    }


def bert_kinds() -> dict[str, Kind]:
    """BERTs that read titles."""
    read = (made_bert.read_bert, made_bert.gru_bert_command)
    return {
        "BERT": Kind(made_bert.make_bert, "*", *read),
        "BERT vocab.txt": Kind(made_bert.make_bert, "vocab.txt", *read),
        "BERT tokenizer.json": Kind(made_bert.make_fast_bert, "tokenizer.json", *read),
    }


def recommender_kinds() -> dict[str, Kind]:
    """Files of a run of baseline.py."""
    resumed = (recommender.resume, recommender.resume_command)
    made_once = recommender.make_searched
    return {
        "resume baseline, state": Kind(made_once, "last/*/*", *resumed, repair_state),
        "resume baseline, config": Kind(made_once, "config.json", *resumed, lines=0),
        "resume baseline, best": Kind(made_once, "best.safetensors", *resumed),
        "resume baseline, trials": Kind(made_once, "trials.jsonl", *resumed),
        "resume baseline, metrics": Kind(made_once, "metrics.jsonl", *resumed),
        "baseline setting.json": Kind(made_once, "setting.json", recommender.use_setting, recommender.setting_command),
        "baseline --config": Kind(
            made_once, "config.json", recommender.use_config, recommender.config_command, lines=0
        ),
        "scores to compare": Kind(
            recommender.make_pair, "[pr]*.*", recommender.compare_runs, recommender.compare_command
        ),
    }


def vector_kinds() -> dict[str, Kind]:
    """Files of runs with vectors in their prompts, and of the recommenders that give them."""
    score, ask = (vectors.score, vectors.score_command), (vectors.ask, vectors.predict_command)
    resumed, tuned = (vectors.resume, vectors.resume_command), vectors.make_tuned
    used = (vectors.start, vectors.start_command)
    return {
        "vectors.json, mf": Kind(tuned("mf"), "vectors.json", *score),
        "vectors.json, sasrec": Kind(tuned("sasrec-full"), "vectors.json", *score),
        "vectors.json (predict)": Kind(tuned("sasrec-full"), "vectors.json", *ask),
        "vectors.safetensors": Kind(tuned("mf"), "vectors.safetensors", *ask),
        "vectors, recommender": Kind(tuned("sasrec-full"), "recommender.safetensors", *ask),
        "vectors, soft prompt": Kind(vectors.make_soft_prompt, "vectors.*", *score),
        "vectors, catalogue": Kind(tuned("mf"), "catalogue.jsonl", *ask),
        "resume vectors": Kind(tuned("mf"), "[vr]e*", *resumed),
        "resume vectors, state": Kind(tuned("mf"), "last/*/*", *resumed, repair_state),
        "vectors from, config": Kind(vectors.make_recommender("mf"), "config.json", *used, lines=0),
        "vectors from, best": Kind(vectors.make_recommender("mf"), "best.safetensors", *used),
    }
