"""The tree against padded rows, and against sets of prefixes, in float64 so that rounding hides no difference."""

import random

import pytest
import torch
import torch.nn.functional as F

from data.pairs import pad_right
from lora.inject import add_lora
from machine.device import compile_layers
from model import varlen
from model.llama import RopeScaling
from model.prefix_tree import PrefixTree, masked_attention, prefix_tree, take
from tensors import trainable_parameters
from tests.varlen_stand_in import make_varlen_attn, without_groups

ROWS = {
    "nothing shared": [[1, 2, 3], [4, 5], [6]],
    "one row": [[1, 2, 3, 4]],
    "one token": [[3]],
    "the same row three times": [[1, 2, 3]] * 3,
    "a row that begins another": [[1, 2, 3, 4, 5], [1, 2, 3], [1, 2, 3, 4, 6]],
    "tokens alike after a difference": [[1, 2, 9, 4, 5], [1, 3, 9, 4, 5]],
    "branches of branches": [
        [1, 1, 1, 1],
        [1, 1, 2, 1],
        [1, 2, 1, 1],
        [1, 2, 1, 2, 5, 6, 7, 8, 9],
        [2, 1, 1, 1],
        [1, 1, 2, 2],
    ],
    "padding that looks like a token": [[0, 0, 0, 0], [0, 0], [0, 0, 0]],
}


def random_rows(seed):
    """Many rows over three words, so that most begin like another."""
    draw = random.Random(seed)
    return [[draw.randrange(3) for _ in range(draw.randint(1, 12))] for _ in range(30)]


CASES = ROWS | {f"random {seed}": random_rows(seed) for seed in range(3)}


def tree_of(model, rows, positions=None, by_runs=False):
    lengths = torch.tensor([len(row) for row in rows])
    if by_runs:
        return PrefixTree(pad_right(rows), lengths, positions, model.lm_head.weight, by_runs=True)
    return prefix_tree(model, pad_right(rows), lengths, positions)


@pytest.fixture
def stand_in(monkeypatch):
    """Attention by runs, which only some GPUs have, in float64 on a CPU."""
    monkeypatch.setattr(varlen, "varlen_attn", make_varlen_attn(dtypes=(torch.float64,)))


@pytest.fixture
def model(tiny_llama):
    """In float64, with LoRA on all linear layers, nothing at its initial value, no dropout."""

    def build(**changes):
        model = tiny_llama(**changes).double()
        add_lora(model, ("q_proj", "v_proj", "o_proj", "down_proj"), r=2, dropout=0.0)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in trainable_parameters(model).values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        return model.double()

    return build


@pytest.mark.parametrize("name", CASES)
def test_a_tree_holds_each_distinct_prefix_once(tiny_llama, name):
    rows = CASES[name]
    tree = tree_of(tiny_llama(), rows)
    assert len(tree) == len({tuple(row[: i + 1]) for row in rows for i in range(len(row))})
    places = {}
    for row, tokens in zip(rows, tree.index.tolist()):
        for i, token in enumerate(tokens[: len(row)]):
            assert tree.input_ids[token] == row[i] and tree.depth[token] == i
            assert places.setdefault(tuple(row[: i + 1]), token) == token
    assert sorted(places.values()) == list(range(len(tree)))


