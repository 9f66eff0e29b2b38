"""Resume state: a restored run goes on bit for bit; two generations are kept; damage is named."""

import copy
import hashlib
import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from errors import AdapterError, RunError
from lora.inject import add_lora, lora_state
from run.checkpoint import generations, load_state, save_state
from run.progress import Progress
from tensors import trainable_parameters

PROGRESS = Progress(step=3, best_value=0.625, best_step=2, since_best=1)


@pytest.fixture
def start(tiny_llama):
    """start(): a model with LoRA and dropout, and its optimizer, the same every time."""

    def build(r=2):
        model = tiny_llama()
        torch.manual_seed(5)
        add_lora(model, r=r, alpha=4, dropout=0.5)
        return model, torch.optim.AdamW(list(trainable_parameters(model).values()), lr=0.01, weight_decay=0.1)

    return build


def step(model, optimizer):
    """An update that depends on the data, the moments and the dropout's random state."""
    model.train()
    loss = model(torch.tensor([[1, 5, 9, 4]])).logsumexp(-1).sum() - model(torch.tensor([[1, 7, 3]])).sum() / 100
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def test_a_restored_state_goes_on_bit_for_bit(start, tmp_path):
    model, optimizer = start()
    for _ in range(3):
        step(model, optimizer)
    save_state(tmp_path / "last", model, optimizer, PROGRESS)
    losses = [step(model, optimizer) for _ in range(3)]
    final = {name: tensor.clone() for name, tensor in lora_state(model).items()}

    other, other_optimizer = start()
    torch.manual_seed(99)
    assert load_state(tmp_path / "last", other, other_optimizer) == PROGRESS
    assert [step(other, other_optimizer) for _ in range(3)] == losses
    for name, tensor in lora_state(other).items():
        assert torch.equal(tensor, final[name]), name


@pytest.mark.parametrize("part", ["optimizer", "rng"])
def test_every_part_of_the_state_matters_to_what_follows(start, tmp_path, part):
    model, optimizer = start()
    for _ in range(3):
        step(model, optimizer)
    save_state(tmp_path, model, optimizer, PROGRESS)
    step(model, optimizer)
    second, second_optimizer = start()
    fresh_moments = copy.deepcopy(second_optimizer.state_dict())
    load_state(tmp_path, second, second_optimizer)
    if part == "optimizer":
        second_optimizer.load_state_dict(fresh_moments)
    else:
        torch.manual_seed(1)
    step(second, second_optimizer)
    same = [torch.equal(a, b) for a, b in zip(lora_state(model).values(), lora_state(second).values())]
    assert not all(same)


def test_the_restored_moments_and_random_state_are_those_that_were_saved(start, tmp_path):
    model, optimizer = start()
    step(model, optimizer)
    rng = torch.get_rng_state()
    save_state(tmp_path, model, optimizer, PROGRESS)
    other, other_optimizer = start()
    load_state(tmp_path, other, other_optimizer)
    assert torch.equal(torch.get_rng_state(), rng)
    wanted, found = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert wanted.keys() == found.keys() and len(wanted) == len(trainable_parameters(model))
    for index in wanted:
        assert {name: value.dtype for name, value in wanted[index].items()} == {
            n: v.dtype for n, v in found[index].items()
        }
        assert all(torch.equal(wanted[index][name], found[index][name]) for name in wanted[index])


def test_only_the_two_newest_generations_are_kept(start, tmp_path):
    model, optimizer = start()
    for number in (10, 20, 100):
        save_state(tmp_path, model, optimizer, replace(PROGRESS, step=number))
    assert [path.name for path in generations(tmp_path)] == ["step-00000100", "step-00000020"]
    assert sorted(os.listdir(tmp_path)) == ["step-00000020", "step-00000100"]
    assert load_state(tmp_path, model, optimizer).step == 100


def test_a_state_that_was_not_finished_is_not_a_generation(start, tmp_path, monkeypatch):
    model, optimizer = start()
    save_state(tmp_path, model, optimizer, replace(PROGRESS, step=10))

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, model, optimizer, replace(PROGRESS, step=20))
    assert load_state(tmp_path, model, optimizer).step == 10


def test_saving_the_same_step_again_replaces_it(start, tmp_path):
    model, optimizer = start()
    save_state(tmp_path, model, optimizer, replace(PROGRESS, since_best=1))
    save_state(tmp_path, model, optimizer, replace(PROGRESS, since_best=5))
    assert load_state(tmp_path, model, optimizer).since_best == 5


