"""tokenizer.json of the `tokenizers` library, where it describes a byte-level BPE, read and checked field by field."""

from dataclasses import dataclass
from pathlib import Path

from errors import CheckpointError, quoted
from model.weights import LARGEST_SIZE, read_json
from model.words import GPT2, LLAMA3, SINGLE_DIGITS

IN_LLAMA3_FILES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MOST_ADDED = 2**14  # tokens that are looked for in every text; each costs time
LONGEST_TOKEN = 2**10  # characters
FETCH = "fetch the file again"
ELSE = "take a checkpoint whose tokenizer is that of SmolLM2 or Llama 3, or one with SentencePiece's tokenizer.model"


@dataclass(frozen=True)
class Vocabulary:
    """What the file of a byte-level BPE says. A piece is written in byte symbols, see model.words.BYTE_SYMBOLS.

    ids: of each piece.
    ranks: of each pair of pieces that may be joined, lowest first; None: the rank is the id of what the pair makes.
    whole_words: a word that is a piece is not put together from smaller ones.
    pattern: of model.words.
    control: tokens that are never found in a text. added: tokens that are found in a text before it is cut into words.
    begin: the token that begins every text, if there is one.
    end: the token that ends an answer if no other file says so.
    unknown: the piece that stands for a byte without one; None: such a byte is left out.
    """

    ids: dict[str, int]
    ranks: dict[tuple[str, str], int] | None
    whole_words: bool
    pattern: str
    control: dict[str, int]
    added: dict[str, int]
    begin: int | None
    end: int | None = None
    unknown: str | None = None


def read_tokenizer_json(path: Path) -> Vocabulary:
    """Raises CheckpointError naming what is damaged, or what this program does not compute."""
    content = read_json(path)
    model = _object(path, content, "model")
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise CheckpointError(f"{path}: its model is {quoted(kind)}; only byte-level BPE is read: {ELSE}")
    if _flag(path, model, "byte_fallback"):
        raise CheckpointError(
            f"{path}: is a SentencePiece tokenizer in another form (byte_fallback); "
            "fetch tokenizer.model from where the checkpoint is from"
        )
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise CheckpointError(f"{path}: {name} is {quoted(model[name])}, which is not supported: {ELSE}")
    if content.get("normalizer") not in (None, {"type": "Sequence", "normalizers": []}):
        raise CheckpointError(
            f"{path}: has the normalizer {quoted(_kind_of(content['normalizer']))}, which is not supported: {ELSE}"
        )
    ids = _object(path, model, "vocab")
    control, added = _added_tokens(path, content.get("added_tokens"))
    every = {**ids, **control, **added}
    _refuse_tokens(path, ids, every)
    unknown = model.get("unk_token")
    if unknown is not None and (not isinstance(unknown, str) or unknown not in ids or _flag(path, model, "fuse_unk")):
        raise CheckpointError(f"{path}: unk_token is no token, or fuse_unk is true, which is not supported: {ELSE}")
    if len(added) > MOST_ADDED:
        raise CheckpointError(f"{path}: has more than {MOST_ADDED:,} added tokens that are not special: {ELSE}")
    return Vocabulary(
        ids,
        _ranks(path, model.get("merges"), ids),
        _flag(path, model, "ignore_merges"),
        _pattern(path, content.get("pre_tokenizer")),
        control,
        added,
        _front(path, content.get("post_processor"), every),
        unknown=unknown,
    )


def _refuse_tokens(path: Path, ids: dict, every: dict) -> None:
    """Raises CheckpointError unless every token is a text of sensible length with a number of its own."""
    if not ids or not all(type(number) is int and 0 <= number < LARGEST_SIZE for number in every.values()):
        raise CheckpointError(f"{path}: its vocab is not an object of token to number; {FETCH}")
    if len(set(every.values())) != len(every) or any(every[token] != number for token, number in ids.items()):
        raise CheckpointError(f"{path}: two tokens have the same number, or one has two; {FETCH}")
    for token in every:
        if len(token) > LONGEST_TOKEN or any("\ud800" <= character <= "\udfff" for character in token):
            raise CheckpointError(
                f"{path}: the token {quoted(token)} has more than {LONGEST_TOKEN:,} characters or is no text; {FETCH}"
            )


