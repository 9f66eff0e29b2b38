"""A frozen BERT's [CLS] vector of every title, computed once and kept in the cache.

Source: TALLRec (Bao et al. 2023, section 3.1) feeds them to GRU-BERT and DROS-BERT. Whether its BERT is tuned is not
said; here it is frozen.

A file of the cache is named after everything that decides its content: the folder's weights and tokenizer, and the
titles. So nothing outdated is ever read.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from data.cache import cache_folder
from errors import CheckpointError, DataError, notice
from files import missing_advice, read_whole, refuse_special, write_bytes
from model.bert import Bert
from model.bert_weights import load_bert
from model.wordpiece import WordPieceTokenizer

FORMAT = 1  # of the cached files, and of the computation
BATCH = 64  # titles; sorted by length, so little of a batch is padding
BASE = (12, 768)  # layers and width of bert-base-uncased, which TALLRec names
NAME = "vectors"


@lru_cache(maxsize=1)
def open_bert(folder: Path) -> tuple[Bert, WordPieceTokenizer, str]:
    """(the frozen model, its tokenizer, sha256 over all files that decide a vector); what was assumed is said, once.

    Raises CheckpointError if the folder is not a BERT as model/bert_weights.py and model/wordpiece.py read it, and
    DataError if something else than a file has the name of one.
    """
    if not folder.exists():
        raise CheckpointError(f"--bert {folder}: no such checkpoint folder{missing_advice(folder)}")
    model, said = load_bert(folder)
    tokenizer = WordPieceTokenizer(folder, model.config.vocab_size, model.config.max_position_embeddings)
    for line in (*said, *tokenizer.assumed):
        notice(line)
    weights = [folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    digest = hashlib.sha256()
    for path in sorted([*weights, *tokenizer.files(folder)]):
        refuse_special(path)  # one that no index names may be anything
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return model, tokenizer, digest.hexdigest()


def describe_bert(folder: Path) -> str:
    """Which BERT it is, in a few words for tables and for resuming."""
    model, _, digest = open_bert(folder)
    shape = (model.config.num_hidden_layers, model.config.hidden_size)
    other = "" if shape == BASE else ", not bert-base-uncased"
    return f"BertModel of {shape[0]} layers of {shape[1]}{other} (sha256 {digest[:16]})"


@lru_cache(maxsize=1)
def title_vectors(titles: tuple[str, ...], folder: Path) -> Tensor:
    """The [CLS] vectors of the titles, (N, D) float32 on the CPU; the first title stands for padding and has zeros.

    Taken from the cache if they are there, else computed and kept there. If the cache cannot be written, a notice says
    so. Raises CheckpointError as open_bert does.
    """
    model, tokenizer, digest = open_bert(folder)
    shape = (len(titles), model.config.hidden_size)
    key = hashlib.sha256(json.dumps([FORMAT, digest, titles]).encode()).hexdigest()
    path = cache_folder() / "title-vectors" / f"{key}.safetensors"
    if (kept := _read(path, shape)) is not None:
        return kept
    notice(f"{folder}: computing the vectors of {len(titles) - 1:,} titles, once")
    vectors = torch.cat([torch.zeros(1, shape[1]), encode_titles(titles[1:], model, tokenizer)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({NAME: vectors}))
    except OSError as error:
        notice(f"{path}: cannot be written ({error.strerror}), so the vectors are computed again each time")
    return vectors


@torch.no_grad()
def encode_titles(titles: tuple[str, ...], model: Bert, tokenizer: WordPieceTokenizer) -> Tensor:
    """The hidden state at [CLS] after the last layer for each title, (N, D), in batches of similar length."""
    rows = [tokenizer.encode(title) for title in titles]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    vectors = torch.empty(len(rows), model.config.hidden_size)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        lengths = torch.tensor([len(rows[i]) for i in chosen])
        input_ids = torch.zeros(len(chosen), int(lengths.max()), dtype=torch.int64)
        for line, i in enumerate(chosen):
            input_ids[line, : len(rows[i])] = torch.tensor(rows[i])
        vectors[chosen] = model(input_ids, lengths)[:, 0]
    return vectors


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """The kept vectors; None if there are none, or if the file is damaged, which is said."""
    if not path.exists():
        return None
    try:
        vectors = load(read_whole(path))[NAME]
        if vectors.shape != shape or vectors.dtype != torch.float32 or not torch.isfinite(vectors).all():
            raise ValueError
    except (SafetensorError, DataError, ValueError, KeyError):
        notice(f"{path}: damaged; computing the vectors again")
        return None
    return vectors
