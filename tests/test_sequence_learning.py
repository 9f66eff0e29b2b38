"""GRU4Rec, Caser, SASRec in both forms, and DROS learn what they are made for, and nothing that they cannot see."""

import copy

import numpy as np
import pytest
import torch

from baselines import caser, dros, gru4rec, sasrec, sasrec_full
from baselines.base import Training, history_form, settings_of
from baselines.fit import make_optimizer, score_rows, train_epoch
from baselines.rows import encode_rows, number_ids
from data.interactions import Dataset, Interaction, Item
from metrics import auc
from tensors import copy_tensors, put_tensors, trainable_parameters

ITEMS = 20
METHODS = {module.METHOD.name: module.METHOD for module in (gru4rec, caser, sasrec, dros, sasrec_full)}
PREFERRED = set(range(1, 11))  # pattern (b): liked if the last item is one of these
RARE = {1, 2}  # pattern (c): liked if any item of the history is one of these


def draw_rows(count, seed, label):
    """Histories of 3 to 10 liked items and targets, both at random; label(history) decides alone."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        history = [int(item) for item in draw.integers(1, ITEMS + 1, draw.integers(3, 11))]
        entries = tuple((item, True) for item in history)
        rows.append(Interaction(int(draw.integers(1, 9)), entries, int(draw.integers(1, ITEMS + 1)), label(history)))
    return rows


def last_is_preferred(history):
    return history[-1] in PREFERRED


def any_is_rare(history):
    return bool(RARE & set(history))


def data_of(train, valid=(), test=()):
    return Dataset(
        "planted", "made here", "movie", {i: Item(f"film {i}") for i in range(1, ITEMS + 1)}, train, valid, test
    )


def prepared(name, data, **changes):
    """(the module, one epoch of training, how rows are encoded, the optimizer), with these changes of the settings."""
    method = METHODS[name]
    settings = settings_of(method, "movie", False) | changes
    ids, form = number_ids(data, data.train), history_form(method, settings)
    rows = encode_rows(data.train, ids, form)
    torch.manual_seed(0)
    module = method.build(Training(ids, rows), settings)
    optimizer = make_optimizer(module, settings)
    return (
        module,
        lambda: train_epoch(module, optimizer, rows, settings["batch_size"]),
        lambda wanted: encode_rows(wanted, ids, form),
        optimizer,
    )


def learn(name, data, epochs, **changes):
    """(the module, how its rows are encoded) after these epochs."""
    module, epoch, encoded, _ = prepared(name, data, **changes)
    for _ in range(epochs):
        epoch()
    return module, encoded


def best_auc(name, train, unseen, epochs, enough, **changes):
    """The best AUC of the unseen rows after an epoch; it stops early at one that is enough."""
    module, epoch, encoded, _ = prepared(name, data_of(train), **changes)
    rows, best = encoded(unseen), 0.0
    for _ in range(epochs):
        epoch()
        best = max(best, auc_of(module, rows))
        if best >= enough:
            break
    return best


def auc_of(module, rows):
    return auc(rows.labels.numpy(), score_rows(module, rows))


@pytest.mark.parametrize("name", list(METHODS))
def test_it_overfits_16_rows(name):
    """Labels at random: only the rows themselves can be learned."""
    draw = np.random.default_rng(3)
    train = draw_rows(16, 0, lambda _: bool(draw.integers(2)))
    assert best_auc(name, train, train, 150, enough=1.0, lr=1e-2, l2=0.0) == 1.0


EASY = {"lr": 1e-2, "l2": 0.0, "batch_size": 64, "dim": 32, "dropout": 0.0}


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("label", [last_is_preferred, any_is_rare])
def test_it_finds_a_planted_pattern_in_rows_it_has_not_seen(name, label):
    train, unseen = draw_rows(1000, 1, label), draw_rows(300, 2, label)
    assert 0.35 < np.mean([row.label for row in unseen]) < 0.65
    assert best_auc(name, train, unseen, 20, enough=0.95, **EASY) >= 0.95


@pytest.mark.parametrize("name", list(METHODS))
def test_it_does_not_solve_what_it_cannot_see(name):
    """The label depends on the user's group, which no sequence model reads."""
    train, unseen = (
        [Interaction(row.user, row.history, row.target, row.user <= 4) for row in draw_rows(count, seed, any)]
        for count, seed in ((600, 4), (400, 5))
    )
    module, encoded = learn(name, data_of(train), 5, **EASY)
    assert 0.4 < auc_of(module, encoded(unseen)) < 0.6


@pytest.mark.parametrize("name", list(METHODS))
def test_other_rows_and_their_labels_change_nothing(name):
    """Without the validation and test rows every trained parameter is the same; a label changes no score."""
    train, others = draw_rows(60, 6, any_is_rare), draw_rows(40, 7, last_is_preferred)
    with_others, encoded = learn(name, data_of(train, others[:20], others[20:]), 3)
    alone, _ = learn(name, data_of(train), 3)
    for (key, value), (other_key, other) in zip(with_others.state_dict().items(), alone.state_dict().items()):
        assert key == other_key and torch.equal(value, other)
    flipped = [Interaction(row.user, row.history, row.target, not row.label) for row in others]
    assert np.array_equal(score_rows(alone, encoded(others)), score_rows(alone, encoded(flipped)))


@pytest.mark.parametrize("name", list(METHODS))
def test_training_that_is_put_back_goes_on_bit_for_bit(name):
    """From the trained tensors, the optimizer and the generator alone, which is what a run folder keeps."""
    data = data_of(draw_rows(60, 6, any_is_rare))
    whole, encoded = learn(name, data, 4)
    half, epoch, _, optimizer = prepared(name, data)
    epoch(), epoch()
    state = copy_tensors(half), copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    resumed, epoch, _, optimizer = prepared(name, data)
    put_tensors(trainable_parameters(resumed), state[0], "here")
    optimizer.load_state_dict(state[1])
    torch.set_rng_state(state[2])
    epoch(), epoch()
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))
    rows = encoded(data.train)
    assert np.array_equal(score_rows(whole, rows), score_rows(resumed, rows))


@pytest.mark.parametrize("name", ["gru4rec", "caser", "sasrec", "dros"])
def test_signs_of_the_history_are_learned_if_they_are_read(name):
    """Liked if the last item was liked: invisible in the ids, plain with the signs."""

    def signed(count, seed):
        draw = np.random.default_rng(seed)
        rows = []
        for row in draw_rows(count, seed, any):
            history = tuple((item, bool(draw.integers(2))) for item, _ in row.history)
            rows.append(Interaction(row.user, history, row.target, history[-1][1]))
        return rows

    train, unseen = signed(800, 8), signed(400, 9)
    assert best_auc(name, train, unseen, 20, enough=0.95, **EASY, history="signed") >= 0.95
    module, encoded = learn(name, data_of(train), 3, **EASY)
    assert 0.4 < auc_of(module, encoded(unseen)) < 0.6
