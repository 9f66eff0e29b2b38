"""The file of a model's vectors beside its adapter: vectors.safetensors, written, read back, and read again strictly.

It holds the mapping, or the free vectors, as they were trained, and the recommender's vectors unless these are computed
anew from another file. Its header has the sha256 of the adapter that the vectors were trained with.
"""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from errors import AdapterError, quoted
from model.soft_tokens import vectors_of
from tensors import put_tensors

VECTORS = "vectors.safetensors"
TRAINED_WITH = "adapter"  # in the header


def kept_tensors(vectors: nn.Module) -> dict[str, Tensor]:
    """What the file holds, by name: not copied, so that values can be put into it."""
    derived = getattr(vectors, "derived", False)
    return {name: tensor for name, tensor in vectors.state_dict().items() if not (derived and name == "table.weight")}


def save_vectors(model: nn.Module, folder: Path, adapter: Path) -> None:
    """Write the vectors of `model` into an existing folder, then read them back and compare.

    adapter: the file with LoRA's tensors. Raises AdapterError if what was read is not what was written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in kept_tensors(vectors_of(model)).items()}
    path = folder / VECTORS
    save_file(tensors, path, metadata={TRAINED_WITH: _sha256(adapter)})
    written = load_file(path)
    if written.keys() != tensors.keys() or not all(torch.equal(written[name], tensors[name]) for name in tensors):
        raise AdapterError(f"{path}: does not read back as it was written; is the disk full or failing?")


def load_vectors(model: nn.Module, folder: Path, adapter: Path) -> None:
    """Copy saved vectors into those that `model` already has.

    Raises AdapterError as read_vectors, and naming the tensors that are missing, surplus, misshapen or not finite.
    """
    put_tensors(kept_tensors(vectors_of(model)), read_vectors(folder, adapter), str(folder / VECTORS))


def read_vectors(folder: Path, adapter: Path) -> dict[str, Tensor]:
    """The tensors of the file by name, whatever they are.

    Raises AdapterError if there is no such file, or if the adapter beside it is another than it was saved with.
    """
    path = folder / VECTORS
    if not path.is_file():
        raise AdapterError(f"{path}: missing; it belongs to the adapter in that folder, so fetch it too")
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            trained_with = (file.metadata() or {}).get(TRAINED_WITH)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: damaged or truncated ({quoted(str(error), 80)}); fetch it again") from None
    if trained_with != _sha256(adapter):
        raise AdapterError(
            f"{path}: was saved with another adapter than {adapter.name} beside it; if the run was killed between the "
            "two, resume it with --resume, else fetch both files again"
        )
    return tensors


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
