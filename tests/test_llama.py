"""The LLaMA against a naive one in float64: loops over heads and positions, rotation by complex numbers."""

import cmath
import math

import pytest
import torch
import torch.nn.functional as F

from lora.inject import add_lora
from model.llama import RMSNorm, RopeScaling, rope_frequencies
from tensors import trainable_parameters

VARIANTS = {
    "mha": {},
    "gqa": {"num_key_value_heads": 2},
    "one key/value head": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "head_dim is not hidden_size / heads": {"head_dim": 10, "num_key_value_heads": 2},
    "another theta and eps": {"rope_theta": 500000.0, "rms_norm_eps": 0.5},
    "linear": {"rope_scaling": RopeScaling("linear", 4.0)},
    "dynamic, past the trained context": {"rope_scaling": RopeScaling("dynamic", 2.0), "max_position_embeddings": 7},
    "dynamic, within it": {"rope_scaling": RopeScaling("dynamic", 2.0), "max_position_embeddings": 12},
    # With theta 100 the wavelengths are 6, 20, 63 and 199: one is kept, two blended, one stretched.
    "llama3": {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 64)},
}
IDS = [1, 22, 3, 3, 17, 0, 9, 14, 5, 11, 2, 8]


# ---- the naive LLaMA ----------------------------------------------------------------------------


