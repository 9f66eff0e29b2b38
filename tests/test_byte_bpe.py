"""Byte-level BPE: which ids begin and end a text, what stays text, both forms of the file, and what is refused.

The ids themselves are compared with the `tokenizers` library in tests/oracle/test_tokenizers_bpe.py.
"""

import base64
import copy
import json
from pathlib import Path

import pytest

from data.interactions import Dataset, Interaction, Item
from data.prompts import TALLREC
from data.splits import answers_in_context
from model.byte_bpe import ByteBPE
from model.convert import convert_checkpoint
from model.sentencepiece import SentencePieceTokenizer
from model.tiktoken import Tiktoken
from model.tokenizer import has_tokenizer, kept_files, load_tokenizer
from model.words import BYTE_SYMBOLS, BYTES
from tests.test_convert import metas
from tests.test_weights import refusal

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {
    "gpt2": [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}],
    "smollm": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
    "llama3": [
        {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}
WORDS = ["Yes", "No", "Ġuser", "Ġmovie", "Ġ(", "ĠĠ", "ĊĊ", "Ġ1", "Ã©"]


def bos_in_front(token: str, number: int = 0) -> dict:
    """A post-processor as Llama 3 has it."""
    bos, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 1}}],
    }
    template["special_tokens"] = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {
        "type": "Sequence",
        "processors": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}, template],
    }


def special(text: str, number: int, is_special: bool = True) -> dict:
    options = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, **options, "special": is_special}


def made_up(cut: str = "smollm", words: list[str] = WORDS) -> dict:
    """tokenizer.json with one token a byte, the parts of the words and the words, and two control tokens, 0 and 1.

    A word is put together from the left.
    """
    vocab, merges = {"<|start|>": 0, "<|end|>": 1}, []
    for symbol in BYTE_SYMBOLS.values():
        vocab[symbol] = len(vocab)
    for word in words:
        for i in range(1, len(word)):
            if word[: i + 1] not in vocab:
                vocab[word[: i + 1]] = len(vocab)
                merges.append(f"{word[:i]} {word[i]}")
    return {
        "version": "1.0",
        "added_tokens": [special("<|start|>", 0), special("<|end|>", 1)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": copy.deepcopy(CUTS[cut])},
        "post_processor": None,
        "decoder": CUTS["gpt2"][0],
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocab, "merges": merges},
    }


def write(folder: Path, content: dict | None = None, config: object = 1, **others) -> Path:
    """A folder with tokenizer.json, config.json of this eos_token_id (None: no such file), and other JSON files."""
    folder.mkdir(exist_ok=True)
    files = {"tokenizer": content or made_up(), **others} | (
        {} if config is None else {"config": {"eos_token_id": config}}
    )
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def tiktoken(words: list[str] = WORDS) -> bytes:
    """The pieces of `made_up` as a tiktoken vocabulary, without its control tokens."""
    pieces = [piece for piece in made_up(words=words)["model"]["vocab"] if not piece.startswith("<|")]
    lines = (base64.b64encode(bytes(BYTES[symbol] for symbol in piece)).decode() for piece in pieces)
    return "".join(f"{line} {rank}\n" for rank, line in enumerate(lines)).encode()


# ---- texts --------------------------------------------------------------------------------------


def pieces(tokenizer, text: str) -> list[str]:
    return [tokenizer.piece(number) for number in tokenizer.encode(text)]


def test_a_text_is_cut_into_words_and_a_word_is_joined_by_rank(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path), None)
    assert isinstance(tokenizer, ByteBPE)
    assert pieces(tokenizer, "Yes, user 12  é\n\nNo") == [
        "Yes",
        ",",
        "Ġuser",
        "Ġ",
        "1",
        "2",
        "Ġ",
        "Ġ",
        "é",
        "Ċ",
        "Ċ",
        "No",
    ]
    tokenizer = load_tokenizer(write(tmp_path, made_up("gpt2")), None)
    assert pieces(tokenizer, "user 12") == ["u", "s", "e", "r", "Ġ1", "2"]
    tokenizer = load_tokenizer(write(tmp_path, made_up("llama3")), None)
    assert pieces(tokenizer, "No:\n\nYes 123") == ["No", ":", "ĊĊ", "Yes", "Ġ", "1", "2", "3"]


def test_control_tokens_in_a_text_stay_text_even_where_a_word_is_taken_whole(tmp_path):
    content = made_up("llama3")
    content["model"] |= {"ignore_merges": True, "vocab": {**content["model"]["vocab"], "STOP": 900, "Ġwhole": 901}}
    content["added_tokens"].append(special("STOP", 900))
    tokenizer = load_tokenizer(write(tmp_path, content), None)
    for control in ("<|start|>", "<|end|>", "STOP", " STOP", "a<|end|>b"):
        ids = tokenizer.encode(control)
        assert not {0, 1, 900} & set(ids) and tokenizer.decode(ids) == control
    assert tokenizer.encode(" whole") == [901]  # no merge makes it
    assert tokenizer.decode([0, *tokenizer.encode("é"), 1]) == "é"


