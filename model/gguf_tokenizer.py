"""The vocabulary of a GGUF file as the files of a checkpoint folder.

Byte-level BPE ("gpt2") becomes tokenizer.json of the `tokenizers` library, a SentencePiece vocabulary ("llama") becomes
tokenizer.model. Of the pattern that cuts a text into words a GGUF file has only the name.
"""

import array
import json
import math

from errors import CheckpointError, quoted
from model.sentencepiece_proto import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Pieces

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
DIGITS = {"type": "Digits", "individual_digits": True}
# By tokenizer.ggml.pre, as llama.cpp's llama-vocab.cpp has them: the steps before the merges.
ADDS_BOS = ["llama-bpe", "llama3", "llama-v3"]  # which llama.cpp takes for granted if the file does not say it
PRE = {
    "gpt-2": [BYTES | {"use_regex": True}],
    "smollm": [DIGITS, BYTES | {"use_regex": True}],
    **dict.fromkeys(ADDS_BOS, [SPLIT, BYTES | {"use_regex": False}]),
}
FETCH = "fetch the complete file"


def tokenizer_files(where: str, fields: dict) -> dict[str, bytes]:
    """The content of each file by name. fields: those of the GGUF file; where: what messages call it.

    Raises CheckpointError naming a field that is missing, wrong or not supported.
    """
    field = {key.removeprefix("tokenizer.ggml."): value for key, value in fields.items()}
    kind, tokens, types = field.get("model"), field.get("tokens"), field.get("token_type")
    if kind not in ("gpt2", "llama"):
        raise CheckpointError(f"{where}: tokenizer.ggml.model is {quoted(kind)}, which is not read; gpt2 and llama are")
    if not isinstance(tokens, list) or not tokens or len(set(tokens)) < len(tokens):
        raise CheckpointError(f"{where}: tokenizer.ggml.tokens is no list of different texts; {FETCH}")
    if (
        not isinstance(types, array.array)
        or len(types) != len(tokens)
        or not all(number in range(NORMAL, BYTE + 1) for number in types)
    ):
        raise CheckpointError(f"{where}: tokenizer.ggml.token_type has no type, 1 to 6, for each token; {FETCH}")
    bos, eos = (_token_id(where, field, f"{name}_token_id", len(tokens)) for name in ("bos", "eos"))
    adds_bos = _flag(where, field, "add_bos_token", kind == "llama" or field.get("pre") in ADDS_BOS)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast" if kind == "gpt2" else "LlamaTokenizer",
        "add_bos_token": adds_bos,
        "bos_token": tokens[bos],
        "eos_token": tokens[eos],
        "clean_up_tokenization_spaces": False,
    }
    if isinstance(fields.get("tokenizer.chat_template"), str):
        settings["chat_template"] = fields["tokenizer.chat_template"]
    if kind == "gpt2":
        written = {"tokenizer.json": _json(_byte_level(where, field, bos if adds_bos else None))}
    else:
        written = {"tokenizer.model": _sentencepiece(where, field, bos, eos)}
    ids = {"bos_token_id": bos, "eos_token_id": eos}
    return written | {"tokenizer_config.json": _json(settings), "generation_config.json": _json(ids)}


def _json(content: dict) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _flag(where: str, field: dict, name: str, default: bool) -> bool:
    value = field.get(name, default)
    if type(value) is not bool:
        raise CheckpointError(f"{where}: tokenizer.ggml.{name} is {quoted(value)}; expected true or false")
    return value


def _token_id(where: str, field: dict, name: str, count: int) -> int:
    value = field.get(name)
    if type(value) is not int or not 0 <= value < count:
        raise CheckpointError(f"{where}: tokenizer.ggml.{name} is {quoted(value)}; expected one of {count:,} tokens")
    return value


def _byte_level(where: str, field: dict, bos: int | None) -> dict:
    """The content of tokenizer.json. bos: the token that begins every text, if there is one."""
    pre, merges, tokens, types = field.get("pre"), field.get("merges"), field["tokens"], list(field["token_type"])
    if not isinstance(pre, str) or pre not in PRE:
        raise CheckpointError(
            f"{where}: tokenizer.ggml.pre is {quoted(pre)}, which is not read; {', '.join(PRE)} are. "
            "Take the checkpoint's safetensors with its tokenizer.json"
        )
    if _flag(where, field, "add_space_prefix", False):
        raise CheckpointError(f"{where}: tokenizer.ggml.add_space_prefix is true, which is not supported for gpt2")
    while types and types[-1] == UNUSED:  # made-up names for the rows of the embeddings that have no token
        types.pop()
    vocabulary = {token: number for number, token in enumerate(tokens[: len(types)])}
    for merge in merges if isinstance(merges, list) else [merges]:
        left, _, right = str(merge).partition(" ")
        if not {left, right, left + right} <= vocabulary.keys():
            raise CheckpointError(f"{where}: tokenizer.ggml.merges has {quoted(merge)}, which makes no token; {FETCH}")
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": tokens[number], **plain, "special": kind == CONTROL}
            for number, kind in enumerate(types)
            if kind in (CONTROL, USER_DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE[pre]} if len(PRE[pre]) > 1 else PRE[pre][0],
        "post_processor": None if bos is None else _begin_with(tokens[bos], bos),
        "decoder": BYTES | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in ADDS_BOS,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _begin_with(token: str, number: int) -> dict:
    """A post-processor that puts this token in front of a text, and of the second text of a pair."""
    parts = [
        part
        for i, name in enumerate("AB")
        for part in ({"SpecialToken": {"id": token, "type_id": i}}, {"Sequence": {"id": name, "type_id": i}})
    ]
    special = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": parts[:2], "pair": parts, "special_tokens": special}


def _sentencepiece(where: str, field: dict, bos: int, eos: int) -> bytes:
    """The content of tokenizer.model."""
    tokens, types, scores = field["tokens"], field["token_type"], field.get("scores")
    if not isinstance(scores, array.array) or scores.typecode != "f" or len(scores) != len(tokens):
        raise CheckpointError(f"{where}: tokenizer.ggml.scores has no number for each token; {FETCH}")
    if not all(map(math.isfinite, scores)) or list(types).count(UNKNOWN) != 1:
        raise CheckpointError(f"{where}: has a score that is not finite, or not one unknown token; {FETCH}")
    if "precompiled_charsmap" in field:
        raise CheckpointError(f"{where}: tokenizer.ggml.precompiled_charsmap is there, which is not supported")
    return Pieces(
        list(zip(tokens, scores, types, strict=True)),
        list(types).index(UNKNOWN),
        bos,
        eos,
        _flag(where, field, "add_space_prefix", True),
        _flag(where, field, "remove_extra_whitespaces", False),
    ).serialised()
