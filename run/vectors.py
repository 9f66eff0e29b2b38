"""The vectors in a run's prompts: made when it starts, described in its folder, put back when it is used.

vectors.json            what they are, and whom the recommender knows; written once
recommender.safetensors the recommender itself, where its users are histories and not rows of a table; written once
vectors.safetensors     what was trained, and the recommender's vectors, of the best state (model/soft_file.py)
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cli.train import TrainFlags
from data.interactions import Dataset, Interaction
from data.parts import PLACES_OF_SOFT_PROMPT
from errors import RunError, notice, quoted
from files import read_whole, write_bytes, write_json
from lora.adapter import WEIGHTS
from machine import ranks
from model.llama import Llama, LlamaConfig
from model.soft_file import VECTORS, kept_tensors, load_vectors, read_vectors
from model.soft_tokens import FreeVectors, MappedVectors, add_vectors
from run.collaborative import (
    Recommender,
    as_record,
    fresh_table,
    from_record,
    load_recommender,
    place,
    tell_unknown,
)
from run.folder import RunFolder
from tensors import put_tensors

RECORD, RECOMMENDER = "vectors.json", "recommender.safetensors"
COLLABORATIVE, SOFT_PROMPT = "collaborative", "soft prompt"
NO_USERS = "--user: has no effect, since the prompts have no vector of a user"


@dataclass(frozen=True)
class RunVectors:
    """The vectors of a run that starts. record: for vectors.json; module: for the model; ids: see Dataset.vectors;
    kept: the tensors of recommender.safetensors, {} for none; fingerprint: a sha256 of all they began with.
    """

    record: dict
    module: nn.Module
    ids: Callable[[Interaction], Mapping[str, int]]
    kept: dict[str, Tensor]
    fingerprint: str


def start_vectors(flags: TrainFlags, data: Dataset, config: LlamaConfig) -> RunVectors | None:
    """What --collaborative or --soft-prompt asks for; None without either. The seed draws the first values."""
    torch.manual_seed(flags.seed)
    if flags.soft_prompt != "none":
        module = FreeVectors(len(PLACES_OF_SOFT_PROMPT), config.hidden_size, flags.soft_prompt)
        record = {"kind": SOFT_PROMPT, "initial": flags.soft_prompt}
        return RunVectors(record, module, _soft_ids(config.vocab_size), {}, _fingerprint(record, module))
    if not flags.collaborative:
        return None
    recommender = load_recommender(flags.collaborative, data)
    placed = place(recommender, [*data.train, *data.valid, *data.test])
    for split in ("train", "valid", "test"):
        tell_unknown(placed, getattr(data, split), split)
    table = fresh_table(placed.table) if flags.tuning == "t1" else placed.table
    module = MappedVectors(table, config.hidden_size, derived=recommender.reads_histories)
    module.table.requires_grad_(flags.trains_table)
    record = {"kind": COLLABORATIVE, "data": data.name, "data_source": data.source, **as_record(recommender)}
    kept = recommender.tensors if recommender.reads_histories else {}
    return RunVectors(record, module, placed.ids(config.vocab_size), kept, _fingerprint(record, module))


def _fingerprint(record: dict, module: nn.Module) -> str:
    digest = hashlib.sha256(json.dumps(record).encode())
    for name, tensor in module.state_dict().items():
        digest.update(json.dumps([name, tensor.shape]).encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _soft_ids(vocabulary: int) -> Callable[[Interaction], dict[str, int]]:
    ids = {placeholder: vocabulary + n for n, placeholder in enumerate(PLACES_OF_SOFT_PROMPT)}
    return lambda row: ids


@ranks.first_only
def write_record(run: RunFolder, vectors: RunVectors) -> None:
    """Write what does not change during the run."""
    with run.writing():
        write_json(run.path / RECORD, vectors.record)
        if vectors.kept:
            write_bytes(run.path / RECOMMENDER, save(vectors.kept))


# ---- put back -----------------------------------------------------------------------------------


def has_vectors(folder: Path) -> bool:
    """Whether this is the folder of a run whose prompts have vectors."""
    return (folder / RECORD).is_file()


def restore_vectors(model: Llama, data: Dataset, rows: list[Interaction], folder: Path) -> Dataset:
    """The data set with the ids of its vectors, which are in the model then; as it was if the run has none.

    rows: all that will be asked about, since a recommender may compute its vectors of their histories.
    Raises RunError if the data are not those of the run, AdapterError if the files do not fit.
    """
    if not has_vectors(folder):
        return data
    record = _read_record(folder)
    if record["kind"] == COLLABORATIVE and (record.get("data"), record.get("data_source")) != (data.name, data.source):
        raise RunError(
            f"--run {folder}: its vectors are of the users and items of {quoted(record.get('data'))} "
            f"({quoted(record.get('data_source'))}), and not of {data.name} ({data.source}); score the data of the run"
        )
    return replace(data, vectors=_put_back(model, record, rows, folder))


def restore_for_titles(
    model: Llama,
    data: Dataset,
    rows: list[Interaction],
    folder: Path,
    items: Mapping[str, int | str],
    tell: Callable[[str], None] = notice,
) -> Dataset:
    """The same for titles that a user typed. rows: all that will be scored; items: the id of each title as typed.

    tell: takes a line about users, and one about titles, that the run does not know.
    """
    if not has_vectors(folder):
        return data
    record = _read_record(folder)
    users = {str(user): user for user in record.get("users", [])}

    def as_known(row: Interaction) -> Interaction:
        history = tuple((items[item], liked) for item, liked in row.history if item in items)
        return replace(row, user=users.get(row.user), history=history, target=items.get(row.target))

    known = [as_known(row) for row in rows]
    ids = _put_back(model, record, known, folder)
    if record["kind"] == COLLABORATIVE:
        for line in _unknown_names(rows, known, record):
            tell(line)
    return replace(data, vectors=lambda row: ids(as_known(row)))


def _unknown_names(rows: list[Interaction], known: list[Interaction], record: dict) -> Iterator[str]:
    strangers = {row.user for row, found in zip(rows, known) if found.user is None}
    if strangers and record["users"]:
        yield (
            f"{len(strangers):,} of {len({row.user for row in rows}):,} users are not among the training users of the "
            "run: they get the vector of the unknown. The column user of --input, or --user NAME, says who asks"
        )
    titles = {row.target for row, found in zip(rows, known) if found.target is None}
    if titles:
        yield f"{len(titles):,} titles are not in the run's data: they get the vector of the unknown"


def _put_back(
    model: Llama, record: dict, rows: list[Interaction], folder: Path
) -> Callable[[Interaction], Mapping[str, int]]:
    """Add the vectors of a run to the model, as its folder has them; returns the ids of a row."""
    D, V = model.config.hidden_size, model.config.vocab_size
    if record["kind"] == SOFT_PROMPT:
        ids, module = _soft_ids(V), FreeVectors(len(PLACES_OF_SOFT_PROMPT), D)
    else:
        recommender = _read_recommender(folder, record)
        refuse_other_sizes(folder, recommender, D)
        if not recommender.reads_histories:
            size = recommender.settings["dim"]
            empty = {name: torch.zeros(len(getattr(recommender, name)), size) for name in ("users", "items")}
            recommender = replace(recommender, tensors=empty)
        placed = place(recommender, rows)
        ids, module = placed.ids(V), MappedVectors(placed.table, D, derived=recommender.reads_histories)
    add_vectors(model, module.requires_grad_(False))
    load_vectors(model, folder, folder / WEIGHTS)
    return ids


def _read_record(folder: Path) -> dict:
    path = folder / RECORD
    try:
        record = json.loads(read_whole(path))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.get("kind") not in (COLLABORATIVE, SOFT_PROMPT):
        raise RunError(f"{path}: does not say what vectors the run has; was the file changed?")
    if record["kind"] == COLLABORATIVE:
        from_record(record, {}, path, path)  # refused before any of it is used
    return record


def _read_recommender(folder: Path, record: dict) -> Recommender:
    """Without tensors if its users are rows of a table, which vectors.safetensors has."""
    path = folder / RECOMMENDER
    recommender = from_record(record, {}, folder / RECORD, path)
    if not recommender.reads_histories:
        return recommender
    if not path.is_file():
        raise RunError(f"{path}: missing; it belongs to {RECORD} in that folder, so fetch it too")
    try:
        return replace(recommender, tensors=load(read_whole(path)))
    except SafetensorError as error:
        raise RunError(f"{path}: damaged or truncated ({quoted(str(error), 80)}); fetch it again") from None


def refuse_other_sizes(folder: Path, recommender: Recommender, hidden_size: int) -> None:
    """Raises AdapterError if vectors.safetensors does not fit what vectors.json says, which may be of any size.

    Known before memory is taken for it.
    """
    tensors = read_vectors(folder, folder / WEIGHTS)
    with torch.device("meta"):
        table = torch.zeros(1 + len(recommender.users) + len(recommender.items), recommender.settings["dim"])
        module = MappedVectors(table, hidden_size, derived=recommender.reads_histories)
    put_tensors(kept_tensors(module), tensors, str(folder / VECTORS))
