"""Byte-level BPE against the `tokenizers` library, which writes tokenizer.json: the same words and the same ids."""

import base64
import itertools
import json
import random
import unicodedata
from pathlib import Path

import pytest

from model.tokenizer import load_tokenizer
from model.words import BYTE_SYMBOLS, BYTES, GPT2, LLAMA3, SINGLE_DIGITS, word_pattern
from tests.test_byte_bpe import CUTS, bos_in_front, special

tokenizers = pytest.importorskip("tokenizers")

TRAINED_ON = [
    "The user has watched \"L.A. Confidential (1997)\", 'Il Postino (1994)', not 12 of 1,000.\n\n### Answer:\nYes. No.",
    "Amélie; Ænigma, naïve café. Привет, мир! 日本語の映画 映画 🎬🎬 \t tabs\r\nand 'll 're 've  two  spaces   three",
]


def trained(cut: str, every_byte: bool) -> dict:
    """tokenizer.json of a vocabulary that the library learns, with this pre-tokenizer; without some bytes if asked."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(empty(cut))).pre_tokenizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|start|>", "<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet() if every_byte else [],
        show_progress=False,
    )
    draw = random.Random(0)
    tokenizer.train_from_iterator(
        ["".join(draw.sample(text, len(text))) for text in TRAINED_ON] + TRAINED_ON * 9, trainer
    )
    content = json.loads(tokenizer.to_str())
    content["model"]["ignore_merges"] = cut == "llama3"
    content["post_processor"] = bos_in_front("<|start|>", 0) if cut == "llama3" else None
    content["decoder"] = CUTS["gpt2"][0]
    return content


def empty(cut: str) -> dict:
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": CUTS[cut]},
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }


def pair_in(folder: Path, content: dict, eos: int = 1) -> tuple:
    """(ours, theirs) of a tokenizer.json. Theirs is told to take control tokens in a text as text."""
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": eos}))
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    return load_tokenizer(folder, None), theirs


@pytest.fixture(scope="module", params=["gpt2, bytes replaced", "smollm, bytes missing", "llama3"])
def both(request, tmp_path_factory):
    cut, _, missing = request.param.partition(", ")
    content = trained(cut, not missing)
    content["model"]["unk_token"] = "<|end|>" if missing == "bytes replaced" else None
    return pair_in(tmp_path_factory.mktemp("bpe"), content)


def differing_ids(both, texts: list[str]) -> list[str]:
    ours, theirs = both
    expected = theirs.encode_batch_fast(texts)
    return [text for text, ids, encoding in zip(texts, ours.encode_all(texts), expected) if ids != encoding.ids]


def test_the_trained_vocabularies_are_what_their_names_say(both):
    ours, theirs = both
    assert theirs.get_vocab_size() > 250 and len(ours.encode(TRAINED_ON[0])) < len(TRAINED_ON[0]) / 2


@pytest.mark.parametrize("cut", CUTS)
def test_every_character_in_a_frame_is_cut_into_the_same_words(cut):
    """Characters that this Python does not know, since only a later version of Unicode has them, are left out."""
    theirs = tokenizers.Tokenizer.from_str(json.dumps(empty(cut))).pre_tokenizer
    ours = word_pattern({"gpt2": GPT2, "smollm": SINGLE_DIGITS, "llama3": LLAMA3}[cut])
    known = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
    known += map(chr, range(0xE000, 0xE010))  # of the private use areas a few
    assert len(known) > 140_000
    differing = set()
    for i in range(0, len(known), 64):
        frames = "".join(f"a{c}1 '{c}  {c}" for c in known[i : i + 64])
        words = [word.encode().decode("latin-1").translate(BYTE_SYMBOLS) for word in ours.findall(frames)]
        if words != [word for word, _ in theirs.pre_tokenize_str(frames)]:
            differing.add(known[i])
    # A later version knows letters and numbers that the library does not.
    assert differing == set() or unicodedata.unidata_version > "15"


def random_texts(number: int) -> list[str]:
    """Texts of up to 40 parts: scripts, numbers, spaces and line breaks of all kinds, contractions, control tokens."""
    draw = random.Random(5)
    parts = [
        *(
            "a",
            "Z",
            "Yes",
            "No",
            "movie",
            "user",
            "é",
            "É",
            "ß",
            "ſ",
            "ж",
            "映",
            "画",
            "🎬",
            "👩‍👩‍👧",
            "e\u0301",
            "\u0e01",
            "ﬃ",
        ),
        *("1", "12", "1,000", "٣", "½", "Ⅷ", "²", "𝟘"),
        *(
            " ",
            "  ",
            "   ",
            "\t",
            "\n",
            "\n\n",
            "\r\n",
            "\r",
            "\x0b",
            "\x85",
            "\xa0",
            "\u2003",
            "\u2028",
            "\u3000",
            "\x1c",
        ),
        *(
            "'s",
            "'S",
            "'ll",
            "'Re",
            "'ſ",
            "'",
            "''",
            "\u2019s",
            ".",
            "...",
            "(",
            ")",
            '"',
            ":",
            "!?",
            "\u200b",
            "\x00",
            "\ufeff",
        ),
        *("<|end|>", "<|start|>", "</s>", "Ġ", "Ċ", "▁"),
    ]
    return ["".join(draw.choices(parts, k=draw.randint(0, 40))) for _ in range(number)]


def test_ids_of_random_texts(both):
    texts = random_texts(20_000)
    assert len(set("".join(texts))) > 60 and differing_ids(both, texts) == []


def test_ids_and_text_of_all_movielens_titles(both, real_file):
    lines = real_file("ml-100k/u.item").read_text("latin-1").splitlines()
    titles = [line.split("|")[1] for line in lines]
    texts = [form.format(title) for title in titles for form in ("{}", ' "{}",', '\n"{}"\n\n### Response:\nYes.')]
    assert len(titles) == 1682 and differing_ids(both, texts) == []
    ours, theirs = both
    assert [ours.decode(ids) for ids in ours.encode_all(texts)] == [
        theirs.decode(encoding.ids) for encoding in theirs.encode_batch_fast(texts)
    ]


def test_added_tokens_that_are_not_special_are_found_as_the_library_finds_them(tmp_path):
    content = trained("llama3", every_byte=True)
    size = len(content["model"]["vocab"])
    added = ("<item 1>", "<item 12>", "<item", "éé", "\n\n")
    content["added_tokens"] += [special(text, size + i, is_special=False) for i, text in enumerate(added)]
    draw = random.Random(7)
    parts = [*added, "Yes", " ", "\n", "<", "1", ">", "<|end|>"]
    texts = ["".join(draw.choices(parts, k=12)) for _ in range(2000)]
    both = pair_in(tmp_path, content)
    assert differing_ids(both, texts) == [] and {size + i for i in range(5)} <= set(
        both[0].encode("".join(added) + "<item 1>")
    )


def test_a_tiktoken_vocabulary_gives_the_ids_of_the_library_and_of_its_own_description(tmp_path):
    """The library has it as Llama 3's tokenizer.json: each pair of pieces that makes a piece is a merge, ordered by it.

    tiktoken's description: of all neighbours, join those that make the piece of the lowest rank.
    """
    learned = trained("llama3", every_byte=True)
    pieces = [piece for piece in learned["model"]["vocab"] if piece not in ("<|start|>", "<|end|>")]
    ranks, n = {piece: i for i, piece in enumerate(pieces)}, len(pieces)
    merges = [
        [piece[:i], piece[i:]]
        for piece in pieces
        for i in range(1, len(piece))
        if piece[:i] in ranks and piece[i:] in ranks
    ]
    learned["model"] |= {"vocab": ranks, "merges": merges}
    learned["added_tokens"] = [special("<|start|>", n), special("<|end|>", n + 1)]
    learned["post_processor"] = None
    lines = [f"{base64.b64encode(bytes(BYTES[s] for s in piece)).decode()} {i}\n" for piece, i in ranks.items()]
    (tmp_path / "tokenizer.model").write_text("".join(lines))
    ours = load_tokenizer(tmp_path, n + 256)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(learned))
    theirs.encode_special_tokens = True

    def described(word: str) -> list[int]:
        parts = [word] if word in ranks else list(word)
        while found := [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]:
            i = min(found)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [ranks[part] for part in parts]

    for text in random_texts(2000):
        words = [word for word, _ in theirs.pre_tokenizer.pre_tokenize_str(text)]
        expected = [number for word in words for number in described(word)]
        assert ours.encode(text)[1:] == expected == theirs.encode(text).ids


@pytest.mark.parametrize("whole_words", [False, True])
def test_merges_in_any_order_are_applied_as_the_library_applies_them(tmp_path, whole_words):
    """A vocabulary that nobody learned: a merge may have a lower rank than those that make its parts."""
    draw = random.Random(9)
    for _ in range(40):
        pieces, merges = list("abc"), []
        while len(merges) < 25:
            left, right = draw.choices(pieces, k=2)
            if len(left + right) <= 6 and [left, right] not in merges:
                merges.append([left, right])
                pieces += [] if left + right in pieces else [left + right]
        draw.shuffle(merges)
        content = empty("gpt2")
        vocab = {piece: number for number, piece in enumerate([*pieces, "<|end|>"])}
        content["model"] |= {"vocab": vocab, "merges": merges, "ignore_merges": whole_words}
        content["added_tokens"] = [special("<|end|>", len(pieces))]
        both = pair_in(tmp_path, content, eos=len(pieces))
        assert differing_ids(both, ["".join(draw.choices("abc", k=draw.randint(1, 30))) for _ in range(100)]) == []
