"""The measurements that the documentation reports, checked where the answer is known."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import peer_work
from bench.amazon_book import generate
from bench.book_labels import agreeing_pairs, label_agreement, unshuffled
from bench.checkpoints import SHAPES, make_checkpoint, tensor_shapes
from bench.flops import backward_flops, distinct_tokens, forward_flops, plain_tokens, rows_of, step_flops
from bench.recommenders import SIZES
from data.interactions import Interaction
from data.pairs import EncodedPair, Row
from data.sources import amazon_book
from errors import CheckpointError
from model.weights import load_llama, read_llama_config


def made(shuffles, aligned=True, users=300, seed=0):
    """Rows of users with sorted books, shuffled this many times. aligned: the labels move with their books."""
    rng = random.Random(seed)
    rows = []
    for _ in range(users):
        books = sorted(rng.sample(range(40), 8))
        labels = [rng.random() < (0.9 if book % 2 else 0.1) for book in books]
        for _ in range(shuffles):
            random.Random(42).shuffle(books)
            if aligned:
                random.Random(42).shuffle(labels)
        rows.append(Interaction(None, tuple(zip(books[:-1], labels[:-1])), books[-1], labels[-1]))
    return rows


def test_undoing_a_shuffle_restores_the_list():
    for times in range(5):
        shuffled = list("abcdefghij")
        for _ in range(times):
            random.Random(42).shuffle(shuffled)
        assert unshuffled(shuffled, times) == list("abcdefghij")


def test_only_the_right_number_of_shuffles_restores_one_order():
    rows = [Interaction(None, tuple((item, True) for item, _ in row.history), row.target, True) for row in made(3)]
    share = [agree / pairs for pairs, agree in (agreeing_pairs(rows, times) for times in range(6))]
    assert share[3] == 1 and max(share[:3] + share[4:]) < 0.5


def test_labels_agree_if_they_belong_to_their_items_and_not_if_shuffled_separately():
    assert label_agreement(made(3))[0] > 0.1
    assert abs(label_agreement(made(3, aligned=False))[0]) < 0.01


def test_generated_reviews_are_read_like_real_ones(tmp_path):
    generate(tmp_path, 2000, 0.5, 80)
    reviews = amazon_book.read_year(amazon_book.raw_files(tmp_path)[0])
    assert 800 < len(reviews["time"]) < 1200 and set(reviews["stars"]) == {1, 2, 3, 4, 5}


# ---- FLOPs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_flops_equal_those_that_torch_counts(tiny_llama, key_value_heads):
    T, positions = 11, [4, 7, 10]
    model = tiny_llama(num_key_value_heads=key_value_heads).requires_grad_(False)
    model.model.embed_tokens.weight.requires_grad_(True)  # so that gradients reach the inputs of all layers
    counted = {}
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel for CPUs is not counted
        with FlopCounterMode(display=False) as counter:
            logits = model(torch.arange(T)[None], torch.tensor([positions]))
        counted["forward"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            logits.sum().backward()
        counted["backward"] = counter.get_total_flops()
    # That kernel multiplies all T x T pairs of tokens; a causal kernel needs only T (T + 1) / 2.
    square = plain_tokens([([0] * T, positions)])
    square.attended[:] = [T] * T
    assert counted == {"forward": forward_flops(model.config, square), "backward": backward_flops(model.config, square)}
    assert plain_tokens([([0] * T, positions)]).attended == list(range(1, T + 1))


def pairs_with_common_starts(count=6, seed=3):
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        prompts = [[1, 5, 6, *(draw.randrange(3, 6) for _ in range(draw.randint(2, 9)))] for _ in range(2)]
        pairs.append(EncodedPair(Row(prompts[0], [3, 7, 2]), Row(prompts[1], [4, 7, 2])))
    return pairs


@pytest.mark.parametrize("case", ["own", "shared", "released", "eval"])
def test_distinct_tokens_are_the_different_prefixes(case):
    rows = [row for part in rows_of(case, pairs_with_common_starts()) for row in part]
    prefixes = {tuple(ids[:end]) for ids, _ in rows for end in range(1, len(ids) + 1)}
    asked = {tuple(ids[: position + 1]) for ids, positions in rows for position in positions}
    distinct = distinct_tokens(rows)
    assert sorted(distinct.attended) == sorted(map(len, prefixes)) and distinct.positions == len(asked)
    assert len(prefixes) < len(plain_tokens(rows).attended) == sum(len(ids) for ids, _ in rows)


def test_shared_forcing_adds_only_the_answers_to_the_distinct_tokens(tiny_llama):
    config, pairs = tiny_llama().config, pairs_with_common_starts(1)
    own, shared = ([row for part in rows_of(case, pairs) for row in part] for case in ("own", "shared"))
    assert len(distinct_tokens(shared).attended) == len(distinct_tokens(own).attended) + 3
    # The last token of X- predicts the first token of both answers.
    assert distinct_tokens(shared).positions == distinct_tokens(own).positions + 2
    assert step_flops(config, "shared", pairs, True) < 1.3 * step_flops(config, "own", pairs, True)
    assert step_flops(config, "shared", pairs, False) > 1.4 * step_flops(config, "own", pairs, False)


# ---- random checkpoints -------------------------------------------------------------------------


def test_a_random_checkpoint_loads_is_reused_and_is_not_mistaken_for_another(tmp_path, tokenizer_bytes):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_bytes)
    config = SHAPES["small"] | {
        "vocab_size": 30,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
    }
    folder = make_checkpoint(config, tmp_path, tmp_path / "out", limit=3000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    model = load_llama(folder, torch.bfloat16)
    assert read_llama_config(folder).head_dim == 2
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == tensor_shapes(config)
    gate = model.model.layers[1].mlp.gate_proj.weight.float()
    assert abs(float(gate.std()) - 0.02) < 0.002 and not torch.equal(
        gate, model.model.layers[0].mlp.gate_proj.weight.float()
    )
    assert torch.equal(model.model.norm.weight, torch.ones(24, dtype=torch.bfloat16))

    first, second = sorted(folder.glob("*.safetensors"))[:2]
    content, written = first.read_bytes(), second.stat().st_mtime_ns
    first.unlink()  # as after an interrupted call
    make_checkpoint(config, tmp_path, folder, limit=3000)
    assert first.read_bytes() == content and second.stat().st_mtime_ns == written
    with pytest.raises(CheckpointError, match="another checkpoint"):
        make_checkpoint(config | {"num_hidden_layers": 3}, tmp_path, folder, limit=3000)


def test_the_named_shapes_have_the_documented_numbers_of_parameters():
    counts = {name: sum(shape.numel() for shape in tensor_shapes(config).values()) for name, config in SHAPES.items()}
    assert (
        counts["llama-7b"] == 6_738_415_616
        and counts["tinyllama-1.1b"] == 1_100_048_384
        and counts["llama-3b"] == 3_426_473_600
    )


# ---- the peers ----------------------------------------------------------------------------------


@pytest.fixture
def form_of(make_checkpoint):
    """form_of(case, form): (peer_work.Form of a tiny checkpoint, the pairs to train on or to score)."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    folder, pairs = make_checkpoint(), pairs_with_common_starts()

    def build(case, form):
        labels = [index % 2 == 0 for index in range(len(pairs))]
        task = peer_work.Task(
            case, form, False, folder, "fp32", "cpu", 1, 0.0, [pairs], pairs, labels, {True: [3, 7], False: [4, 7]}
        )
        load = peer_work.ours_load if form == peer_work.OURS else peer_work.peer_load
        return load(task, torch.device("cpu"), torch.float32), pairs

    return build


