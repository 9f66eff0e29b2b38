"""The path for GPUs on a pretend one: how often a step waits and copies, what is saved, and how the device is set."""

import collections
import json
import os
import sys

import pytest
import torch

import train
from bench.kill_resume import content
from errors import FlagError
from lora.inject import add_lora
from machine import gpu as gpus
from machine import memory
from machine.device import forked_rng, pick_device
from model.prefix_tree import masked_attention, prefix_tree
from objectives import paper
from tests.kill_points import small_run
from tests.pretend_cuda import BACK, COPY, COPY_LATER, MEMORY, NAME, WAITS, PretendCuda

OBJECTIVES = {
    "own": {},
    "shared": {"kl_forcing": "shared", "kl_cap": 5.0},
    "tallrec": {"objective": "tallrec"},
    "tallrec-prompt": {"objective": "tallrec", "train_on_prompt": True},
    "released": {"objective": "released"},
}
# Of each micro-batch: the trees, the targets, and the frequencies of the rotary embedding of each pass.
COPIES = dict.fromkeys(OBJECTIVES, 3) | {"released": 5}
MICRO_BATCHES = 2


@pytest.fixture
def gpu():
    with PretendCuda() as device:
        yield device


@pytest.fixture
def steps(gpu, monkeypatch):
    """steps(): what was written down in each step that was not followed by a validation."""
    starts, real = [], train.batch_of_step

    def begin(*args):
        starts.append(len(gpu.events))
        return real(*args)

    monkeypatch.setattr(train, "batch_of_step", begin)
    return lambda: [gpu.events[start:end] for start, end in zip(starts, starts[1:])]


def kinds(events):
    return collections.Counter(event.kind for event in events)


# ---- the loop -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # masked attention, and attention by runs
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_waits_once_and_copies_what_each_micro_batch_needs(tmp_path, steps, name, dtype):
    small_run(tmp_path / "run", device="cuda", eval_every=3, dtype=dtype, **OBJECTIVES[name])
    assert len(steps()) == 2
    for events in steps():
        assert kinds(events) == {COPY_LATER: COPIES[name] * MICRO_BATCHES, BACK: 1}, events
        assert [event.place.split(":")[0] for event in events if event.kind == BACK] == ["run/failures.py"]


ADDED = [
    (lambda loss: float(loss), WAITS),
    (lambda loss: bool(torch.isfinite(loss)), WAITS),
    (lambda loss: loss.view(1)[loss.view(1) > 0], WAITS),
    (lambda loss: torch.cuda.synchronize(), WAITS),
    (lambda loss: loss.cpu(), BACK),
    (lambda loss: loss.view(1).tolist(), BACK),
    (lambda loss: torch.zeros(2).to(loss.device), COPY),
    (lambda loss: torch.zeros(2).to(loss.device, non_blocking=True), COPY),  # not pinned
    (lambda loss: torch.tensor([1, 2], device=loss.device), COPY),
    (lambda loss: loss.expand(3)[torch.tensor([0, 1])], COPY),
]


def test_what_is_added_to_the_loop_is_noticed(tmp_path, gpu, steps, monkeypatch):
    real = paper.paper_loss

    def with_more(*args):
        loss = real(*args)
        for added, _ in ADDED:
            added(loss.detach())
        return loss

    monkeypatch.setattr(paper, "paper_loss", with_more)
    small_run(tmp_path / "run", device="cuda", eval_every=3)
    more = kinds(steps()[0]) - collections.Counter({COPY_LATER: COPIES["own"] * MICRO_BATCHES, BACK: 1})
    assert more == {kind: MICRO_BATCHES * count for kind, count in collections.Counter(k for _, k in ADDED).items()}
    for added, kind in ADDED:
        before = len(gpu.events)
        added(torch.ones((), device="cuda"))
        assert [event.kind for event in gpu.events[before:]] == [kind]


