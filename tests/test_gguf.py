"""GGUF files converted: values of every type against the `gguf` package, rows, rope, vocabularies, labels, wheels."""

import io
import json
import random
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch
from safetensors.torch import load_file
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
from tokenizers.trainers import BpeTrainer

from bench.gguf_made import Part, byte_level_fields, llama_fields, llama_parts, sentencepiece_fields, theirs
from bench.gguf_made import gguf as gguf_bytes
from errors import CheckpointError
from model.convert import convert_checkpoint
from model.demo import base_in_results
from model.gguf_types import TYPES, decode
from model.llama import RopeScaling, rope_frequencies
from model.tokenizer import load_tokenizer
from model.weights import load_llama, read_llama_config
from report.tables import model_in_words
from tests.conftest import TINY

IDS = torch.tensor([[1, 5, 22, 0, 13, 7]])
GQA = {"num_key_value_heads": 2}
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "head_dim": 64}  # blocks of 256 fit
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def pieces_of(model: bytes, user_defined=()) -> tuple[list, int, int]:
    """([(text, score, type)], bos, eos) of a SentencePiece model. user_defined: what the library does not tell."""
    sp = sentencepiece.SentencePieceProcessor()
    sp.LoadFromSerializedProto(model)
    pieces = []
    for i in range(sp.GetPieceSize()):
        kinds = {2: sp.IsUnknown(i), 3: sp.IsControl(i), 5: sp.IsUnused(i), 6: sp.IsByte(i)}
        kind = next((kind for kind, found in kinds.items() if found), 4 if sp.IdToPiece(i) in user_defined else 1)
        pieces.append((sp.IdToPiece(i), sp.GetScore(i), kind))
    return pieces, sp.bos_id(), sp.eos_id()


@pytest.fixture
def make_gguf(make_checkpoint, tmp_path, tokenizer_bytes):
    """make_gguf(fields={...}, parts=[...], **config): (file, the checkpoint that it was made from)."""
    pieces, bos, eos = pieces_of(tokenizer_bytes, ("Yes", "No"))
    vocabulary = {**sentencepiece_fields(pieces, bos, eos), "tokenizer.ggml.remove_extra_whitespaces": True}

    def build(name="tiny.gguf", fields=None, parts=(), drop=(), kinds=None, **changes) -> tuple[Path, Path]:
        changes = {"vocab_size": len(pieces), "intermediate_size": 64, **GQA, **changes}
        checkpoint = make_checkpoint(f"from-{name}", **changes)
        config = read_llama_config(checkpoint)
        every = {**llama_fields({**TINY, **changes}), **vocabulary, **(fields or {})}
        stored = llama_parts(tensors_of(checkpoint), config.head_dim)
        stored = [quantised(part, kinds) if kinds and len(part.shape) > 1 else part for part in stored]
        every = {key: value for key, value in every.items() if key not in drop}
        (tmp_path / name).write_bytes(gguf_bytes(every, [*stored, *parts]))
        return tmp_path / name, checkpoint

    return build


def quantised(part: Part, kind: gguf.GGMLQuantizationType) -> Part:
    values = np.frombuffer(part.content, np.float32).reshape(part.shape)
    return Part(part.name, part.shape, int(kind), gguf.quants.quantize(values, kind).tobytes())


def converted(source: Path, out: Path, **more) -> Path:
    convert_checkpoint(source, out, **more)
    return out


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy on scales that are no numbers
@pytest.mark.parametrize("number", TYPES, ids=lambda number: TYPES[number].name)
def test_every_type_has_the_bits_of_the_gguf_package(number):
    kind, rng = TYPES[number], np.random.default_rng(number)
    blocks = rng.integers(0, 256, (3000, kind.nbytes), np.uint8)
    wanted = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(number)).astype(np.float32).flatten()
    found = decode(kind, torch.from_numpy(blocks.reshape(-1))).float().numpy()
    both_nan = np.isnan(found) & np.isnan(wanted)  # of a random scale that is no number
    assert kind.size * len(blocks) == len(found) and both_nan.mean() < 0.1
    assert np.array_equal(found.view(np.uint32)[~both_nan], wanted.view(np.uint32)[~both_nan])
    assert gguf.GGMLQuantizationType(number).name == kind.name
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == (kind.size, kind.nbytes)


