"""GRU4Rec, Caser and SASRec in both forms against loops in float64, and what they and DROS must not react to."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from baselines import caser, gru4rec, sasrec_full
from baselines.base import settings_of
from baselines.sasrec import SelfAttention
from baselines.sequence import HistoryEmbedding, SequenceModel
from tests.sequence_rows import ALL, FEW_SHOT, ITEMS, built, change, random_rows, rows_for


def scores_in_numpy(module, state, rows):
    weight, bias = (tensor.detach().numpy() for tensor in (module.output.weight, module.output.bias))
    return np.array([h @ weight[t - 1] + bias[t - 1] for h, t in zip(state, rows.items.numpy())])


def numpy_of(module):
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def layer_norm(w, name, x, eps=1e-5):
    return (x - x.mean()) / np.sqrt(x.var() + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def softmax(scores):
    exponentials = np.exp(np.array(scores) - max(scores))
    return exponentials / exponentials.sum()


# ---- each model against loops -------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru_by_hand(w, layer, inputs):
    """The states after each input; gates in PyTorch's order: reset, update, new."""
    h, states = np.zeros(w[f"encoder.gru.weight_hh_l{layer}"].shape[1]), []
    for x in inputs:
        of_x = np.split(w[f"encoder.gru.weight_ih_l{layer}"] @ x + w[f"encoder.gru.bias_ih_l{layer}"], 3)
        of_h = np.split(w[f"encoder.gru.weight_hh_l{layer}"] @ h + w[f"encoder.gru.bias_hh_l{layer}"], 3)
        reset, update = sigmoid(of_x[0] + of_h[0]), sigmoid(of_x[1] + of_h[1])
        new = np.tanh(of_x[2] + reset * of_h[2])
        h = (1 - update) * new + update * h
        states.append(h)
    return states


@pytest.mark.parametrize("layers", [1, 3])
def test_gru4rec_is_a_gru_over_the_real_items_read_after_the_last(layers):
    rows = random_rows(12)
    assert 0 in rows.lengths and len(set(rows.lengths.tolist())) > 4
    torch.manual_seed(0)
    encoder = gru4rec.GRUEncoder(HistoryEmbedding(ITEMS, 6), hidden=5, layers=layers)
    module = SequenceModel(encoder, ITEMS).double()
    w, states = numpy_of(module), []
    for history, length in zip(rows.history.numpy(), rows.lengths.numpy()):
        inputs = [w["encoder.embedding.item.weight"][item] for item in history[: max(length, 1)]]
        for layer in range(layers):
            inputs = gru_by_hand(w, layer, inputs)
        states.append(inputs[-1])
    found = module(rows).detach().numpy()
    assert np.abs(found - scores_in_numpy(module, states, rows)).max() < 1e-12


def caser_by_hand(w, history, length):
    d = w["encoder.embedding.item.weight"].shape[1]
    image = np.zeros((10, d))
    image[:length] = w["encoder.embedding.item.weight"][history[:length]]
    state = []
    for number, height in enumerate((2, 3, 4)):
        filters, bias = w[f"encoder.horizontal.{number}.weight"], w[f"encoder.horizontal.{number}.bias"]
        for f in range(len(filters)):
            values = []
            for top in range(10 - height + 1):
                total = bias[f]
                for row in range(height):
                    for column in range(d):
                        total += filters[f, 0, row, column] * image[top + row, column]
                values.append(max(total, 0))
            state.append(max(values))
    for column in range(d):
        total = w["encoder.vertical.bias"][0]
        for row in range(10):
            total += w["encoder.vertical.weight"][0, 0, row, 0] * image[row, column]
        state.append(max(total, 0))
    return np.array(state)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_history_too_short_for_a_filter_of_caser_leaves_it_out(length):
    torch.manual_seed(0)
    encoder = caser.CaserEncoder(HistoryEmbedding(ITEMS, 6), length=length)
    assert [f.kernel_size[0] for f in encoder.horizontal] == [height for height in (2, 3, 4) if height <= length]
    rows = random_rows(5)
    few = change(
        rows, history=rows.history[:, :length], liked=rows.liked[:, :length], lengths=rows.lengths.clamp(max=length)
    )
    assert encoder(few).shape == (5, encoder.width)


