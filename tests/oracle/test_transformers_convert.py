"""A folder converted from Meta's files: transformers loads it and computes the same as ours."""

import pytest
import torch

from model.convert import convert_checkpoint
from model.weights import load_llama
from tests.test_convert import IDS, metas

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 2}])
def test_transformers_loads_a_conversion_of_metas_files(make_checkpoint, tmp_path, changes):
    checkpoint, out = make_checkpoint(vocab_size=24, **changes), tmp_path / "out"
    convert_checkpoint(metas(checkpoint, parts=2), out, limit=9000)
    theirs = transformers.LlamaForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, load_llama(checkpoint, torch.float32)(IDS), rtol=0, atol=1e-5)
