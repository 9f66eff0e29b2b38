"""The memory plan against other ways of counting, and what is made of it."""

import json

import pytest
import torch

import model.prefix_tree as prefix_trees
import run.plan as plan_module
import train
from cli.train import TrainFlags
from data.pairs import EncodedPair, Row, collate
from errors import RunError
from lora.inject import add_lora
from machine.layer_cost import LiveTensors, layer_cost
from machine.memory import mapped_memory
from model.llama import rope_tables
from model.prefix_tree import prefix_tree
from objectives.paper import Paper
from run.plan import longest_pairs, make_plan

PAIRS = [
    EncodedPair(Row([1, 2, 3, *range(n)], [5, 3, 2]), Row([1, 2, 4, 4, *range(n)], [6, 3, 2])) for n in range(2, 14)
]


@pytest.fixture
def model(tiny_llama):
    def build(**changes):
        model = tiny_llama(**changes)
        add_lora(model, r=2)
        return model

    return build


def test_live_tensors_counts_what_is_made_and_what_is_let_go():
    given = torch.ones(1000)
    with LiveTensors() as live:
        a = given * 2  # 4,000 bytes
        view, _ = a.view(10, 100)[2:], given.add_(1)  # nothing new
        assert (live.now, live.peak) == (4000, 4000)
        b = torch.cat([a, a])
        assert live.now == 12_000
        del a, b
        assert (live.now, live.peak) == (4000, 12_000)  # the view keeps a alive
        del view
        assert (live.now, live.peak) == (0, 12_000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "sizes", [{}, {"num_key_value_heads": 2}, {"hidden_size": 64, "intermediate_size": 200, "head_dim": 16}]
)
def test_what_a_layer_keeps_is_what_autograd_saves(model, sizes, dtype, monkeypatch):
    """Counted by another mechanism: autograd's own hooks see every tensor that is saved, unless by a checkpoint."""
    monkeypatch.setattr(prefix_trees, "recomputed", lambda function, *inputs: function(*inputs))
    model = model(**sizes)
    for name, parameter in model.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.to(dtype)
    batch = collate(PAIRS)
    tree = prefix_tree(model, batch.input_ids, batch.lengths)
    cos, sin = (
        table[tree.depth] for table in rope_tables(model.config, tree.index.shape[1], like=model.lm_head.weight)
    )
    known = {tensor.untyped_storage().data_ptr() for tensor in (cos, sin, *model.parameters())}
    for group in tree.all_tokens.attention.groups:
        known |= {tensor.untyped_storage().data_ptr() for tensor in (group.queries, group.keys, group.mask)}
    known.add(tree.all_tokens.attention.output.untyped_storage().data_ptr())
    saved = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    leaf = torch.randn(len(tree), model.config.hidden_size, dtype=dtype, requires_grad=True)
    layer = model.model.layers[0].train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = layer(leaf.clone(), cos, sin, tree.all_tokens)
    cost = layer_cost(model, tree, tree.all_tokens)
    assert y.requires_grad and cost.kept == sum(saved.values())
    assert cost.forward >= cost.kept and cost.backward > cost.kept > 0 and 0 < cost.scoring < cost.forward


def test_what_is_recomputed_is_not_kept(model, monkeypatch):
    model = model()
    batch = collate(PAIRS)
    tree = prefix_tree(model, batch.input_ids, batch.lengths)
    found = layer_cost(model, tree, tree.all_tokens)
    monkeypatch.setattr(prefix_trees, "recomputed", lambda function, *inputs: function(*inputs))
    all_kept = layer_cost(model, tree, tree.all_tokens)
    assert found.kept < 0.8 * all_kept.kept and found.scoring == all_kept.scoring


def test_planning_leaves_model_and_random_generator_as_they_are(model):
    model = model()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    torch.manual_seed(3)
    make_plan(model, Paper(), PAIRS, PAIRS, TrainFlags())
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None


def test_weights_and_optimizer_are_counted_byte_by_byte(model):
    model = model(tie_word_embeddings=True)
    plan = make_plan(model, Paper(), PAIRS, PAIRS, TrainFlags())
    adapter = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    assert plan.weights == sum(p.numel() * 4 for p in model.parameters() if not p.requires_grad)
    assert (plan.adapter, plan.gradients, plan.optimizer) == (adapter, adapter, 2 * adapter)


