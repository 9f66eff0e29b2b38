"""What bench/fuzz.py damages: every kind of file that the program reads, made small and valid, and how each is read.

Nothing here is real data: titles, users and weights are invented.
"""

import csv
import gzip
import hashlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import load_file, save_file

import predict
from baselines.rules import all_rules
from data import amazon_book, book, collm, custom, ml_1m, movie, tallrec
from data.interactions import Dataset, Interaction, Item, not_cold
from data.load import load_dataset
from data.prepare import Options, write_prepared
from lora.adapter import save_adapter
from lora.inject import add_lora, lora_parameters
from model import convert
from model.llama import Llama, LlamaConfig
from runtime import setup
from runtime.checkpoint import load_state, save_state
from runtime.describe import run_config
from runtime.evaluation import score_split
from runtime.flags import Resolved, notice, parse_flags
from runtime.merging import refuse_merging_twice, write_merged
from runtime.run_folder import RunFolder
from runtime.subject import DataFlags, load_subject, settings_of
from runtime.train_flags import TrainFlags, adapter_settings, check_flags, flags_of_run, presets

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 100.0,
    "rope_scaling": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    "tie_word_embeddings": False,
}  # fmt: skip
SETTINGS = {"r": 2, "alpha": 4.0, "dropout": 0.0, "rslora": False, "targets": ("q_proj", "v_proj"), "base": "base", "base_fingerprint": "0" * 64}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Kind:
    """make: writes a valid folder; mutate: glob of the files to damage; read: (folder, out) -> None, as the program does;
    command: (folder, out) -> the same on the command line; repair: run after the damage, so that checksums fit again."""

    make: Callable[[Path], None]
    mutate: str
    read: Callable[[Path, Path], None]
    command: Callable[[Path, Path], list]
    repair: Callable[[Path], None] = lambda folder: None
    lines: int = 1  # that a refusal may have; 0 for any number


class World:
    """What all cases share: a base, its tokenizer, an adapter, and rows to ask about, in a folder of their own."""

    folder: Path
    tokenizer: bytes
    model: Llama


