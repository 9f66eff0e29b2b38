"""Tokenizers: how a folder's is chosen and read, which files belong to it, and what is refused."""

import random
from pathlib import Path

import pytest
import sentencepiece

from errors import CheckpointError
from model import tokenizer as tokenizers
from model.sentencepiece import SentencePieceTokenizer
from model.tokenizer import has_tokenizer, load_tokenizer, tokenizer_files
from tests.test_weights import POINTER, refusal


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("tokenizer"), random.Random(0)
    words = ["".join(draw.choices("abcdefg", k=draw.randint(2, 5))) for _ in range(300)]
    lines = iter([" ".join(draw.choices(words, k=8)) for _ in range(100)])
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=lines, model_prefix=str(folder / "tokenizer"), vocab_size=60, model_type="bpe", minloglevel=2
    )
    return folder / "tokenizer.model"


def test_text_begins_with_bos_and_control_symbols_in_it_stay_text(tokenizer_file):
    tokenizer = load_tokenizer(tokenizer_file.parent, 60)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.encode("") == [1]
    assert tokenizer.encode("abc bad")[0] == 1 and tokenizer.decode(tokenizer.encode("abc bad")[1:]) == "abc bad"
    assert not {1, 2} & set(tokenizer.encode("<s> abc </s>")[1:])


@pytest.mark.parametrize("vocab_size", [59, 60 + 65, 32000])
def test_tokenizer_of_another_size_is_refused(tokenizer_file, vocab_size):
    refusal(lambda: load_tokenizer(tokenizer_file.parent, vocab_size), "tokenizer.model", "60", str(vocab_size))
    assert load_tokenizer(tokenizer_file.parent, 60 + 64).piece(60 + 63) == "<123>"


@pytest.mark.parametrize("content", [b"", b"no model " * 30, bytes(200), POINTER])
def test_tokenizer_garbage_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    refusal(lambda: load_tokenizer(tmp_path, 60), "tokenizer.model")


def test_missing_or_truncated_tokenizer_is_refused(tokenizer_file, tmp_path):
    refusal(lambda: load_tokenizer(tmp_path, 60), "tokenizer.model", "missing")
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_file.read_bytes()[:300])
    refusal(lambda: load_tokenizer(tmp_path, 60), "tokenizer.model")


def test_pieces_are_visible_and_only_a_line_break_ends_a_line(tokenizer_bytes, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_bytes)
    tokenizer = load_tokenizer(tmp_path, None)
    ids = tokenizer.encode("user\nYes")
    assert [tokenizer.piece(token_id) for token_id in ids if tokenizer.ends_line(token_id)] == ["<0x0A>"]
    assert tokenizer.decode(ids) == "user\nYes" and all(tokenizer.piece(token_id).strip() for token_id in ids)
    assert tokenizer.encode_all(["user", ""]) == [tokenizer.encode("user"), tokenizer.encode("")]


# ---- which class reads a folder -----------------------------------------------------------------


class Letters:
    """Another kind of tokenizer: one token a character, no BOS."""

    FILES = ("letters.txt", "letters.json")
    bos_id, eos_id = None, 2

    def __init__(self, folder: Path, vocab_size: int | None):
        self.known = (folder / "letters.txt").read_text()


@pytest.fixture
def two_kinds(monkeypatch):
    monkeypatch.setattr(tokenizers, "KINDS", (SentencePieceTokenizer, Letters))


def test_the_files_of_a_folder_decide_which_class_reads_it(two_kinds, tokenizer_file, tmp_path):
    (tmp_path / "letters.txt").write_text("abc")
    assert load_tokenizer(tmp_path, 3).known == "abc"
    assert tokenizer_files(tmp_path) == [tmp_path / "letters.txt"]
    (tmp_path / "letters.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    assert tokenizer_files(tmp_path) == [tmp_path / "letters.txt", tmp_path / "letters.json"]
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
    assert isinstance(load_tokenizer(tmp_path, 60), SentencePieceTokenizer)
    assert tokenizer_files(tmp_path) == [tmp_path / "tokenizer.model"]


def test_a_folder_without_any_is_refused_naming_every_file_that_would_do(two_kinds, tmp_path):
    assert not has_tokenizer(tmp_path)
    for action in (lambda: load_tokenizer(tmp_path, None), lambda: tokenizer_files(tmp_path)):
        refusal(action, str(tmp_path / "tokenizer.model"), str(tmp_path / "letters.txt"), "missing")


def test_a_pointer_is_not_listed_as_a_tokenizers_file(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(POINTER)
    with pytest.raises(CheckpointError, match="tokenizer.model: a Git LFS pointer"):
        tokenizer_files(tmp_path)


def test_only_its_own_class_knows_how_sentencepiece_writes_pieces_and_calls_its_file():
    """demo/pretrain.py writes such a file; everything else asks model.tokenizer."""
    root = Path(__file__).parent.parent
    rooms = ("model", "lora", "data", "baselines", "machine", "cli", "scoring", "report", "run", "auditing")
    paths = [*root.glob("*.py"), *(path for room in rooms for path in (root / room).rglob("*.py"))]
    marks = ('tokenizer.model"', "tokenizer.model,", "tokenizer.model)", "\u2581", "<0x0A>")
    naming = {path.relative_to(root).as_posix() for path in paths if any(mark in path.read_text() for mark in marks)}
    assert naming == {"model/sentencepiece.py"}