def test_large_tensors_are_decoded_in_parts(monkeypatch):
    kind, blocks = TYPES[3], torch.randint(0, 100, (7 * 20,), dtype=torch.uint8)  # scales that are finite
    whole = decode(kind, blocks)
    monkeypatch.setattr("model.gguf_types.CHUNK", 96)
    assert torch.equal(decode(kind, blocks), whole)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"head_dim": 16}])
def test_a_float32_file_gives_the_same_tensors_and_logits(make_gguf, tmp_path, changes):
    source, checkpoint = make_gguf(**changes)
    before, out = source.read_bytes(), converted(source, tmp_path / "out")
    found, wanted = tensors_of(out), tensors_of(checkpoint)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert read_llama_config(out) == read_llama_config(checkpoint) and source.read_bytes() == before
    with torch.no_grad():
        assert torch.equal(load_llama(out, torch.float32)(IDS), load_llama(checkpoint, torch.float32)(IDS))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_whole_models_of_a_type_have_the_values_of_the_gguf_package(make_gguf, tmp_path, kind):
    kind = gguf.GGMLQuantizationType[kind]
    source, _ = make_gguf(kinds=kind)
    out = converted(source, tmp_path / "out")
    exact = load_file(next(out.glob("*.safetensors")))
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    config = read_llama_config(out)
    for name, tensor in exact.items():
        stored = reader[theirs(name)]
        wanted = torch.tensor(gguf.quants.dequantize(stored.data, stored.tensor_type).astype(np.float32))
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # undone by nested loops
            rows = torch.empty_like(wanted)
            for row in range(len(wanted)):
                head, place = divmod(row, config.head_dim)
                rows[head * config.head_dim + place % 2 * config.head_dim // 2 + place // 2] = wanted[row]
            wanted = rows
        assert torch.equal(tensor.float(), wanted), name
    plain = {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind.name, torch.float32)
    assert exact["model.embed_tokens.weight"].dtype == plain and exact["model.norm.weight"].dtype == torch.float32
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "float32"  # holds the values of all


def test_dtype_rounds_on_request(make_gguf, tmp_path):
    out = converted(make_gguf(kinds=gguf.GGMLQuantizationType.Q8_0)[0], tmp_path / "out", dtype="bf16")
    assert {tensor.dtype for tensor in tensors_of(out).values()} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"


# ---- the architecture ---------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["llama.rope.scale_linear", "llama.rope.scaling.factor"])
def test_linear_scaling_is_kept(make_gguf, tmp_path, key):
    fields = {"llama.rope.scaling.type": "linear", key: 4.0}
    assert read_llama_config(converted(make_gguf(fields=fields)[0], tmp_path / "out")).rope_scaling == RopeScaling(
        "linear", 4.0
    )


def llama3_factors(theta: float, head_dim: int, factor: float) -> list[float]:
    """By how much each frequency is divided: Meta's rule, written for one frequency at a time."""
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * theta ** (i / head_dim)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192 / 1:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_factors_of_llama_3_1_and_3_2_become_its_scaling(make_gguf, tmp_path, factor):
    factors = np.array(llama3_factors(500000.0, 64, factor), np.float32)
    part = Part("rope_freqs.weight", (32,), 0, factors.tobytes())
    source, _ = make_gguf(parts=[part], rope_theta=500000.0, **WIDE)
    config = read_llama_config(converted(source, tmp_path / "out"))
    assert config.rope_scaling == RopeScaling("llama3", factor, 1.0, 4.0, 8192)
    plain = 500000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    torch.testing.assert_close(
        rope_frequencies(config, 8).double(), plain / torch.tensor(factors).double(), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("change", ["other", "short", "nan"])
def test_other_factors_are_refused(make_gguf, tmp_path, change):
    factors = np.array(llama3_factors(500000.0, 64, 8.0), np.float32)
    factors[5] = np.nan if change == "nan" else 1.5 if change == "other" else 1
    factors = factors[:16] if change == "short" else factors
    part = Part("rope_freqs.weight", factors.shape, 0, factors.tobytes())
    source, _ = make_gguf(parts=[part], rope_theta=500000.0, **WIDE)
    with pytest.raises(CheckpointError, match=r"rope_freqs.weight is not the scaling of Llama 3.1"):
        convert_checkpoint(source, tmp_path / "out")


# ---- vocabularies -------------------------------------------------------------------------------

STEPS = {
    "smollm": Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]),
    "gpt-2": ByteLevel(add_prefix_space=False),
    "llama-bpe": Sequence(
        [Split(tokenizers.Regex(LLAMA3), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
}
CONTROL = ["<|begin|>", "<|end|>"]


def trained(pre: str) -> tokenizers.Tokenizer:
    """A byte-level BPE of the `tokenizers` library."""
    whole = tokenizers.Tokenizer(BPE(ignore_merges=pre == "llama-bpe"))
    whole.pre_tokenizer, whole.decoder = STEPS[pre], ByteLevelDecoder()
    words = ["The user liked The Lion King (1994), Heat 1995 and It's 12345.\n\nYes. No. naïve ünïcödé"] * 3
    trainer = BpeTrainer(
        vocab_size=330, special_tokens=CONTROL, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    whole.train_from_iterator(words, trainer)
    return whole


def random_texts(seed: int) -> list[str]:
    rng = random.Random(seed)
    words = [
        "The",
        " user",
        "liked",
        "Heat",
        "1995",
        "'s",
        "'LL",
        "\n",
        " ",
        "\r\n",
        "é",
        "ſ",
        "٣",
        "½",
        "🎬",
        "<|end|>",
        "(",
        ".",
    ]
    return ["".join(rng.choice(words) for _ in range(rng.randrange(30))) for _ in range(300)]


@pytest.mark.parametrize("pre", STEPS)
@pytest.mark.parametrize("adds_bos", [None, True, False])
def test_a_byte_level_vocabulary_gives_the_ids_of_the_tokenizer_that_it_is_from(make_gguf, tmp_path, pre, adds_bos):
    original = trained(pre)
    saved = json.loads(original.to_str())["model"]
    tokens = sorted(saved["vocab"], key=saved["vocab"].get)
    merges = [" ".join(merge) for merge in saved["merges"]]
    types = [3 if token in CONTROL else 1 for token in tokens]
    padding = 3  # rows without a token, which llama.cpp names
    fields = byte_level_fields(pre, tokens + [f"[PAD{i}]" for i in range(padding)], merges, types + [5] * padding)
    if adds_bos is not None:
        fields["tokenizer.ggml.add_bos_token"] = adds_bos
    source, _ = make_gguf(fields=fields, vocab_size=len(tokens) + padding)
    out = converted(source, tmp_path / "out")
    ours, library = (
        load_tokenizer(out, len(tokens) + padding),
        tokenizers.Tokenizer.from_file(str(out / "tokenizer.json")),
    )
    library.encode_special_tokens = original.encode_special_tokens = True  # control tokens in a text are plain text
    begins = pre == "llama-bpe" if adds_bos is None else adds_bos
    assert (ours.bos_id, ours.eos_id, ours.assumed) == (0 if begins else None, 1, [])
    for text in random_texts(len(pre)):
        wanted = [0] * begins + original.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == wanted and library.encode(text).ids == wanted
        assert library.decode(wanted) == original.decode(wanted)
    assert not any("[PAD" in token for token in json.loads((out / "tokenizer.json").read_text())["model"]["vocab"])


@pytest.mark.parametrize("space", [True, False])
def test_a_sentencepiece_vocabulary_gives_the_ids_of_the_library(make_gguf, tmp_path, tokenizer_bytes, space):
    fields = {} if space else {"tokenizer.ggml.add_space_prefix": False}
    out = converted(make_gguf(fields=fields)[0], tmp_path / "out")
    original = sentencepiece.SentencePieceProcessor()
    # A second normalizer_spec is merged into the first; this one has add_dummy_prefix alone.
    original.LoadFromSerializedProto(tokenizer_bytes + b"\x1a\x02\x18" + bytes([space]))
    ours = load_tokenizer(out, original.GetPieceSize())
    assert (ours.bos_id, ours.eos_id, ours.assumed) == (1, 2, [])
    for text in random_texts(1):
        ids = original.EncodeAsIds(text)
        assert ours.encode(text) == [1, *ids] and ours.decode(ids) == original.DecodeIds(ids)


def test_llamas_own_vocabulary_survives(real_file, make_gguf, tmp_path):
    model = real_file("llama-tokenizer/tokenizer.model").read_bytes()
    pieces, bos, eos = pieces_of(model)
    fields = {**sentencepiece_fields(pieces, bos, eos), "tokenizer.ggml.remove_extra_whitespaces": False}
    out = converted(make_gguf(fields=fields, vocab_size=32000)[0], tmp_path / "out")
    original, ours = sentencepiece.SentencePieceProcessor(), load_tokenizer(out, 32000)
    original.LoadFromSerializedProto(model)
    titles = [line.split("|")[1] for line in real_file("ml-100k/u.item").read_text("latin-1").splitlines()]
    for text in [*titles, *random_texts(2), "  two  spaces ", "\t", "", "名画"]:
        assert ours.encode(text) == [bos, *original.EncodeAsIds(text)]
        assert ours.decode(ours.encode(text)) == original.DecodeIds(original.EncodeAsIds(text))


# ---- the label ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number", "label"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", 3, "SmolLM2-135M-Instruct, Q4_1"),
        ("llama-2-7b.q4_k_m.gguf", 15, "llama-2-7b, Q4_K_M"),
        ("a.gguf", 7, "a, Q8_0"),
        ("a.gguf", 999, "a"),
    ],
)
def test_a_result_names_the_model_whatever_the_folder_is_called(make_gguf, tmp_path, name, number, label):
    out = converted(make_gguf(name, fields={"general.file_type": number})[0], tmp_path / "base")
    found = base_in_results(str(out))
    assert found == {"model": str(out), "demo_model": False, "model_label": label}
    assert model_in_words(found) == f"{label} ({out})"


# ---- wheels -------------------------------------------------------------------------------------


def packed(path: Path, members: dict[str, bytes], method=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("member", ["package/tiny.gguf", "../../tiny.gguf", "/tiny.gguf"])
def test_a_wheel_converts_like_the_file_in_it(make_gguf, tmp_path, monkeypatch, member):
    source, _ = make_gguf()
    plain = converted(source, tmp_path / "plain")
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    wheel = packed(tmp_path / "model-1.0-py3-none-any.whl", {"package/__init__.py": b"", member: source.read_bytes()})
    names = sorted(path.name for path in tmp_path.iterdir())
    out = converted(wheel, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in plain.iterdir()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "out"]) and not any(temporary.iterdir())


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.gguf": b"GGUF", "b.gguf": b"GGUF"}, "has 2 .gguf files"),
        ({"data.pkl": b""}, "has 0 .gguf files"),
        ({"a.gguf": bytes(10**7)}, "packed to almost nothing"),
        ({"a.gguf": b"GGUF" + bytes(40)}, "a.whl: a.gguf: is GGUF of version 0x0"),
    ],
)
def test_other_archives_are_refused(tmp_path, members, words):
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(packed(tmp_path / "a.whl", members), tmp_path / "out")
    assert words in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_damaged_archives_are_refused(make_gguf, tmp_path):
    content = io.BytesIO()
    packed(content, {"tiny.gguf": make_gguf()[0].read_bytes()}, zipfile.ZIP_STORED)
    whole = bytearray(content.getvalue())
    whole[len(whole) // 2] ^= 1  # found by the checksum
    for damaged in (bytes(whole), bytes(whole[:-30]), bytes(whole[:100]), b"PK\x03\x04", b""):
        (tmp_path / "a.whl").write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            convert_checkpoint(tmp_path / "a.whl", tmp_path / "out")
        assert "fetch it again" in str(caught.value) and not (tmp_path / "out").exists()