def build_world(folder: Path) -> None:
    """Fill World. Called once, before any process is forked."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the user will like the target movie Yes. No. preference"] * 20), model_writer=model, vocab_size=300, model_type="bpe",
        byte_fallback=True, user_defined_symbols=["Yes", "No", "▁Yes", "▁No"], hard_vocab_limit=False, pad_id=-1, unk_id=0, bos_id=1, eos_id=2, minloglevel=2, normalization_rule_name="identity",
    )  # fmt: skip
    World.folder, World.tokenizer = folder, model.getvalue()
    make_base(folder / "base")
    World.model = setup.load_base(str(folder / "base"), "fp32", CPU)[0]
    make_adapter(folder / "adapter")
    make_tallrec(folder / "rows")


# ---- checkpoints --------------------------------------------------------------------------------


def _weights() -> dict[str, torch.Tensor]:
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(World.tokenizer)
    with torch.device("meta"):
        fields = {name: value for name, value in CONFIG.items() if name not in ("architectures", "model_type", "hidden_act", "rope_scaling")}
        shapes = {name: p.shape for name, p in Llama(LlamaConfig(vocab_size=processor.GetPieceSize(), head_dim=4, **fields)).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    return {name: (torch.randn(shape, generator=generator) * 0.3 + ("norm" in name)) for name, shape in shapes.items()}


def make_base(folder: Path, shards: int = 1) -> None:
    folder.mkdir(parents=True)
    tensors = _weights()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": len(tensors["lm_head.weight"]), "merged_adapters": ["0" * 64]}))
    (folder / "tokenizer.model").write_bytes(World.tokenizer)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part := dict(list(tensors.items())[i::shards]), folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def make_bins(folder: Path) -> None:
    make_base(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(2):
        torch.save(part := dict(list(tensors.items())[i::2]), folder / f"pytorch_model-{i}.bin", _use_new_zipfile_serialization=i == 0)
        weight_map |= dict.fromkeys(part, f"pytorch_model-{i}.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def make_meta(folder: Path) -> None:
    make_base(folder)
    tensors = load_file(folder / "model.safetensors")
    for path in ("model.safetensors", "config.json"):
        (folder / path).unlink()
    (folder / "params.json").write_text(json.dumps({"dim": 16, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "norm_eps": 1e-5, "vocab_size": -1, "multiple_of": 8}))
    parts: list[dict] = [{}, {}]
    for ours, tensor in tensors.items():
        short = ours.removeprefix("model.").removesuffix(".weight")
        layer, _, stem = short.rpartition(".") if "layers" not in short else (".".join(short.split(".")[:2]) + ".", "", short.split(".", 2)[2])
        theirs, dim = convert.META[stem]
        for part, piece in zip(parts, [tensor] * 2 if dim is None else tensor.chunk(2, dim)):
            part[f"{layer}{theirs}.weight"] = piece.clone()
    for i, part in enumerate(parts):
        torch.save(part, folder / f"consolidated.{i:02d}.pth")


def make_adapter(folder: Path) -> None:
    folder.mkdir(parents=True)
    model = setup.load_base(str(World.folder / "base"), "fp32", CPU)[0]
    torch.manual_seed(0)
    add_lora(model, ("q_proj", "v_proj"), 2, 4, 0.0)
    for parameter in lora_parameters(model):
        torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(model, folder, SETTINGS)


def make_pickled_adapter(folder: Path) -> None:
    make_adapter(folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def ask(model: Llama, tokenizer, data: Dataset) -> None:
    """Both answers to the first rows."""
    rows = data.test[:2]
    answers = setup.answers_in_context(data, tokenizer, "paper")
    score_split(model, setup.encode_split(rows, data, tokenizer, "paper", 2048, notice), answers)


def some_rows() -> Dataset:
    return tallrec.read_folder(World.folder / "rows", "rows")


def read_base(folder: Path, out: Path) -> None:
    setup.is_demo(str(folder))
    model, tokenizer = setup.load_base(str(folder), "fp32", CPU)
    setup.base_identity(str(folder))
    ask(model, tokenizer, some_rows())
    [tokenizer.piece(i) for i in range(model.config.vocab_size)]
    tokenizer.decode(tokenizer.encode("Ünïcödé ▁ \u3000 <s> <0x41>"))


def read_adapter(folder: Path, out: Path) -> None:
    base = str(World.folder / "base")
    argv = ["--model", base, "--init-adapter", str(folder)]
    adapter_settings(parse_flags(TrainFlags, argv, "", presets, check_flags)[0])
    model, tokenizer = load_subject(replace(DataFlags(), adapter=str(folder), device="cpu"), {"model": base, "precision": "fp32"})
    ask(model, tokenizer, some_rows())


def read_and_merge(folder: Path, out: Path) -> None:
    refuse_merging_twice(folder, World.folder / "adapter")
    model, _ = load_subject(replace(DataFlags(), adapter=str(World.folder / "adapter"), device="cpu"), {"model": str(folder), "precision": "fp32"})
    write_merged(folder, model, World.folder / "adapter", out / "merged")


def convert_folder(folder: Path, out: Path) -> None:
    convert.convert(folder, out / "converted")
    setup.load_base(str(out / "converted"), "fp32", CPU)


# ---- data ---------------------------------------------------------------------------------------


def invented(users: int = 12, rows: int = 6) -> Dataset:
    rng = random.Random(0)
    catalogue = {i: Item(f"Invented {i} ({1900 + i})", f"Author {i}" if i % 3 == 0 else None) for i in range(1, 20)}
    splits: dict[str, list] = {"train": [], "valid": [], "test": []}
    for user in range(1, users + 1):
        for i in range(rows):
            history = tuple((item, rng.random() < 0.6) for item in rng.sample(range(1, 20), 4))
            splits[("train", "train", "train", "train", "valid", "test")[i]].append(Interaction(user, history, rng.randint(1, 19), rng.random() < 0.5, 10**9 + i))
    return Dataset("movie", "invented", "movie", catalogue, **splits, selection=splits["valid"][:5])


def make_prepared(folder: Path) -> None:
    folder.mkdir()
    write_prepared(invented(), folder, {"format": 1, "rule": "movie", "version": 1, "options": {}, "raw": {}})


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


def make_tallrec(folder: Path) -> None:
    folder.mkdir()
    tallrec.write_folder(invented(), folder)


def make_collm(folder: Path) -> None:
    folder.mkdir()
    data = invented()
    liked = {split: [replace(row, history=tuple((item, True) for item, _ in row.history)) for row in getattr(data, split)] for split in ("train", "valid", "test")}
    collm.write_published(replace(data, catalogue={i: Item(item.title) for i, item in data.catalogue.items()}, selection=None, **liked), folder)
    for split in ("train", "valid"):  # one stays gzipped
        (folder / f"{split}.csv").write_bytes(gzip.decompress((folder / f"{split}.csv.gz").read_bytes()))
        (folder / f"{split}.csv.gz").unlink()


def _write_csv(path: Path, rows: list, **dialect) -> None:
    with path.open("w", newline="", encoding=dialect.pop("encoding", "utf-8")) as file:
        csv.writer(file, **dialect).writerows(rows)


def make_custom(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(1)
    _write_csv(folder / "items.csv", [["item", "title", "author"], *([f"i{i}", f"Thing, no. {i}", "A. Hand" if i % 2 else ""] for i in range(9))])
    days = [f"2024-03-{day:02d}" for day in range(1, 29)] + ["1709251200", "2024-03-01T12:30:00Z"]
    rows = [[f"u{u}", f"i{i}", rng.randint(1, 5), rng.choice(days)] for u in range(6) for i in rng.sample(range(9), 6)]
    _write_csv(folder / "interactions.csv", [["user", "item", "rating", "timestamp"], *rows])


def make_book(folder: Path, semicolons: bool = True) -> None:
    folder.mkdir()
    rng = random.Random(2)
    dialect = {"delimiter": ";", "quoting": csv.QUOTE_ALL, "encoding": "latin-1"} if semicolons else {}
    names = ("BX-Books.csv", "BX-Book-Ratings.csv") if semicolons else ("Books.csv", "Ratings.csv")
    _write_csv(folder / names[0], [["ISBN", "Book-Title", "Book-Author", "Year"], *([f"{i:010d}", f"B\u00fcch {i}", f"Author {i}", 1990] for i in range(12))], **dialect)
    ratings = [[u, f"{i:010d}", rng.randint(0, 10)] for u in range(14) for i in rng.sample(range(12), 5)]
    _write_csv(folder / names[1], [["User-ID", "ISBN", "Book-Rating"], *ratings], **dialect)


def make_movie(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(3)
    (folder / "u.item").write_text("".join(f"{i}|Invent\u00e9 {i} (1990)|01-Jan-1990||\n" for i in range(1, 31)), encoding="iso-8859-1")
    rows = [(u, i, rng.randint(1, 5), 10**9 + rng.randrange(1000)) for u in range(1, 9) for i in rng.sample(range(1, 31), 25)]
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def make_ml_1m(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(4)
    (folder / "movies.dat").write_text("".join(f"{i}::Invent\u00e9 {i} (1990)::Drama\n" for i in range(1, 31)), encoding="iso-8859-1")
    rows = [(u, i, rng.randint(1, 5), rng.randrange(991353600, 1044057600)) for u in range(1, 9) for i in rng.sample(range(1, 31), 15)]
    content = "".join("::".join(map(str, row)) + "\n" for row in rows).encode()
    (folder / "ratings.dat.gz").write_bytes(gzip.compress(content))


def make_amazon(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(5)
    reviews = [
        {"overall": float(rng.randint(1, 5)), "reviewerID": f"U{u}", "asin": f"B{i:03d}", "reviewText": "good", "unixReviewTime": rng.randrange(1483228800, 1514764800)}
        for u in range(12) for i in rng.sample(range(12), 8)
    ]  # fmt: skip
    items = [{"asin": f"B{i:03d}", "title": f"Invented volume {i}"} for i in range(12)]
    for name, entries in (("Books_5.json.gz", reviews), ("meta_Books.json.gz", items)):
        (folder / name).write_bytes(gzip.compress("".join(json.dumps(entry) + "\n" for entry in entries).encode(), 1))


def make_amazon_pass(folder: Path) -> None:
    make_amazon(folder)
    reviews = amazon_book.read_year(folder / "Books_5.json.gz")
    amazon_book._save_pass(folder / "pass.npz", reviews, notice)


def read_amazon_pass(folder: Path, out: Path) -> None:
    saved = amazon_book._saved_pass(out / "cache" / "unfinished", folder / "Books_5.json.gz")
    saved.parent.mkdir(parents=True)
    saved.symlink_to(folder / "pass.npz")
    read_data("amazon-book")(folder, out)


def read_data(name: str | None) -> Callable[[Path, Path], None]:
    """As train.py, eval.py and data.show read a data set; None: a folder of the user's own."""

    def read(folder: Path, out: Path) -> None:
        options = Options(like_threshold=4) if (folder / "interactions.csv").exists() else Options()
        data = load_dataset(str(folder) if name is None else name, None if name is None else str(folder), True, notice, options)
        data.fingerprint()
        custom.leaks(data)
        _, tokenizer = setup.load_base(str(World.folder / "base"), "fp32", CPU)
        for split in ("train", "valid", "test"):
            rows = getattr(data, split)
            not_cold(data, rows)
            setup.encode_split(rows[:3], data, tokenizer, "paper", 2048, notice)
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


