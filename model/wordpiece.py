"""BERT's tokenizer: text to the ids of WordPiece's pieces, with the standard library alone.

Sources: Devlin et al. 2019 and the `tokenization.py` published with BERT; Wu et al. 2016 (WordPiece). A text is
cleaned, lower-cased, freed of accents, and split at white space, punctuation and Chinese characters; each word is then
cut, from its left, into the longest pieces of the vocabulary. Character classes are those of Python's unicodedata.

`[CLS]` and other control tokens that are written in a text are plain text: a title can never put one in.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from errors import CheckpointError, quoted
from model.weights import LARGEST_JSON, read_json, refuse_missing_or_pointer

VOCABULARY, FAST, SETTINGS, ADDED = "vocab.txt", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"
LONGEST_WORD = 100  # characters; a longer word is one [UNK]
PREFIX = "##"  # of a piece that continues a word
CLASSES = ("BertTokenizer", "BertTokenizerFast")
# Unicode blocks whose characters are words of their own: CJK ideographs, without kana and hangul.
CHINESE = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


@dataclass(frozen=True)
class Rules:
    """How a text is split into words, with the names and defaults of tokenizer_config.json."""

    do_lower_case: bool = True
    strip_accents: bool | None = None  # None: as do_lower_case
    tokenize_chinese_chars: bool = True


def split_words(text: str, rules: Rules) -> list[str]:
    """The words of a text: cleaned, lower-cased and without accents if the rules say so, cut at punctuation."""
    words = []
    strip = rules.do_lower_case if rules.strip_accents is None else rules.strip_accents
    for word in "".join(_cleaned(text, rules.tokenize_chinese_chars)).split():
        if rules.do_lower_case:
            word = word.lower()
        if strip:
            word = "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")
        words += "".join(f" {c} " if is_punctuation(c) else c for c in word).split()
    return words


def _cleaned(text: str, split_chinese: bool) -> Iterator[str]:
    """The characters without control characters, white space as blanks, and blanks around Chinese ones."""
    for c in text:
        category = unicodedata.category(c)
        if c in "\t\n\r" or category == "Zs":
            yield " "
        elif c != "\ufffd" and category[0] != "C":
            yield f" {c} " if split_chinese and is_chinese(c) else c


def is_punctuation(c: str) -> bool:
    """Whether Unicode calls the character punctuation; every ASCII sign, such as `$` or `^`, counts too."""
    return (c.isascii() and c.isprintable() and not c.isalnum() and c != " ") or unicodedata.category(c)[0] == "P"


def is_chinese(c: str) -> bool:
    """Whether the character lies in a block of CJK ideographs."""
    return any(first <= ord(c) <= last for first, last in CHINESE)


class WordPieceTokenizer:
    """The tokenizer of a BERT folder.

    Pieces are those of vocab.txt, or of tokenizer.json if there is no vocab.txt. The rules are those of
    tokenizer_config.json, else of tokenizer.json, else BERT's own. `assumed` has a line for everything in which the
    files disagree or say nothing.
    """

    def __init__(self, folder: Path, vocab_size: int, longest_row: int):
        """vocab_size: rows of the model's token embedding; longest_row: positions of the model.

        Raises CheckpointError if a file is missing, damaged, or describes another kind of tokenizer or model.
        """
        self.assumed: list[str] = []
        self.longest_row = longest_row
        fast = read_json(folder / FAST) if (folder / FAST).exists() else {}
        settings = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
        path = folder / (VOCABULARY if (folder / VOCABULARY).exists() or not fast else FAST)
        pieces_of_json, rules_of_json = _read_fast(folder / FAST, fast) if fast else ({}, {})
        self.ids = self._read_vocabulary(path, vocab_size) if path.name == VOCABULARY else pieces_of_json
        _refuse_too_many(path, max(self.ids.values(), default=-1) + 1, vocab_size)
        if fast and pieces_of_json != self.ids:
            self.assumed.append(f"{folder / FAST}: has other pieces than {VOCABULARY}; those of {VOCABULARY} are used")
        self.rules = self._rules(folder / SETTINGS, settings, rules_of_json)
        self.unk_id, self.cls_id, self.sep_id = (
            self._control(path, folder / SETTINGS, settings, name) for name in ("unk", "cls", "sep")
        )
        _refuse_added(folder, settings, fast, self.ids)

    @staticmethod
    def files(folder: Path) -> list[Path]:
        """The files of the folder that decide the ids."""
        return [path for name in (VOCABULARY, FAST, SETTINGS, ADDED) if (path := folder / name).exists()]

    def encode(self, text: str) -> list[int]:
        """[CLS], the pieces of the text, [SEP]; pieces beyond longest_row are cut off."""
        ids = [i for word in split_words(text, self.rules) for i in self._pieces(word)]
        return [self.cls_id, *ids[: self.longest_row - 2], self.sep_id]

    def _pieces(self, word: str) -> list[int]:
        """The longest pieces from the left; [UNK] for the whole word if its rest has none at some point."""
        ids, start = [], 0
        while start < len(word) <= LONGEST_WORD:
            front = PREFIX if start else ""
            ends = (end for end in range(len(word), start, -1) if front + word[start:end] in self.ids)
            if (end := next(ends, None)) is None:
                break
            ids.append(self.ids[front + word[start:end]])
            start = end
        return ids if start == len(word) else [self.unk_id]

    def _read_vocabulary(self, path: Path, vocab_size: int) -> dict[str, int]:
        """{piece: id} of a file with a piece a line; its id is its line."""
        refuse_missing_or_pointer(path)
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(
                f"{path}: has more than {LARGEST_JSON:,} bytes; this is no vocabulary, fetch it again"
            )
        try:
            text = path.read_bytes().decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise CheckpointError(f"{path}: is not UTF-8 text; fetch it again") from None
        _refuse_too_many(path, max(text.count("\n"), text.count("\r")) + 1 if text else 0, vocab_size)
        lines = re.split("\r\n|\r|\n", text)
        ids = {piece: i for i, piece in enumerate(lines)}
        if len(ids) < len(lines):
            self.assumed.append(
                f"{path}: {len(lines) - len(ids):,} lines repeat a piece; the last line of each piece is used"
            )
        return ids

    def _rules(self, path: Path, settings: dict, of_json: dict) -> Rules:
        """tokenizer_config.json comes first, then tokenizer.json, then BERT's own."""
        _refuse_other_kinds(path, settings)
        found = {}
        for name in Rules.__dataclass_fields__:
            value = settings.get(name, of_json.get(name))
            if value is not None and not isinstance(value, bool):
                where = path if name in settings else path.with_name(FAST)
                raise CheckpointError(f"{where}: {name} is {quoted(value)}; expected true or false")
            if name in settings and name in of_json and settings[name] != of_json[name]:
                self.assumed.append(f"{path}: {name} is {quoted(value)}, which is used; {FAST} says otherwise")
            if value is not None:
                found[name] = value
        if "do_lower_case" not in found:
            self.assumed.append(f"{path}: says no do_lower_case, so text is lower-cased, as BertTokenizer does")
        return Rules(**found)

    def _control(self, path: Path, settings_path: Path, settings: dict, name: str) -> int:
        """The id of a control token, which tokenizer_config.json may rename."""
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        token = f"[{name.upper()}]" if token is None else token
        if not isinstance(token, str):
            raise CheckpointError(f"{settings_path}: {name}_token is {quoted(token)}; expected a text")
        if token not in self.ids:
            raise CheckpointError(f"{path}: has no {quoted(token)}, which every BERT vocabulary has; fetch it again")
        return self.ids[token]


