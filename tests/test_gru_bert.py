"""GRU-BERT and DROS-BERT: their titles' vectors, what they learn, what they must not react to, and their runs."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import baseline
import compare
from baselines import dros_bert, gru4rec, gru_bert, title_vectors
from baselines.base import Training, settings_of
from baselines.fit import fit, make_optimizer, score_rows
from baselines.rows import Ids, Rows
from baselines.title_vectors import open_bert
from errors import CheckpointError, DataError, FlagError, RunError
from machine.signals import Stopped
from metrics import auc
from model.bert import Bert, BertConfig
from run.progress import Progress
from tensors import copy_tensors, put_tensors

METHODS = {module.METHOD.name: module.METHOD for module in (gru_bert, dros_bert)}
NOUNS = ["house", "river", "night", "train", "garden", "letter", "king", "winter", "road", "island"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "of", "the", *NOUNS]
WIDTH = 16


@pytest.fixture
def bert(tmp_path, monkeypatch):
    """A folder with a tiny random BERT that knows some words; the cache is empty."""
    monkeypatch.setenv("LCFT_DATA", str(tmp_path / "cache"))
    forget()
    folder = tmp_path / "bert"
    folder.mkdir()
    sizes = {"vocab_size": len(PIECES), "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 12}
    torch.manual_seed(0)
    model = Bert(BertConfig(**sizes, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape) * 1.5 / parameter.shape[-1] ** 0.5
            parameter.copy_(1 + noise / 5 if "LayerNorm.weight" in name else noise)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **sizes}))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    yield folder
    forget()


def forget():
    """What this process remembers of folders and titles."""
    open_bert.cache_clear()
    title_vectors.title_vectors.cache_clear()


def titles_of(count: int) -> tuple[str, ...]:
    """For padding and `count` items: even ones are good, odd ones bad; no two are the same."""
    pairs = [(a, b) for a in NOUNS for b in NOUNS]
    return ("", *(f"The {('good', 'bad')[i % 2]} {a} of the {b}" for i, (a, b) in enumerate(pairs[:count], start=1)))


def random_rows(count, items, seed, labels=None, shortest=1):
    draw = np.random.default_rng(seed)
    history, lengths = np.zeros((count, 10), int), draw.integers(shortest, 11, count)
    for i, real in enumerate(lengths):
        history[i, :real] = draw.choice(items, real)
    labels = draw.integers(0, 2, count) if labels is None else labels(history, lengths)
    return Rows(
        torch.zeros(count, dtype=torch.int64),
        torch.from_numpy(draw.integers(1, 6, count)),
        torch.from_numpy(history),
        torch.from_numpy(history > 0),
        torch.from_numpy(lengths),
        torch.from_numpy(np.asarray(labels)).float(),
    )


def built(method, rows, bert, **changes):
    settings = settings_of(method, "movie", False) | {"bert": str(bert)} | changes
    torch.manual_seed(1)
    items = {i: i for i in range(1, 101)}
    return method.build(Training(Ids({}, items, titles_of(100)), rows), settings), settings


# ---- the titles' vectors ------------------------------------------------------------------------


def test_each_vector_is_that_of_its_title_alone(bert):
    titles = titles_of(100)
    vectors = title_vectors.title_vectors(titles, bert)
    model, tokenizer, _ = open_bert(bert)
    assert vectors.shape == (101, WIDTH) and not vectors[0].any()
    for title, vector in zip(titles[1:], vectors[1:]):
        ids = torch.tensor([tokenizer.encode(title)])
        torch.testing.assert_close(model(ids, torch.tensor([ids.shape[1]]))[0, 0], vector, rtol=0, atol=1e-5)


def test_they_are_computed_once_and_kept(bert, monkeypatch, tmp_path):
    random_state = torch.get_rng_state()
    vectors = title_vectors.title_vectors(titles_of(9), bert)
    assert torch.equal(torch.get_rng_state(), random_state)  # so a run is the same with and without the cache
    monkeypatch.delattr(title_vectors, "encode_titles")
    forget()
    assert torch.equal(title_vectors.title_vectors(titles_of(9), bert), vectors)
    (path,) = (tmp_path / "cache" / "title-vectors").iterdir()
    assert path.suffix == ".safetensors"


def another_title(folder):
    return ("", "The bad king", *titles_of(9)[2:])


def another_weight(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.output.dense.bias"][0] += 1
    save_file(tensors, folder / "model.safetensors")


def another_epsilon(folder):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"layer_norm_eps": 0.1}))


def another_rule(folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))


def other_pieces(folder):
    (folder / "vocab.txt").write_text("\n".join([*PIECES[:5], "bad", "good", *PIECES[7:]]))


@pytest.mark.parametrize("change", [another_title, another_weight, another_epsilon, another_rule, other_pieces])
def test_whatever_changes_a_vector_changes_the_file_of_the_cache(bert, change, tmp_path):
    before = title_vectors.title_vectors(titles_of(9), bert)
    forget()
    after = title_vectors.title_vectors(change(bert) or titles_of(9), bert)
    assert not torch.equal(before, after)
    assert len(list((tmp_path / "cache" / "title-vectors").iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "shape", "values", "name"])
def test_a_damaged_file_of_the_cache_is_made_again(bert, damage, tmp_path, capsys):
    vectors = title_vectors.title_vectors(titles_of(9), bert)
    (path,) = (tmp_path / "cache" / "title-vectors").iterdir()
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-8])
    else:
        wrong = {"shape": vectors[1:], "values": vectors / 0, "name": vectors}[damage].clone()
        save_file({"others" if damage == "name" else "vectors": wrong}, path)
    forget()
    assert torch.equal(title_vectors.title_vectors(titles_of(9), bert), vectors)
    assert f"{path}: damaged" in capsys.readouterr().err and path.read_bytes() == whole


def test_a_pipe_with_the_name_of_a_shard_is_not_waited_for(bert):
    os.mkfifo(bert / "other.safetensors")
    with pytest.raises(DataError, match="no plain file"):
        open_bert(bert)


def test_a_cache_that_cannot_be_written_costs_time_only(bert, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert title_vectors.title_vectors(titles_of(9), bert).shape == (10, WIDTH)
    assert "computed again each time" in capsys.readouterr().err


# ---- the models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 4])
def test_gru_bert_by_hand(bert, layers):
    """Concatenation, then GRU cells one after the other, then the target's row of the output layer."""
    rows = random_rows(6, range(1, 101), 0)
    module, _ = built(gru_bert.METHOD, rows, bert, layers=layers, hidden=7, dim=5, title_dim=3)
    vectors, w = title_vectors.title_vectors(titles_of(100), bert), dict(module.named_parameters())
    for i, score in enumerate(module(rows)):
        states = [torch.zeros(1, 7) for _ in range(layers)]
        for item in rows.history[i, : rows.lengths[i]]:
            title = w["encoder.embedding.title.weight"] @ vectors[item] + w["encoder.embedding.title.bias"]
            x = torch.cat([w["encoder.embedding.items.item.weight"][item], title]).unsqueeze(0)
            for layer in range(layers):
                names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                gates = [w[f"encoder.gru.{name}_l{layer}"] for name in names]
                x = states[layer] = torch.gru_cell(x, states[layer], *gates)
        target = rows.items[i] - 1
        torch.testing.assert_close(x[0] @ w["output.weight"][target] + w["output.bias"][target], score)