def _tuned() -> tuple[Llama, torch.optim.Optimizer]:
    model = setup.load_base(str(World.folder / "base"), "fp32", CPU)[0]
    torch.manual_seed(0)
    add_lora(model, ("q_proj", "v_proj"), 2, 4, 0.0)
    return model, torch.optim.AdamW(lora_parameters(model), lr=1e-3)


def _step(model: Llama, optimizer: torch.optim.Optimizer) -> None:
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    optimizer.step()


def make_run(folder: Path) -> None:
    make_adapter(folder)
    argv = ["--data", str(World.folder / "rows"), "--model", str(World.folder / "base"), "--lora-r", "2", "--shots", "4", "--precision", "fp32", "--device", "cpu"]
    flags, resolved = parse_flags(TrainFlags, argv, "", presets, check_flags)
    data = some_rows()
    run = RunFolder.__new__(RunFolder)
    run.path = folder
    run.write_config(run_config(resolved, data, CPU))
    for step in range(1, 5):
        terms = {"loss": 1.0, "ce_pos": 0.5, "ce_neg": 0.5, "kl": 0.1, "grad_norm": 1.0, "lr": 1e-3}
        run.log({"step": step, "epoch": 0, **terms, **({"valid_auc": 0.5} if step % 2 == 0 else {})})
    model, optimizer = _tuned()
    for step in (2, 4):
        _step(model, optimizer)
        save_state(folder / "last", model, optimizer, {"step": step, "best_auc": 0.5, "best_step": 2, "since_best": 1})