@pytest.mark.parametrize("case", ["own", "shared", "released"])
def test_the_peers_have_the_same_loss_and_gradients_as_ours(form_of, case):
    figures = {}
    for name in peer_work.FORMS[case]:
        form, pairs = form_of(case, name)
        loss = form.gradients(pairs)
        figures[name] = [loss, *(float(parameter.grad.norm()) for parameter in form.parameters)]
    for name in peer_work.FORMS[case][1:]:
        assert np.allclose(figures[name], figures[peer_work.OURS], rtol=1e-4, atol=1e-7), name


def evaluated(form, pairs):
    return form.evaluate(pairs)


def test_the_peers_give_the_same_scores_as_ours(form_of):
    scores = {name: evaluated(*form_of("eval", name)) for name in peer_work.FORMS["eval"]}
    ours = scores.pop(peer_work.OURS)
    assert ours.std() > 0.1
    for name, theirs in scores.items():
        assert np.allclose(theirs, ours, atol=1e-5), name


# ---- recommenders -------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_a_recommender_is_measured_at_the_size_of_a_data_set():
    rows, _, users, items = SIZES["ml-1m"]
    assert (rows, users, items) == (33_891, 740, 3_255)
    # In a process of its own: one that has freed memory before takes that again, and its peak does not rise.
    code = "import json, torch; from bench.recommenders import measure\n"
    code += 'print(json.dumps(measure("mf", "ml-1m", 2, torch.device("cpu"))))'
    root = Path(__file__).parent.parent
    found = json.loads(subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True).stdout)
    assert found["parameters"] == 256 * (users + 1 + items + 1)
    assert len(found["epoch_s"]) == 2 and min(found["epoch_s"]) > 0 and found["peak_mb"] > 0