def naive_frequencies(config, length):
    """Radians per token of each pair of components, one at a time, as the papers write them."""
    theta, Dh, scaling, trained = (
        config.rope_theta,
        config.head_dim,
        config.rope_scaling,
        config.max_position_embeddings,
    )
    if scaling and scaling.kind == "dynamic":
        context = max(length, trained)
        theta *= (scaling.factor * context / trained - (scaling.factor - 1)) ** (Dh / (Dh - 2))
    frequencies = [theta ** (-2 * i / Dh) for i in range(Dh // 2)]
    if scaling and scaling.kind == "linear":
        return [f / scaling.factor for f in frequencies]
    if scaling and scaling.kind == "llama3":
        return [llama3_frequency(f, scaling) for f in frequencies]
    return frequencies


def llama3_frequency(f, scaling):
    wavelength, trained = 2 * math.pi / f, scaling.original_max_position_embeddings
    if wavelength < trained / scaling.high_freq_factor:
        return f
    if wavelength > trained / scaling.low_freq_factor:
        return f / scaling.factor
    smooth = (trained / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return (1 - smooth) * f / scaling.factor + smooth * f


def turn(vector, position, frequencies):
    """Components i and i + Dh/2 as one complex number, multiplied by exp(i position frequency)."""
    half = len(vector) // 2
    numbers = [complex(vector[i], vector[i + half]) * cmath.exp(1j * position * frequencies[i]) for i in range(half)]
    return torch.tensor([z.real for z in numbers] + [z.imag for z in numbers], dtype=torch.float64)


def norm(x, weight, eps):
    return x / math.sqrt(sum(float(v) ** 2 for v in x) / len(x) + eps) * weight


def naive_attention(xs, w, config, frequencies):
    Dh, shared_by = config.head_dim, config.num_attention_heads // config.num_key_value_heads
    heads = []
    for head in range(config.num_attention_heads):
        own, group = slice(head * Dh, (head + 1) * Dh), slice(head // shared_by * Dh, (head // shared_by + 1) * Dh)
        q = [turn(w["q_proj"][own] @ x, t, frequencies) for t, x in enumerate(xs)]
        k = [turn(w["k_proj"][group] @ x, t, frequencies) for t, x in enumerate(xs)]
        v = [w["v_proj"][group] @ x for x in xs]
        read = []
        for t in range(len(xs)):
            scores = [math.exp(float(q[t] @ k[s]) / math.sqrt(Dh)) for s in range(t + 1)]
            read.append(sum(scores[s] / sum(scores) * v[s] for s in range(t + 1)))
        heads.append(read)
    return [w["o_proj"] @ torch.cat([read[t] for read in heads]) for t in range(len(xs))]


def naive_logits(model, ids):
    """(T, V) float64 logits of one row."""
    config, weights = model.config, {name: tensor.double() for name, tensor in model.state_dict().items()}
    frequencies = naive_frequencies(config, len(ids))
    xs = [weights["model.embed_tokens.weight"][i] for i in ids]
    for i in range(config.num_hidden_layers):
        prefix = f"model.layers.{i}."
        w = {name.split(".")[-2]: t for name, t in weights.items() if name.startswith(prefix)}
        read = naive_attention([norm(x, w["input_layernorm"], config.rms_norm_eps) for x in xs], w, config, frequencies)
        xs = [x + y for x, y in zip(xs, read)]
        normed = [norm(x, w["post_attention_layernorm"], config.rms_norm_eps) for x in xs]
        gates = [w["gate_proj"] @ y for y in normed]
        xs = [x + w["down_proj"] @ (g / (1 + torch.exp(-g)) * (w["up_proj"] @ y)) for x, y, g in zip(xs, normed, gates)]
    xs = [norm(x, weights["model.norm.weight"], config.rms_norm_eps) for x in xs]
    return torch.stack([weights["lm_head.weight"] @ x for x in xs])


# ---- the tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_the_naive_implementation(tiny_llama, name):
    model = tiny_llama(**VARIANTS[name])
    expected = naive_logits(model, IDS)
    assert expected.std() > 0.5
    with torch.no_grad():
        torch.testing.assert_close(model(torch.tensor([IDS]))[0].double(), expected, rtol=1e-5, atol=1e-5)
        # In float64 only the float32 angles are left to differ.
        torch.testing.assert_close(model.double()(torch.tensor([IDS]))[0], expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["linear", "dynamic, past the trained context", "llama3"])
def test_every_scaling_changes_the_frequencies_as_published(tiny_llama, name):
    config = tiny_llama(**VARIANTS[name]).config
    frequencies = rope_frequencies(config, len(IDS))
    expected = torch.tensor(naive_frequencies(config, len(IDS)))
    torch.testing.assert_close(frequencies, expected, rtol=1e-6, atol=0)
    assert not torch.allclose(frequencies, torch.tensor([100.0 ** (-2 * i / 8) for i in range(4)]), rtol=1e-3)


def test_rows_of_a_batch_do_not_see_each_other(tiny_llama):
    model = tiny_llama(num_key_value_heads=2).double()
    both = model(torch.tensor([IDS, IDS[::-1]]))
    torch.testing.assert_close(both[:1], model(torch.tensor([IDS])), rtol=0, atol=1e-12)
    torch.testing.assert_close(both[1:], model(torch.tensor([IDS[::-1]])), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pad", [[0] * 5, [22, 7, 1, 13, 4]])
def test_right_padding_changes_nothing_on_its_left(tiny_llama, pad):
    model = tiny_llama(num_key_value_heads=2).double()
    alone, padded = model(torch.tensor([IDS])), model(torch.tensor([IDS + pad]))
    torch.testing.assert_close(padded[:, : len(IDS)], alone, rtol=0, atol=1e-12)


def test_positions_pick_the_logits_of_the_full_output(tiny_llama):
    model = tiny_llama().double()
    input_ids = torch.tensor([IDS, IDS[::-1]])
    positions = torch.tensor([[11, 0, 5], [3, 3, 10]])
    full = model(input_ids)
    expected = torch.stack([full[row, positions[row]] for row in range(2)])
    torch.testing.assert_close(model(input_ids, positions), expected, rtol=0, atol=1e-12)


def test_norm_takes_the_mean_square_in_float32():
    torch.manual_seed(0)
    x, norm_layer = torch.randn(3, 5000).bfloat16(), RMSNorm(5000, 1e-5).bfloat16()
    with torch.no_grad():
        norm_layer.weight.copy_(torch.randn(5000))
        exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt()
        expected = norm_layer.weight * exact.bfloat16()
        differs = norm_layer(x) != expected
    assert differs.float().mean() < 1e-3  # a float32 value may fall on the other side of a rounding boundary
    assert norm_layer(x).dtype == torch.bfloat16


def gradients(model, checkpointed_layers, seed=0):
    """Of a scalar that depends on every position, with respect to everything that is trained."""
    model.model.checkpointed_layers = checkpointed_layers
    model.zero_grad()
    torch.manual_seed(seed)
    logits = model(torch.tensor([IDS, IDS[::-1]]))
    F.cross_entropy(logits.flatten(0, 1), torch.tensor(IDS[::-1] + IDS)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("layers", [1, 2])
def test_checkpointing_gives_equal_gradients_of_every_weight(tiny_llama, layers):
    model = tiny_llama(tie_word_embeddings=True, num_key_value_heads=2)
    torch.testing.assert_close(gradients(model, layers), gradients(model, 0), rtol=0, atol=0)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_exactly_the_first_layers_are_computed_again_in_the_backward_pass(tiny_llama, layers):
    model, calls = tiny_llama(), []
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
    gradients(model, layers)
    assert sorted(calls) == sorted([0, 1, *range(layers)])
    calls.clear()
    with torch.no_grad():
        model(torch.tensor([IDS]))
    assert calls == [0, 1]


@pytest.mark.parametrize("layers", [1, 2])
def test_checkpointing_draws_the_same_lora_dropout_again(tiny_llama, layers):
    model = tiny_llama()
    add_lora(model, ("q_proj", "v_proj", "down_proj"), dropout=0.4)
    for parameter in trainable_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    model.train()
    plain = gradients(model, 0)
    torch.testing.assert_close(gradients(model, layers), plain, rtol=0, atol=0)
    other_seed = gradients(model, 0, seed=1)
    assert all(not torch.equal(other_seed[name], plain[name]) for name in plain)