def resume(folder: Path, out: Path) -> None:
    flags, resolved = parse_flags(TrainFlags, ["--resume", "--out", str(folder)], "", presets, check_flags)
    flags, resolved = flags_of_run(flags, resolved)
    run = RunFolder(folder, True)
    run.config()
    model, optimizer = _tuned()
    progress = load_state(folder / "last", model, optimizer) or {"step": 0, "best_auc": -1.0, "best_step": 0, "since_best": 0}
    run.forget_after(progress["step"])
    progress["step"] < 60 and progress["since_best"] < flags.patience and 0.5 > progress["best_auc"]
    _step(model, optimizer)
    [f"{record[name]:.3f}" for record in run.history() for name in ("step", "ce_pos", "ce_neg", "kl")]


def score_run(folder: Path, out: Path) -> None:
    flags = replace(DataFlags(), run=str(folder), device="cpu")
    chosen, config = settings_of(flags, Resolved(vars(flags), dict.fromkeys(vars(flags), "default")))
    data = setup.load_data(chosen)
    config.get("data_source"), config.get("noun"), config.get("wording", "tallrec")
    model, tokenizer = load_subject(flags, chosen)
    ask(model, tokenizer, data)


def make_users(folder: Path) -> None:
    folder.mkdir()
    cells = [["user", "liked", "disliked", "target"], *([f"u{i}", "Alien (1979)|Heat (1995)", "Emma (1996)", f'Film "{i}"|Other, {i}'] for i in range(5))]
    _write_csv(folder / "users.csv", cells)