def test_the_pretend_gpu_refuses_what_a_gpu_refuses(gpu):
    here, there = torch.ones(3, device="cuda"), torch.ones(3)
    for wrong in (lambda: here + there, lambda: torch.cat((here, there)), lambda: there.add_(here)):
        with pytest.raises(RuntimeError, match="same device"):
            wrong()
    with pytest.raises(TypeError, match="numpy"):
        here.numpy()
    assert (here * torch.tensor(2.0)).device.type == "cuda" and not gpu.events  # a single number may be of the CPU
    torch.manual_seed(3)
    drawn = torch.rand(4, device="cuda").cpu()
    torch.manual_seed(3)
    torch.rand(9)  # of the CPU's generator, not the GPU's
    assert torch.equal(torch.rand(4, device="cuda").cpu(), drawn)


def test_a_limit_of_the_gpus_memory_counts_as_its_size(gpu, monkeypatch):
    device = torch.device("cuda:0")
    assert memory.free_memory(device) == MEMORY
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.25)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000)
    assert memory.free_memory(device) == MEMORY // 4 - 1_000


# ---- what is saved ------------------------------------------------------------------------------


def test_a_broken_run_goes_on_bitwise_with_the_gpus_own_dropout(tmp_path, gpu, monkeypatch):
    small_run(tmp_path / "whole", device="cuda")
    real, calls = train.accumulate_gradients, []

    def breaks(*args):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train, "accumulate_gradients", breaks)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "broken", device="cuda")
    torch.rand(5, device="cuda")
    small_run(tmp_path / "broken", device="cuda")
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    assert torch.equal(torch.cuda.get_rng_state(), gpu.random_state) and len(calls) == 4


def test_recomputed_layers_draw_the_same_masks_from_the_gpus_generator(tmp_path, gpu):
    small_run(tmp_path / "recomputed", device="cuda")
    small_run(tmp_path / "kept", device="cuda", recomputed=0)
    assert content(tmp_path / "kept") == content(tmp_path / "recomputed")


def test_a_gpu_that_the_run_does_not_use_is_not_asked_for_its_random_state(tmp_path, gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_rng_state", None)
    small_run(tmp_path / "run")
    assert not gpu.events


def test_without_dropout_the_pretend_gpu_computes_what_the_cpu_computes(tmp_path):
    found = []
    for name in ("cpu", "cuda"):
        with PretendCuda():
            small_run(tmp_path / name, device=name, lora_dropout=0.0)
        found.append([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    for on_cpu, on_gpu in zip(*found, strict=True):
        for key in ("loss", "ce_pos", "ce_neg", "kl", "grad_norm"):
            assert on_gpu[key] == pytest.approx(on_cpu[key], rel=1e-4, abs=1e-7)


# ---- compiling, attention, and how the device is set --------------------------------------------


def of_rows(model):
    """The tree of three rows with one answer position each."""
    rows = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 6, 0, 0], [1, 7, 8, 9, 0]])
    lengths = torch.tensor([5, 3, 4])
    return prefix_tree(model, rows, lengths, lengths[:, None] - 1)


def test_a_compiled_layer_is_one_graph(tiny_llama):
    """On the meta device, which takes the path of GPUs; each break in a layer would make another graph."""
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = tiny_llama(num_key_value_heads=2)
    add_lora(model, r=2, dropout=0.3)
    model.to("meta").train()
    for layer in model.model.layers:
        layer.compile(dynamic=True, backend=counting)  # as compile_layers does, which asks for triton first
    tree = of_rows(model)
    hidden = model.model(tree.input_ids, tree)
    assert hidden.shape == (3, 32) and hidden.requires_grad
    assert len(graphs) == len(model.model.layers)


