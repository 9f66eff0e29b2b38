"""What the files beside a tokenizer say: rows of the model, which token begins a text, and which ends an answer."""

from pathlib import Path

from errors import CheckpointError, quoted
from model.weights import read_json

# A checkpoint may add rows to its embedding: a few for tokens of its own, and more up to a multiple of 128 or 256.
EXTRA_ROWS, PADDED_ROWS, MULTIPLE = 64, 256, 128
SETTINGS = "tokenizer_config.json"  # of transformers


def json_beside(folder: Path, name: str = SETTINGS) -> dict:
    """The JSON object in a file of the folder, an empty one if it is not there."""
    return read_json(folder / name) if (folder / name).exists() else {}


def spare_rows(path: Path, size: int, vocab_size: int | None) -> list[str]:
    """A line for the message if many rows of the embedding have no token. size: tokens of the tokenizer in `path`.

    vocab_size: rows of the model's embedding, or None if there is no model. Raises CheckpointError if a model of so
    many rows has another tokenizer.
    """
    extra = 0 if vocab_size is None else vocab_size - size
    if not 0 <= extra <= (EXTRA_ROWS if (vocab_size or 0) % MULTIPLE else PADDED_ROWS):
        raise CheckpointError(
            f"{path}: has {size} pieces, but config.json says vocab_size {vocab_size}; "
            "take the tokenizer of the same checkpoint"
        )
    if extra <= EXTRA_ROWS:
        return []
    return [
        f"{path.parent / 'config.json'}: vocab_size is {extra} more than the {size} pieces of the tokenizer; "
        "the rows beyond them are taken for padding"
    ]


def adds_bos(folder: Path) -> bool | None:
    """add_bos_token of tokenizer_config.json; None if it says nothing.

    Raises CheckpointError if it is neither true nor false.
    """
    value = json_beside(folder).get("add_bos_token")
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{folder / SETTINGS}: add_bos_token is {quoted(value)}; expected true or false")
    return value


def named_token(folder: Path, name: str) -> str | None:
    """`bos_token` or `eos_token` of tokenizer_config.json, which is a text or an object with its `content`."""
    token = json_beside(folder).get(name)
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def eos_of(folder: Path, control: dict[str, int], default: int | None = None) -> tuple[int, list[str]]:
    """(the token that ends an answer, a line if it was chosen among several).

    It is eos_token_id of config.json or generation_config.json, or eos_token of tokenizer_config.json, or `default`.
    If eos_token_id is a list, eos_token says which of them; otherwise it is the first. control: id of each token that
    may end an answer. Raises CheckpointError if none is named, or one that is not in `control`.
    """
    named = named_token(folder, "eos_token")
    for path in (folder / "config.json", folder / "generation_config.json"):
        value = json_beside(folder, path.name).get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not ids or not all(type(number) is int and number in control.values() for number in ids):
            raise CheckpointError(
                f"{path}: eos_token_id is {quoted(value)}, which is no control token of the tokenizer; "
                "take both files of the same checkpoint"
            )
        chosen = control[named] if control.get(named) in ids else ids[0]
        return chosen, [f"{path}: eos_token_id is {quoted(value)}; {chosen} ends an answer"] * (len(ids) > 1)
    if control.get(named, default) is None:
        raise CheckpointError(
            f"{folder / 'config.json'}: has no eos_token_id, and neither has generation_config.json; "
            "write there the id of the token that ends an answer"
        )
    return control.get(named, default), []
