"""GGUF files with lies in them: each is refused in one line, soon, with little memory, and nothing is written."""

# ruff: noqa: F401, F811 (imported fixtures)

import random
import resource
import struct

import pytest
import torch

from bench import fuzz_binary
from bench.gguf_made import ARRAY, Part, gguf, text, value_of
from errors import CheckpointError
from model.convert import convert_checkpoint
from model.weights import load_llama
from tests.test_gguf import make_gguf

HUGE = [2**32, 2**48, 2**63 - 1, 2**63, 2**64 - 1]


def refusal(path, tmp_path) -> str:
    """The message; the output folder must not be there, and memory must not have grown by more than 200 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(path, tmp_path / "out")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB on Linux
    message = str(caught.value)
    assert message.isprintable() and str(path) in message and len(message) < 600
    assert not (tmp_path / "out").exists()
    return message


def part(name="a", shape=(4,), kind=0, start=None, size=16) -> Part:
    return Part(name, shape, kind, bytes(size), start)


def typed(kind: int, content: bytes) -> bytes:
    return struct.pack("<I", kind) + content


# ---- the container ------------------------------------------------------------------------------

FILES = {
    "empty": (b"", "neither a GGUF file nor a zip archive"),
    "short": (b"GGUF\3\0\0\0", "8 bytes"),
    "magic": (b"GGML" + bytes(40), "neither a GGUF file nor a zip archive"),
    "version": (gguf({}, [], version=1), "version 0x1"),
    "big-endian": (gguf({}, [], version=3 << 24), "big-endian"),
    "no tensors": (gguf({}, []), "general.architecture is None"),
    "more fields than there are": (gguf({"a": 1}, [], counts=(0, 9)), "the field '' is there twice"),
    "more tensors than there are": (gguf({"a": 1}, [], counts=(50, 1)), "the tensor  has 0 dimensions"),
    **{f"{n} tensors": (gguf({"a": 1}, [], counts=(n, 1)), f"claims to have {n:,} tensors") for n in HUGE},
    **{f"{n} fields": (gguf({"a": 1}, [], counts=(0, n)), f"{n:,} fields") for n in HUGE},
    "long key": (gguf({"k" * 5000: 1}, []), "a name or text of 5,000 bytes"),
    "key not UTF-8": (gguf({"a": 1}, []).replace(text("a"), text(b"\xff")), "not UTF-8"),
    "twice": (gguf({"aa": 1, "bb": 2}, []).replace(b"bb", b"aa"), "the field 'aa' is there twice"),
    "type of a field": (gguf({"a": typed(13, b"1234")}, []), "unknown type 13"),
    **{f"text of {n}": (gguf({"a": typed(8, struct.pack("<Q", n))}, []), f"{n:,} bytes") for n in HUGE},
    "text beyond the end": (gguf({"a": typed(8, struct.pack("<Q", 10**6))}, []), "ends inside its header"),
    "text not UTF-8": (gguf({"a": typed(8, text(b"\xc3("))}, []), "not UTF-8"),
    **{f"array of {n}": (gguf({"a": typed(ARRAY, struct.pack("<IQ", 0, n))}, []), f"{n:,} elements") for n in HUGE},
    "array beyond the end": (gguf({"a": typed(ARRAY, struct.pack("<IQ", 12, 10**6))}, []), "ends inside its header"),
    "texts beyond the end": (gguf({"a": typed(ARRAY, struct.pack("<IQ", 8, 10**6))}, []), "ends inside its header"),
    "nested": (gguf({"a": typed(ARRAY, struct.pack("<IQ", ARRAY, 1) * 1000)}, []), "elements of type 9"),
    **{
        f"alignment {n}": (gguf({"general.alignment": n}, []), "general.alignment is")
        for n in (0, 1, 12, 2**31, -1.0, "32", True)
    },
    "tensor twice": (gguf({}, [part("aa"), part("bb")]).replace(b"bb", b"aa"), "the tensor aa is there twice"),
    "name with a line break": (gguf({}, [part("a\nb")]), r"called 'a\nb'"),
    "long name": (gguf({}, [part("a" * 300)]), "has a tensor called"),
    "no dimension": (gguf({}, [part(shape=())]), "0 dimensions"),
    "five dimensions": (gguf({}, [part(shape=(1,) * 5)]), "5 dimensions"),
    "Q2_K": (gguf({}, [part(kind=10)]), "a is of type Q2_K, which is not read"),
    "unknown type": (gguf({}, [part(kind=999)]), "a is of type number 999"),
    "half a block": (gguf({}, [part(shape=(2, 40), kind=8)]), "Q8_0 of shape [2, 40]"),
    "no values": (gguf({}, [part(shape=(0, 4))]), "cannot be"),
    **{f"dimension {n}": (gguf({}, [part(shape=(n, 4))]), "cannot be") for n in HUGE[1:]},
    "product overflows": (gguf({}, [part(shape=(2**32, 2**32, 4))]), "inside the tensor a"),
    "not aligned": (gguf({}, [part(start=4, size=64)]), "at 4, which cannot be"),
    "beyond the end": (gguf({}, [part(start=2**20)]), "inside the tensor a"),
    "far beyond the end": (gguf({}, [part(start=2**64 - 32)]), "inside the tensor a"),
    "overlapping": (gguf({}, [part("a", (16,), size=64), part("b", start=32)]), "the tensors a and b overlap"),
    "the same place": (gguf({}, [part("a"), part("b", start=0)]), "the tensors a and b overlap"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_container_with_a_lie_in_it_is_refused(tmp_path, name):
    content, words = FILES[name]
    (tmp_path / "a.gguf").write_bytes(content)
    assert words in refusal(tmp_path / "a.gguf", tmp_path)


def test_a_long_header_is_refused(tmp_path):
    with open(tmp_path / "a.gguf", "wb") as file:  # sparse
        file.write(gguf({"a": typed(8, struct.pack("<Q", 2**26))}, []))
        file.truncate(2**28)
    assert "more than 67,108,864 bytes" in refusal(tmp_path / "a.gguf", tmp_path)


@pytest.mark.parametrize("where", ["header", "tensors"])
def test_a_file_cut_anywhere_is_refused(make_gguf, tmp_path, where):
    source, _ = make_gguf()
    whole, rng = source.read_bytes(), random.Random(0)
    end = whole.index(b"token_embd.weight")
    for _ in range(40):
        source.write_bytes(whole[: rng.randrange(end) if where == "header" else rng.randrange(end, len(whole) - 32)])
        refusal(source, tmp_path)


# ---- fields of a LLaMA --------------------------------------------------------------------------

WRONG = {
    "general.architecture": ["qwen2", 1, ["llama"]],
    "split.count": [2, "1"],
    "llama.expert_count": [8],
    "llama.attention.sliding_window": [4096],
    "llama.block_count": [0, 3, 2**31, "2", 2.0, True],
    "llama.context_length": [0, 2**31, "64"],
    "llama.embedding_length": [0, 31, 2**31, [32]],
    "llama.feed_forward_length": [0, 65, [64, 64]],
    "llama.attention.head_count": [0, 3, 64, [4, 4]],
    "llama.attention.head_count_kv": [0, 3, [2, 2]],
    "llama.attention.key_length": [7, 2**30, 0],
    "llama.attention.value_length": [4],
    "llama.rope.dimension_count": [4],
    "llama.rope.freq_base": [0.0, -1.0, float("nan"), float("inf"), 100, "100"],
    "llama.rope.scaling.type": ["yarn", "linear", 1, ["linear"]],
    "llama.rope.scale_linear": [0.0, "2"],
    "llama.attention.layer_norm_rms_epsilon": [0.0, float("nan"), "1"],
    "tokenizer.ggml.model": ["bert", 1, ["llama"], "gpt2"],
    "tokenizer.ggml.tokens": [[], "a", 1, ["a"], ["a", "a"], [1, 2]],
    "tokenizer.ggml.token_type": [[], 1, "a", value_of([9] * 300, 5)],
    "tokenizer.ggml.scores": [[1.0], "a", value_of([float("nan")] * 300, 6)],
    "tokenizer.ggml.bos_token_id": [-1.0, 10**6, "1", True],
    "tokenizer.ggml.eos_token_id": [10**6, [2]],
    "tokenizer.ggml.add_bos_token": [1, "yes"],
    "tokenizer.ggml.add_space_prefix": [0],
    "tokenizer.ggml.precompiled_charsmap": [[1, 2]],
}
# What a message may name instead: a tensor or a part of config.json that does not fit any more.
SHOWN_AS = {
    "split.count": ["llama-gguf-split"],
    "llama.block_count": ["missing", "num_hidden_layers"],
    "llama.context_length": ["max_position_embeddings"],
    "llama.embedding_length": ["expected [", "key_length", "hidden_size"],
    "llama.feed_forward_length": ["mlp.gate_proj", "intermediate_size"],
    "llama.attention.head_count": ["q_proj", "num_attention_heads"],
    "llama.attention.head_count_kv": ["k_proj", "num_attention_heads"],
    "llama.attention.key_length": ["value_length"],
    "llama.rope.scaling.type": ["llama.rope.scaling.factor"],
    "tokenizer.ggml.model": ["tokenizer.ggml.pre"],
    "tokenizer.ggml.tokens": ["tokenizer.ggml.token_type"],
    "tokenizer.ggml.scores": ["a score that is not finite"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_wrong_field_is_refused_by_name(make_gguf, tmp_path, key, value):
    source, _ = make_gguf(fields={key: value})
    message = refusal(source, tmp_path)
    assert any(word in message for word in (key, *SHOWN_AS.get(key, ())))


REQUIRED = ["general.architecture", "llama.block_count", "llama.context_length", "llama.attention.head_count"]
REQUIRED += ["llama.attention.layer_norm_rms_epsilon", "tokenizer.ggml.model", "tokenizer.ggml.tokens"]
REQUIRED += ["tokenizer.ggml.scores", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_field_is_refused_by_name(make_gguf, tmp_path, key):
    assert key in refusal(make_gguf(drop=[key])[0], tmp_path)


@pytest.mark.parametrize(
    "name", ["attn_q.bias", "model.embed_tokens.weight", "blk.00.attn_q.weight", "blk.9.attn_q.weight"]
)
def test_a_tensor_that_no_llama_has_is_refused(make_gguf, tmp_path, name):
    assert "unexpected" in refusal(make_gguf(parts=[part(name)])[0], tmp_path)


def test_a_value_that_is_not_finite_is_refused_and_leaves_nothing(make_gguf, tmp_path):
    source, _ = make_gguf()
    whole = bytearray(source.read_bytes())
    whole[-8:-4] = struct.pack("<f", float("nan"))
    source.write_bytes(bytes(whole))
    assert "NaN" in refusal(source, tmp_path)


def test_damage_at_random_is_refused_or_harmless(make_gguf, tmp_path):
    source, _ = make_gguf(num_hidden_layers=1)
    whole, outcomes = source.read_bytes(), set()
    for case in range(80):
        source.write_bytes(fuzz_binary.gguf_file(random.Random(case), whole))
        out = tmp_path / f"out{case}"
        try:
            convert_checkpoint(source, out)
            load_llama(out, torch.float32)
            outcomes.add("works")
        except CheckpointError as error:
            assert str(error).isprintable()
            outcomes.add("refused")
    assert outcomes == {"works", "refused"}