@pytest.mark.parametrize("heads", [4, 2])
def test_attention_by_hand_and_the_fused_one_agree_on_the_gpu(gpu, heads):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, h, n, 8, generator=generator) for h, n in ((4, 5), (heads, 7), (heads, 7)))
    mask = torch.zeros(3, 1, 5, 7).masked_fill_(torch.rand(3, 1, 5, 7, generator=generator) < 0.4, float("-inf"))
    mask[..., 0] = 0
    wanted = masked_attention(q, k, v, mask)
    there = [part.to("cuda") for part in (q, k, v, mask)]
    fused = masked_attention(*there)
    torch.use_deterministic_algorithms(True)
    try:
        by_hand = masked_attention(*there)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(fused.cpu(), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(by_hand.cpu(), wanted)


def test_the_rows_of_a_mask_begin_at_multiples_of_8_on_a_gpu(gpu, tiny_llama):
    tree = of_rows(tiny_llama().to("cuda"))
    on_cpu = of_rows(tiny_llama())
    for queries, same in ((tree.all_tokens, on_cpu.all_tokens), (tree.selected_tokens, on_cpu.selected_tokens)):
        for group, wanted in zip(queries.attention.groups, same.attention.groups, strict=True):
            assert all(stride % 8 == 0 for stride in group.mask.stride()[:-1]) and group.mask.stride(-1) == 1
            assert torch.equal(group.mask.cpu(), wanted.mask) and wanted.mask.is_contiguous()


@pytest.fixture
def settings(monkeypatch):
    """The settings of the process as they are before any device is picked; they are put back."""
    monkeypatch.delenv(gpus.CUBLAS_WORKSPACE, raising=False)
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cuda.cudnn_sdp_enabled()
    reduced = matmul.allow_bf16_reduced_precision_reduction
    yield monkeypatch
    torch.use_deterministic_algorithms(False)
    matmul.allow_bf16_reduced_precision_reduction = reduced
    torch.backends.cuda.enable_cudnn_sdp(cudnn)


def test_a_gpu_is_made_the_current_one_and_told_how_to_compute(gpu, settings):
    chosen = []
    settings.setattr(torch.cuda, "set_device", chosen.append)
    assert str(pick_device("cuda:1")) == "cuda:1" and str(pick_device("auto")) == "cuda:0"
    assert [device.index for device in chosen] == [1, 0]
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.cudnn_sdp_enabled() and not torch.are_deterministic_algorithms_enabled()
    assert gpus.CUBLAS_WORKSPACE not in os.environ


@pytest.mark.parametrize("before, after", [(None, ":4096:8"), (":16:8", ":16:8"), (":4096:2", ":4096:8")])
def test_deterministic_sets_what_it_takes(gpu, settings, before, after):
    if before:
        settings.setenv(gpus.CUBLAS_WORKSPACE, before)
    pick_device("cuda", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and os.environ[gpus.CUBLAS_WORKSPACE] == after
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_cpu_needs_no_setting_to_be_deterministic(settings):
    pick_device("cpu", deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_only_the_generators_of_the_cpu_and_of_the_device_are_kept(gpu, settings):
    asked, state = [], gpu.random_state.clone()
    settings.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or gpu.random_state.clone())
    with forked_rng(torch.device("cuda:1")):
        torch.rand(3, device="cuda")
    assert asked == [torch.device("cuda:1")] and torch.equal(gpu.random_state, state)
    with forked_rng(torch.device("cpu")):
        torch.rand(3)
    assert len(asked) == 1


def test_mps_is_refused_with_its_reason():
    with pytest.raises(
        FlagError, match="^--device mps: PyTorch does not restore .* gradients would be wrong; say cpu$"
    ):
        pick_device("mps")


@pytest.mark.parametrize(
    "capability, precision, warned", [((7, 5), "bf16", 1), ((7, 0), "fp32", 0), ((8, 0), "bf16", 0)]
)
def test_a_gpu_that_emulates_bf16_is_named(gpu, settings, capsys, capability, precision, warned):
    settings.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gpus.warn_of_emulation(torch.device("cuda:0"), precision)
    gpus.warn_of_emulation(torch.device("cpu"), precision)
    assert capsys.readouterr().err.count(f"WARNING: {NAME} has no arithmetic in bf16") == warned


def test_the_allocator_may_grow_its_segments_unless_the_user_says_otherwise(settings):
    for name in memory.GPU_ALLOCATOR:
        settings.delenv(name, raising=False)
    memory.keep_freed_memory()
    assert os.environ.get("PYTORCH_CUDA_ALLOC_CONF") == (
        "expandable_segments:True" if sys.platform == "linux" else None
    )
    settings.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    settings.setenv("PYTORCH_ALLOC_CONF", "backend:native")
    memory.keep_freed_memory()
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ
