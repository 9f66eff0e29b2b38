"""The valid folders that bench/fuzz.py damages: every kind of file that the program reads, small.

Nothing here is real data: titles, users and weights are invented.
"""

import csv
import gzip
import io
import json
import random
from dataclasses import replace
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from cli.flags import Resolved, parse_flags
from cli.train import TrainFlags, check_flags, presets
from data.cache import write_prepared
from data.interactions import Dataset, Interaction, Item
from data.sources import amazon_book, collm, tallrec
from errors import notice
from files import write_json
from lora.adapter import save_adapter
from lora.inject import add_lora
from model import meta
from model.llama import Llama, LlamaConfig
from run.base import load_base
from run.checkpoint import save_state
from run.config import fingerprints, run_config
from run.folder import RunFolder
from tensors import trainable_parameters

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "tie_word_embeddings": False,
}
SETTINGS = {
    "r": 2,
    "alpha": 4.0,
    "dropout": 0.0,
    "rslora": False,
    "targets": ("q_proj", "v_proj"),
    "base": "base",
    "base_fingerprint": "0" * 64,
}


class World:
    """What all cases share: a base, its tokenizer, an adapter, and rows to ask about, in a folder of their own."""

    folder = Path()
    tokenizer: bytes
    model: Llama


def build_world(folder: Path) -> None:
    """Fill World. Called once, before any process is forked."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the user will like the target movie Yes. No. preference"] * 20),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=["Yes", "No", "▁Yes", "▁No"],
        hard_vocab_limit=False,
        pad_id=-1,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        minloglevel=2,
        normalization_rule_name="identity",
    )
    World.folder, World.tokenizer = folder, model.getvalue()
    make_base(folder / "base")
    World.model = load_base(str(folder / "base"), "fp32", torch.device("cpu"))[0]
    make_adapter(folder / "adapter")
    make_tallrec(folder / "rows")


# ---- checkpoints ---------------------------------------------------------------------------------


def _weights() -> dict[str, torch.Tensor]:
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(World.tokenizer)
    with torch.device("meta"):
        fields = {
            name: value
            for name, value in CONFIG.items()
            if name not in ("architectures", "model_type", "hidden_act", "rope_scaling")
        }
        shapes = {
            name: p.shape
            for name, p in Llama(
                LlamaConfig(vocab_size=processor.GetPieceSize(), head_dim=4, **fields)
            ).named_parameters()
        }
    generator = torch.Generator().manual_seed(0)
    return {name: (torch.randn(shape, generator=generator) * 0.3 + ("norm" in name)) for name, shape in shapes.items()}


def make_base(folder: Path, shards: int = 1, tied: bool = False) -> None:
    folder.mkdir(parents=True)
    tensors = _weights()
    if tied:  # stored twice all the same
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    fields = {"vocab_size": len(tensors["lm_head.weight"]), "tie_word_embeddings": tied, "merged_adapters": ["0" * 64]}
    (folder / "config.json").write_text(json.dumps(CONFIG | fields))
    (folder / "tokenizer.model").write_bytes(World.tokenizer)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part := dict(list(tensors.items())[i::shards]), folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )


def make_bins(folder: Path, tied: bool = False) -> None:
    make_base(folder, tied=tied)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(2):
        torch.save(
            part := dict(list(tensors.items())[i::2]),
            folder / f"pytorch_model-{i}.bin",
            _use_new_zipfile_serialization=i == 0,
        )
        weight_map |= dict.fromkeys(part, f"pytorch_model-{i}.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def make_meta(folder: Path) -> None:
    make_base(folder)
    tensors = load_file(folder / "model.safetensors")
    for path in ("model.safetensors", "config.json"):
        (folder / path).unlink()
    (folder / "params.json").write_text(
        json.dumps(
            {
                "dim": 16,
                "n_heads": 4,
                "n_kv_heads": 2,
                "n_layers": 2,
                "norm_eps": 1e-5,
                "vocab_size": -1,
                "multiple_of": 8,
            }
        )
    )
    parts: list[dict] = [{}, {}]
    for ours, tensor in tensors.items():
        short = ours.removeprefix("model.").removesuffix(".weight")
        layer, _, stem = (
            short.rpartition(".")
            if "layers" not in short
            else (".".join(short.split(".")[:2]) + ".", "", short.split(".", 2)[2])
        )
        theirs, dim = meta.META[stem]
        for part, piece in zip(parts, [tensor] * 2 if dim is None else tensor.chunk(2, dim)):
            part[f"{layer}{theirs}.weight"] = piece.clone()
    for i, part in enumerate(parts):
        torch.save(part, folder / f"consolidated.{i:02d}.pth")


def make_adapter(folder: Path) -> None:
    folder.mkdir(parents=True)
    model = load_base(str(World.folder / "base"), "fp32", torch.device("cpu"))[0]
    torch.manual_seed(0)
    add_lora(model, ("q_proj", "v_proj"), 2, 4, 0.0)
    for parameter in trainable_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(model, folder, SETTINGS)


def make_pickled_adapter(folder: Path) -> None:
    make_adapter(folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


# ---- data ----------------------------------------------------------------------------------------


def invented(users: int = 12, rows: int = 6) -> Dataset:
    rng = random.Random(0)
    catalogue = {i: Item(f"Invented {i} ({1900 + i})", f"Author {i}" if i % 3 == 0 else None) for i in range(1, 20)}
    splits: dict[str, list] = {"train": [], "valid": [], "test": []}
    for user in range(1, users + 1):
        for i in range(rows):
            history = tuple((item, rng.random() < 0.6) for item in rng.sample(range(1, 20), 4))
            splits[("train", "train", "train", "train", "valid", "test")[i]].append(
                Interaction(user, history, rng.randint(1, 19), rng.random() < 0.5, 10**9 + i)
            )
    return Dataset("movie", "invented", "movie", catalogue, **splits, selection=splits["valid"][:5])


def make_prepared(folder: Path) -> None:
    folder.mkdir()
    write_prepared(invented(), folder, {"format": 1, "rule": "movie", "version": 1, "options": {}, "raw": {}})


def make_tallrec(folder: Path) -> None:
    folder.mkdir()
    tallrec.write_folder(invented(), folder)


def make_collm(folder: Path) -> None:
    folder.mkdir()
    data = invented()
    liked = {
        split: [replace(row, history=tuple((item, True) for item, _ in row.history)) for row in getattr(data, split)]
        for split in ("train", "valid", "test")
    }
    collm.write_published(
        replace(data, catalogue={i: Item(item.title) for i, item in data.catalogue.items()}, selection=None, **liked),
        folder,
    )
    for split in ("train", "valid"):  # one stays gzipped
        (folder / f"{split}.csv").write_bytes(gzip.decompress((folder / f"{split}.csv.gz").read_bytes()))
        (folder / f"{split}.csv.gz").unlink()


def _write_csv(path: Path, rows: list, **dialect) -> None:
    with path.open("w", newline="", encoding=dialect.pop("encoding", "utf-8")) as file:
        csv.writer(file, **dialect).writerows(rows)


def make_custom(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(1)
    _write_csv(
        folder / "items.csv",
        [["item", "title", "author"], *([f"i{i}", f"Thing, no. {i}", "A. Hand" if i % 2 else ""] for i in range(9))],
    )
    days = [f"2024-03-{day:02d}" for day in range(1, 29)] + ["1709251200", "2024-03-01T12:30:00Z"]
    rows = [[f"u{u}", f"i{i}", rng.randint(1, 5), rng.choice(days)] for u in range(6) for i in rng.sample(range(9), 6)]
    _write_csv(folder / "interactions.csv", [["user", "item", "rating", "timestamp"], *rows])


def make_book(folder: Path, semicolons: bool = True) -> None:
    folder.mkdir()
    rng = random.Random(2)
    dialect = {"delimiter": ";", "quoting": csv.QUOTE_ALL, "encoding": "latin-1"} if semicolons else {}
    names = ("BX-Books.csv", "BX-Book-Ratings.csv") if semicolons else ("Books.csv", "Ratings.csv")
    _write_csv(
        folder / names[0],
        [
            ["ISBN", "Book-Title", "Book-Author", "Year"],
            *([f"{i:010d}", f"B\u00fcch {i}", f"Author {i}", 1990] for i in range(12)),
        ],
        **dialect,
    )
    ratings = [[u, f"{i:010d}", rng.randint(0, 10)] for u in range(14) for i in rng.sample(range(12), 5)]
    _write_csv(folder / names[1], [["User-ID", "ISBN", "Book-Rating"], *ratings], **dialect)


def make_movie(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(3)
    (folder / "u.item").write_text(
        "".join(f"{i}|Invent\u00e9 {i} (1990)|01-Jan-1990||\n" for i in range(1, 31)), encoding="iso-8859-1"
    )
    rows = [
        (u, i, rng.randint(1, 5), 10**9 + rng.randrange(1000))
        for u in range(1, 9)
        for i in rng.sample(range(1, 31), 25)
    ]
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def make_ml_1m(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(4)
    (folder / "movies.dat").write_text(
        "".join(f"{i}::Invent\u00e9 {i} (1990)::Drama\n" for i in range(1, 31)), encoding="iso-8859-1"
    )
    rows = [
        (u, i, rng.randint(1, 5), rng.randrange(991353600, 1044057600))
        for u in range(1, 9)
        for i in rng.sample(range(1, 31), 15)
    ]
    content = "".join("::".join(map(str, row)) + "\n" for row in rows).encode()
    (folder / "ratings.dat.gz").write_bytes(gzip.compress(content))


def make_amazon(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(5)
    reviews = [
        {
            "overall": float(rng.randint(1, 5)),
            "reviewerID": f"U{u}",
            "asin": f"B{i:03d}",
            "reviewText": "good",
            "unixReviewTime": rng.randrange(1483228800, 1514764800),
        }
        for u in range(12)
        for i in rng.sample(range(12), 8)
    ]
    items = [{"asin": f"B{i:03d}", "title": f"Invented volume {i}"} for i in range(12)]
    for name, entries in (("Books_5.json.gz", reviews), ("meta_Books.json.gz", items)):
        (folder / name).write_bytes(gzip.compress("".join(json.dumps(entry) + "\n" for entry in entries).encode(), 1))


def make_amazon_pass(folder: Path) -> None:
    make_amazon(folder)
    reviews = amazon_book.read_year(folder / "Books_5.json.gz")
    amazon_book._save_pass(folder / "pass.npz", reviews, notice)


# ---- a run ---------------------------------------------------------------------------------------


def make_run(folder: Path) -> None:
    make_adapter(folder)
    argv = [
        "--data",
        str(World.folder / "rows"),
        "--model",
        str(World.folder / "base"),
        "--lora-r",
        "2",
        "--shots",
        "4",
        "--max-steps",
        "6",
        "--eval-every",
        "2",
        "--max-len",
        "2048",
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]
    flags, resolved = parse_flags(TrainFlags, argv, "", presets, check_flags)
    write_json(folder / "config.json", config_of(resolved))
    run = RunFolder(folder, True)
    for step in range(1, 5):
        terms = {"loss": 1.0, "ce_pos": 0.5, "ce_neg": 0.5, "kl": 0.1, "grad_norm": 1.0, "lr": 1e-3}
        run.log(
            {"step": step, "epoch": 0, **terms, **({"valid_auc": 0.5} if step % 2 == 0 else {})},
            {"step": step, "time": 1.0, "seconds": 1.0},
        )
    model, optimizer = tuned()
    for step in (2, 4):
        step_once(model, optimizer)
        save_state(folder / "last", model, optimizer, {"step": step, "best_auc": 0.5, "best_step": 2, "since_best": 1})


def config_of(resolved: Resolved) -> dict:
    """config.json of a run with these flags."""
    data = tallrec.read_folder(World.folder / "rows", "rows")
    return run_config(
        resolved, data, torch.device("cpu"), fingerprints(data, {}, str(World.folder / "base"), "0", None)
    )


def tuned() -> tuple[Llama, torch.optim.Optimizer]:
    model = load_base(str(World.folder / "base"), "fp32", torch.device("cpu"))[0]
    torch.manual_seed(0)
    add_lora(model, ("q_proj", "v_proj"), 2, 4, 0.0)
    return model, torch.optim.AdamW(list(trainable_parameters(model).values()), lr=1e-3)


def step_once(model: Llama, optimizer: torch.optim.Optimizer) -> None:
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    optimizer.step()


def make_users(folder: Path) -> None:
    folder.mkdir()
    cells = [
        ["user", "liked", "disliked", "target"],
        *([f"u{i}", "Alien (1979)|Heat (1995)", "Emma (1996)", f'Film "{i}"|Other, {i}'] for i in range(5)),
    ]
    _write_csv(folder / "users.csv", cells)
