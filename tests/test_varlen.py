"""Attention by runs, the form of GPUs: what its runs are, when it is chosen, and that it runs there."""

import functools
import inspect
import json

import pytest
import torch

from lora.inject import add_lora
from model import prefix_tree as trees
from model import varlen
from model.varlen import added_runs, has_varlen, selected_runs
from tests.kill_points import small_run
from tests.pretend_cuda import PretendCuda
from tests.test_prefix_tree import CASES, tree_of
from tests.varlen_stand_in import make_varlen_attn, without_groups

GPU = torch.device("cuda:0")


def installed():
    return pytest.importorskip("torch.nn.attention.varlen").varlen_attn


def test_the_stand_in_takes_what_pytorchs_function_takes():
    theirs, ours = (inspect.signature(function).parameters for function in (installed(), make_varlen_attn()))
    if "enable_gqa" not in theirs:
        pytest.skip("this PyTorch has no varlen_attn with grouped queries")
    in_order = [name for name, one in theirs.items() if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert [name for name, one in ours.items() if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == in_order
    for name, one in ours.items():
        assert (theirs[name].kind, theirs[name].default) == (one.kind, one.default), name


def test_the_stand_in_aligns_windows_at_the_ends():
    """Two queries of four keys, then one of one: by hand."""
    q, k = torch.zeros(3, 1, 8, dtype=torch.float64), torch.zeros(5, 1, 8, dtype=torch.float64)
    v = torch.tensor([1.0, 2, 4, 8, 16], dtype=torch.float64).view(5, 1, 1).expand(5, 1, 8).contiguous()
    ends = torch.tensor([0, 2, 3], dtype=torch.int32), torch.tensor([0, 4, 5], dtype=torch.int32)
    attend = make_varlen_attn(dtypes=(torch.float64,))
    assert attend(q, k, v, *ends, 2, 4, window_size=(-1, 0))[:, 0, 0].tolist() == pytest.approx([7 / 3, 15 / 4, 16])
    assert attend(q, k, v, *ends, 2, 4, window_size=(1, 0))[:, 0, 0].tolist() == pytest.approx([3, 6, 16])
    assert attend(q, k, v, *ends, 2, 4)[:, 0, 0].tolist() == pytest.approx([15 / 4, 15 / 4, 16])


def branches(layout):
    """[(queries, the keys it sees)] of each run of a layout."""
    keys, query_ends, key_ends = (part.tolist() for part in layout.indices)
    found = [(b - a, keys[c:d]) for a, b, c, d in zip(query_ends, query_ends[1:], key_ends, key_ends[1:])]
    runs = layout.make(*layout.indices)
    assert runs.most == tuple(max(sizes) for sizes in zip(*((count, len(branch)) for count, branch in found)))
    assert runs.query_ends.dtype == runs.key_ends.dtype == torch.int32
    return found


def asked_for(monkeypatch, function, *args):
    """What PrefixTree passes to one of the two functions."""
    seen = []
    real = getattr(trees, function)
    monkeypatch.setattr(trees, function, lambda *given: seen.append(given) or real(*given))
    tree = tree_of(*args, by_runs=True)
    return tree, seen[0]


@pytest.mark.parametrize("name", CASES)
def test_each_run_stands_at_the_end_of_its_branch(tiny_llama, monkeypatch, name):
    rows = CASES[name]
    tree, given = asked_for(monkeypatch, "added_runs", tiny_llama(), rows)
    of_row = [tokens[: len(row)] for row, tokens in zip(rows, tree.index.tolist())]
    following = 0
    for queries, branch in branches(added_runs(*given)):
        assert branch[-queries:] == list(range(following, following + queries))  # in the order of the tree's tokens
        assert any(branch == tokens[: len(branch)] for tokens in of_row)  # a row from its beginning
        following += queries
    assert following == len(tree)


def test_positions_that_follow_each_other_are_one_run():
    index = torch.arange(14).view(2, 7)
    layout = selected_runs(index, torch.tensor([[3, 4, 5], [2, 6, 0]]))
    assert branches(layout) == [(3, [0, 1, 2, 3, 4, 5]), (1, [7, 8, 9]), (1, list(range(7, 14))), (1, [7])]
    ends_where_the_next_begins = torch.tensor([[1, 2], [3, 4]])
    assert branches(selected_runs(index, ends_where_the_next_begins)) == [(2, [0, 1, 2]), (2, [7, 8, 9, 10, 11])]


# ---- when it is chosen --------------------------------------------------------------------------


def without_windows(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
    """PyTorch 2.10's."""


@pytest.mark.parametrize(
    "change, chosen",
    [
        ({}, True),
        ({"dtype": torch.float16}, True),
        ({"dtype": torch.float32}, False),
        ({"device": torch.device("cpu")}, False),
        ({"device": torch.device("meta")}, False),
        ({"head_dim": 256}, True),
        ({"head_dim": 264}, False),
        ({"head_dim": 12}, False),
        ({"capability": (8, 0)}, True),
        ({"capability": (7, 5)}, False),
        ({"function": None}, False),
        ({"function": without_windows}, False),
        ({"function": without_groups(make_varlen_attn())}, True),
        ({"flash": False}, False),
        ({"deterministic": True}, False),
    ],
)
def test_it_is_chosen_where_the_kernel_takes_what_there_is(monkeypatch, change, chosen):
    given = {"dtype": torch.bfloat16, "device": GPU, "head_dim": 128} | change
    with PretendCuda(), monkeypatch.context() as patched:  # undone in this order
        if "capability" in change:
            patched.setattr(torch.cuda, "get_device_capability", lambda device: given["capability"])
        if "function" in change:
            patched.setattr(varlen, "varlen_attn", given["function"])
        try:
            torch.backends.cuda.enable_flash_sdp(given.get("flash", True))
            torch.use_deterministic_algorithms(given.get("deterministic", False))
            assert has_varlen(given["dtype"], given["device"], given["head_dim"]) is chosen
        finally:
            torch.backends.cuda.enable_flash_sdp(True)
            torch.use_deterministic_algorithms(False)


# ---- that it runs -------------------------------------------------------------------------------


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("changes", [{}, {"kl_forcing": "shared"}, {"objective": "released"}])
def test_a_gpu_trains_with_it_in_bf16(tmp_path, monkeypatch, changes):
    changes = {"dtype": torch.bfloat16, "lora_dropout": 0.0, **changes}
    small_run(tmp_path / "cpu", **changes)
    with PretendCuda(), monkeypatch.context() as patched:
        calls, real = [], varlen.varlen_attn

        @functools.wraps(real)  # it is chosen by its signature
        def counted(*args, **given):
            calls.append(given)
            return real(*args, **given)

        patched.setattr(varlen, "varlen_attn", counted)
        small_run(tmp_path / "gpu", device="cuda", **changes)
    assert calls and {given["window_size"] for given in calls} == {(-1, 0)}
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=0.02)


def test_a_compiled_layer_with_it_is_one_graph(tiny_llama, monkeypatch):
    """PyTorch's own function, on the meta device."""
    if "enable_gqa" not in inspect.signature(installed()).parameters:
        pytest.skip("this PyTorch has no varlen_attn with grouped queries")
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = tiny_llama(num_key_value_heads=2)
    add_lora(model, r=2, dropout=0.3)
    model.to("meta").train()
    for layer in model.model.layers:
        layer.compile(dynamic=True, backend=counting)
    for name in ("branches of branches", "random 0"):
        rows = CASES[name]
        tree = tree_of(model, rows, torch.tensor([[len(row) - 1] for row in rows]), by_runs=True)
        hidden = model.model(tree.input_ids, tree)
        assert hidden.shape == (len(rows), 32) and hidden.requires_grad
    assert len(graphs) == len(model.model.layers)