def test_caser_is_its_convolutions_written_as_loops():
    rows = random_rows(8)
    module = built("caser", rows).double()
    w = numpy_of(module)
    states = [caser_by_hand(w, h, n) for h, n in zip(rows.history.numpy(), rows.lengths.numpy())]
    found = module(rows).detach().numpy()
    assert np.abs(found - scores_in_numpy(module, states, rows)).max() < 1e-12
    short = change(rows, history=rows.history[:, :6], liked=rows.liked[:, :6], lengths=rows.lengths.clamp(max=6))
    states = [caser_by_hand(w, h, n) for h, n in zip(short.history.numpy(), short.lengths.numpy())]
    assert np.abs(module(short).detach().numpy() - scores_in_numpy(module, states, short)).max() < 1e-12


def attend(w, name, query, vectors, allowed):
    """One query over the vectors of the allowed positions."""
    q = linear(w, f"{name}.query", query)
    weights = softmax([q @ linear(w, f"{name}.key", vectors[j]) / math.sqrt(len(q)) for j in allowed])
    return sum(weight * linear(w, f"{name}.value", vectors[j]) for weight, j in zip(weights, allowed))


def sasrec_by_hand(w, history, length):
    """Every position of the block, with both masks; then the output at the last real position."""
    w = {name.removeprefix("encoder."): value for name, value in w.items()}
    d = w["embedding.item.weight"].shape[1]
    real = [position < length for position in range(len(history))]
    x = [
        w["embedding.item.weight"][item] + w["position.weight"][i] if real[i] else np.zeros(d)
        for i, item in enumerate(history)
    ]
    outputs = []
    for i in range(len(history)):
        query = layer_norm(w, "norm_query", x[i])
        keys = [j for j in range(i + 1) if real[j] or j == 0]
        y = layer_norm(w, "norm_attended", query + attend(w, "attention", query, x, keys))
        fed = y + linear(w, "feed_forward.2", np.maximum(linear(w, "feed_forward.0", y), 0))
        fed = layer_norm(w, "norm_fed", fed) if real[i] else np.zeros(d)
        outputs.append(layer_norm(w, "norm_last", fed))
    return outputs[max(length - 1, 0)]


def test_few_shot_sasrec_is_one_block_written_as_loops():
    rows = random_rows(12)
    module = built("sasrec", rows).double()
    w = numpy_of(module)
    states = [sasrec_by_hand(w, h, n) for h, n in zip(rows.history.numpy(), rows.lengths.numpy())]
    assert np.abs(module(rows).detach().numpy() - scores_in_numpy(module, states, rows)).max() < 1e-12


def full_sasrec_by_hand(w, history, target):
    """Both blocks at all 25 positions; padded keys are seen, and are biases since their vectors are zero."""
    d = w["item.weight"].shape[1]
    real = history != 0
    x = [math.sqrt(d) * w["item.weight"][item] + w["position.weight"][i] for i, item in enumerate(history)]
    x = [vector if real[i] else np.zeros(d) for i, vector in enumerate(x)]
    for b in ("blocks.0", "blocks.1"):
        outputs = []
        for i in range(len(history)):
            query = layer_norm(w, f"{b}.norm_query", x[i], 1e-8)
            attended = linear(w, f"{b}.project", attend(w, f"{b}.attention", query, x, range(i + 1)))
            y = layer_norm(w, f"{b}.norm_attended", query + attended, 1e-8)
            fed = y + linear(w, f"{b}.feed_forward.3", np.maximum(linear(w, f"{b}.feed_forward.0", y), 0))
            outputs.append(fed if real[i] else np.zeros(d))
        x = outputs
    return layer_norm(w, "norm_last", x[-1], 1e-8) @ w["item.weight"][target]


def test_full_data_sasrec_is_two_blocks_written_as_loops(monkeypatch):
    monkeypatch.setattr(sasrec_full, "TOGETHER", 3)  # rows of several lengths, in several parts
    rows = random_rows(10, length=25, side="left")
    assert 0 in change(rows, lengths=rows.lengths.index_fill(0, torch.tensor([4]), 0)).lengths
    history = rows.history.clone()
    history[4] = 0
    rows = change(rows, history=history)
    module = built("sasrec-full", rows).double()
    w = numpy_of(module)
    wanted = [full_sasrec_by_hand(w, h, t) for h, t in zip(rows.history.numpy(), rows.items.numpy())]
    assert np.abs(module(rows).detach().numpy() - wanted).max() < 1e-12


