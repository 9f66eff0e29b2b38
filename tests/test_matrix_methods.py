"""MF and LightGCN: against dense float64 computations and by hand; what they learn, and what they cannot see."""

import numpy as np
import pytest
import torch

from baselines.base import Training, settings_of
from baselines.fit import make_optimizer, score_rows
from baselines.lightgcn import LightGCN, normalised_graph
from baselines.methods import METHODS
from baselines.mf import MatrixFactorisation
from baselines.rows import Ids, Rows
from data.interactions import Interaction
from metrics import Scored, evaluate, uauc
from tensors import trainable_parameters
from tests.planted import auc_of, data_of, learn, planted

NAMES = ("mf", "lightgcn")
EDGES = torch.tensor([[1, 1], [1, 2], [2, 2], [2, 3], [2, 3], [4, 1]])  # (2, 3) twice; user 3 and item 4 have none
USERS, ITEMS = 4, 4


def rows_of(users, items, labels):
    count = len(users)
    nothing = torch.zeros(count, 0, dtype=torch.int64)
    lengths = torch.zeros(count, dtype=torch.int64)
    return Rows(
        torch.tensor(users),
        torch.tensor(items),
        nothing,
        nothing.bool(),
        lengths,
        torch.tensor(labels, dtype=torch.float32),
    )


SOME = rows_of([1, 2, 3, 4, 0], [2, 3, 1, 4, 1], [1, 0, 1, 0, 1])


def lightgcn(layers=2, loss="bce", dim=5):
    torch.manual_seed(3)
    return LightGCN((USERS, ITEMS), EDGES, dim, layers, 1.0, loss)


def dense_graph():
    """D^-1/2 A D^-1/2 in float64, by loops."""
    nodes = USERS + 1 + ITEMS + 1
    adjacency = np.zeros((nodes, nodes))
    for user, item in EDGES.tolist():
        adjacency[user, USERS + 1 + item] = adjacency[USERS + 1 + item, user] = 1
    degree = adjacency.sum(1)
    for i in range(nodes):
        for j in range(nodes):
            if adjacency[i, j]:
                adjacency[i, j] /= np.sqrt(degree[i] * degree[j])
    return adjacency


def final_vectors(module, layers):
    first = torch.cat([module.user_vectors.weight, module.item_vectors.weight]).detach().numpy().astype(np.float64)
    every = [np.linalg.matrix_power(dense_graph(), k) @ first for k in range(layers + 1)]
    return np.split(np.mean(every, axis=0), [USERS + 1])


