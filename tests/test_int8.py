"""The int8 base: rounding, products, gradients and memory, and that training and scoring work on it."""

import json
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import eval as eval_verb
import train
from auditing.tail import Tail
from cli.verb import run_verb
from data.sources.stand_in import stand_in
from data.sources.tallrec import write_split
from errors import CheckpointError
from lora.inject import add_lora
from lora.layer import LoRALinear
from model.int8 import Int8Linear, quantise
from model.weights import load_llama
from tensors import trainable_parameters

IDS = torch.tensor([[1, 5, 22, 0, 13, 7], [9, 9, 2, 4, 11, 3]])
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def dequantised(layer):
    """S q as float64, element by element from what the layer holds."""
    return layer.weight.double() * layer.scale.double()[:, None]


def plain_twin(model):
    """The model with every Int8Linear replaced by the nn.Linear that it stands for."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Int8Linear):
                linear = nn.Linear(child.in_features, child.out_features, bias=False)
                linear.weight = nn.Parameter(dequantised(child).float(), requires_grad=False)
                setattr(module, name, linear)
    return model


# ---- the layer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_element_is_off_by_half_a_step_at_most_and_the_largest_of_a_row_is_127(dtype):
    weight = random(300, 40, dtype=dtype) * random(300, 1, seed=1, dtype=dtype).exp()
    weight[::2] *= -1
    q, scale = quantise(weight)
    assert q.dtype == torch.int8 and q.shape == weight.shape and scale.shape == (300,)
    error = (weight.double() - q.double() * scale.double()[:, None]).abs()
    step = scale.double()[:, None]
    assert (error <= step / 2 * (1 + 1e-5)).all() and (error > step / 4).float().mean() > 0.4  # uniform within the step
    largest = weight.double().abs().amax(1)
    assert torch.equal(q.abs().amax(1), torch.full((300,), 127, dtype=torch.int8))
    torch.testing.assert_close(scale.double(), largest / 127, rtol=1 / 256, atol=0)
    assert torch.equal(q.sign()[q != 0], weight.sign()[q != 0].to(torch.int8))


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-40, 1.3e-38, 1e-36, 1e-30, 3e38])
def test_rows_of_zeros_tiny_and_huge_values_are_within_their_step(size):
    weight = torch.linspace(-1, 1, 41).repeat(3, 1) * size
    weight[1] = 1
    layer = Int8Linear(weight)
    assert ((weight.double() - dequantised(layer)).abs() <= layer.scale.double()[:, None] / 2 * (1 + 1e-5)).all()
    assert torch.isfinite(layer(torch.eye(41))).all() and (size or not layer(torch.eye(41))[:, [0, 2]].any())


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize("shape", [(7, 40), (2, 5, 40), (40,)])
def test_product_and_gradient_are_those_of_the_dequantised_matrix_in_float64(dtype, rtol, shape):
    layer = Int8Linear(random(30, 40))
    x = random(*shape, seed=1, dtype=dtype).requires_grad_()
    y = layer(x)
    grad = random(*y.shape, seed=2, dtype=dtype)
    y.backward(grad)
    expected, expected_grad = x.detach().double() @ dequantised(layer).T, grad.double() @ dequantised(layer)
    assert y.dtype == x.grad.dtype == dtype
    for actual, exact in ((y, expected), (x.grad, expected_grad)):
        # Rounding errors scale with the sum of magnitudes, whatever cancels: here with the largest entry.
        torch.testing.assert_close(actual.double(), exact, rtol=0, atol=float(exact.abs().max()) * rtol)


def test_autograd_agrees_with_difference_quotients():
    layer = Int8Linear(random(5, 6)).double()
    assert layer.weight.dtype == torch.int8  # .double() leaves it
    assert torch.autograd.gradcheck(layer, (random(3, 6, seed=1, dtype=torch.float64).requires_grad_(),))


def test_it_holds_a_byte_for_each_weight_and_the_backward_pass_keeps_nothing_else():
    layer = Int8Linear(random(64, 96, dtype=torch.bfloat16))
    assert sum(parameter.nbytes for parameter in layer.parameters()) == 64 * 96 + 64 * 2
    assert not any(parameter.requires_grad for parameter in layer.parameters()) and not layer.state_dict().keys() - {
        "weight",
        "scale",
    }
    own, kept = {parameter.data_ptr() for parameter in layer.parameters()}, []
    x = random(3, 96, dtype=torch.bfloat16).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = layer(x)
    assert kept and {tensor.data_ptr() for tensor in kept} <= own
    y.sum().backward()
    assert x.grad.any()


# ---- loading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "checkpoint",
    [
        {},
        {"tie_word_embeddings": True, "shards": 3, "num_key_value_heads": 2},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_gives_the_stored_matrices_quantised_and_the_rest_as_ever(make_checkpoint, checkpoint, dtype):
    folder = make_checkpoint(**checkpoint)
    stored = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    model, plain = load_llama(folder, dtype, int8=True), load_llama(folder, dtype)
    names = {name for name, module in model.named_modules() if isinstance(module, Int8Linear)}
    assert (
        names == {name.removesuffix(".weight") for name in stored if name.split(".")[-2] in LINEARS}
        and len(names) == 14
    )
    for name, module in model.named_modules():
        if name in names:
            q, scale = quantise(stored[f"{name}.weight"])
            assert torch.equal(module.weight, q) and torch.equal(module.scale, scale)
    same = [name for name in plain.state_dict() if name.removesuffix(".weight") not in names]
    assert len(same) == 7 and all(torch.equal(plain.state_dict()[name], model.state_dict()[name]) for name in same)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == bool(checkpoint.get("tie_word_embeddings"))
    assert not any(parameter.requires_grad for parameter in model.parameters()) and not any(
        parameter.is_meta for parameter in model.parameters()
    )
    assert model(IDS).dtype == dtype
    off = (model(IDS) - plain(IDS)).float().abs()
    assert 0 < off.mean() < 0.05 * plain(IDS).float().std()


def test_logits_are_those_of_a_plain_model_with_the_dequantised_weights(make_checkpoint):
    folder = make_checkpoint(num_key_value_heads=2)
    model, twin = load_llama(folder, torch.float32, int8=True), plain_twin(load_llama(folder, torch.float32, int8=True))
    torch.testing.assert_close(model(IDS), twin(IDS), rtol=0, atol=2e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_damaged_matrix_is_refused_before_it_is_quantised(make_checkpoint, bad):
    folder = make_checkpoint()
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].clone()
    tensors[name][3, 4] = bad
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} has NaN or infinite"):
        load_llama(folder, torch.bfloat16, int8=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_same_numbers(make_checkpoint):
    folder = make_checkpoint()
    model, on_gpu = load_llama(folder, torch.float32, int8=True), load_llama(folder, torch.float32, "cuda", int8=True)
    for name, tensor in on_gpu.state_dict().items():
        assert tensor.device.type == "cuda" and torch.equal(tensor.cpu(), model.state_dict()[name])
    torch.testing.assert_close(on_gpu(IDS.cuda()).cpu(), model(IDS), rtol=0, atol=1e-3)


# ---- LoRA on top --------------------------------------------------------------------------------


def adapted(model):
    torch.manual_seed(4)
    add_lora(model, LINEARS, r=3, dropout=0.0)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.train()


@pytest.mark.parametrize("checkpointed_layers", [0, 2])
def test_lora_has_the_gradients_that_it_has_over_the_dequantised_weights(make_checkpoint, checkpointed_layers):
    folder = make_checkpoint(num_key_value_heads=2)
    gradients = []
    for model in (
        load_llama(folder, torch.float32, int8=True),
        plain_twin(load_llama(folder, torch.float32, int8=True)),
    ):
        adapted(model).model.checkpointed_layers = checkpointed_layers
        assert len([module for module in model.modules() if isinstance(module, LoRALinear)]) == 14
        F.cross_entropy(model(IDS).flatten(0, 1), IDS.flip(1).flatten()).backward()
        gradients.append([parameter.grad for parameter in trainable_parameters(model).values()])
        assert all(parameter.grad is None for name, parameter in model.named_parameters() if "lora" not in name)
    for gradient, expected in zip(*gradients):
        assert expected.any()
        torch.testing.assert_close(gradient, expected, rtol=0, atol=float(expected.abs().max()) * 1e-4)


def test_the_float64_tail_of_the_audit_computes_with_the_same_weights(make_checkpoint):
    model = adapted(load_llama(make_checkpoint(), torch.float32, int8=True)).eval()
    tail = Tail(model, IDS)
    assert tail.logits().dtype == torch.float64
    torch.testing.assert_close(tail.logits().float(), model(IDS), rtol=0, atol=2e-5)


# ---- the flag -----------------------------------------------------------------------------------


def test_a_run_records_the_flag_and_is_scored_with_it(tmp_path, capsys, monkeypatch):
    rows, data, out = tmp_path / "rows", stand_in(), tmp_path / "run"
    rows.mkdir()
    for split, count in (("train", 8), ("valid", 16), ("test", 16)):
        write_split(rows / f"{split}.json", getattr(data, split)[:count], data)
    common = ["--data", str(rows), "--device", "cpu", "--precision", "fp32"]
    train.main(
        [
            *common,
            "--shots",
            "8",
            "--max-steps",
            "2",
            "--batch-size",
            "4",
            "--base-dtype",
            "int8",
            "--out",
            str(out),
            "--merge-out",
            str(tmp_path / "merged"),
        ]
    )
    assert "own weights are merged, not their int8 form" in capsys.readouterr().err
    assert json.loads((out / "config.json").read_text())["flags"]["base_dtype"] == {"value": "int8", "source": "flag"}
    trained = json.loads((out / "results.json").read_text())["test"]["after"]

    def scored(*argv):
        eval_verb.main([*argv, "--device", "cpu", "--json", "--out", str(tmp_path / "eval")])
        predictions = (tmp_path / "eval/predictions.csv").read_text()
        return json.loads(capsys.readouterr().out), predictions

    results, predictions = scored("--run", str(out))
    assert results["auc"] == trained["auc"] and predictions == (out / "predictions.csv").read_text()
    assert scored("--run", str(out), "--base-dtype", "same")[1] != predictions
    assert (
        scored(
            "--model", "demo", "--adapter", str(out), "--data", str(rows), "--precision", "fp32", "--base-dtype", "int8"
        )[1]
        == predictions
    )
    assert load_llama(tmp_path / "merged", torch.float32)(IDS).isfinite().all()

    monkeypatch.setattr(sys, "argv", ["train.py", "--resume", "--out", str(out), "--base-dtype", "same"])
    with pytest.raises(SystemExit) as stopped:
        run_verb(train.main)
    assert stopped.value.code == 2 and "--base-dtype same: the run in" in capsys.readouterr().err
