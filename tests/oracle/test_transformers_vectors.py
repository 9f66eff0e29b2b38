"""Prompts with vectors against transformers with `inputs_embeds`, and the adapter of such a run in peft."""

import torch

from lora.adapter import save_adapter
from model.prefix_tree import prefix_tree
from model.soft_file import load_vectors, save_vectors
from model.soft_tokens import MappedVectors, add_vectors, vectors_of
from tests.oracle.twins import adapter_record, load_theirs, peft, twins

V = 23  # tokens of the tiny checkpoint
ROWS = torch.tensor([[1, 5, V + 1, 0, V + 3, 7], [1, 5, V + 2, 0, V + 3, 3], [1, 5, V + 1, 0, 11, 3]])


def embedded(ours, theirs, rows):
    """(B, T, D): their embedding of the tokens, and our vectors computed one by one."""
    words = theirs.get_input_embeddings()(rows.clamp(max=V - 1)).clone()
    first, _, second = vectors_of(ours).mapping
    for i, j in (rows >= V).nonzero().tolist():
        vector = vectors_of(ours).table.weight[rows[i, j] - V]
        words[i, j] = second(torch.relu(first(vector)))
    return words


def test_logits_are_those_of_transformers_with_inputs_embeds_and_the_adapter_is_pefts(make_checkpoint, tmp_path):
    folder, targets = make_checkpoint(num_key_value_heads=2), ("q_proj", "v_proj")
    ours, _ = twins(folder, targets)
    table = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    add_vectors(ours, MappedVectors(table, 32))
    save_adapter(ours, tmp_path, adapter_record(targets))
    save_vectors(ours, tmp_path, tmp_path / "adapter_model.safetensors")

    again, _ = twins(folder, targets)
    add_vectors(again, MappedVectors(torch.zeros(4, 3), 32))
    load_vectors(again, tmp_path, tmp_path / "adapter_model.safetensors")
    theirs = peft.PeftModel.from_pretrained(load_theirs(folder), tmp_path).eval()
    with torch.no_grad():
        expected = theirs(inputs_embeds=embedded(ours, theirs, ROWS)).logits
        last = torch.full((3, 1), 5)
        tree = prefix_tree(again, ROWS, torch.full((3,), 6), last)
        by_tree = again.lm_head(again.model(tree.input_ids, tree))
        torch.testing.assert_close(again(ROWS), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(by_tree, expected[:, -1], rtol=0, atol=1e-5)
        assert (expected[0, -1] - expected[1, -1]).abs().max() > 1e-3