@pytest.mark.parametrize("padding", [0, 4])
def test_one_query_needs_no_keys_and_values_of_all_positions(padding):
    """Values, and gradients of everything that has one, are those of attention with all of them, dropout included."""
    torch.manual_seed(0)
    attention = SelfAttention(6, torch.nn.Dropout(0.3)).double()
    query, x = (torch.randn(5, n, 6, dtype=torch.float64, requires_grad=True) for n in (1, 7))
    allowed = (torch.rand(5, 1, padding + 7) < 0.7).index_fill(-1, torch.tensor([padding]), True)
    wanted = {"query": query, "x": x, **dict(attention.named_parameters())}
    found = []
    for attend in (attention, partial(sasrec_full.attend_once, attention)):
        torch.manual_seed(1)
        y = attend(query, x, allowed, padding)
        gradients = torch.autograd.grad(y.square().sum(), list(wanted.values()))
        found.append([y, *gradients])
    for name, a, b in zip(["y", *wanted], *found):
        assert (a - b).abs().max() < 1e-12, name


def test_the_cheaper_dropout_keeps_and_scales_as_that_of_pytorch():
    torch.manual_seed(0)
    dropout, x = sasrec_full.Dropout(0.2), torch.full((1000, 1000), 3.0)
    y = dropout(x)
    assert set(y.unique().tolist()) == {0.0, 3.75} and y.mean().item() == pytest.approx(3, abs=0.01)
    assert dropout.eval()(x) is x and sasrec_full.Dropout(0.0)(x) is x


def test_the_full_form_starts_as_multihead_attention_of_pytorch_does():
    """Xavier-uniform for the three projections as one (3d, d) matrix, and no biases yet."""
    torch.manual_seed(0)
    theirs, ours = torch.nn.MultiheadAttention(64, 1), sasrec_full.Block(64, 0.0)
    for name in ("query", "key", "value"):
        projection = getattr(ours.attention, name)
        assert projection.weight.abs().max().item() == pytest.approx(theirs.in_proj_weight.abs().max().item(), rel=0.01)
        assert projection.weight.std().item() == pytest.approx(theirs.in_proj_weight.std().item(), rel=0.05)
        assert not projection.bias.any()
    assert ours.project.weight.std().item() == pytest.approx(theirs.out_proj.weight.std().item(), rel=0.05)
    assert not ours.project.bias.any() and not theirs.in_proj_bias.any() and not theirs.out_proj.bias.any()


def test_the_published_query_mask_would_take_attention_from_real_items():
    """The sum of a normalised vector is 0 up to rounding, and exactly 0 for many; ours masks padding by its id."""
    torch.manual_seed(0)
    x = torch.nn.Embedding(20_000, 64).weight.detach() * 0.01 + torch.nn.Embedding(1, 64).weight.detach()
    sums = torch.nn.LayerNorm(64)(x).sum(-1)
    assert sums.abs().max() < 1e-4
    assert 0.03 < (torch.sign(sums.abs()) == 0).double().mean() < 0.3


# ---- losses, sizes, settings --------------------------------------------------------------------


def test_both_losses_are_of_the_target_alone():
    rows = random_rows(20)
    scores = built("gru4rec", rows)(rows).detach().double().numpy()
    labels = rows.labels.numpy()
    bce = np.mean([math.log1p(math.exp(-s if y else s)) for s, y in zip(scores, labels)])
    assert built("gru4rec", rows).loss(rows).item() == pytest.approx(bce, rel=1e-6)
    assert built("gru4rec", rows, loss="mse").loss(rows).item() == pytest.approx(
        ((scores - labels) ** 2).mean(), rel=1e-6
    )


def test_the_numbers_of_parameters_are_those_of_the_formulas():
    rows = random_rows(4)

    def count(name, d, **changes):
        return sum(p.numel() for p in built(name, rows, dim=d, **changes).parameters())

    for d in (8, 64):
        table, output = (ITEMS + 1) * d, ITEMS * (d + 1)
        assert count("gru4rec", d) == table + 6 * d * d + 6 * d + output
        filters = sum(16 * (height * d + 1) for height in (2, 3, 4))
        assert count("caser", d) == table + filters + (10 + 1) + ITEMS * (48 + d + 1)
        block = 5 * (d * d + d)  # query, key, value, two of the feed-forward network
        assert count("sasrec", d) == table + 10 * d + block + 4 * 2 * d + output
        assert count("dros", d) == count("gru4rec", d)
        assert count("sasrec-full", d) == table + 25 * d + 2 * (6 * (d * d + d) + 2 * 2 * d) + 2 * d
        assert count("gru4rec", d, history="signed") == count("gru4rec", d) + 2 * d