def _refuse_too_many(path: Path, count: int, vocab_size: int) -> None:
    """Raises CheckpointError unless a model with `vocab_size` rows can have `count` pieces."""
    if not 0 < count <= vocab_size:
        raise CheckpointError(
            f"{path}: has {count:,} pieces, but config.json says vocab_size {vocab_size}; "
            "take the tokenizer of the same checkpoint"
        )


def _read_fast(path: Path, content: dict) -> tuple[dict[str, int], dict]:
    """({piece: id}, rules by name) of a tokenizer.json as BertTokenizerFast writes it."""
    model, normalizer, pre_tokenizer = (content.get(name) for name in ("model", "normalizer", "pre_tokenizer"))
    expected = (
        ("model", model, {"type": ("WordPiece", None), "continuing_subword_prefix": (PREFIX, None)}),
        ("model", model, {"max_input_chars_per_word": (LONGEST_WORD, None)}),
        ("normalizer", normalizer, {"type": ("BertNormalizer",), "clean_text": (True, None)}),
        ("pre_tokenizer", pre_tokenizer, {"type": ("BertPreTokenizer",)}),
    )
    for part, fields, allowed in expected:
        for name, values in allowed.items():
            value = fields.get(name) if isinstance(fields, dict) else None
            if not isinstance(fields, dict) or value not in values:
                raise CheckpointError(
                    f"{path}: {part}.{name} is {quoted(value)}, which is not supported; supported: {values[0]}"
                )
    ids = model.get("vocab")
    if not isinstance(ids, dict) or not all(type(i) is int and i >= 0 for i in ids.values()):
        raise CheckpointError(f"{path}: model.vocab is no table of pieces and ids; fetch it again")
    names = {"lowercase": "do_lower_case", "handle_chinese_chars": "tokenize_chinese_chars"}
    rules = {names.get(name, name): value for name, value in normalizer.items()}
    return ids, {name: rules.get(name) for name in Rules.__dataclass_fields__ if rules.get(name) is not None}


def _refuse_other_kinds(path: Path, settings: dict) -> None:
    kind, basic, unsplit = (settings.get(name) for name in ("tokenizer_class", "do_basic_tokenize", "never_split"))
    if kind is not None and kind not in CLASSES:
        raise CheckpointError(f"{path}: tokenizer_class is {quoted(kind)}; supported: {' and '.join(CLASSES)}")
    if basic not in (None, True):
        raise CheckpointError(f"{path}: do_basic_tokenize is {quoted(basic)}; supported: true")
    if unsplit not in (None, []):
        raise CheckpointError(f"{path}: never_split is {quoted(unsplit)}, which is not supported; supported: null")


def _refuse_added(folder: Path, settings: dict, fast: dict, ids: dict[str, int]) -> None:
    """Raises CheckpointError for tokens beside the vocabulary, which would be cut out of a text before its words."""
    added = read_json(folder / ADDED) if (folder / ADDED).exists() else {}
    decoder, of_json = settings.get("added_tokens_decoder") or {}, fast.get("added_tokens") or []
    entries = [
        *(decoder.values() if isinstance(decoder, dict) else [None]),
        *(of_json if isinstance(of_json, list) else [None]),
    ]
    tokens = [*added, *(entry.get("content") if isinstance(entry, dict) else None for entry in entries)]
    for token in tokens:
        if not isinstance(token, str) or token not in ids:
            raise CheckpointError(f"{folder}: has the added token {quoted(token)}; added tokens are not supported")
