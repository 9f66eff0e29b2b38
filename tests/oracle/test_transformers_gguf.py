"""A GGUF file converted, and the same file loaded by transformers itself: whole tensors, and logits."""

# ruff: noqa: F401, F811 (imported fixtures)

import gguf
import pytest
import torch

from model.convert import convert_checkpoint
from model.weights import load_llama
from tests.test_gguf import IDS, make_gguf

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("kinds", [None, gguf.GGMLQuantizationType.Q4_1])
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4}, {"tie_word_embeddings": True}])
def test_transformers_loads_the_same_tensors(make_gguf, tmp_path, kinds, changes):
    source, _ = make_gguf(kinds=kinds, **changes)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=source.name, dtype=torch.float32
    ).eval()
    convert_checkpoint(source, tmp_path / "out")
    ours = load_llama(tmp_path / "out", torch.float32)
    wanted = dict(theirs.named_parameters())
    for name, tensor in ours.named_parameters():
        assert torch.equal(tensor, wanted[name]), name
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)
