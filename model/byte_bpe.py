"""Byte-level BPE, as GPT-2 introduced it and SmolLM2 and Llama 3 use it.

Sennrich et al. (2016), Neural Machine Translation of Rare Words with Subword Units, section 3.2; Radford et al. (2019),
Language Models are Unsupervised Multitask Learners, section 2.2.
"""

import re
from heapq import heappop, heappush
from pathlib import Path

from errors import CheckpointError, quoted
from model.tokenizer_json import Vocabulary, read_tokenizer_json
from model.tokenizer_settings import SETTINGS, adds_bos, eos_of, named_token, spare_rows
from model.words import BYTE_SYMBOLS, BYTES, word_pattern


class ByteBPE:
    """The tokenizer in `tokenizer.json`, see protocols.Tokenizer.

    A text is cut into words, and a word into the symbols of its bytes. The pair of neighbours with the lowest rank is
    joined first, until no pair has a rank. BOS is what the post-processor puts in front of a text, unless
    `add_bos_token` in tokenizer_config.json says otherwise.
    """

    FILES = ("tokenizer.json", SETTINGS)
    longest_row = None

    def __init__(self, folder: Path, vocab_size: int | None):
        """vocab_size: rows of the model's embedding, or None if there is no model.

        Raises CheckpointError if a file is damaged, belongs to another model, or needs what is not computed here.
        """
        path = folder / self.FILES[0]
        self.vocabulary = vocabulary = self._read(path)
        self._tokens = {
            number: text for text, number in (vocabulary.ids | vocabulary.control | vocabulary.added).items()
        }
        # Some checkpoints add a control token, such as one for padding, but no row for it.
        unused = [n for n in vocabulary.control.values() if vocab_size is not None and n >= vocab_size]
        self.assumed = spare_rows(path, max(self._tokens.keys() - unused) + 1, vocab_size)
        if unused:
            self.assumed.append(f"{path}: control tokens that have no row in the model are not used: {quoted(unused)}")
        usable = {text: n for text, n in (vocabulary.control | vocabulary.added).items() if n not in unused}
        self.bos_id, begins = _bos(folder, usable, vocabulary.begin)
        self.eos_id, ends = eos_of(folder, usable, vocabulary.end)
        self.assumed += begins + ends
        self._words = word_pattern(vocabulary.pattern)
        longest_first = sorted(vocabulary.added, key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None
        self._known: dict[str, list[int]] = {}  # ids of every word met so far

    @staticmethod
    def reads(folder: Path) -> bool:
        """Whether the folder has a tokenizer of this kind."""
        return (folder / "tokenizer.json").exists()

    @staticmethod
    def _read(path: Path) -> Vocabulary:
        return read_tokenizer_json(path)

    def encode(self, text: str) -> list[int]:
        """BOS, if there is one, and the ids of the text. Control tokens such as `<|im_end|>` in it are plain text."""
        ids = [] if self.bos_id is None else [self.bos_id]
        for part in self._added.split(text) if self._added else [text]:
            if part in self.vocabulary.added:
                ids.append(self.vocabulary.added[part])
                continue
            for word in self._words.findall(part):
                known = self._known.get(word)
                if known is None:
                    known = self._known[word] = self._ids_of(word)
                ids += known
        return ids

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """`encode` of every text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        """The text of these tokens; control tokens have none."""
        return b"".join(map(self._bytes, ids)).decode(errors="replace")

    def piece(self, token_id: int) -> str:
        """One token as visible text, with "Ġ" for a space and "Ċ" for a line break; as stored if it is part of one."""
        stored, text = self._tokens.get(token_id, f"<{token_id}>"), self._bytes(token_id).decode(errors="replace")
        text = "".join(BYTE_SYMBOLS[ord(c)] if c <= " " else c for c in text)
        shown = text if text and text.isprintable() and "\ufffd" not in text else stored
        return shown if shown.isprintable() else quoted(shown)

    def ends_line(self, token_id: int) -> bool:
        """Whether the text of the token ends with a line break."""
        return self._bytes(token_id).endswith(b"\n")

    def _bytes(self, token_id: int) -> bytes:
        token = self._tokens.get(token_id, "")
        if token in self.vocabulary.control:
            return b""
        if token in self.vocabulary.added or not all(symbol in BYTES for symbol in token):
            return token.encode()
        return bytes(map(BYTES.__getitem__, token))

    def _ids_of(self, word: str) -> list[int]:
        """The ids of a word. A byte whose symbol is no piece is replaced or left out before anything is joined."""
        ids, ranks = self.vocabulary.ids, self.vocabulary.ranks
        word = word.encode().decode("latin-1").translate(BYTE_SYMBOLS)
        if self.vocabulary.whole_words and word in ids and word not in self.vocabulary.control:
            return [ids[word]]
        parts = [symbol if symbol in ids else self.vocabulary.unknown for symbol in word]
        parts = [part for part in parts if part is not None]
        end = len(parts)
        before, after = list(range(-1, end)), list(range(1, end + 1))  # neighbours of each part
        waiting: list[tuple[int, int, str, str]] = []  # a heap: the lowest rank first, then the leftmost

        def consider(i: int) -> None:
            if i >= 0 and after[i] < end:
                left, right = parts[i], parts[after[i]]
                rank = ids.get(left + right) if ranks is None else ranks.get((left, right))
                if rank is not None:
                    heappush(waiting, (rank, i, left, right))

        for i in range(end):
            consider(i)
        while waiting:
            _, i, left, right = heappop(waiting)
            j = after[i]
            if parts[i] == left and j < end and parts[j] == right:  # neither has been joined since
                parts[i], parts[j], after[i] = left + right, "", after[j]
                before[after[i]] = i
                consider(before[i])
                consider(i)
        return [ids[part] for part in parts if part]


def _bos(folder: Path, control: dict[str, int], begin: int | None) -> tuple[int | None, list[str]]:
    """(the token that begins every text, a line if tokenizer_config.json overrules `begin`, the tokenizer's own)."""
    adds = adds_bos(folder)
    bos = begin if adds is None else control.get(named_token(folder, "bos_token"), begin) if adds else None
    if bos not in control.values() and (adds or bos is not None):
        raise CheckpointError(
            f"{folder / SETTINGS}: BOS begins every text, but it is no control token of this model; "
            "take the tokenizer's files of the same checkpoint"
        )
    if bos == begin:
        return bos, []
    begins = "no BOS begins a prompt" if bos is None else f"{bos} begins every prompt"
    return bos, [
        f"{folder / SETTINGS}: add_bos_token is {str(adds).lower()}, so {begins}, whatever the other files say"
    ]
