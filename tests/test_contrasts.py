"""The terms in the place of the KL: plain Python in float64, values by hand, closed-form gradients in z+-, extremes."""

import json
import math
import warnings
from dataclasses import dataclass

import pytest
import torch
from matplotlib.figure import Figure

import train
from cli.train import TrainFlags, presets
from data.pairs import EncodedPair, Row
from errors import FlagError
from loss import CONTRASTS, FirstToken, jensen_shannon, log_probabilities
from objectives.base import TERMS, Objective
from objectives.by_name import OBJECTIVES, flags_of, make_objective, own_terms
from report.curves import draw_cross_entropy, draw_terms
from report.tables import next_commands
from run.failures import StepSums

NAMES = sorted(CONTRASTS)
MARGIN = 1.0
Y_POS, Y_NEG = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1])


def term(name, logits_pos, logits_neg, y_pos=Y_POS, y_neg=Y_NEG, margin=MARGIN):
    n = len(logits_pos)
    sides = log_probabilities(logits_pos), log_probabilities(logits_neg)
    return CONTRASTS[name](FirstToken(*sides, y_pos[:n], y_neg[:n], margin))


def logits(seed=0, vocabulary=5, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(3, vocabulary, generator=generator).double() for _ in range(2)]


# ---- values -------------------------------------------------------------------------------------


def softmax(row):
    exps = [math.exp(z - max(row)) for z in row]
    return [e / sum(exps) for e in exps]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q))