def test_auto_recomputes_as_few_layers_as_the_memory_asks_for(model, monkeypatch):
    model = model(num_hidden_layers=6)
    monkeypatch.setattr(plan_module, "resident_memory", lambda: 0)
    monkeypatch.setattr(plan_module, "TOKENS_PER_BATCH", 1)  # scoring needs no more than training

    def plan(room, **flags):
        monkeypatch.setattr(plan_module, "free_memory", lambda device: room)
        return make_plan(model, Paper(), PAIRS, PAIRS, TrainFlags(**{"micro_batch_size": 8, **flags}))

    whole, least = plan(10**12, checkpointing="off"), plan(10**12, checkpointing="on")
    assert (whole.checkpointed, least.checkpointed) == (0, 6) and whole.training > least.training
    assert plan(10**12).checkpointed == 0
    counts = []
    step = (whole.peak - least.peak) // 12
    for peak in range(least.peak, whole.peak + step, step):
        found = plan(int(peak / plan_module.ROOM) + 2)
        counts.append(found.checkpointed)
        assert found.fits and found.peak <= peak + 2
    assert counts == sorted(counts, reverse=True) and set(counts) >= {0, 3, 6}
    assert not plan(1000).fits and plan(1000).checkpointed == 6


def test_pages_of_a_mapped_file_are_not_counted_twice(model, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "free_memory", lambda device: 10**10)  # as if nobody else took any
    size = 10**8
    (tmp_path / "file").write_bytes(bytes(size))
    flags = TrainFlags(micro_batch_size=1, checkpointing="on")
    before = make_plan(model(), Paper(), PAIRS, PAIRS, flags).room
    mapped = torch.from_file(str(tmp_path / "file"), size=size // 4, dtype=torch.float32)
    assert mapped.sum() == 0  # every page is read
    after = make_plan(model(), Paper(), PAIRS, PAIRS, flags).room
    assert mapped_memory() >= size and after - before < size / 2


def test_a_micro_batch_chosen_by_the_plan_is_large_with_much_memory_and_small_with_little(model, monkeypatch):
    model = model()
    monkeypatch.setattr(plan_module, "resident_memory", lambda: 0)
    monkeypatch.setattr(plan_module, "TOKENS_PER_BATCH", 1)  # scoring needs no more than training
    monkeypatch.setattr(plan_module, "pairs_per_batch", lambda vocabulary: 1)
    flags = TrainFlags(micro_batch_size=0, batch_size=9)
    monkeypatch.setattr(plan_module, "free_memory", lambda device: 10**12)
    assert make_plan(model, Paper(), PAIRS, PAIRS, flags).pairs == 8  # the most is shared there
    one = make_plan(model, Paper(), PAIRS, PAIRS, TrainFlags(micro_batch_size=1, checkpointing="on"))
    monkeypatch.setattr(plan_module, "free_memory", lambda device: int(one.peak / plan_module.ROOM) + 2)
    assert make_plan(model, Paper(), PAIRS, PAIRS, flags).pairs == 1


def test_the_longest_pairs_come_first_to_be_tried():
    assert longest_pairs(PAIRS, 3) == PAIRS[-3:]
    assert longest_pairs(PAIRS[::-1], 3) == PAIRS[-3:]


FEW = (
    "--data",
    "demo",
    "--shots",
    "4",
    "--batch-size",
    "2",
    "--micro-batch-size",
    "2",
    "--device",
    "cpu",
    "--max-steps",
    "1",
)


def test_plan_prints_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train.main([*FEW, "--plan", "--json"])
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert found["pairs"] == 2 and found["fits"] and found["peak"] >= found["training"] > found["weights"] > 7e6
    assert "at most while training" in output.err and "s a step" in output.err
    assert list(tmp_path.iterdir()) == []


def test_memory_that_is_too_small_is_said_before_step_1_beside_the_plan(tmp_path, monkeypatch):
    def fails(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(train, "accumulate_gradients", fails)
    with pytest.raises(
        RunError,
        match=r"(?s)before step 1: out of memory \(.*2.00 GiB\).*--micro-batch-size.*\nPlan for this cpu: 2 pairs",
    ) as caught:
        train.main([*FEW, "--out", str(tmp_path / "run")])
    assert "at most while training" in str(caught.value)
