"""The vocabulary of a GGUF file as the files that a checkpoint folder has: tokenizer.json, or tokenizer.model.

A byte-level BPE ("gpt2") becomes tokenizer.json of the `tokenizers` library; a SentencePiece vocabulary ("llama") its
protobuf. A GGUF file names the pattern that cuts a text into words, and does not contain it. Those of llama.cpp
(llama-vocab.cpp) that LLaMA models use are here.
"""

import json
import struct

from errors import CheckpointError, quoted

UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5  # types of tokens; SentencePiece gives them the same numbers
MOST_MERGED = 1000  # characters of a merge

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
SPLIT = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
PRE = {  # tokenizer.ggml.pre: the pre-tokenizer
    "gpt-2": BYTES | {"use_regex": True},
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES | {"use_regex": True}],
    },
    "llama-bpe": {"type": "Sequence", "pretokenizers": [SPLIT, BYTES | {"use_regex": False}]},
}
PRE |= {"llama3": PRE["llama-bpe"], "llama-v3": PRE["llama-bpe"]}


def tokenizer_files(where: str, fields: dict) -> dict[str, bytes]:
    """The content of each file by name. fields: those of the GGUF file. Raises CheckpointError naming a wrong one."""
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise CheckpointError(f"{where}: has no tokenizer.ggml.tokens, a list of strings; fetch a complete file")
    types = list(fields.get("tokenizer.ggml.token_type", [1] * len(tokens)))
    if len(types) != len(tokens):
        raise CheckpointError(f"{where}: has {len(tokens)} tokens, but {len(types)} of tokenizer.ggml.token_type")
    kind = fields.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise CheckpointError(f"{where}: tokenizer.ggml.model is {quoted(kind)}, which is not read; gpt2 and llama are")
    special = {}
    for name in ("bos", "eos"):
        number = fields.get(f"tokenizer.ggml.{name}_token_id")
        if type(number) is not int or not 0 <= number < len(tokens):
            raise CheckpointError(f"{where}: tokenizer.ggml.{name}_token_id is {quoted(number)}; expected a token")
        special[name] = number
    pre = fields.get("tokenizer.ggml.pre")
    adds_bos = fields.get("tokenizer.ggml.add_bos_token", kind == "llama" or "llama" in str(pre))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast" if kind == "gpt2" else "LlamaTokenizer",
        "add_bos_token": bool(adds_bos),
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": tokens[number] for name, number in special.items()},
    }
    template = fields.get("tokenizer.chat_template")
    if isinstance(template, str):
        settings["chat_template"] = template
    ids = {f"{name}_token_id": number for name, number in special.items()}
    if kind == "gpt2":
        bos = (tokens[special["bos"]], special["bos"]) if adds_bos else None
        files = {"tokenizer.json": _byte_level(where, fields, tokens, types, bos)}
    else:
        files = {"tokenizer.model": _sentencepiece(where, fields, tokens, types, special)}
    return files | {"tokenizer_config.json": _json(settings), "generation_config.json": _json(ids)}


def _json(content: dict) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _byte_level(where: str, fields: dict, tokens: list[str], types: list, bos: tuple[str, int] | None) -> bytes:
    """tokenizer.json. bos: (token, id) if it begins every text. Raises CheckpointError naming what cannot be written."""
    pre, merges = fields.get("tokenizer.ggml.pre"), fields.get("tokenizer.ggml.merges")
    if pre not in PRE:
        raise CheckpointError(
            f"{where}: tokenizer.ggml.pre is {quoted(pre)}, which is not read; {', '.join(PRE)} are. "
            "Take the checkpoint's safetensors with its tokenizer.json"
        )
    if fields.get("tokenizer.ggml.add_space_prefix"):
        raise CheckpointError(f"{where}: tokenizer.ggml.add_space_prefix is true, which a gpt2 vocabulary cannot have")
    if not isinstance(merges, list) or not all(isinstance(merge, str) for merge in merges):
        raise CheckpointError(f"{where}: has no tokenizer.ggml.merges, a list of strings; fetch a complete file")
    while types and types[-1] == UNUSED:  # padding up to the rows of the embeddings, which has made-up names
        types.pop()
    vocabulary = {token: number for number, token in enumerate(tokens[: len(types)])}
    if len(vocabulary) < len(types):
        raise CheckpointError(f"{where}: has a token twice in tokenizer.ggml.tokens; fetch the file again")
    for number, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise CheckpointError(f"{where}: merge {number} is {quoted(merge)}; it does not join two tokens to a third")
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": number, "content": tokens[number], **plain, "special": kind == CONTROL}
        for number, kind in enumerate(types)
        if kind in (CONTROL, USER_DEFINED)
    ]
    processor = BYTES | {"use_regex": True}
    if bos:
        sequences = {name: {"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB")}
        token = {"SpecialToken": {"id": bos[0], "type_id": 0}}
        template = {
            "type": "TemplateProcessing",
            "single": [token, sequences["A"]],
            "pair": [token, sequences["A"], {"SpecialToken": {"id": bos[0], "type_id": 1}}, sequences["B"]],
            "special_tokens": {bos[0]: {"id": bos[0], "ids": [bos[1]], "tokens": [bos[0]]}},
        }
        processor = {"type": "Sequence", "processors": [processor, template]}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": PRE[pre] is PRE["llama-bpe"],
        "vocab": vocabulary,
        "merges": merges,
    }
    return _json(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": PRE[pre],
            "post_processor": processor,
            "decoder": BYTES | {"add_prefix_space": True, "use_regex": True},
            "model": model,
        }
    )


# ---- SentencePiece's protobuf: ModelProto of sentencepiece_model.proto ----------------------------


def _sentencepiece(where: str, fields: dict, tokens: list[str], types: list, special: dict[str, int]) -> bytes:
    """tokenizer.model: pieces with scores and types, BPE with bytes for unknown characters, no normalisation."""
    scores = fields.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise CheckpointError(f"{where}: has no tokenizer.ggml.scores, one a token; fetch a complete file")
    if UNKNOWN not in types:
        raise CheckpointError(f"{where}: has no token of type 2 (unknown) in tokenizer.ggml.token_type")
    parts = []
    for token, score, kind in zip(tokens, scores, types, strict=True):
        parts.append(_bytes(1, _bytes(1, token.encode()) + b"\x15" + struct.pack("<f", score) + _int(3, int(kind))))
    unknown = types.index(UNKNOWN)
    trainer = _int(3, 2) + _int(4, len(tokens)) + _int(35, 1)  # model_type BPE, vocab_size, byte_fallback
    for field, number in ((40, unknown), (41, special["bos"]), (42, special["eos"])):
        trainer += _int(field, number) + _bytes(field + 5, tokens[number].encode())
    normalizer = _bytes(1, b"identity")
    for field, key, default in ((3, "add_space_prefix", True), (4, "remove_extra_whitespaces", False)):
        normalizer += _int(field, int(bool(fields.get(f"tokenizer.ggml.{key}", default))))
    return b"".join(parts) + _bytes(2, trainer) + _bytes(3, normalizer + _int(5, 1))


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def _int(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