def test_parameters_by_formula_and_vectors_that_are_not_among_them(bert):
    """The published size: ID part 64, title 64, four layers of 1,024."""
    method, rows = gru_bert.METHOD, random_rows(4, range(1, 101), 0)
    published = settings_of(method, "movie", True)
    module, _ = built(method, rows, bert, **{name: published[name] for name in ("layers", "hidden", "title_dim")})
    first, others = 3 * 1024 * (128 + 1024 + 2), 3 * (3 * 1024 * (1024 + 1024 + 2))
    expected = 101 * 64 + (WIDTH + 1) * 64 + first + others + 100 * (1024 + 1)
    assert sum(p.numel() for p in module.parameters()) == expected
    assert not any("vectors" in name for name in module.state_dict())


def train_on(module, settings, rows, valid, epochs=60):
    """Leaves the module in the state that is best on the validation rows."""
    best = {}
    settings = settings | {"epochs": epochs, "patience": epochs, "lr": 1e-2}
    torch.manual_seed(2)
    for _, is_best in fit(module, make_optimizer(module, settings), rows, valid, settings, Progress()):
        best = copy_tensors(module) if is_best else best
    put_tensors(dict(module.named_parameters()), best, "best")


def auc_of(module, rows):
    return auc(rows.labels.numpy(), score_rows(module, rows))


@pytest.mark.parametrize("name", METHODS)
def test_it_overfits_sixteen_rows(bert, name):
    rows = random_rows(16, range(1, 101), 0)
    module, settings = built(METHODS[name], rows, bert)
    train_on(module, settings, rows, rows)
    assert auc_of(module, rows) == 1.0