def test_added_tokens_that_are_not_special_are_found_in_a_text_the_longest_first(tmp_path):
    content = made_up()
    content["added_tokens"] += [special("<a>", 900, False), special("<a><b>", 901, False)]
    tokenizer = load_tokenizer(write(tmp_path, content), None)
    assert tokenizer.encode("<a><b><a>")[:2] == [901, 900] and pieces(tokenizer, "Yes<a> user") == [
        "Yes",
        "<a>",
        "Ġuser",
    ]
    assert tokenizer.decode(tokenizer.encode("Yes<a> user")) == "Yes<a> user"


def test_a_byte_without_a_token_is_left_out_or_replaced_before_anything_is_joined(tmp_path):
    content = made_up(words=["ac"])
    del content["model"]["vocab"]["b"]
    tokenizer = load_tokenizer(write(tmp_path, content), None)
    assert pieces(tokenizer, "abc") == ["ac"] and pieces(tokenizer, "b") == []
    content["model"]["unk_token"] = "<|start|>"
    assert load_tokenizer(write(tmp_path, content), None).encode("bb") == [0, 0]


def test_the_lowest_rank_is_joined_first_and_of_equals_the_leftmost(tmp_path):
    content = made_up(words=[])
    for piece in ("bc", "ab", "aa", "cd", "abcd"):
        content["model"]["vocab"][piece] = len(content["model"]["vocab"])
    content["model"]["merges"] = ["b c", ["a", "b"], "a a", "c d", "ab cd"]
    tokenizer = load_tokenizer(write(tmp_path, content), None)
    assert pieces(tokenizer, "abcd") == ["a", "bc", "d"] and pieces(tokenizer, "aaa") == ["aa", "a"]


def test_a_long_word_takes_no_time_that_grows_with_its_square(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path, made_up(words=["aa", "aaaa", "ab"])), None)
    assert tokenizer.decode(tokenizer.encode("aab" * 70_000)) == "aab" * 70_000


def test_every_token_is_shown_as_printable_text_and_line_breaks_are_known(tmp_path):
    content = made_up(words=["Ġaé", "ĊĊ", "ä¸Ń"])
    content["added_tokens"].append(special("\x1b[2J", 900))
    tokenizer = load_tokenizer(write(tmp_path, content), None)
    shown = [tokenizer.piece(number) for number in range(1000)]
    assert all(piece.isprintable() and piece.strip() for piece in shown) and shown[999] == "<999>"
    assert {"Ġa", "ĊĊ", "中", "ä¸", "Ġ", "'\\x1b[2J'"} <= set(shown)
    assert {shown[number] for number in range(1000) if tokenizer.ends_line(number)} == {"Ċ", "ĊĊ"}


