"""LoRA: a fresh adapter changes nothing, only A and B train, merging keeps the logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from errors import AdapterError
from lora.dropout import bernoulli
from lora.inject import add_lora, lora_layers
from lora.layer import LoRALinear
from tensors import trainable_parameters

IDS = torch.tensor([[1, 5, 22, 0, 13, 7], [9, 9, 2, 4, 11, 3]])
SETTINGS = {
    "r": 4,
    "alpha": 6,
    "dropout": 0.1,
    "rslora": False,
    "targets": ("v_proj", "q_proj"),
    "base": "some/llama",
    "base_fingerprint": "ab" * 32,
}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapted(model, seed=0, **changes):
    """The model with LoRA layers by SETTINGS, A and B random."""
    settings = {**SETTINGS, **changes}
    add_lora(model, *(settings[name] for name in ("targets", "r", "alpha", "dropout", "rslora")))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def loss_of(model):
    return F.cross_entropy(model(IDS).float().flatten(0, 1), IDS.flip(1).flatten())


# ---- the layer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_fresh_adapter_changes_no_logit(tiny_llama, dtype, training):
    model = tiny_llama().to(dtype)
    before = model(IDS)
    add_lora(model, LINEARS, r=8, alpha=16, dropout=0.5)
    assert torch.equal(model.train(training)(IDS), before)


def test_a_is_uniform_within_one_over_sqrt_in_and_b_is_zero():
    layer = LoRALinear(nn.Linear(400, 30, bias=False), r=64, alpha=16, dropout=0.0)
    bound = 1 / 400**0.5
    assert layer.lora_A.shape == (64, 400) and layer.lora_B.shape == (30, 64)
    assert 0.999 * bound < layer.lora_A.abs().max() <= bound
    # 25,600 uniform draws: the standard deviation is bound / sqrt(3) within 1 %.
    assert layer.lora_A.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not layer.lora_B.any()


def test_output_is_w_x_plus_alpha_over_r_b_a_x_by_hand():
    layer = LoRALinear(nn.Linear(2, 2, bias=False), r=2, alpha=6, dropout=0.0)
    with torch.no_grad():
        layer.base.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        layer.lora_A.copy_(torch.tensor([[1.0, -1.0], [0.0, 1.0]]))
        layer.lora_B.copy_(torch.tensor([[0.5, 0.0], [2.0, 1.0]]))
    # W x = (1*2 + 2*5, 3*2 + 4*5) = (12, 26); A x = (2 - 5, 5) = (-3, 5);
    # B A x = (0.5*-3, 2*-3 + 5) = (-1.5, -1); alpha / r = 3.
    assert layer(torch.tensor([2.0, 5.0])).tolist() == [12 - 4.5, 26 - 3]


def test_output_equals_merged_weights_in_float64():
    torch.manual_seed(0)
    layer, x = (
        LoRALinear(nn.Linear(7, 5, bias=False), r=3, alpha=2, dropout=0.0).double(),
        torch.randn(4, 6, 7).double(),
    )
    nn.init.normal_(layer.lora_B)
    merged = layer.base.weight + 2 / 3 * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer(x), x @ merged.T, rtol=0, atol=1e-12)


def test_dropout_applies_only_to_the_low_rank_path_and_only_in_training():
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(1000, 3, bias=False), r=2, alpha=2, dropout=0.25)
    nn.init.normal_(layer.lora_B)
    x = torch.ones(1000)
    torch.manual_seed(5)
    kept = x * bernoulli(x, 0.75) / 0.75
    torch.manual_seed(5)
    expected = layer.base(x) + layer.lora_B @ (layer.lora_A @ kept)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.eval()(x), layer.base(x) + layer.lora_B @ (layer.lora_A @ x))
    assert not torch.allclose(layer(x), expected)


def test_rslora_divides_by_the_root_of_r():
    layer = LoRALinear(nn.Linear(3, 3, bias=False), r=9, alpha=6, dropout=0.0, rslora=True)
    assert layer.scaling == pytest.approx(2.0)


# ---- injection ----------------------------------------------------------------------------------


def test_only_a_and_b_of_the_targets_are_trained(tiny_llama):
    model = tiny_llama(num_key_value_heads=2)
    count = add_lora(model, ("q_proj", "v_proj"), r=4)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    expected = {
        f"model.layers.{i}.self_attn.{target}.lora_{side}": 4 * (32 if side == "A" else width)
        for i in range(2)
        for target, width in (("q_proj", 32), ("v_proj", 16))
        for side in "AB"
    }
    assert trained == expected and count == sum(expected.values())


@pytest.mark.parametrize("checkpointed_layers", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_b_moves_after_a_step_and_every_a_after_two(tiny_llama, dtype, checkpointed_layers):
    model = tiny_llama().to(dtype)
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_lora(model)
    model.model.checkpointed_layers = checkpointed_layers
    start = [parameter.detach().clone() for parameter in trainable_parameters(model).values()]
    optimizer = torch.optim.SGD(list(trainable_parameters(model).values()), lr=1.0)
    for step in range(2):
        optimizer.zero_grad()
        loss_of(model.train()).backward()
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        optimizer.step()
        moved = [not torch.equal(p, old) for p, old in zip(list(trainable_parameters(model).values()), start)]
        # B starts at zero, so A has no gradient in the first step.
        assert moved == [step == 1, True] * 4
    after = {name.replace(".base.", "."): tensor for name, tensor in model.state_dict().items() if "lora_" not in name}
    assert after.keys() == frozen.keys() and all(torch.equal(after[name], frozen[name]) for name in frozen)


def test_masters_stay_float32_over_a_bf16_base(tiny_llama):
    model = tiny_llama().bfloat16()
    add_lora(model)
    assert {p.dtype for p in trainable_parameters(model).values()} == {torch.float32} and model(
        IDS
    ).dtype == torch.bfloat16
    loss_of(model).backward()
    B = list(trainable_parameters(model).values())[1]
    assert B.grad.dtype == torch.float32
    with torch.no_grad():
        B.fill_(1.0).sub_(1e-4)  # bf16 has no number between 1 and 1 - 2^-8
    assert (B != 1.0).all()


def test_adding_lora_keeps_evaluation_mode(tiny_llama):
    model = tiny_llama().eval()
    add_lora(model, dropout=0.9)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("targets, unknown", [(("q_proj", "v_porj"), "v_porj"), (("proj",), "proj"), ((), "nothing")])
def test_unknown_target_lists_the_known_ones(tiny_llama, targets, unknown):
    model = tiny_llama()
    with pytest.raises(AdapterError) as caught:
        add_lora(model, targets)
    known = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert unknown in str(caught.value) and str(caught.value).endswith(known)
    assert not list(lora_layers(model))


def test_a_target_may_be_the_end_of_a_path(tiny_llama):
    model = tiny_llama()
    add_lora(model, ("layers.1.self_attn.q_proj", "mlp.up_proj"), r=2, alpha=2, dropout=0.0)
    found = {name for name, _ in lora_layers(model)}
    assert found == {"model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"}
    refusal(lambda: add_lora(tiny_llama(), ("elf_attn.q_proj",)), "elf_attn.q_proj", "q_proj")


def refusal(action, *words):
    with pytest.raises(AdapterError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


# ---- merge --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rslora", [False, True])
def test_merged_logits_are_those_of_the_adapter(tiny_llama, rslora):
    model = adapted(tiny_llama(), targets=LINEARS, rslora=rslora)
    expected = model(IDS)
    for name, layer in list(lora_layers(model)):
        merged = nn.Linear(layer.base.in_features, layer.base.out_features, bias=False)
        merged.weight.data = layer.merged(layer.base.weight)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, merged)
    assert not list(lora_layers(model))
    torch.testing.assert_close(model(IDS), expected, rtol=0, atol=2e-5)


def test_merged_weight_is_rounded_once():
    base = nn.Linear(2, 1, bias=False).bfloat16()
    base.weight.data = torch.tensor([[1.0, 1.0]]).bfloat16()
    layer = LoRALinear(base, r=1, alpha=1, dropout=0.0)
    # bf16 has 8 bits: 1 + 2^-9 is rounded to 1, 1 + 3 * 2^-9 up to 1 + 2^-7.
    layer.lora_A.data, layer.lora_B.data = torch.tensor([[2.0**-9, 3 * 2.0**-9]]), torch.tensor([[1.0]])
    assert layer.merged(base.weight).tolist() == [[1.0, 1.0 + 2.0**-7]]
    assert base.weight.tolist() == [[1.0, 1.0]]