def brute_force(name, z_pos, z_neg, y, n, margin):
    """The equations of docs/method.md, on probabilities. y, n: the first tokens of Y+ and Y-."""
    p, q = softmax(z_pos), softmax(z_neg)
    yes_pos, yes_neg = p[y] / (p[y] + p[n]), q[y] / (q[y] + q[n])
    a, b = yes_pos, 1 - yes_neg
    m = [(x + x_neg) / 2 for x, x_neg in zip(p, q)]
    return {
        "js": -(kl(p, m) + kl(q, m)) / 2,
        "jeffreys": -(kl(p, q) + kl(q, p)),
        "margin": max(0.0, margin - kl(p, q)),
        "complement": (yes_pos + yes_neg - 1) ** 2,
        "xor": -math.log(yes_pos * (1 - yes_neg) + (1 - yes_pos) * yes_neg),
        "arbitrage": -2 * math.log(math.sqrt(a * b) + math.sqrt((1 - a) * (1 - b))),
        "bundle": -math.log(p[y] / (p[y] + q[y])) - math.log(q[n] / (p[n] + q[n])),
        "unlikelihood": -math.log(1 - q[y]) - math.log(1 - p[n]),
    }[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_every_term_equals_plain_python(name, seed):
    z_pos, z_neg = logits(seed)
    rows = zip(z_pos.tolist(), z_neg.tolist(), Y_POS.tolist(), Y_NEG.tolist())
    expected = [brute_force(name, *row, MARGIN) for row in rows]
    assert term(name, z_pos, z_neg).tolist() == pytest.approx(expected, rel=1e-11, abs=1e-13)


HAND = {  # p+ = 4/5 and p- = 1/5, two words: a = b = 4/5
    "js": -(4 / 5 * math.log(8 / 5) + 1 / 5 * math.log(2 / 5)),
    "jeffreys": -6 / 5 * math.log(4),
    "margin": 1 - 3 / 5 * math.log(4),
    "complement": 0.0,
    "xor": -math.log(17 / 25),
    "arbitrage": 0.0,
    "bundle": -2 * math.log(4 / 5),
    "unlikelihood": -2 * math.log(4 / 5),
}
SAME = {  # p+ = p- = 1/2: nothing is told apart
    "js": 0.0,
    "jeffreys": 0.0,
    "margin": 1.0,
    "complement": 0.0,
    "xor": math.log(2),
    "arbitrage": 0.0,
    "bundle": 2 * math.log(2),
    "unlikelihood": 2 * math.log(2),
}
YES_TO_BOTH = {  # p+ = p- = 4/5: a = 4/5, b = 1/5
    "js": 0.0,
    "jeffreys": 0.0,
    "margin": 1.0,
    "complement": 9 / 25,
    "xor": -math.log(8 / 25),
    "arbitrage": -2 * math.log(4 / 5),
    "bundle": 2 * math.log(2),
    "unlikelihood": -math.log(1 / 5) - math.log(4 / 5),
}


@pytest.mark.parametrize("name", NAMES)
def test_values_by_hand(name):
    z = math.log(4)
    for expected, at in ((HAND, (z, -z)), (SAME, (0.0, 0.0)), (YES_TO_BOTH, (z, z))):
        value = term(name, *(torch.tensor([[z, 0.0]], dtype=torch.float64) for z in at))
        assert value.item() == pytest.approx(expected[name], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_term_treats_liked_and_disliked_targets_alike(name):
    """With the words Yes and No swapped everywhere nothing changes: no term needs to know which of the two is Yes."""
    z_pos, z_neg = logits(4)
    swapped = [z[:, [1, 0, 2, 3, 4]] for z in (z_pos, z_neg)]
    torch.testing.assert_close(term(name, *swapped, Y_NEG, Y_POS), term(name, z_pos, z_neg), rtol=1e-12, atol=1e-12)
    if name in ("complement", "xor", "arbitrage"):  # of the log-odds alone: Yes against No, whatever is right
        torch.testing.assert_close(term(name, z_pos, z_neg, Y_NEG, Y_POS), term(name, z_pos, z_neg))


def test_the_bounds_of_the_table():
    for seed in range(20):
        z = logits(seed, scale=30.0)
        values = {name: term(name, *z) for name in NAMES}
        assert (values["js"] >= -math.log(2) - 1e-12).all() and (values["js"] <= 1e-12).all()
        assert (values["margin"] <= MARGIN).all() and (values["complement"] <= 1).all()
        assert all((values[name] >= -1e-12).all() for name in NAMES if name not in ("js", "jeffreys"))
        assert (values["jeffreys"] <= 1e-12).all()


# ---- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(name):
    z_pos, z_neg = (z.requires_grad_() for z in logits(1, scale=1.0))
    assert torch.autograd.gradcheck(lambda *z: term(name, *z, margin=50.0), (z_pos, z_neg))


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def closed_form(name, z, z_neg):
    """(d/dz+, d/dz-) of the table in docs/method.md: two words, and Y+ is Yes."""
    p, q = sigmoid(z), sigmoid(z_neg)
    m, price = (p + q) / 2, sigmoid((z - z_neg) / 2)
    logit_m, either = math.log(m / (1 - m)), p * (1 - q) + (1 - p) * q
    one, other = q / (p + q), (1 - p) / (2 - p - q)
    apart = p * (1 - p) * (z - z_neg)
    return {
        "js": (-p * (1 - p) * (z - logit_m) / 2, -q * (1 - q) * (z_neg - logit_m) / 2),
        "jeffreys": (-apart - (p - q), q * (1 - q) * (z - z_neg) + p - q),
        "margin": (-apart, p - q),
        "complement": (2 * (p + q - 1) * p * (1 - p), 2 * (p + q - 1) * q * (1 - q)),
        "xor": (-(1 - 2 * q) * p * (1 - p) / either, -(1 - 2 * p) * q * (1 - q) / either),
        "arbitrage": (p - price, q - (1 - price)),
        "bundle": (-one * (1 - p) - other * p, one * (1 - q) + other * q),
        "unlikelihood": (p - 1, q),
    }[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("z", [(0.0, 0.0), (0.7, -0.4), (1.5, 2.5), (-3.0, 0.2), (-1.0, -2.0)])
def test_gradients_in_the_log_odds_equal_the_closed_forms(name, z):
    z_pos, z_neg = (torch.tensor([[value, 0.0]], dtype=torch.float64, requires_grad=True) for value in z)
    gradients = torch.autograd.grad(term(name, z_pos, z_neg, margin=50.0).sum(), (z_pos, z_neg))
    assert [float(g[0, 0]) for g in gradients] == pytest.approx(closed_form(name, *z), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("jeffreys", "margin")])
def test_no_gradient_in_a_log_odds_is_above_1_where_the_weight_is_1(name):
    grid = torch.linspace(-40, 40, 81).double()
    z_pos, z_neg = torch.meshgrid(grid, grid, indexing="ij")
    inputs = [torch.stack((z.flatten(), 0 * z.flatten()), -1).requires_grad_() for z in (z_pos, z_neg)]
    y = torch.zeros(len(inputs[0]), dtype=torch.int64)
    gradients = torch.autograd.grad(term(name, *inputs, y, y + 1).sum(), inputs)
    assert max(float(g.abs().max()) for g in gradients) <= 1 + 1e-9


def test_the_margin_sends_no_gradient_once_the_kl_is_large_enough():
    z_pos, z_neg = (z.requires_grad_() for z in logits(0, scale=4.0))
    value = term("margin", z_pos, z_neg, margin=0.5)
    value.sum().backward()
    assert (value == 0).all() and not z_pos.grad.any() and not z_neg.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_logits_of_ten_thousand_give_finite_values_and_gradients(name, dtype):
    rows = [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, -1e4], [-1e4, -1e4, 1e4], [0.0, 0.0, 0.0]]
    for z_pos in rows:
        for z_neg in rows:
            inputs = [torch.tensor([z], dtype=dtype, requires_grad=True) for z in (z_pos, z_neg)]
            value = term(name, *inputs)
            value.backward()
            assert torch.isfinite(value).all() and all(torch.isfinite(z.grad).all() for z in inputs), (z_pos, z_neg)
    if name in ("xor", "arbitrage"):  # Yes to both, for certain: z = 20,000 twice
        certain = torch.tensor([[1e4, -1e4]], dtype=torch.float64)
        assert term(name, certain, certain).item() == pytest.approx(
            {"xor": 2e4 - math.log(2), "arbitrage": 2e4 - 2 * math.log(2)}[name]
        )


def test_words_that_are_impossible_on_both_sides_leave_the_js_finite():
    p, q = (torch.tensor([z], requires_grad=True) for z in ([0.0, 1.0, -math.inf], [1.0, 0.0, -math.inf]))
    jensen_shannon(log_probabilities(p), log_probabilities(q)).backward()
    two = jensen_shannon(log_probabilities(p[:, :2]), log_probabilities(q[:, :2]))
    assert jensen_shannon(log_probabilities(p), log_probabilities(q)).item() == pytest.approx(two.item())
    assert torch.isfinite(p.grad).all() and torch.isfinite(q.grad).all()


# ---- the objectives -----------------------------------------------------------------------------


@pytest.fixture
def model(tiny_llama):
    return tiny_llama().double()


def pairs():
    rows = [([1, 9, 8, 4], [7, 3, 2], [1, 9, 5, 8, 4], [6, 3, 2]), ([1, 4], [6, 3, 2], [1, 5, 4], [7, 3, 2])]
    return [EncodedPair(Row(p, a), Row(n, b), f"row {i}") for i, (p, a, n, b) in enumerate(rows)]


def objective(name, **flags):
    presets = {flag: value for flag, (value, _) in OBJECTIVES[name].presets("movie").items()}
    return make_objective(vars(TrainFlags(**{"objective": name, **presets, **flags})))


def plain_logits(model, row):
    with torch.no_grad():
        return model(torch.tensor([row.ids]))[0].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_step_equals_plain_python_over_a_llama(model, name):
    both = pairs()
    loss, terms, _ = objective(name, kl_weight=0.7).loss(model, both, 4)
    expected, contrasts = 0.0, []
    for pair in both:
        at = {}
        for side, row in (("pos", pair.positive), ("neg", pair.negative)):
            z = plain_logits(model, row)
            at[side] = z[len(row.prompt) - 1]
            expected -= sum(math.log(softmax(z[len(row.prompt) - 1 + t])[y]) for t, y in enumerate(row.answer))
        contrasts.append(
            brute_force(name, at["pos"], at["neg"], pair.positive.answer[0], pair.negative.answer[0], MARGIN)
        )
    assert terms["contrast"].tolist() == pytest.approx(contrasts, rel=1e-9)
    assert loss.item() == pytest.approx((expected + 0.7 * sum(contrasts)) / 4, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_weight_0_is_the_control_to_the_last_bit(tiny_llama, name):
    def gradient(flags):
        model = tiny_llama()
        make_objective(vars(flags)).loss(model, pairs(), 2).loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    cap = {"kl_cap": 1.0} if name == "margin" else {}
    ours = gradient(TrainFlags(objective=name, kl_weight=0.0, **cap))
    assert all(map(torch.equal, ours, gradient(TrainFlags(kl_weight=0.0))))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_gives_the_same_gradient_however_it_is_cut(tiny_llama, name):
    def gradient(*cuts):
        model = tiny_llama().double()
        for cut in cuts:
            objective(name).loss(model, cut, 2).loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    both = pairs()
    torch.testing.assert_close(gradient(both[:1], both[1:]), gradient(both), rtol=1e-12, atol=1e-12)


def test_the_flags_and_weights_of_each():
    flags, _ = zip(*[(flags_of(name), name) for name in NAMES])
    assert set(flags) == {("kl_weight",), ("kl_weight", "kl_cap")} and "kl_cap" in flags_of("margin")
    weights = {name: OBJECTIVES[name].presets("book")["kl_weight"][0] for name in NAMES}
    assert weights == dict.fromkeys(NAMES, 1.0) | {"jeffreys": 1e-4}


def test_a_step_records_the_term_by_name_and_names_the_pair_at_fault(model):
    loss, terms, tokens = objective("xor").loss(model, pairs(), 2)
    sums = StepSums(2, objective("xor").terms, loss.device)
    sums.add(pairs(), 1.0, loss, terms, tokens)
    record = sums.read()
    assert record["kl"] == 0 and record["contrast"] == pytest.approx(terms["contrast"].mean().item())
    assert record["loss"] == pytest.approx(record["ce_pos"] + record["ce_neg"] + record["contrast"])
    sums.add(pairs(), 1.0, loss, terms | {"contrast": terms["contrast"] * torch.tensor([1, math.inf])}, tokens)
    with pytest.raises(ValueError, match="contrast of row 1 is inf"):
        sums.read()


# ---- a run --------------------------------------------------------------------------------------

SMALL = ["--data", "demo", "--shots", "8", "--batch-size", "4", "--micro-batch-size", "4", "--eval-every", "2"]
SMALL += ["--valid-rows", "12", "--test-rows", "12", "--lora-dropout", "0.1", "--objective", "xor", "--max-steps", "4"]


def test_a_resumed_run_ends_with_the_same_bytes(tmp_path, capsys, monkeypatch):
    train.main([*SMALL, "--out", str(tmp_path / "whole")])
    shown = capsys.readouterr()
    calls, real_step = [], train.accumulate_gradients  # the first call is the rehearsal's

    def dies_in_step_4(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real_step(*args)

    monkeypatch.setattr(train, "accumulate_gradients", dies_in_step_4)
    with pytest.raises(KeyboardInterrupt):
        train.main([*SMALL, "--out", str(tmp_path / "cut")])
    monkeypatch.undo()
    train.main(["--resume", "--out", str(tmp_path / "cut")])
    for name in ("metrics.jsonl", "adapter_model.safetensors", "predictions.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    records = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert len(records) == 4 and all(record["contrast"] > 0 and record["kl"] == 0 for record in records)
    assert "objective xor with lambda 1" in " ".join(shown.out.split()) and "# Eq. 1-3" in shown.err


def test_a_flag_of_another_term_is_refused(tmp_path):
    with pytest.raises(FlagError, match="--kl-cap: has no effect with --objective xor"):
        train.main([*SMALL, "--kl-cap", "1", "--out", str(tmp_path / "run")])


# ---- an objective of somebody's own -------------------------------------------------------------


@dataclass(frozen=True)
class Focal(Objective):
    """Without lambda, and with two terms that no other has."""

    epochs: int
    about, rows_per_pair, terms = "a toy", 1, (*TERMS, "focal", "other")

    def loss(self, model, pairs, pairs_in_step):
        """Nothing is trained with it."""


def test_an_objective_without_lambda_has_no_control_and_its_own_terms_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "focal", Focal)
    assert presets(vars(TrainFlags(objective="focal", data="demo")))["kl_weight"] == (0.0, "preset focal")
    assert "the control" not in next_commands(tmp_path, TrainFlags(objective="focal", data="demo"))
    assert (
        own_terms("focal") == ("focal", "other") and own_terms("js") == ("contrast",) and own_terms("paper") == ("kl",)
    )
    zero = dict.fromkeys(TERMS, 0.0)
    history = [{"step": step, "loss": 1.0, **zero, "focal": -step, "other": step * step} for step in (1, 2)]
    panels = Figure().subplots(1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_cross_entropy(panels[0], history)
        draw_terms(panels[1], history, own_terms("focal"))
    assert [line.get_label() for line in panels[0].lines] == ["the loss"]
    assert [list(line.get_ydata()) for line in panels[1].lines] == [[-1, -2], [1, 4]]