def _added_tokens(path: Path, tokens: object) -> tuple[dict[str, int], dict[str, int]]:
    """(special, others), id by text."""
    control, added = {}, {}
    for token in [] if tokens is None else tokens if isinstance(tokens, list) else [None]:
        text, number = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
        if not isinstance(text, str) or not text or type(number) is not int:
            raise CheckpointError(f"{path}: added_tokens has {quoted(token)}; {FETCH}")
        if _flag(path, token, "special"):
            control[text] = number
            continue
        for name in ("single_word", "lstrip", "rstrip"):
            if _flag(path, token, name):
                raise CheckpointError(
                    f"{path}: the added token {quoted(text)} is {name}, which is not supported: {ELSE}"
                )
        added[text] = number
    return control, added


def _ranks(path: Path, merges: object, ids: dict[str, int]) -> dict[tuple[str, str], int]:
    ranks = {}
    for rank, merge in enumerate(merges if isinstance(merges, list) else [None]):
        pair = tuple(merge.split(" ") if isinstance(merge, str) else merge if isinstance(merge, list) else ())
        if (
            len(pair) != 2
            or not all(isinstance(part, str) and part in ids for part in pair)
            or "".join(pair) not in ids
        ):
            raise CheckpointError(f"{path}: merges has {quoted(merge)}, which does not make a token of vocab; {FETCH}")
        ranks[pair] = rank
    return ranks


def _pattern(path: Path, step: object) -> str:
    """The pattern that does what the pre-tokenizer says."""
    steps = step.get("pretokenizers") if _kind_of(step) == "Sequence" else [step]
    steps = [_as_object(one) for one in steps] if isinstance(steps, list) else []
    if steps and steps[-1].get("type") == "ByteLevel" and steps[-1].get("add_prefix_space") is False:
        before, cuts = steps[:-1], steps[-1].get("use_regex", True)
        if cuts is True and not before:
            return GPT2
        if cuts is True and before == [{"type": "Digits", "individual_digits": True}]:
            return SINGLE_DIGITS
        split = {"type": "Split", "pattern": {"Regex": IN_LLAMA3_FILES}, "behavior": "Isolated", "invert": False}
        if cuts is False and before == [split]:
            return LLAMA3
    kinds = [_kind_of(one) for one in steps]
    raise CheckpointError(
        f"{path}: cuts texts in another way than GPT-2, SmolLM2 and Llama 3 ({quoted(kinds)}): {ELSE}"
    )


def _front(path: Path, step: object, every: dict[str, int]) -> int | None:
    """The token that the post-processor puts in front of a text."""
    steps = step.get("processors") if _kind_of(step) == "Sequence" else [] if step is None else [step]
    front: list = []
    for one in steps if isinstance(steps, list) else [None]:
        if _kind_of(one) == "TemplateProcessing" and isinstance(one.get("single"), list):
            items = [_as_object(item) for item in one["single"]]
            front += [_as_object(item["SpecialToken"]).get("id") if "SpecialToken" in item else "" for item in items]
        elif _kind_of(one) != "ByteLevel":
            front += [None, None]
    if front in ([], [""]):
        return None
    if len(front) != 2 or front[1] != "" or not isinstance(front[0], str) or front[0] not in every:
        raise CheckpointError(
            f"{path}: its post_processor does something else than to put one token in front of a text: {ELSE}"
        )
    return every[front[0]]


def _kind_of(step: object) -> object:
    return step.get("type") if isinstance(step, dict) else step


def _as_object(value: object) -> dict:
    return value if isinstance(value, dict) else {}


def _object(path: Path, fields: dict, name: str) -> dict:
    if not isinstance(fields.get(name), dict):
        raise CheckpointError(f"{path}: has no object called {name}; {FETCH}")
    return fields[name]


def _flag(path: Path, fields: dict, name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{path}: {name} is {quoted(value)}; expected true or false; {FETCH}")
    return bool(value)
