"""Pickled checkpoints to safetensors: bit-identical logits, also after interruptions, and refusals in one line."""

import functools
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file

import model.write
from errors import CheckpointError
from model.convert import convert_checkpoint
from model.weights import load_llama, read_llama_config

ROOT = Path(__file__).parent.parent
IDS = torch.tensor([[1, 5, 22, 0, 13, 7]])
GQA = {"num_key_value_heads": 2}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


@functools.cache
def a_tokenizer() -> bytes:
    """A SentencePiece model of no more than 23 pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["abc cab bca"] * 20),
        model_writer=model,
        **{"vocab_size": 20, "hard_vocab_limit": False, "minloglevel": 2},
    )
    return model.getvalue()


def pickled(checkpoint: Path, files=1, extra=None, **save) -> Path:
    """The checkpoint as Vicuna's folder: pytorch_model*.bin."""
    folder = checkpoint.with_name(checkpoint.name + "-bin")
    folder.mkdir()
    shutil.copy(checkpoint / "config.json", folder)
    (folder / "tokenizer.model").write_bytes(a_tokenizer())
    tensors = {**tensors_of(checkpoint), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), **(extra or {})}
    if files == 1:
        torch.save(tensors, folder / "pytorch_model.bin", **save)
        return folder
    weight_map = {}
    for i in range(files):
        path = folder / f"pytorch_model-{i + 1:05d}-of-{files:05d}.bin"
        part = dict(list(tensors.items())[i::files])
        torch.save(part, path, **save)
        weight_map |= dict.fromkeys(part, path.name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


MATRICES = {
    "q_proj": "attention.wq",
    "k_proj": "attention.wk",
    "v_proj": "attention.wv",
    "o_proj": "attention.wo",
    "gate_proj": "feed_forward.w1",
    "down_proj": "feed_forward.w2",
    "up_proj": "feed_forward.w3",
}


def interleaved(tensor: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows i and i + Dh/2 of each head become rows 2i and 2i + 1."""
    result = torch.empty_like(tensor)
    for head in range(len(tensor) // head_dim):
        for i in range(head_dim // 2):
            result[head * head_dim + 2 * i] = tensor[head * head_dim + i]
            result[head * head_dim + 2 * i + 1] = tensor[head * head_dim + i + head_dim // 2]
    return result


def metas_name(name: str) -> str:
    name = name.removeprefix("model.").replace("embed_tokens", "tok_embeddings").replace("lm_head", "output")
    name = name.replace("input_layernorm", "attention_norm").replace("post_attention_layernorm", "ffn_norm")
    for ours, theirs in MATRICES.items():
        name = name.replace(f"self_attn.{ours}", theirs).replace(f"mlp.{ours}", theirs)
    return name


def metas(checkpoint: Path, parts=1, embeddings_by=1, drop=(), **changes) -> Path:
    """The checkpoint as Meta's folder, with the tokenizer one folder above."""
    folder = checkpoint.parent / "llama" / "7B"
    folder.mkdir(parents=True)
    (folder.parent / "tokenizer.model").write_bytes(a_tokenizer())
    config = read_llama_config(checkpoint)
    params = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "multiple_of": 4,
        "norm_eps": config.rms_norm_eps,
        "vocab_size": -1,
        "rope_theta": config.rope_theta,
    }
    if config.num_key_value_heads != config.num_attention_heads:
        params["n_kv_heads"] = config.num_key_value_heads
    (folder / "params.json").write_text(json.dumps({**params, **changes}))
    states = [{"rope.freqs": torch.ones(4)} for _ in range(parts)]
    for ours, tensor in tensors_of(checkpoint).items():
        if "q_proj" in ours or "k_proj" in ours:
            tensor = interleaved(tensor, config.head_dim)
        name = metas_name(ours)
        by = embeddings_by if "tok_embeddings" in name else 1 if "wo" in name or "w2" in name else 0
        pieces = [tensor] * parts if "norm" in name else tensor.chunk(parts, by)
        for state, piece in zip(states, pieces, strict=True):
            if name not in drop:
                state[name] = piece.clone()
    for i, state in enumerate(states):
        torch.save(state, folder / f"consolidated.{i:02d}.pth")
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def equal(checkpoint: Path, out: Path, dtype=torch.float32) -> bool:
    with torch.no_grad():
        return torch.equal(load_llama(checkpoint, dtype)(IDS), load_llama(out, dtype)(IDS))


def refusal(action, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


# ---- what converts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, GQA, {"tie_word_embeddings": True}, {"tie_word_embeddings": True, "store_lm_head": True}]
)
@pytest.mark.parametrize("files", [1, 3])
def test_bin_files_convert_one_to_one(make_checkpoint, tmp_path, changes, files):
    checkpoint = make_checkpoint(**changes)
    source, out = pickled(checkpoint, files), tmp_path / "out"
    before = bytes_of(source)
    convert_checkpoint(source, out)
    assert equal(checkpoint, out) and bytes_of(source) == before
    assert len(list(out.glob("*.safetensors"))) == files and not (out / "convert.json").exists()
    assert ("lm_head.weight" in tensors_of(out)) == ("tie_word_embeddings" not in changes)
    assert not any("inv_freq" in name for name in tensors_of(out))
    assert json.loads((out / "config.json").read_text()) == json.loads((source / "config.json").read_text())
    assert (out / "tokenizer.model").read_bytes() == a_tokenizer()


@pytest.mark.parametrize("changes", [{}, GQA])
@pytest.mark.parametrize("parts, embeddings_by", [(1, 1), (2, 1)])
@pytest.mark.parametrize("limit", [2**30, 9000])
def test_metas_parts_convert(make_checkpoint, tmp_path, changes, parts, embeddings_by, limit):
    checkpoint, out = make_checkpoint(**changes, vocab_size=24), tmp_path / "out"
    convert_checkpoint(metas(checkpoint, parts, embeddings_by), out, limit=limit)
    torch.testing.assert_close(tensors_of(out), tensors_of(checkpoint), rtol=0, atol=0)
    assert equal(checkpoint, out) and (len(list(out.glob("*.safetensors"))) > 1) == (limit == 9000)
    assert (
        read_llama_config(out).max_position_embeddings == 2048
        and (out / "tokenizer.model").read_bytes() == a_tokenizer()
    )


def test_what_transformers_reads_beside_the_weights_is_kept(make_checkpoint, tmp_path):
    source, out = pickled(make_checkpoint()), tmp_path / "out"
    (source / "added_tokens.json").write_text('{"[PAD]": 23}')
    convert_checkpoint(source, out)
    assert (out / "added_tokens.json").read_text() == '{"[PAD]": 23}'


@pytest.mark.parametrize("layout", ["bin", "meta"])
def test_a_tokenizer_that_nothing_reads_is_refused_before_the_work(make_checkpoint, tmp_path, layout):
    checkpoint = make_checkpoint(vocab_size=24)
    source = pickled(checkpoint) if layout == "bin" else metas(checkpoint)
    (source / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\nIw== 3\n")
    refusal(lambda: convert_checkpoint(source, tmp_path / "out"), "tokenizer.model", "line 3", "tiktoken")
    assert not (tmp_path / "out").exists()


def test_embeddings_divided_by_vocabulary_convert_as_well(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint(vocab_size=24)
    convert_checkpoint(metas(checkpoint, 2, embeddings_by=0, vocab_size=24), tmp_path / "out")
    assert equal(checkpoint, tmp_path / "out")


def test_views_of_one_storage_and_the_format_before_zip_convert(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint(tie_word_embeddings=True)
    embeddings = tensors_of(checkpoint)["model.embed_tokens.weight"]
    shared = {"lm_head.weight": embeddings, "model.embed_tokens.weight": embeddings}
    source = pickled(checkpoint, extra=shared, _use_new_zipfile_serialization=False)
    convert_checkpoint(source, tmp_path / "tied")
    assert equal(checkpoint, tmp_path / "tied")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    convert_checkpoint(source, tmp_path / "untied")
    assert equal(checkpoint, tmp_path / "untied") and "lm_head.weight" in tensors_of(tmp_path / "untied")


@pytest.mark.parametrize(
    "name, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32), ("keep", torch.float64)]
)
def test_dtype_is_what_was_asked_for(make_checkpoint, tmp_path, name, dtype):
    checkpoint, out = make_checkpoint(dtype=torch.float64), tmp_path / "out"
    convert_checkpoint(pickled(checkpoint), out, name)
    expected = {key: tensor.to(dtype) for key, tensor in tensors_of(checkpoint).items()}
    torch.testing.assert_close(tensors_of(out), expected, rtol=0, atol=0)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())
    written = json.loads((out / "config.json").read_text()).get("torch_dtype")
    assert written == (None if name == "keep" else str(dtype).removeprefix("torch."))


# ---- interrupted and repeated -------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["bin", "meta"])
def test_a_repeated_call_completes_the_conversion_with_equal_files(make_checkpoint, tmp_path, monkeypatch, layout):
    checkpoint, out = make_checkpoint(vocab_size=24), tmp_path / "out"
    source = pickled(checkpoint, 3) if layout == "bin" else metas(checkpoint, 2)
    convert_checkpoint(source, tmp_path / "whole", limit=9000)
    save, calls = model.write.save_file, []

    def failing(tensors, path, **rest):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise OSError("disk full")
        save(tensors, path, **rest)

    monkeypatch.setattr(model.write, "save_file", failing)
    with pytest.raises(OSError, match="disk full"):
        convert_checkpoint(source, out, limit=9000)
    assert (out / "convert.json").exists() and len(list(out.glob("*.safetensors"))) == 1
    refusal(lambda: load_llama(out, torch.float32))
    refusal(lambda: convert_checkpoint(source, out, "fp16", limit=9000), "convert.json", "dtype")
    convert_checkpoint(source, out, limit=9000)
    shards = len(list((tmp_path / "whole").glob("*.safetensors")))
    assert len(calls) == shards + 1  # the first shard was not written again
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def test_only_an_unfinished_conversion_of_the_same_source_is_completed(make_checkpoint, tmp_path):
    source, out = pickled(make_checkpoint()), tmp_path / "out"
    convert_checkpoint(source, out)
    refusal(lambda: convert_checkpoint(source, out), str(out), "already exists")
    out.joinpath("convert.json").write_text("{}")
    refusal(lambda: convert_checkpoint(source, out), "convert.json", "another source")
    refusal(lambda: convert_checkpoint(source, source), "source folder")
    refusal(lambda: convert_checkpoint(source, source / "below"), "source folder")
    (tmp_path / "file").write_text("")
    refusal(lambda: convert_checkpoint(source, tmp_path / "file"), "already exists")


# ---- what is refused, before anything is written ------------------------------------------------


class Malicious:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(make_checkpoint, tmp_path, zipped):
    source = pickled(
        make_checkpoint(), extra={"x": Malicious(tmp_path / "made")}, _use_new_zipfile_serialization=zipped
    )
    refusal(lambda: convert_checkpoint(source, tmp_path / "out"), "pytorch_model.bin", "more than tensors", "trust")
    assert not (tmp_path / "made").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "extra, words",
    [
        ({"x": torch.ones(2)}, ["unexpected x"]),
        ({"x": "text"}, ["'x'", "not a plain tensor"]),
        ({"model.norm.weight": torch.ones(3)}, ["model.norm.weight is [3], expected [32]"]),
        ({"model.norm.weight": torch.ones(32, dtype=torch.int8)}, ["model.norm.weight has dtype torch.int8"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(make_checkpoint, tmp_path, extra, words):
    source = pickled(make_checkpoint(), extra=extra)
    refusal(lambda: convert_checkpoint(source, tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_a_missing_tensor_and_one_in_two_files_are_named(make_checkpoint, tmp_path):
    source = pickled(make_checkpoint(store_lm_head=False), files=2)
    refusal(lambda: convert_checkpoint(source, tmp_path / "out"), "missing lm_head.weight")
    second = source / "pytorch_model-00002-of-00002.bin"
    torch.save(torch.load(source / "pytorch_model-00001-of-00002.bin", weights_only=True), second)
    refusal(lambda: convert_checkpoint(source, tmp_path / "out"), "is in both", second.name)


def test_a_tied_lm_head_that_differs_is_refused(make_checkpoint, tmp_path):
    source = pickled(make_checkpoint(tie_word_embeddings=True), extra={"lm_head.weight": torch.ones(23, 32)})
    refusal(lambda: convert_checkpoint(source, tmp_path / "out"), "lm_head.weight differs", "tie_word_embeddings")


@pytest.mark.parametrize("value, dtype, words", [(1e6, "fp16", ["too large", "bf16"]), (float("nan"), "keep", ["NaN"])])
def test_values_that_are_not_finite_are_refused(make_checkpoint, tmp_path, value, dtype, words):
    source = pickled(make_checkpoint(), extra={"model.norm.weight": torch.full((32,), value)})
    refusal(lambda: convert_checkpoint(source, tmp_path / "out", dtype), "model.norm.weight", *words)


def test_files_that_are_missing_or_damaged_or_pointers_are_named(make_checkpoint, tmp_path):
    source, out = pickled(make_checkpoint(), files=2), tmp_path / "out"
    first, index = source / "pytorch_model-00001-of-00002.bin", source / "pytorch_model.bin.index.json"
    whole, listed = first.read_bytes(), index.read_text()
    for content in (whole[: len(whole) // 2], b"", b"nonsense"):
        first.write_bytes(content)
        refusal(lambda: convert_checkpoint(source, out), first.name, "damaged", "fetch it again")
    torch.save([torch.ones(1)], first)
    refusal(lambda: convert_checkpoint(source, out), first.name, "holds a list")
    first.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refusal(lambda: convert_checkpoint(source, out), first.name, "Git LFS")
    first.unlink()
    refusal(lambda: convert_checkpoint(source, out), first.name, "missing")
    for wrong in ('{"weight_map": []}', '{"weight_map": {"x": "../x.bin"}}'):
        index.write_text(wrong)
        refusal(lambda: convert_checkpoint(source, out), index.name)
    index.unlink()
    refusal(lambda: convert_checkpoint(source, out), index.name, "missing")
    index.write_text(listed)
    first.write_bytes(whole)
    (source / "tokenizer.model").unlink()
    refusal(lambda: convert_checkpoint(source, out), "tokenizer.model", "missing")
    refusal(lambda: convert_checkpoint(tmp_path / "nowhere", out), "no such")
    refusal(lambda: convert_checkpoint(tmp_path / "checkpoint", out), "safetensors already")
    assert not out.exists()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"use_scaled_rope": True}, ["use_scaled_rope"]),
        ({"dim": None}, ["dim is None"]),
        ({"n_layers": 3}, ["missing model.layers.2."]),
        ({"n_layers": 10**9}, ["n_layers"]),
        ({"n_heads": 5}, ["n_heads 5"]),
        ({"n_kv_heads": 2}, ["k_proj.weight is [32, 32], expected [16, 32]"]),
        ({"norm_eps": "small"}, ["norm_eps"]),
        ({"vocab_size": 25}, ["model.embed_tokens.weight is [24, 32], expected [25, 32]"]),
        ({"drop": ["norm.weight"]}, ["missing model.norm.weight"]),
        ({"drop": ["layers.0.feed_forward.w1.weight"]}, ["gate_proj"]),
    ],
)
def test_params_that_do_not_fit_are_refused(make_checkpoint, tmp_path, changes, words):
    source = metas(make_checkpoint(vocab_size=24), 2, **changes)
    refusal(lambda: convert_checkpoint(source, tmp_path / "out"), "params.json", *words)
    assert not (tmp_path / "out").exists()


def test_parts_that_do_not_fit_together_are_refused(make_checkpoint, tmp_path):
    source, out = metas(make_checkpoint(vocab_size=24), 2), tmp_path / "out"
    second = source / "consolidated.01.pth"
    state = torch.load(second, weights_only=True)
    torch.save({name: tensor.half() if name == "norm.weight" else tensor for name, tensor in state.items()}, second)
    refusal(lambda: convert_checkpoint(source, out), "norm.weight has another shape or dtype")
    torch.save({name: tensor for name, tensor in state.items() if name != "norm.weight"}, second)
    refusal(lambda: convert_checkpoint(source, out), "consolidated.01.pth has no norm.weight")
    torch.save({**state, "layers.0.moe.weight": torch.ones(1)}, second)
    first = source / "consolidated.00.pth"
    torch.save({**torch.load(first, weights_only=True), "layers.0.moe.weight": torch.ones(1)}, first)
    refusal(lambda: convert_checkpoint(source, out), "unexpected layers.0.moe.weight")
    second.unlink()
    refusal(lambda: convert_checkpoint(source, out), "params.json", "expected")
    torch.save(state, second)
    (source / "consolidated.00.pth").unlink()
    refusal(lambda: convert_checkpoint(source, out), "consolidated.00.pth", "missing")


# ---- the command --------------------------------------------------------------------------------


def test_the_command_converts_and_refuses_in_one_line(make_checkpoint, tmp_path):
    checkpoint, out = make_checkpoint(), tmp_path / "out"
    command = [sys.executable, "-m", "model.convert", str(pickled(checkpoint)), "--out", str(out), "--dtype", "keep"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "") and "model-00001-of-00001.safetensors" in done.stderr
    assert equal(checkpoint, out)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (
        again.returncode == 2
        and again.stderr.startswith(f"model.convert: error: {out}: ")
        and again.stderr.count("\n") == 1
    )
