"""Our WordPiece against both BERT tokenizers of transformers: the one in Python, and the one in Rust.

Where the two disagree with each other, the one in Python, which is BERT's own, is right: Rust knows fewer characters,
and lower-cases each character alone, so that a sigma at the end of a word is another letter. With one exception: of
late the one in Python composes accents first (NFC), which BERT never did.
"""

import json
import random
import unicodedata
from pathlib import Path
from unicodedata import category

import pytest

from model.wordpiece import WordPieceTokenizer, split_words

transformers = pytest.importorskip("transformers")
legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")

CONTROL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "toy", "story", "star", "wars", "of", "love", "new", "york", "die", "##ing", "##s", "##ed", "##ical"]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789éöσςßığ東京한"
SIGNS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»…–—’"
OLD_UNICODE = unicodedata.ucd_3_2_0  # what both tokenizers know, whatever versions of Unicode they have
CONFIGURATIONS = {
    "uncased": {"do_lower_case": True},
    "cased": {"do_lower_case": False},
    "uncased with accents": {"do_lower_case": True, "strip_accents": False},
    "cased without accents": {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
}


class Three:
    """Our tokenizer and both of transformers, made from the same files."""

    def __init__(self, folder: Path, vocabulary: list[str], longest: int = 512, **settings):
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        self.ours = WordPieceTokenizer(folder, len(vocabulary), longest)
        self.python = legacy.BertTokenizerLegacy(str(folder / "vocab.txt"), **settings)
        self.rust = transformers.BertTokenizer(vocab=self.python.vocab, **settings)
        self.how = {"truncation": True, "max_length": longest, "split_special_tokens": True}

    def of_python(self, texts: list[str]) -> list[list[int]]:
        """Without the part around it that looks for control tokens, which ignores split_special_tokens."""
        cls, sep, longest = self.python.cls_token_id, self.python.sep_token_id, self.how["max_length"]
        pieces = (self.python._tokenize(text, split_special_tokens=True) for text in texts)
        return [[cls, *self.python.convert_tokens_to_ids(row)[: longest - 2], sep] for row in pieces]

    def of_rust(self, texts: list[str]) -> list[list[int]]:
        return self.rust(texts, **self.how).input_ids


def made_vocabulary() -> list[str]:
    return [*CONTROL, *LETTERS, *("##" + letter for letter in LETTERS), *SIGNS, *WORDS]


@pytest.fixture(params=["made", "real"])
def vocabulary(request):
    """A small vocabulary, and that of a real BERT."""
    if request.param == "made":
        return made_vocabulary()
    return (request.getfixturevalue("real_bert") / "vocab.txt").read_text(encoding="utf-8").splitlines()


def test_all_titles_of_movielens(tmp_path, vocabulary, real_file):
    files = {"ml-100k/u.item": "|", "ml-1m-part/movies.dat": "::"}
    lines = [(line, sign) for name, sign in files.items() for line in real_file(name).read_bytes().splitlines()]
    titles = [line.decode("latin-1").split(sign)[1] for line, sign in lines]
    assert len(titles) > 5000
    three = Three(tmp_path, vocabulary)
    ids = [three.ours.encode(title) for title in titles]
    assert ids == three.of_python(titles) == three.of_rust(titles)


def test_every_character_in_a_frame(tmp_path):
    """Words equal those of the tokenizer in Python for all of Unicode (of what is in no version, each 16th), and ids
    equal Rust's for all characters that are in Unicode 3.2 and were of the same kind then.
    """
    three = Three(tmp_path, made_vocabulary())
    characters = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]
    characters = [c for c in characters if category(c) not in ("Cn", "Co") or ord(c) % 16 == 0]
    split = three.python.basic_tokenizer.tokenize
    frames = {c: f"a{c}b {c}" for c in characters}
    assert [c for c, frame in frames.items() if split_words(frame, three.ours.rules) != split(frame)] == []
    known = [c for c in characters if (kind := OLD_UNICODE.category(c)) not in ("Cn", "Co") and kind == category(c)]
    of_rust = three.of_rust([frames[c] for c in known])
    different = [c for c, expected in zip(known, of_rust) if three.ours.encode(frames[c]) != expected]
    assert len(known) > 90_000 and different == []