@pytest.mark.parametrize("by_runs", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_every_hidden_state_is_that_of_the_plain_path(model, stand_in, name, by_runs):
    model, rows = model(), CASES[name]
    tree = tree_of(model, rows, by_runs=by_runs)
    with torch.no_grad():
        plain, by_tree = model.model(pad_right(rows)), model.model(tree.input_ids, tree)
    for row, tokens, expected in zip(rows, tree.index, plain):
        torch.testing.assert_close(by_tree[tokens[: len(row)]], expected[: len(row)], rtol=0, atol=1e-12)


MODELS = {
    "plain": {},
    "grouped-query": {"num_key_value_heads": 2},
    "tied, one layer": {"tie_word_embeddings": True, "num_hidden_layers": 1},
    "dynamic rope": {"max_position_embeddings": 4, "rope_scaling": RopeScaling("dynamic", 2.0)},
}


WAYS = [(kind, layers, False) for kind in MODELS for layers in (0, 1, 2)]
WAYS += [("plain", 0, True), ("grouped-query", 1, True), ("dynamic rope", 2, True)]


def test_keys_are_repeated_where_the_kernel_takes_no_groups(model, stand_in, monkeypatch):
    model, rows = model(num_key_value_heads=2), CASES["branches of branches"]
    found = []
    for function in (varlen.varlen_attn, without_groups(varlen.varlen_attn)):
        monkeypatch.setattr(varlen, "varlen_attn", function)
        tree = tree_of(model, rows, by_runs=True)
        y = model.model(tree.input_ids, tree)
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), list(trainable_parameters(model).values()))))
    for grouped, repeated in zip(*found):
        torch.testing.assert_close(repeated, grouped, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind, checkpointed, by_runs", WAYS)
def test_asked_positions_and_all_gradients_are_those_of_the_plain_path(model, stand_in, kind, checkpointed, by_runs):
    model = model(**MODELS[kind])
    model.model.checkpointed_layers = checkpointed
    for name in ("branches of branches", "a row that begins another", "random 0"):
        rows = CASES[name]
        positions = torch.tensor([[len(row) - 1, (len(row) - 1) // 2] for row in rows])  # (B, 2)
        results = []
        for tree in (None, tree_of(model, rows, positions, by_runs)):
            if tree is None:
                logits = model(pad_right(rows), positions)  # (B, 2, V)
            else:
                logits = model.lm_head(model.model(tree.input_ids, tree)).view(len(rows), 2, -1)
            weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4), dtype=logits.dtype)
            gradients = torch.autograd.grad(
                (F.log_softmax(logits, -1) * weights).sum(), list(trainable_parameters(model).values())
            )
            results.append((logits.detach(), gradients))
        (plain, plain_gradients), (actual, actual_gradients) = results
        torch.testing.assert_close(actual, plain, rtol=0, atol=1e-12)
        for expected, gradient in zip(plain_gradients, actual_gradients):
            assert expected.abs().max() > 0
            torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-11)


def test_the_cpus_attention_is_the_fused_one():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 4, 5, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(3, 2, 7, 8, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.zeros(3, 1, 5, 7, dtype=torch.float64).masked_fill_(
        torch.rand(3, 1, 5, 7, generator=generator) < 0.4, float("-inf")
    )
    mask[..., 0] = 0  # no query without any key
    ours, fused = (
        masked_attention(q, k, v, mask),
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True),
    )
    torch.testing.assert_close(ours, fused, rtol=0, atol=1e-13)
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), (q, k, v)), torch.autograd.grad(fused.square().sum(), (q, k, v))
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_gradients_of_many_rows_are_summed_in_float32():
    """In bf16 a sum of 1 and then 1000 times 1/512 stays at 1: each addend is lost in rounding."""
    tokens = torch.zeros(1, 2, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.full((1001, 2), 1 / 512, dtype=torch.bfloat16)
    gradient[0] = 1
    take(tokens, torch.zeros(1001, dtype=torch.int64)).backward(gradient)
    assert tokens.grad.tolist() == [[torch.tensor(1 + 1000 / 512).bfloat16().item()] * 2]


def test_compiled_layers_compute_the_same_for_trees_of_any_size(model):
    """What torch.compile takes the layers for, without the minute that translating them takes."""
    plain, compiled = model(), model()
    compile_layers(compiled, backend="eager")
    for name in ("branches of branches", "random 0", "random 1"):
        rows = CASES[name]
        results = []
        for each in (plain, compiled):
            tree = tree_of(each, rows, torch.tensor([[len(row) - 1] for row in rows]))
            hidden = each.model(tree.input_ids, tree)
            results.append(
                (hidden, torch.autograd.grad(hidden.square().sum(), list(trainable_parameters(each).values())))
            )
        (expected, gradients), (actual, actual_gradients) = results
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(actual_gradients, gradients, rtol=1e-10, atol=1e-12)
