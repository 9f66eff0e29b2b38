"""A random LLaMA with the exact shape of a named model.

    python -m bench.checkpoints --shape llama-7b --tokenizer DIR --out DIR

Speed and memory depend on shapes, not on the values of the weights. The folder has the real layout (config.json,
safetensors shards with their index, the tokenizer.model of the given folder) in bf16. Every weight is drawn from a
normal distribution with standard deviation 0.02, with one seed per tensor; the weights of norms are 1. Only one shard
of at most 2 GB is in memory at a time. LLaMA-7B takes 13.5 GB of disk and about a minute, plus the time of the disk.
A complete folder is used again; an interrupted call resumes when it is repeated.
"""

import argparse
from pathlib import Path

import torch

from cli.verb import run_verb
from errors import CheckpointError, notice
from model.llama import Llama, LlamaConfig
from model.tokenizer import tokenizer_files
from model.weights import read_json
from model.write import INDEX, plan_shards, write_checkpoint

STANDARD_DEVIATION = 0.02
SHARD_BYTES = 2_000_000_000
COMMON = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "vocab_size": 32_000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}


def _shape(hidden: int, layers: int, heads: int, key_value_heads: int, intermediate: int) -> dict:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**COMMON, **sizes, "num_key_value_heads": key_value_heads, "intermediate_size": intermediate}


SHAPES = {  # config.json by name
    "small": _shape(768, 12, 12, 12, 2048),
    "tinyllama-1.1b": _shape(2048, 22, 32, 4, 5632),
    "llama-3b": _shape(3200, 26, 32, 32, 8640),
    "llama-7b": _shape(4096, 32, 32, 32, 11_008),
}


def make_checkpoint(config: dict, tokenizer: Path, folder: Path, limit: int = SHARD_BYTES, device: str = "cpu") -> Path:
    """Write the random checkpoint to `folder` unless it exists; returns the folder.

    config: the content of config.json; tokenizer: a folder with a tokenizer; limit: bytes of a shard; device: that
    draws.
    Raises CheckpointError if the tokenizer is missing or the folder holds another checkpoint.
    """
    tokenizer_content = {path.name: path.read_bytes() for path in tokenizer_files(tokenizer)}
    shapes = tensor_shapes(config)
    sizes = {name: 2 * shape.numel() for name, shape in shapes.items()}  # bf16
    plan = plan_shards(sizes, limit)
    if _is_whole(folder, config, plan.shards):
        return folder
    seeds = {name: seed for seed, name in enumerate(shapes)}

    def drawn(names: list[str]) -> dict[str, torch.Tensor]:
        return {name: random_tensor(name, shapes[name], seeds[name], device).cpu() for name in names}

    write_checkpoint(folder, plan, drawn, config, tokenizer_content, lambda file: notice(f"{folder / file}"))
    return folder


def tensor_shapes(config: dict) -> dict[str, torch.Size]:
    """{name in the checkpoint: shape} of every tensor."""
    fields = {name: config[name] for name in LlamaConfig.__dataclass_fields__ if name in config}
    with torch.device("meta"):
        model = Llama(LlamaConfig(head_dim=config["hidden_size"] // config["num_attention_heads"], **fields))
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def random_tensor(name: str, shape: torch.Size, seed: int, device: str = "cpu") -> torch.Tensor:
    """A bf16 tensor; the same name, shape, seed and kind of device give the same values."""
    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16, device=device)
    return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(
        0, STANDARD_DEVIATION, generator=torch.Generator(device).manual_seed(seed)
    )


def _is_whole(folder: Path, config: dict, shards: dict[str, list[str]]) -> bool:
    """Whether the folder holds exactly this checkpoint; False if it is empty or unfinished."""
    path = folder / "config.json"
    if path.exists() and read_json(path) != config:
        raise CheckpointError(f"{path}: belongs to another checkpoint; choose another folder")
    if not (folder / INDEX).exists():  # written last
        return False
    wanted = {name: file for file, names in shards.items() for name in names}
    return read_json(folder / INDEX).get("weight_map") == wanted and all((folder / file).exists() for file in shards)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with LLaMA's tokenizer.model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint, outside the repository")
    parser.add_argument("--device", default="cpu", help="cuda draws faster, other values")
    args = parser.parse_args(argv)
    folder = make_checkpoint(SHAPES[args.shape], args.tokenizer, args.out, device=args.device)
    notice(f"{folder}: a random {args.shape}")


if __name__ == "__main__":
    run_verb(main)