def random_text(rng: random.Random, vocabulary: list[str], pool: list[str]) -> str:
    kinds = (
        lambda: rng.choice(vocabulary),
        lambda: rng.choice(pool),
        lambda: rng.choice(" \t\n\u3000\u00a0\u200b\x00\ufffd\x85\u2028\x1f"),
        lambda: rng.choice("éÉöÜñÇßİıŁσςАЙйĄ東京한가e\u0301A\u030a🎬"),
        lambda: rng.choice(CONTROL),
        lambda: rng.choice(SIGNS),
        lambda: "".join(rng.choices(LETTERS, k=rng.choice((1, 3, 6, 9) * 8 + (99, 100, 101)))),
        lambda: " ",
    )
    return "".join(rng.choice(kinds)() for _ in range(rng.randrange(1, 12)))


CASES = [*(("made", name) for name in CONFIGURATIONS), ("real", "uncased")]


@pytest.mark.parametrize("vocabulary, name", CASES, indirect=["vocabulary"])
def test_random_strings(tmp_path, vocabulary, name):
    """5,000 strings in each configuration, 20,000 in all, with control tokens among them, cut at 40 ids."""
    three = Three(tmp_path, vocabulary, longest=40, **CONFIGURATIONS[name])
    pool = [c for c in map(chr, range(0xD800)) if OLD_UNICODE.category(c) != "Cn" and c != "Σ"]
    rng = random.Random(name)
    texts = [random_text(rng, vocabulary, pool) for _ in range(5000)]
    ids = [three.ours.encode(text) for text in texts]
    assert ids == three.of_rust(texts)
    if name.endswith("without accents") or name == "uncased":
        assert ids == three.of_python(texts)
    else:
        cleaned = map(three.python.basic_tokenizer._clean_text, texts)
        composed = [i for i, text in enumerate(cleaned) if unicodedata.is_normalized("NFC", text)]
        assert len(composed) > 3000
        assert [ids[i] for i in composed] == three.of_python([texts[i] for i in composed])


def test_a_sigma_at_the_end_of_a_word(tmp_path):
    three = Three(tmp_path, made_vocabulary())
    assert three.ours.encode("ΣΣ") == three.of_python(["ΣΣ"])[0] != three.of_rust(["ΣΣ"])[0]


def test_control_tokens_in_a_text_are_plain_text(tmp_path):
    """transformers takes them for control tokens unless it is told to split them; a title here can never put one in."""
    three = Three(tmp_path, made_vocabulary())
    cls, sep = three.ours.cls_id, three.ours.sep_id
    assert three.rust("a [SEP] b").input_ids.count(sep) == 2
    ids = three.ours.encode("a [SEP] b")
    assert ids == three.of_rust(["a [SEP] b"])[0] and (ids.count(cls), ids.count(sep)) == (1, 1)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_tokenizer_json_alone(tmp_path, name):
    """As transformers saves it today: no vocab.txt; here without tokenizer_config.json, too."""
    three = Three(tmp_path, made_vocabulary(), **CONFIGURATIONS[name])
    three.rust.save_pretrained(tmp_path / "fast")
    assert WordPieceTokenizer(tmp_path / "fast", len(made_vocabulary()), 512).rules == three.ours.rules
    (tmp_path / "fast" / "tokenizer_config.json").unlink()
    alone = WordPieceTokenizer(tmp_path / "fast", len(made_vocabulary()), 512)
    assert (alone.rules.do_lower_case, alone.assumed) == (CONFIGURATIONS[name]["do_lower_case"], [])
    texts = ["Toy Story (1995)", "Amélie [CLS]", "東京 a\u0301", "x" * 101]
    assert [alone.encode(text) for text in texts] == [three.ours.encode(text) for text in texts]