def test_full_data_sasrec_has_the_published_settings():
    ml_1m, amazon = (settings_of(sasrec_full.METHOD, name, True) for name in ("ml-1m", "amazon-book"))
    assert [ml_1m[name] for name in ("dim", "length", "lr", "l2", "batch_size")] == [64, 25, 1e-2, 1e-2, 2048]
    assert [amazon[name] for name in ("dim", "length", "lr", "l2", "batch_size")] == [64, 20, 1e-3, 1e-3, 10240]


# ---- what must not change a score ---------------------------------------------------------------


@pytest.mark.parametrize("name", list(ALL))
def test_a_score_does_not_depend_on_the_batch(name):
    rows = rows_for(name, 64)
    module = built(name, rows, dim=64)
    with torch.no_grad():
        together = module(rows)
        alone = torch.cat([module(rows[i : i + 1]) for i in range(64)])
        shuffled = module(rows[torch.arange(63, -1, -1)]).flip(0)
    assert together.shape == (64,) and alone.shape == (64,)
    assert (together - alone).abs().max() < 1e-6 * max(1, together.abs().max())
    assert (together - shuffled).abs().max() < 1e-6 * max(1, together.abs().max())


@pytest.mark.parametrize("name", list(FEW_SHOT))
@pytest.mark.parametrize("history", ["all", "signed"])
def test_padding_never_changes_a_score(name, history):
    """Neither how much of it there is, bit for bit, nor what stands in its row of the table."""
    rows = random_rows(40, length=7, shortest=1)
    padded = change(
        rows,
        history=torch.nn.functional.pad(rows.history, (0, 3)),
        liked=torch.nn.functional.pad(rows.liked, (0, 3)),
    )
    module = built(name, rows, history=history)
    with torch.no_grad():
        scores = module(rows)
        assert torch.equal(module(padded), scores)
        module.encoder.embedding.item.weight[0] = 1e3
        assert torch.equal(module(padded), scores)


def test_the_bias_of_caser_acts_on_padding_as_published():
    """A filter that is far below zero at every real item still gives its bias, from where nothing is."""
    rows = random_rows(5, length=3, shortest=3)
    module = built("caser", rows)
    with torch.no_grad():
        module.encoder.embedding.item.weight.fill_(1.0)
        for convolution in module.encoder.horizontal:
            convolution.weight.fill_(-1e3)
            convolution.bias.fill_(0.25)
        assert torch.equal(module.encoder(rows)[:, :48], torch.full((5, 48), 0.25))


def test_padding_takes_attention_in_full_data_sasrec_as_published():
    """The same history has the same score however it is stored, and another one where more padding stands before it."""
    rows = random_rows(20, length=6, side="left", shortest=1)
    padded = change(rows, history=torch.nn.functional.pad(rows.history, (19, 0)))
    module, shorter = built("sasrec-full", rows), built("sasrec-full", rows, length=6)
    with torch.no_grad():
        scores = module(rows)
        assert torch.equal(module(padded), scores)
        weights = module.state_dict()
        shorter.load_state_dict(weights | {"position.weight": weights["position.weight"][-6:]})
        assert (shorter(rows) - scores).abs().max() > 1e-2
        nothing = module(change(rows, history=torch.zeros_like(rows.history), items=torch.full((20,), 7)))
    assert torch.unique(nothing).numel() == 1  # without history the state is a constant


@pytest.mark.parametrize("name", list(ALL))
def test_users_and_labels_are_not_read_and_signs_only_if_asked(name):
    rows = rows_for(name, 30, shortest=2)
    module = built(name, rows)
    with torch.no_grad():
        scores = module(rows)
        assert torch.equal(module(change(rows, users=rows.users.flip(0), labels=1 - rows.labels)), scores)
        assert torch.equal(module(change(rows, liked=~rows.liked & (rows.history > 0))), scores)
        if name in FEW_SHOT:
            signed = built(name, rows, history="signed")
            assert (signed(rows) - signed(change(rows, liked=~rows.liked & (rows.history > 0)))).abs().min() > 0
