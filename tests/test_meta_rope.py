"""What params.json of Meta's checkpoints does not say: the factor of scaled rope, and the longest row."""

import pytest
import torch

from errors import CheckpointError
from model.convert import convert_checkpoint, main
from model.llama import RopeScaling
from model.meta import Unsaid
from model.weights import load_llama, read_llama_config
from tests.test_convert import IDS, metas, refusal

SCALED = {"use_scaled_rope": True}
LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("params", "unsaid", "factor"),
    [
        (SCALED, Unsaid(rope_factor=8), 8),
        (SCALED, Unsaid(rope_factor=32.0), 32),
        ({**SCALED, "rope_scaling_factor": 16}, Unsaid(), 16),
    ],
)
def test_scaled_rope_computes_what_the_published_config_does(make_checkpoint, tmp_path, params, unsaid, factor):
    published = make_checkpoint(
        rope_theta=500000.0, rope_scaling={**LLAMA3, "factor": factor}, max_position_embeddings=131072
    )
    convert_checkpoint(metas(published, **params), tmp_path / "out", unsaid=unsaid)
    config = read_llama_config(tmp_path / "out")
    assert config == read_llama_config(published) and config.rope_scaling == RopeScaling("llama3", factor)
    with torch.no_grad():
        assert torch.equal(load_llama(published, torch.float32)(IDS), load_llama(tmp_path / "out", torch.float32)(IDS))


@pytest.mark.parametrize(
    ("params", "unsaid", "words"),
    [
        (SCALED, None, ["params.json", "--rope-factor 8 for Llama 3.1", "--rope-factor 32 for Llama 3.2"]),
        (SCALED, Unsaid(rope_factor=-1.0), ["--rope-factor", "positive"]),
        (SCALED, Unsaid(rope_factor=0.0), ["--rope-factor", "positive"]),
        (SCALED, Unsaid(rope_factor=float("nan")), ["--rope-factor", "positive"]),
        ({**SCALED, "rope_scaling_factor": "8"}, None, ["rope_scaling_factor", "positive"]),
        (
            {**SCALED, "rope_scaling_factor": 32},
            Unsaid(rope_factor=8.0),
            ["rope_scaling_factor is 32", "--rope-factor 8"],
        ),
        ({"use_scaled_rope": 1}, None, ["use_scaled_rope", "true or false"]),
        ({}, Unsaid(rope_factor=8.0), ["--rope-factor has no effect"]),
        ({}, Unsaid(positions=0), ["--positions", "positive"]),
        ({}, Unsaid(positions=2**40), ["--positions", "positive"]),
    ],
)
def test_what_is_not_said_is_asked_for(make_checkpoint, tmp_path, params, unsaid, words):
    source = metas(make_checkpoint(), **params)
    refusal(lambda: convert_checkpoint(source, tmp_path / "out", unsaid=unsaid), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("params", "unsaid", "positions"),
    [
        ({}, None, 2048),
        ({"rope_theta": 500000.0}, None, 8192),
        (SCALED, Unsaid(rope_factor=8.0), 131072),
        ({}, Unsaid(positions=4096), 4096),
    ],
)
def test_the_longest_row_is_given_or_assumed_and_said(make_checkpoint, tmp_path, params, unsaid, positions):
    said = []
    convert_checkpoint(metas(make_checkpoint(), **params), tmp_path / "out", progress=said.append, unsaid=unsaid)
    assert read_llama_config(tmp_path / "out").max_position_embeddings == positions
    assumed = [line for line in said if "is assumed" in line]
    assert len(assumed) == (0 if unsaid and unsaid.positions else 1) and all(
        f"{positions:,}" in line for line in assumed
    )


def test_the_flags_are_for_metas_layout_alone(make_checkpoint, tmp_path, monkeypatch, capsys):
    argv = ["convert", str(metas(make_checkpoint())), "--out", str(tmp_path / "out"), "--positions", "4096"]
    monkeypatch.setattr("sys.argv", argv)
    main()
    assert read_llama_config(tmp_path / "out").max_position_embeddings == 4096
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="are for Meta's"):
        convert_checkpoint(tmp_path / "a.gguf", tmp_path / "other", unsaid=Unsaid(positions=4096))
    monkeypatch.setattr("sys.argv", [*argv[:4], "--rope-factor", "0"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "error:" in capsys.readouterr().err
