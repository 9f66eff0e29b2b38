"""The path for GPUs on a pretend one: how often a step waits and copies, what is saved, and how the device is set."""

import collections
import json
import os

import pytest
import torch

import objectives
import train
from bench.kill_resume import content
from errors import FlagError, RunError
from machine import device as devices
from machine import gpu as gpus
from machine.device import compile_layers, pick_device
from model.prefix_tree import masked_attention, prefix_tree
from tests.kill_points import small_run
from tests.pretend_cuda import BACK, COPY, COPY_LATER, NAME, WAITS, PretendCuda

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


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_waits_once_and_copies_what_each_micro_batch_needs(tmp_path, steps, name):
    small_run(tmp_path / "run", device="cuda", eval_every=3, **OBJECTIVES[name])
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
    real = objectives.paper_loss

    def with_more(*args):
        loss = real(*args)
        for added, _ in ADDED:
            added(loss.detach())
        return loss

    monkeypatch.setattr(objectives, "paper_loss", with_more)
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