ROWS = [Interaction(i // 2, ((1 + i % 3, True), (4, False)), 5 + i % 2, i % 2 == 0) for i in range(6)]
TITLES = {i: Item(f"Invented {i} (1990)") for i in range(1, 7)}
INVENTED = Dataset("movie", "invented", "movie", TITLES, ROWS, ROWS, ROWS)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("template", TALLREC.templates)
@pytest.mark.parametrize("words", [WORDS, []], ids=["answers of one token", "answers of single bytes"])
def test_both_answers_follow_every_prompt_and_begin_differently(tmp_path, cut, template, words):
    tokenizer = load_tokenizer(write(tmp_path, made_up(cut, words)), None)
    ids = answers_in_context(INVENTED, tokenizer, template)
    assert {liked: tokenizer.decode(answer).strip() for liked, answer in ids.items()} == {True: "Yes.", False: "No."}
    assert len(ids[True]) == (2 if words else 4)


# ---- BOS and EOS --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template, settings, bos, lines",
    [
        (None, {}, None, 0),
        (None, {"add_bos_token": False}, None, 0),
        (None, {"add_bos_token": True, "bos_token": {"content": "<|start|>"}}, 0, 1),
        ("<|start|>", None, 0, 0),
        ("<|start|>", {"add_bos_token": True}, 0, 0),
        ("<|start|>", {"add_bos_token": True, "bos_token": "<|end|>"}, 1, 1),
        ("<|start|>", {"add_bos_token": False}, None, 1),
    ],
)
def test_bos_is_what_the_files_put_in_front(tmp_path, template, settings, bos, lines):
    content = made_up() | {"post_processor": template and bos_in_front(template)}
    others = {} if settings is None else {"tokenizer_config": settings}
    tokenizer = load_tokenizer(write(tmp_path, content, **others), None)
    assert tokenizer.bos_id == bos and len(tokenizer.assumed) == lines
    assert all("add_bos_token is" in line for line in tokenizer.assumed)
    assert tokenizer.encode_all(["Yes", ""]) == [([] if bos is None else [bos]) + ids for ids in ([258 + 1], [])]


@pytest.mark.parametrize(
    "config, others, eos, lines",
    [
        (1, {}, 1, 0),
        ([0, 1], {}, 0, 1),
        ([0, 1], {"tokenizer_config": {"eos_token": "<|end|>"}}, 1, 1),
        ([0], {"tokenizer_config": {"eos_token": "<|end|>"}}, 0, 0),
        (None, {"generation_config": {"eos_token_id": [1]}}, 1, 0),
        (None, {"tokenizer_config": {"eos_token": {"content": "<|end|>"}}}, 1, 0),
        (0, {"generation_config": {"eos_token_id": 1}, "tokenizer_config": {"eos_token": "<|end|>"}}, 0, 0),
    ],
)
def test_eos_is_what_the_files_say(tmp_path, config, others, eos, lines):
    tokenizer = load_tokenizer(write(tmp_path, None, config, **others), None)
    assert tokenizer.eos_id == eos and len(tokenizer.assumed) == lines
    assert all(f"{eos} ends an answer" in line for line in tokenizer.assumed)


@pytest.mark.parametrize("config", [None, 5, [], [1, 5], True, "1", 10**9])
def test_an_eos_that_is_no_control_token_is_refused(tmp_path, config):
    refusal(lambda: load_tokenizer(write(tmp_path, None, config), None), "config.json", "eos_token_id")


def test_a_bos_that_is_no_control_token_is_refused(tmp_path):
    folder = write(tmp_path, tokenizer_config={"add_bos_token": True, "bos_token": "<s>"})
    refusal(lambda: load_tokenizer(folder, None), "tokenizer_config.json", "BOS")


def test_rows_and_tokens_must_belong_together(tmp_path):
    folder, size = write(tmp_path), len(made_up()["model"]["vocab"])
    assert load_tokenizer(folder, size).assumed == load_tokenizer(folder, size + 64).assumed == []
    for vocab_size in (size - 1, size + 65):
        refusal(lambda rows=vocab_size: load_tokenizer(folder, rows), "tokenizer.json", str(size), str(vocab_size))
    content = made_up()
    content["added_tokens"].append(special("<pad>", size))
    tokenizer = load_tokenizer(write(tmp_path, content), size)
    assert "no row" in tokenizer.assumed[0] and str(size) in tokenizer.assumed[0]
    refusal(lambda: load_tokenizer(write(tmp_path, content, config=size), size), "eos_token_id")


# ---- tiktoken -----------------------------------------------------------------------------------


def test_both_forms_of_a_vocabulary_give_the_same_ids(tmp_path):
    write(tmp_path / "json", made_up("llama3"))
    (tmp_path / "tiktoken").mkdir()
    (tmp_path / "tiktoken" / "tokenizer.model").write_bytes(tiktoken())
    ours, other = load_tokenizer(tmp_path / "tiktoken", None), load_tokenizer(tmp_path / "json", None)
    assert isinstance(ours, Tiktoken) and (ours.bos_id, ours.eos_id) == (
        len(WORDS) and ours.eos_id - 1,
        ours.bos_id + 1,
    )
    for text in ("Yes, user 12  é\n\nNo <|end|>", "<|begin_of_text|>Yes", "The movie (1999)"):
        assert ours.encode(text) == [ours.bos_id, *(number - 2 for number in other.encode(text))]
    assert ours.piece(ours.bos_id) == "<|begin_of_text|>" and ours.decode(ours.encode("a <|eot_id|>")) == "a <|eot_id|>"
    assert load_tokenizer(tmp_path / "tiktoken", ours.bos_id + 256).eos_id == ours.eos_id
    (tmp_path / "tiktoken" / "config.json").write_text(json.dumps({"eos_token_id": ours.bos_id + 9}))
    assert load_tokenizer(tmp_path / "tiktoken", None).eos_id == ours.bos_id + 9


def test_what_the_file_contains_decides_who_reads_it(tmp_path, tokenizer_bytes):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_bytes)
    write(tmp_path)
    assert isinstance(load_tokenizer(tmp_path, None), SentencePieceTokenizer)
    (tmp_path / "tokenizer.model").write_bytes(tiktoken())
    assert type(load_tokenizer(tmp_path, None)) is ByteBPE  # transformers reads this one too
    assert {path.name for path in kept_files(tmp_path)} == {"tokenizer.json"}
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "config.json").unlink()
    assert type(load_tokenizer(tmp_path, None)) is Tiktoken and has_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-3],
        lambda b: b + b"!!!! 999\n",
        lambda b: b + b.splitlines()[0],
        lambda b: b.replace(b" 7\n", b" 8\n"),
    ],
)
def test_a_damaged_tiktoken_vocabulary_is_refused(tmp_path, damage):
    (tmp_path / "tokenizer.model").write_bytes(damage(tiktoken()))
    refusal(lambda: load_tokenizer(tmp_path, None), "tokenizer.model", "tiktoken", "fetch")


def test_meta_s_llama_3_gets_the_control_tokens_of_its_tokenizer(make_checkpoint, tmp_path):
    """params.json has none; a tiktoken vocabulary of 4 pieces is followed by 256, the first two of them BOS and EOS."""
    source = metas(make_checkpoint(vocab_size=260), vocab_size=260)
    (source / "tokenizer.model").write_bytes(b"WQ== 0\nTg== 1\nLg== 2\nCg== 3\n")
    convert_checkpoint(source, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (4, 5)
    tokenizer = load_tokenizer(tmp_path / "out", 260)
    assert (tokenizer.encode("Y<N."), tokenizer.eos_id, tokenizer.assumed) == ([4, 0, 1, 2], 5, [])


# ---- what is refused ----------------------------------------------------------------------------

CUT = ("pre_tokenizer",)
REFUSED = {
    "no model": (("model",), None, "model"),
    "Unigram": (("model", "type"), "Unigram", "Unigram"),
    "WordPiece": (("model", "type"), "WordPiece", "WordPiece"),
    "SentencePiece in another form": (("model", "byte_fallback"), True, "byte_fallback"),
    "dropout": (("model", "dropout"), 0.1, "dropout"),
    "an unknown token that is none": (("model", "unk_token"), "<unk>", "unk_token"),
    "prefix": (("model", "continuing_subword_prefix"), "##", "continuing_subword_prefix"),
    "suffix": (("model", "end_of_word_suffix"), "</w>", "end_of_word_suffix"),
    "normalizer": (("normalizer",), {"type": "NFC"}, "NFC"),
    "another cut": (CUT, {"type": "Whitespace"}, "Whitespace"),
    "no cut": (CUT, None, "cuts texts"),
    "a space in front": (CUT, {**CUTS["gpt2"][0], "add_prefix_space": True}, "ByteLevel"),
    "another pattern": (("pre_tokenizer", "pretokenizers", 0), {"type": "Split", "pattern": {"Regex": "a"}}, "Split"),
    "digits together": (("pre_tokenizer", "pretokenizers", 0, "individual_digits"), False, "Digits"),
    "no bytes": (("pre_tokenizer", "pretokenizers"), 5, "cuts texts"),
    "BERT's processor": (("post_processor",), {"type": "BertProcessing"}, "post_processor"),
    "an unknown token in front": (("post_processor",), bos_in_front("<s>"), "post_processor"),
    "a processor that is none": (("post_processor",), {"type": "Sequence", "processors": 3}, "post_processor"),
    "no vocabulary": (("model", "vocab"), [], "vocab"),
    "an id that is none": (("model", "vocab", "a"), "5", "vocab"),
    "an id below zero": (("model", "vocab", "a"), -5, "vocab"),
    "an id beyond all bounds": (("model", "vocab", "a"), 2**40, "vocab"),
    "two tokens of one id": (("model", "vocab", "a"), 7, "number"),
    "two ids of one token": (("added_tokens", 0, "id"), 999, "number"),
    "a token that is no text": (("model", "vocab", "\ud800"), 999, "no text"),
    "a token without end": (("model", "vocab", "a" * 2000), 999, "characters"),
    "merges that are none": (("model", "merges"), {"a": 1}, "merges"),
    "a merge of three": (("model", "merges", 0), "a b c", "merges"),
    "a merge to nothing": (("model", "merges", 0), ["a", "q"], "merges"),
    "a flag that is none": (("model", "ignore_merges"), "yes", "ignore_merges"),
    "added tokens that are none": (("added_tokens",), 3, "added_tokens"),
    "an added token without text": (("added_tokens", 0), {"id": 1}, "added_tokens"),
    "a whole word only": (("added_tokens", 0), {**special("x y", 900, False), "single_word": True}, "single_word"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_or_damaged_is_refused_by_name(tmp_path, name):
    (*way, last), value, word = REFUSED[name]
    content = inner = made_up()
    for step in way:
        inner = inner[step]
    inner[last] = value
    refusal(lambda: load_tokenizer(write(tmp_path, content), None), "tokenizer.json", word)
