"""Small valid checkpoints, adapters and runs for bench/fuzz.py.

Nothing here is real: weights are random, titles and users are invented.
"""

import base64
import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from bench import gguf_made
from bench.fuzz_made_data import make_tallrec
from cli.flags import Resolved, parse_flags
from cli.train import TrainFlags, check_flags, presets
from data.sources import tallrec
from data.splits import Split
from files import write_json
from lora.adapter import save_adapter
from lora.inject import add_lora
from model import meta
from model.llama import Llama, LlamaConfig
from model.tokenizer_json import IN_LLAMA3_FILES
from model.words import BYTE_SYMBOLS
from run.base import load_base
from run.checkpoint import save_state
from run.config import fingerprints, run_config
from run.folder import RunFolder
from run.inputs import Inputs
from run.progress import Progress
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
    """What all cases share, in one folder: a base, its tokenizer, an adapter, and rows to score."""

    folder = Path()
    tokenizer: bytes
    model: Llama


def silently(verb: Callable[[list[str]], None], words: list) -> None:
    """Run a program of ours with these words; what it prints is dropped."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        verb([str(word) for word in words])


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
        others = ("architectures", "model_type", "hidden_act", "rope_scaling")
        fields = {name: value for name, value in CONFIG.items() if name not in others}
        model = Llama(LlamaConfig(vocab_size=processor.GetPieceSize(), head_dim=4, **fields))
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    return {name: (torch.randn(shape, generator=generator) * 0.3 + ("norm" in name)) for name, shape in shapes.items()}


def make_base(folder: Path, shards: int = 1, tied: bool = False) -> None:
    folder.mkdir(parents=True)
    tensors = _weights()
    if tied:  # stored twice although tied
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


def _pieces() -> list[str]:
    """The pieces of a byte-level BPE: a symbol for each byte, and the beginnings of some words."""
    words = ("ĠYes", "ĠNo", "Yes", "No", "Ġuser", "Ġmovie", "Ġlike", "Ġthe")
    return list(dict.fromkeys([*BYTE_SYMBOLS.values(), *(word[:i] for word in words for i in range(2, len(word) + 1))]))


def make_bpe(folder: Path) -> None:
    make_base(folder)
    (folder / "tokenizer.model").unlink()
    pieces, bos = _pieces(), {"SpecialToken": {"id": "<|start|>", "type_id": 0}}
    control = [
        {"id": len(pieces) + i, "content": text, "special": True} for i, text in enumerate(("<|start|>", "<|end|>"))
    ]
    split = {"type": "Split", "pattern": {"Regex": IN_LLAMA3_FILES}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    tokenizer = {
        "added_tokens": [*control, {"id": len(pieces) + 2, "content": "movie", "special": False}],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {"type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}]},
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [[piece[:-1], piece[-1]] for piece in pieces[256:]],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"add_bos_token": True, "bos_token": "<|start|>", "eos_token": {"content": "<|end|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def make_tiktoken(folder: Path) -> None:
    """Few pieces, since the 256 control tokens that follow them need rows too."""
    make_base(folder)
    pieces = [*"abcdefghijklmnopqrstuvwxyzYN., \n", "Ye", "Yes", "No", " u", " us", "th", "the"]
    lines = [f"{base64.b64encode(piece.encode()).decode()} {rank}\n" for rank, piece in enumerate(pieces)]
    (folder / "tokenizer.model").write_text("".join(lines))


def make_with_added_tokens(folder: Path) -> None:
    make_base(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"<s>": 1, "[PAD]": 100_000}))


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
    sizes = {"dim": 16, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2}
    params = {**sizes, "norm_eps": 1e-5, "vocab_size": -1, "multiple_of": 8}
    (folder / "params.json").write_text(json.dumps(params))
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


def make_gguf(folder: Path) -> None:
    """One file, with the tokenizer in it."""
    make_base(folder)
    tensors = load_file(folder / "model.safetensors")
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(World.tokenizer)
    pieces = [
        (
            processor.IdToPiece(i),
            processor.GetScore(i),
            2 if i == 0 else 3 if i < 3 else 6 if processor.IsByte(i) else 1,
        )
        for i in range(processor.GetPieceSize())
    ]
    fields = {**gguf_made.llama_fields(CONFIG), **gguf_made.sentencepiece_fields(pieces, 1, 2)}
    content = gguf_made.gguf(fields, gguf_made.llama_parts(tensors, head_dim=4))
    for path in folder.iterdir():
        path.unlink()
    (folder / "model.gguf").write_bytes(content)


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


# ---- a run ---------------------------------------------------------------------------------------


def make_run(folder: Path) -> None:
    make_adapter(folder)
    argv = ["--data", str(World.folder / "rows"), "--model", str(World.folder / "base"), "--lora-r", "2"]
    argv += ["--shots", "4", "--max-steps", "6", "--eval-every", "2", "--max-len", "2048"]
    argv += ["--precision", "fp32", "--device", "cpu"]
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
        save_state(folder / "last", model, optimizer, Progress(step, best_value=0.5, best_step=2, since_best=1))


def config_of(resolved: Resolved) -> dict:
    """config.json of a run with these flags."""
    data = tallrec.read_folder(World.folder / "rows", "rows")
    nothing = Split([], [], 0, {})
    inputs = Inputs(data, None, None, {"base_fingerprint": "0"}, nothing, nothing, nothing)
    return run_config(resolved, data, torch.device("cpu"), fingerprints(inputs, str(World.folder / "base"), None))


def tuned() -> tuple[Llama, torch.optim.Optimizer]:
    model = load_base(str(World.folder / "base"), "fp32", torch.device("cpu"))[0]
    torch.manual_seed(0)
    add_lora(model, ("q_proj", "v_proj"), 2, 4, 0.0)
    return model, torch.optim.AdamW(list(trainable_parameters(model).values()), lr=1e-3)


def step_once(model: Llama, optimizer: torch.optim.Optimizer) -> None:
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    optimizer.step()