def last_title_is_good(history, lengths):
    return [history[i, length - 1] % 2 == 0 for i, length in enumerate(lengths)]


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_from_words_what_ids_cannot_tell_of_unseen_items(bert, name):
    """A row is liked if the last title of its history is good. Training has items 1 to 60, the test 61 to 100."""
    train = random_rows(800, range(1, 61), 0, last_title_is_good)
    valid, test = (random_rows(300, range(61, 101), seed, last_title_is_good) for seed in (1, 2))
    module, settings = built(METHODS[name], train, bert, batch_size=64)
    train_on(module, settings, train, valid, epochs=12)
    assert auc_of(module, test) >= 0.95
    if name == "gru-bert":
        by_ids, settings = built(gru4rec.METHOD, train, bert, batch_size=64)
        train_on(by_ids, settings, train, train, epochs=12)
        assert auc_of(by_ids, train) >= 0.95 and abs(auc_of(by_ids, test) - 0.5) < 0.1


@torch.no_grad()
@pytest.mark.parametrize("name", METHODS)
def test_scores_ignore_padding_labels_users_and_the_other_rows(bert, name):
    rows = random_rows(64, range(1, 101), 0, shortest=0)
    module, _ = built(METHODS[name], rows, bert)
    scores = module.eval()(rows)
    real = torch.arange(10) < rows.lengths.clamp(min=1).unsqueeze(1)
    other = Rows(**vars(rows) | {"users": rows.users + 3, "labels": 1 - rows.labels, "history": rows.history + ~real})
    assert torch.equal(module(other), scores)
    alone = torch.cat([module(rows[i : i + 1]) for i in range(64)])
    torch.testing.assert_close(alone, scores, rtol=0, atol=1e-6)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(rows[order]), scores[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_what_was_trained_is_all_that_must_be_kept(bert, name):
    rows = random_rows(16, range(1, 101), 0)
    module, settings = built(METHODS[name], rows, bert)
    train_on(module, settings, rows, rows, epochs=3)
    again, _ = built(METHODS[name], rows, bert)
    assert not np.array_equal(score_rows(again, rows), score_rows(module, rows))
    put_tensors(dict(again.named_parameters()), copy_tensors(module), "again")
    assert np.array_equal(score_rows(again, rows), score_rows(module, rows))


# ---- runs of baseline.py ------------------------------------------------------------------------


def arguments(name, bert, out):
    return [
        "--method",
        name,
        "--data",
        "movie",
        "--shots",
        "16",
        "--epochs",
        "4",
        "--bert",
        str(bert),
        "--out",
        str(out),
    ]


class StopAfter:
    """In place of a signal, which comes in the second epoch: the loop looks twice in the first."""

    def __init__(self):
        self.looks = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    @property
    def signal(self):
        self.looks += 1
        return "SIGTERM" if self.looks > 2 else None


def test_tables_and_comparisons_say_which_bert_it_was(bert, tmp_path, capsys):
    for run in ("a", "b"):
        baseline.main(arguments("gru-bert", bert, tmp_path / run))
    compare.main([str(tmp_path / "a"), str(tmp_path / "b")])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("titles read by a BertModel of 1 layers of 16, not bert-base-uncased (sha256") == 4


@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_and_resumed_run_equals_one_that_was_not_stopped(bert, name, tmp_path, monkeypatch, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    baseline.main(arguments(name, bert, whole))
    with monkeypatch.context() as patch:
        patch.setattr("run.recommender.StopRequest", StopAfter)
        with pytest.raises(Stopped):
            baseline.main(arguments(name, bert, parts))
    assert len((parts / "metrics.jsonl").read_text().splitlines()) == 2
    forget()
    baseline.main(["--out", str(parts), "--resume"])
    assert "Resuming after epoch 2" in capsys.readouterr().err
    for file in ("predictions.csv", "metrics.jsonl", "best.safetensors"):
        assert (whole / file).read_bytes() == (parts / file).read_bytes()
    assert (
        "BertModel of 1 layers of 16, not bert-base-uncased" in json.loads((whole / "results.json").read_text())["bert"]
    )


def test_a_run_needs_a_bert_and_says_so_before_it_makes_a_folder(bert, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(FlagError, match=r"--bert: .*docs/models\.md"):
        baseline.main(["--method", "gru-bert", "--data", "movie", "--shots", "16", "--out", str(out)])
    (bert / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"vocab\.txt: missing"):
        baseline.main(arguments("gru-bert", bert, out))
    assert not out.exists()


def test_a_run_does_not_go_on_with_another_bert(bert, tmp_path):
    baseline.main(arguments("gru-bert", bert, tmp_path / "run"))
    another_weight(bert)
    forget()
    with pytest.raises(RunError, match="bert"):
        baseline.main(["--out", str(tmp_path / "run"), "--resume"])