# ---- MF ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_mf_is_the_inner_product_and_the_biases(bias):
    torch.manual_seed(0)
    module = MatrixFactorisation(USERS, ITEMS, 6, 1.0, bias)
    if bias:
        for parameter in (module.overall, module.user_bias.weight[1:], module.item_bias.weight[1:]):
            parameter.data.copy_(torch.randn(parameter.shape))
    p, q = (table.weight.detach().double().numpy() for table in (module.user_vectors, module.item_vectors))
    expected = np.array([p[u] @ q[i] for u, i in zip(SOME.users, SOME.items)])
    if bias:
        b_u, b_i = (table.weight.detach().double().numpy()[:, 0] for table in (module.user_bias, module.item_bias))
        expected += np.array([float(module.overall.detach()) + b_u[u] + b_i[i] for u, i in zip(SOME.users, SOME.items)])
    np.testing.assert_allclose(score_rows(module, SOME), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_user_has_no_vector(name):
    module, _ = learn(name, data_of(planted("item", 50, 0)), 3)
    strangers = rows_of([0, 0], [1, 15], [1, 0])
    assert score_rows(module, strangers).tolist() == [0, 0]


@pytest.mark.parametrize("bias", [False, True])
def test_parameter_counts_are_those_of_the_formula(bias):
    """d (U + I), with the row of number 0 in each table; a bias each, and one for all."""
    module = MatrixFactorisation(7, 9, 3, 1.0, bias)
    counted = sum(parameter.numel() for parameter in trainable_parameters(module).values())
    assert counted == 3 * (8 + 10) + bias * (8 + 10 + 1)
    graph = sum(parameter.numel() for parameter in trainable_parameters(lightgcn(dim=3)).values())
    assert graph == 3 * (USERS + 1 + ITEMS + 1)


def test_first_vectors_are_normal_with_the_wanted_deviation():
    torch.manual_seed(0)
    wide, narrow = (
        MatrixFactorisation(300, 300, 64, std, False).user_vectors.weight[1:].detach() for std in (1.0, 0.1)
    )
    assert float(wide.std()) == pytest.approx(1, rel=0.02) and float(narrow.std()) == pytest.approx(0.1, rel=0.02)


# ---- LightGCN ------------------------------------------------------------------------------------


def test_the_graph_is_the_normalised_adjacency_of_distinct_likes():
    found = normalised_graph(EDGES, USERS + 1, ITEMS + 1)
    np.testing.assert_allclose(found.to_dense().double().numpy(), dense_graph(), atol=1e-7)
    assert found._nnz() == 2 * len(EDGES.unique(dim=0))  # memory is linear in the edges


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_propagation_equals_powers_of_the_dense_graph_in_float64(layers):
    module = lightgcn(layers)
    for found, expected in zip(module.propagate(), final_vectors(module, layers)):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    users, items = final_vectors(module, layers)
    expected = [users[u] @ items[i] for u, i in zip(SOME.users, SOME.items)]
    np.testing.assert_allclose(score_rows(module, SOME), expected, rtol=1e-5, atol=1e-6)


def test_one_layer_on_a_path_by_hand():
    """user 1 - item 1 - user 2: degrees 1, 2, 1, so every edge weighs 1 / sqrt(2)."""
    module = LightGCN((2, 1), torch.tensor([[1, 1], [2, 1]]), 1, 1, 1.0, "bce")
    with torch.no_grad():
        module.user_vectors.weight[:, 0] = torch.tensor([0.0, 2.0, 4.0])
        module.item_vectors.weight[:, 0] = torch.tensor([0.0, 6.0])
    users, items = module.propagate()
    half = 2**-0.5
    assert users[:, 0].tolist() == pytest.approx([0, (2 + 6 * half) / 2, (4 + 6 * half) / 2])
    assert items[:, 0].tolist() == pytest.approx([0, (6 + (2 + 4) * half) / 2])


def test_without_layers_it_is_mf():
    module, mf = lightgcn(0), MatrixFactorisation(USERS, ITEMS, 5, 1.0)
    mf.load_state_dict(module.state_dict())
    assert np.array_equal(score_rows(module, SOME), score_rows(mf, SOME))
    assert float(module.loss(SOME)) == float(mf.loss(SOME))


def test_a_node_without_an_edge_keeps_its_share_of_its_first_vector():
    module = lightgcn(2)
    users, items = module.propagate()
    assert torch.equal(users[3], module.user_vectors.weight[3] / 3)
    assert torch.equal(items[4], module.item_vectors.weight[4] / 3)


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_gradients_are_those_of_the_dense_graph(loss):
    module = lightgcn(2, loss)
    known = SOME[:4]
    torch.manual_seed(5)
    module.loss(known).backward()
    first = torch.cat([module.user_vectors.weight, module.item_vectors.weight]).detach().double().requires_grad_()
    graph = torch.from_numpy(dense_graph())
    users, items = ((first + graph @ first + graph @ graph @ first) / 3).split([USERS + 1, ITEMS + 1])
    if loss == "bce":
        scores = (users[known.users] * items[known.items]).sum(1)
        total = torch.nn.functional.binary_cross_entropy_with_logits(scores, known.labels.double())
    else:
        torch.manual_seed(5)
        liked = known[known.labels == 1]
        others = module.draw_others(liked)
        terms = [
            -torch.log(torch.sigmoid(users[u] @ items[i] - users[u] @ items[j]))
            for u, i, j in zip(liked.users, liked.items, others)
        ]
        total = sum(terms) / len(terms)
    total.backward()
    found = torch.cat([module.user_vectors.weight.grad, module.item_vectors.weight.grad])
    np.testing.assert_allclose(found.numpy(), first.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_a_drawn_item_is_one_that_the_user_did_not_like():
    module = lightgcn(1, "bpr")
    rows = rows_of([2] * 200 + [4] * 200, [2] * 200 + [1] * 200, [1] * 400)
    drawn = module.draw_others(rows).tolist()
    assert set(drawn[:200]) == {1, 4} and set(drawn[200:]) == {2, 3, 4}
    module.loss(rows_of([1], [1], [0])).backward()  # a batch without likes changes nothing
    assert not module.user_vectors.weight.grad.any()


def test_the_graph_has_likes_of_training_alone_and_is_in_no_saved_state():
    train = [Interaction(u, (), i, label) for u, i, label in ((1, 1, True), (1, 2, False), (2, 1, True), (2, 1, True))]
    module, _ = learn("lightgcn", data_of(train, planted("item", 30, 1), planted("item", 30, 2)), 1)
    assert module.graph._nnz() == 2 * 2 and set(module.state_dict()) == {"user_vectors.weight", "item_vectors.weight"}


def test_after_restoring_weights_the_scores_are_those_of_these_weights():
    module = lightgcn(2)
    before, state = score_rows(module, SOME), {k: v.clone() for k, v in module.state_dict().items()}
    with torch.no_grad():
        module.item_vectors.weight.mul_(-2)
    assert not np.array_equal(score_rows(module, SOME), before)
    module.load_state_dict(state)
    assert np.array_equal(score_rows(module, SOME), before)


# ---- the loop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam_has_l2_in_the_gradient_and_adamw_beside_it(kind):
    """Against the update rules of the papers in float64, three steps."""
    torch.manual_seed(1)
    module = MatrixFactorisation(USERS, ITEMS, 4, 1.0)
    lr, l2 = 0.05, 0.3
    optimizer = make_optimizer(module, {"optimizer": kind, "lr": lr, "l2": l2})
    weights = [parameter.detach().double().clone() for parameter in module.parameters()]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for step in (1, 2, 3):
        optimizer.zero_grad()
        module.loss(SOME).backward()
        gradients = [parameter.grad.double().clone() for parameter in module.parameters()]
        optimizer.step()
        for w, g, m, v in zip(weights, gradients, first, second):
            g = g + l2 * w if kind == "adam" else g
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            if kind == "adamw":
                w.mul_(1 - lr * l2)
            w.sub_(lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
    for parameter, w in zip(module.parameters(), weights):
        np.testing.assert_allclose(parameter.detach().numpy(), w.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_it_overfits_16_rows(name):
    """Labels at random; users and items differ enough to tell the rows apart."""
    draw = np.random.default_rng(3)
    train = [Interaction(u, (), i, bool(draw.integers(2))) for u, i in zip(range(1, 17), draw.permutation(16) + 1)]
    module, encoded = learn(name, data_of(train), 200, lr=0.05, l2=0.0)
    assert auc_of(module, encoded(train)) == 1.0


EASY = {"lr": 1e-2, "l2": 1e-4, "batch_size": 128, "dim": 16, "init_std": 0.1}


@pytest.mark.parametrize("name, pattern", [("mf", "item"), ("mf", "group"), ("lightgcn", "group")])
def test_it_finds_a_planted_pattern_in_rows_it_has_not_seen(name, pattern):
    train, unseen = planted(pattern, 600, 1), planted(pattern, 500, 2)
    module, encoded = learn(name, data_of(train), 30, **EASY)
    assert auc_of(module, encoded(unseen)) >= 0.95


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pattern", ["last", "any"])
def test_it_does_not_solve_what_it_cannot_see(name, pattern):
    module, encoded = learn(name, data_of(planted(pattern, 800, 1)), 10, **EASY)
    assert 0.4 < auc_of(module, encoded(planted(pattern, 800, 2))) < 0.6


@pytest.mark.parametrize("name", NAMES)
def test_other_rows_and_their_labels_change_nothing(name):
    """Without validation and test rows every trained parameter is the same; a label changes no score."""
    train, others = planted("group", 80, 6), planted("item", 40, 7)
    with_others, encoded = learn(name, data_of(train, others[:20], others[20:]), 3)
    alone, _ = learn(name, data_of(train), 3)
    assert all(torch.equal(a, b) for a, b in zip(with_others.parameters(), alone.parameters(), strict=True))
    flipped = [Interaction(row.user, row.history, row.target, not row.label) for row in others]
    assert np.array_equal(score_rows(alone, encoded(others)), score_rows(alone, encoded(flipped)))


@pytest.mark.parametrize("name", NAMES)
def test_a_score_depends_on_its_own_row_alone(name):
    module, encoded = learn(name, data_of(planted("group", 100, 6)), 3)
    rows = encoded(planted("group", 64, 8))
    together, order = score_rows(module, rows), torch.randperm(64)
    np.testing.assert_allclose(score_rows(module, rows, 1), together, atol=1e-6)
    np.testing.assert_allclose(score_rows(module, rows[order]), together[order.numpy()], atol=1e-6)


def test_a_constant_score_is_worth_a_half_and_the_label_is_worth_1():
    rows = planted("group", 200, 1)
    labels, users = np.array([row.label for row in rows]), [row.user for row in rows]
    for score, worth in ((np.full(200, 0.3), 0.5), (labels.astype(float), 1.0)):
        assert evaluate(Scored(users, labels, score=score))["auc"] == worth
        assert uauc(labels, score, users).value == worth


@pytest.mark.parametrize("name", NAMES)
def test_published_settings_are_those_of_the_table(name):
    """`baseline_train_*_ood*.py` of CoLLM: d, lr, L2, batch."""
    table = {
        ("mf", "ml-1m"): (256, 1e-3, 1e-4, 2048),
        ("mf", "amazon-book"): (256, 1e-3, 1e-6, 10240),
        ("lightgcn", "ml-1m"): (64, 1e-2, 1e-4, 2048),
        ("lightgcn", "amazon-book"): (256, 1e-4, 1e-7, 10240),
    }
    for data in ("ml-1m", "amazon-book"):
        settings = settings_of(METHODS[name], data, True)
        assert tuple(settings[key] for key in ("dim", "lr", "l2", "batch_size")) == table[name, data]
        assert settings["patience"] == 100 and settings.get("layers", 2) == 2
        assert settings["init_std"] == {"mf": 1.0, "lightgcn": 0.1}[name]
        ids = Ids({1: 1}, {1: 1}, ("", "film"))
        assert METHODS[name].build(Training(ids, rows_of([1], [1], [1])), settings)