def score_users(folder: Path, out: Path) -> None:
    predict.main(["--model", str(World.folder / "base"), "--input", str(folder / "users.csv"), "--output", str(out / "scores.csv"), "--precision", "fp32", "--device", "cpu", "--json"])


# ---- the list -----------------------------------------------------------------------------------


def _predict(model, adapter=None) -> list:
    return ["predict.py", "--model", model, *(["--adapter", adapter] if adapter else []), "--liked", "A", "--target", "B", "--max-len", "2048", "--precision", "fp32", "--device", "cpu"]


def _show(data, *more) -> list:
    return ["-m", "data.show", "--data", data, *more, "--model", World.folder / "base", "--max-len", "2048", "--json"]


def kinds() -> dict[str, Kind]:
    """Every kind by name."""
    named = lambda name: (read_data(name), lambda folder, out: _show(name, "--data-dir", folder))  # noqa: E731
    own = (read_data(None), lambda folder, out: _show(folder, *(["--like-threshold", "4"] if (folder / "interactions.csv").exists() else [])))
    base = (read_base, lambda folder, out: _predict(folder))
    adapter = (read_adapter, lambda folder, out: _predict(World.folder / "base", folder))
    to_convert = (convert_folder, lambda folder, out: ["-m", "model.convert", folder, "--out", out / "converted"])
    resumed = (resume, lambda folder, out: ["train.py", "--resume", "--out", folder])
    merged = lambda folder, out: ["eval.py", "--model", folder, "--adapter", World.folder / "adapter", "--data", World.folder / "rows", "--max-len", "2048", "--precision", "fp32",
                                  "--device", "cpu", "--merge-out", out / "merged"]  # noqa: E731  # fmt: skip
    return {
        "model.safetensors": Kind(make_base, "model.safetensors", *base),
        "model shards": Kind(lambda folder: make_base(folder, 3), "*.safetensors", *base),
        "model index": Kind(lambda folder: make_base(folder, 3), "*.index.json", *base),
        "model config.json": Kind(make_base, "config.json", *base),
        "tokenizer.model": Kind(make_base, "tokenizer.model", *base),
        "merging": Kind(make_base, "[cm]o*", read_and_merge, merged),
        "adapter .safetensors": Kind(make_adapter, "*.safetensors", *adapter),
        "adapter .bin": Kind(make_pickled_adapter, "*.bin", *adapter),
        "adapter_config.json": Kind(make_adapter, "*.json", *adapter),
        "convert .bin": Kind(make_bins, "*.bin*", *to_convert),
        "convert .pth, params": Kind(make_meta, "[cp]*", *to_convert),
        "prepared": Kind(make_prepared, "*", *named("movie"), repair_prepared),
        "TALLRec JSON": Kind(make_tallrec, "*", *own),
        "CoLLM CSV": Kind(make_collm, "*", *named("ml-1m")),
        "own CSV": Kind(make_custom, "*", *own),
        "Book-Crossing ;": Kind(make_book, "*", *named("book")),
        "Book-Crossing ,": Kind(lambda folder: make_book(folder, False), "*", *named("book")),
        "u.data, u.item": Kind(make_movie, "*", *named("movie")),
        "ratings.dat, movies.dat": Kind(make_ml_1m, "*", *named("ml-1m")),
        "Amazon .json.gz": Kind(make_amazon, "*", *named("amazon-book")),
        "Amazon, saved pass": Kind(make_amazon_pass, "*.npz", read_amazon_pass, named("amazon-book")[1]),
        "resume state": Kind(make_run, "last/*/*", *resumed),
        "run config.json (resume)": Kind(make_run, "config.json", *resumed, lines=0),
        "run config.json (score)": Kind(make_run, "config.json", score_run, lambda folder, out: ["eval.py", "--run", folder, "--out", out / "scored"]),
        "metrics.jsonl": Kind(make_run, "metrics.jsonl", *resumed),
        "users.csv": Kind(make_users, "*", score_users, lambda folder, out: ["predict.py", "--input", folder / "users.csv", "--output", out / "scores.csv"], lines=0),
    }  # fmt: skip