@pytest.mark.parametrize(
    "name",
    [
        "trained.safetensors",
        "optimizer.safetensors",
        "rng.safetensors",
        "best.safetensors",
        "step.json",
        "manifest.json",
    ],
)
@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped"])
def test_a_damaged_generation_is_named_and_the_one_before_serves(start, tmp_path, capsys, name, damage):
    best = tmp_path / "best"
    model, optimizer = start()
    for number in (10, 20):
        best.write_bytes(b"best at %d" % number)
        save_state(tmp_path, model, optimizer, replace(PROGRESS, step=number), best)
        step(model, optimizer)
    newest = tmp_path / "step-00000020"
    content = bytearray((newest / name).read_bytes())
    content[-3] ^= 1
    (newest / name).write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    if damage == "missing":
        (newest / name).unlink()
    assert load_state(tmp_path, *start(), best).step == 10
    said = capsys.readouterr().err
    assert said.startswith(f"{newest}: damaged, ") and "resuming from step-00000010" in said
    assert name in said or name == "manifest.json"  # its own damage shows in the file that it speaks of
    assert best.read_bytes() == b"best at 10"


def test_where_all_are_damaged_each_is_named(start, tmp_path):
    for number in (10, 20):
        save_state(tmp_path, *start(), replace(PROGRESS, step=number))
    (tmp_path / "step-00000010" / "rng.safetensors").unlink()
    (tmp_path / "step-00000020" / "step.json").write_text("{}")
    with pytest.raises(
        RunError,
        match=r"no whole state .*step-00000020: damaged, step.json .*; step-00000010: damaged, rng.safetensors is mis",
    ):
        load_state(tmp_path, *start())


def test_a_damaged_later_state_does_not_outlive_the_next_save(start, tmp_path):
    for number in (10, 20):
        save_state(tmp_path, *start(), replace(PROGRESS, step=number))
    (tmp_path / "step-00000020" / "rng.safetensors").unlink()
    model, optimizer = start()
    assert load_state(tmp_path, model, optimizer).step == 10
    save_state(tmp_path, model, optimizer, replace(PROGRESS, step=15))
    assert [path.name for path in generations(tmp_path)] == ["step-00000015", "step-00000010"]


def test_the_best_adapter_is_put_back_as_it_was_even_if_there_was_none(start, tmp_path):
    best = tmp_path / "best"
    save_state(tmp_path, *start(), replace(PROGRESS, step=10), best)
    best.write_bytes(b"of a later step")
    load_state(tmp_path, *start(), best)
    assert not best.exists()
    best.write_bytes(b"of step 20")
    save_state(tmp_path, *start(), replace(PROGRESS, step=20), best)
    best.unlink()
    load_state(tmp_path, *start(), best)
    assert best.read_bytes() == b"of step 20"


def test_a_state_of_version_0_1_is_read(start, tmp_path):
    """It held the adapter under PEFT's names in adapter.safetensors."""
    model, optimizer = start()
    step(model, optimizer)
    save_state(tmp_path, model, optimizer, PROGRESS)
    folder = tmp_path / "step-00000003"
    trained, expected = load_file(folder / "trained.safetensors"), step(model, optimizer)
    (folder / "trained.safetensors").unlink()
    save_file(
        {f"base_model.model.{name}.weight": tensor for name, tensor in trained.items()}, folder / "adapter.safetensors"
    )
    manifest, content = (
        json.loads((folder / "manifest.json").read_text()),
        (folder / "adapter.safetensors").read_bytes(),
    )
    del manifest["trained.safetensors"]
    manifest["adapter.safetensors"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    other, other_optimizer = start()
    assert load_state(tmp_path, other, other_optimizer) == PROGRESS
    assert step(other, other_optimizer) == expected
    for name, tensor in lora_state(model).items():
        assert torch.equal(tensor, lora_state(other)[name]), name


def test_a_state_of_another_rank_is_refused_by_its_tensors(start, tmp_path):
    save_state(tmp_path, *start(r=2), PROGRESS)
    with pytest.raises(AdapterError, match=r"step-00000003: its tensors do not fit the model: .*is \[(2, 32|32, 2)\]"):
        load_state(tmp_path, *start(r=3))


def test_a_run_that_saved_no_state_starts_at_the_beginning(start, tmp_path):
    assert load_state(tmp_path / "last", *start()) is None


def test_the_state_holds_no_pickle(start, tmp_path):
    model, optimizer = start()
    step(model, optimizer)
    save_state(tmp_path, model, optimizer, PROGRESS)
    files = sorted(path.name for path in (tmp_path / "step-00000003").iterdir())
    assert files == ["manifest.json", "optimizer.safetensors", "rng.safetensors", "step.json", "trained.safetensors"]
