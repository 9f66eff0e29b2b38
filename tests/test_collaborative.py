"""CoLLM's stages end to end: the vectors of recommenders, what each variant trains, the run folder, other verbs."""

import csv
import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import baseline
import eval as eval_verb
import predict
import train
from cli.data import load_data
from data.interactions import Interaction
from errors import AdapterError, DataError, FlagError, RunError
from run.collaborative import load_recommender, place
from tests.planted import ITEMS, data_of, planted

FEW = ("--valid-rows", "6", "--test-rows", "6", "--device", "cpu", "--eval-every", "2", "--batch-size", "4")
SHORT = {
    "mf": ("--epochs", "3", "--dim", "4"),
    "lightgcn": ("--epochs", "3", "--dim", "4"),
    "sasrec-full": ("--epochs", "2", "--dim", "4"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data in which a user's group decides, as a user would have them; histories are short, so prompts are too."""
    path = tmp_path_factory.mktemp("data") / "planted"
    path.mkdir()
    rows = [row for row in planted("group", 160, 0) if row.user <= 20]
    lines = [f"u{r.user},{r.target},{int(r.label)},{i}" for i, r in enumerate(rows)]
    (path / "interactions.csv").write_text("user,item,liked,timestamp\n" + "\n".join(lines) + "\n")
    (path / "items.csv").write_text("item,title\n" + "".join(f"{i},Film {i}\n" for i in range(1, ITEMS + 1)))
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Without rules, intervals' draws and pictures, which take most of the time of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baseline, "without_learning", lambda train, rows: {"rules": {}})
        patch.setattr(baseline, "draw_recommender_curves", lambda path, history, results: None)
        patch.setattr("run.outcome.draw_curves", lambda path, history, results: None)
        patch.setattr("metrics.BOOTSTRAP_DRAWS", 5)
        yield


@pytest.fixture(scope="module")
def recommenders(folder, tmp_path_factory):
    """{method: the folder of its run}."""
    parent = tmp_path_factory.mktemp("recommenders")
    for method, flags in SHORT.items():
        baseline.main(["--method", method, "--data", folder, "--out", str(parent / method), *flags])
    return {method: parent / method for method in SHORT}


def start(folder, out, *flags, steps=2):
    train.main(
        ["--data", folder, "--shots", "8", "--max-steps", str(steps), "--out", str(out), "--objective", "collm"]
        + [*FEW, *flags]
    )
    return out


@pytest.fixture(scope="module")
def stage_1(folder, tmp_path_factory):
    return start(folder, tmp_path_factory.mktemp("stages") / "one")


@pytest.fixture(scope="module")
def second(folder, recommenders, stage_1):
    """second(out, *flags, method=..., steps=...): a run of stage 2."""

    def run(out, *flags, method="mf", steps=2):
        named = f"{method}:{recommenders[method]}"
        return start(folder, out, "--collaborative", named, "--init-adapter", str(stage_1), *flags, steps=steps)

    return run


@pytest.fixture(scope="module")
def stage_2(second, tmp_path_factory):
    return second(tmp_path_factory.mktemp("stages") / "two")


def data_at(folder):
    return load_data({"data": folder, "data_dir": None, "real_data": False, "model": "demo"})


def trained_at(run, step):
    return load_file(run / f"last/step-{step:08d}/trained.safetensors")


# ---- the vectors are the recommender's ----------------------------------------------------------


@pytest.mark.parametrize("method", SHORT)
def test_user_and_item_vectors_give_the_scores_that_the_recommender_gave(folder, recommenders, method):
    data = data_at(folder)
    placed = place(load_recommender(f"{method}:{recommenders[method]}", data), [*data.valid, *data.test])
    with open(recommenders[method] / "predictions.csv") as file:
        scores = [float(line["score"]) for line in csv.DictReader(file)]
    known = [row.user in {r.user for r in data.train} for row in data.test]
    products = []
    for row in data.test:
        user, item = placed.numbers(row)
        products.append(float(placed.table[user] @ placed.table[item]))
    for product, score, is_known in zip(products, scores, known):
        if is_known or method == "sasrec-full":
            assert product == pytest.approx(score, rel=1e-4, abs=1e-5)
        else:
            assert product == 0


def test_an_unknown_user_or_item_has_the_vector_of_the_unknown(folder, recommenders):
    data = data_at(folder)
    placed = place(load_recommender(f"mf:{recommenders['mf']}", data), [])
    row = data.test[0]
    assert placed.numbers(Interaction("nobody", row.history, row.target, True))[0] == 0
    assert placed.numbers(Interaction(row.user, row.history, "no item", True))[1] == 0
    assert not placed.table[0].any() and placed.table[1:].any(dim=1).all()
    ids = placed.ids(100)(row)
    assert list(ids) == ["<UserID>", "<TargetItemID>"] and min(ids.values()) >= 100


def test_a_run_on_other_rows_or_of_another_method_is_refused(folder, recommenders, tmp_path):
    data = data_at(folder)
    with pytest.raises(RunError, match="is a run of mf; write mf:"):
        load_recommender(f"lightgcn:{recommenders['mf']}", data)
    with pytest.raises(RunError, match="was trained on other rows than --data"):
        load_recommender(f"mf:{recommenders['mf']}", data_of(planted("group", 9, 0), planted("group", 9, 1)))
    with pytest.raises(RunError, match="config.json is missing"):
        load_recommender(f"mf:{tmp_path}", data)
    copy = shutil.copytree(recommenders["mf"], tmp_path / "copy")
    (copy / "best.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RunError, match=r"best.safetensors: damaged or truncated"):
        load_recommender(f"mf:{copy}", data)


# ---- what each variant trains -------------------------------------------------------------------


def test_stage_2_trains_the_mapping_alone(stage_1, stage_2, recommenders):
    trained = trained_at(stage_2, 2)
    assert sorted(name.rpartition("vectors.")[2] for name in trained) == [
        *("mapping.0.bias", "mapping.0.weight", "mapping.2.bias", "mapping.2.weight"),
    ]
    adapters = [load_file(run / "adapter_model.safetensors") for run in (stage_1, stage_2)]
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    recommender = load_file(recommenders["mf"] / "best.safetensors")
    table = load_file(stage_2 / "vectors.safetensors")["table.weight"]
    parts = [recommender[f"{side}_vectors.weight"] for side in ("user", "item")]
    assert torch.equal(table, torch.cat([parts[0], parts[1][1:]]))  # row 0 of both is zeros


@pytest.mark.parametrize("tuning", ["t1", "t2", "t3"])
def test_the_variants_train_what_their_names_say(second, folder, recommenders, stage_2, tmp_path, tuning):
    if tuning == "t3":
        named = f"mf:{recommenders['mf']}"
        run = start(folder, tmp_path / "run", "--collaborative", named, "--tuning", tuning)
    else:
        run = second(tmp_path / "run", "--tuning", tuning)
    trained, pretrained = trained_at(run, 2), load_file(stage_2 / "vectors.safetensors")["table.weight"]
    assert any("lora" in name for name in trained) == (tuning == "t3")
    tables = [tensor for name, tensor in trained.items() if "table" in name]
    assert len(tables) == (tuning != "t3") and all(
        "mapping" in name or "table" in name or "lora" in name for name in trained
    )
    for table in tables:
        assert not table[0].any() and not torch.equal(table, pretrained)
        distance = (table - pretrained).abs().max()
        assert distance < 0.01 if tuning == "t2" else distance > 0.05  # two steps of 1.5e-3 move no number further


def test_lcft_colmf_acts_in_stage_2_and_differs_from_collm(second, stage_2, tmp_path):
    run = second(tmp_path / "run", "--objective", "lcft-colmf", "--kl-weight", "0.5")
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert record["ce_neg"] > 0 and record["loss"] == pytest.approx(
        record["ce_pos"] + record["ce_neg"] - 0.5 * record["kl"], rel=1e-6
    )
    plain = json.loads((stage_2 / "metrics.jsonl").read_text().splitlines()[0])
    assert plain["ce_neg"] == 0 and plain["loss"] == pytest.approx(plain["ce_pos"])


@pytest.mark.parametrize("method", ["lightgcn", "sasrec-full"])
def test_vectors_of_other_recommenders_stand_in_the_prompt(second, folder, tmp_path, method):
    run = second(tmp_path / "run", method=method)
    results = json.loads((run / "results.json").read_text())
    assert results["collaborative"] == method and results["probability"] == "sigmoid"
    assert (run / "recommender.safetensors").exists() == (method == "sasrec-full")
    check_eval_gives_the_same_scores(run)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of CoLLM's rows as CSV, for --data ml-1m --data-dir."""
    path = tmp_path_factory.mktemp("published")
    for split, count in (("train", 12), ("valid", 24), ("test", 8)):
        lines = ["uid,iid,label,timestamp,his,title"]
        for n in range(count):
            item = n % 5 + 1
            lines.append(f'{n % 3 + 1},{item},{int(n % 2 == item % 2)},{1000 + n},"[0,{n % 5 + 1}]",Film {item}')
        (path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("initial", ["uniform", "normal"])
def test_prompt4nr_trains_its_six_vectors_and_lora(published, tmp_path, initial):
    flags = ("--data-dir", published, "--soft-prompt", initial)
    run = start("ml-1m", tmp_path / "run", *flags)
    trained = trained_at(run, 2)
    assert {"lora" in name for name in trained} == {True, False}
    vectors = next(tensor for name, tensor in trained.items() if "vectors" in name)
    assert vectors.shape == (6, 256) and (vectors.abs().max() > 0.5) == (initial == "uniform")
    assert not (run / "recommender.safetensors").exists()
    check_eval_gives_the_same_scores(run)


def test_a_soft_prompt_is_refused_where_the_wording_has_none(folder, tmp_path):
    with pytest.raises(FlagError, match="--soft-prompt: needs the prompts of ml-1m or amazon-book"):
        start(folder, tmp_path / "run", "--soft-prompt", "normal")


# ---- the run folder -----------------------------------------------------------------------------


def check_eval_gives_the_same_scores(run):
    before = (run / "predictions.csv").read_text()
    eval_verb.main(["--run", str(run), "--rows", "6", "--out", str(run / "again")])
    assert (run / "again/predictions.csv").read_text() == before


def test_eval_reads_everything_back_and_says_which_probability_it_read(stage_2):
    check_eval_gives_the_same_scores(stage_2)
    assert json.loads((stage_2 / "again/results.json").read_text())["probability"] == "sigmoid"
    eval_verb.main(["--run", str(stage_2), "--rows", "6", "--probability", "softmax", "--out", str(stage_2 / "soft")])
    assert (stage_2 / "soft/predictions.csv").read_text() != (stage_2 / "predictions.csv").read_text()


def test_results_have_stage_1_with_its_text_prompts(stage_2):
    results = json.loads((stage_2 / "results.json").read_text())
    assert 0 <= results["stage_1_text"]["auc"] <= 1 and results["tuning"] == "default"
    assert results["trained_table"] is False


def test_a_resumed_run_ends_with_the_same_bytes(second, tmp_path):
    whole = second(tmp_path / "whole", "--tuning", "t2", steps=4)
    saved = shutil.copytree(whole, tmp_path / "again")
    shutil.rmtree(saved / "last/step-00000004")
    for name in ("results.json", "vectors.safetensors", "adapter_model.safetensors"):
        (saved / name).unlink()
    train.main(["--out", str(saved), "--resume"])
    for name in ("vectors.safetensors", "adapter_model.safetensors", "predictions.csv", "metrics.jsonl"):
        assert (saved / name).read_bytes() == (whole / name).read_bytes(), name


def change(run, tmp_path, edit):
    """A copy of the run whose vectors.safetensors is edited."""
    copy = shutil.copytree(run, tmp_path / "copy")
    path = copy / "vectors.safetensors"
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    edit(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    return ["--run", str(copy), "--rows", "6"]


DAMAGES = {
    "missing mapping.0.bias": lambda tensors, _: tensors.pop("mapping.0.bias"),
    "unexpected extra": lambda tensors, _: tensors.update(extra=torch.zeros(1)),
    "mapping.0.bias is": lambda tensors, _: tensors.update({"mapping.0.bias": torch.zeros(3)}),
    "has NaN or infinite values": lambda tensors, _: tensors["mapping.2.weight"].fill_(float("nan")),
    "was saved with another adapter": lambda _, metadata: metadata.update(adapter="0" * 64),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_vectors_that_are_not_whole_are_refused(stage_2, tmp_path, message):
    with pytest.raises(AdapterError, match=message):
        eval_verb.main(change(stage_2, tmp_path, DAMAGES[message]))


def test_a_record_that_was_changed_and_other_data_are_refused(stage_2, tmp_path):
    copy = shutil.copytree(stage_2, tmp_path / "copy")
    call = ["--run", str(copy), "--rows", "6"]
    for change, message in (
        ({"kind": "other"}, "does not say what vectors"),
        ({"method": "caser"}, "the method is 'caser'"),
        ({"users": ["a", "a"]}, "users has an id twice"),
        ({"data": "elsewhere"}, "its vectors are of the users and items of 'elsewhere'"),
        ({"settings": {"dim": 4}}, "has other settings than mf"),
    ):
        record = json.loads((stage_2 / "vectors.json").read_text()) | change
        (copy / "vectors.json").write_text(json.dumps(record))
        with pytest.raises(RunError, match=message):
            eval_verb.main(call)
    (copy / "vectors.json").write_text("{")
    with pytest.raises(RunError, match="does not say what vectors"):
        eval_verb.main(call)


def test_data_without_users_are_refused(recommenders, stage_1, tmp_path):
    with pytest.raises((RunError, DataError)):
        start("demo", tmp_path / "run", "--collaborative", f"mf:{recommenders['mf']}", "--init-adapter", str(stage_1))


# ---- other verbs --------------------------------------------------------------------------------


def predictions(run, capsys, *flags):
    targets = [word for n in (3, 4) for word in ("--target", f"Film {n}")]
    predict.main(["--run", str(run), "--liked", "Film 1", *targets, "--json", *flags])
    output = capsys.readouterr()
    return json.loads(output.out)["predictions"], output.err


def test_predict_looks_users_and_titles_up_in_the_run(stage_2, capsys):
    known, _ = predictions(stage_2, capsys, "--user", "u1")
    other, _ = predictions(stage_2, capsys, "--user", "u2")
    unknown, said = predictions(stage_2, capsys)
    assert "1 of 1 users are not among the training users" in said
    answers = [[row["p_yes_positive"] for row in rows] for rows in (known, other, unknown)]
    assert answers[0] != answers[1] and answers[0] != answers[2]
    _, said = predictions(stage_2, capsys, "--user", "u1", "--target", "No such film")
    assert "1 titles are not in the run's data" in said


def test_show_prompt_shows_the_placeholders(stage_2, capsys):
    predict.main(["--run", str(stage_2), "--liked", "Film 1", "--target", "Film 2", "--show-prompt"])
    assert "User Feature: <UserID>\n" in capsys.readouterr().out


def test_the_plan_of_a_run_with_vectors_counts_what_is_trained(folder, recommenders, stage_1, tmp_path, capsys):
    named = f"mf:{recommenders['mf']}"
    start(folder, tmp_path / "x", "--collaborative", named, "--init-adapter", str(stage_1), "--plan", "--json")
    plan = json.loads(capsys.readouterr().out)
    numbers = 4 * 40 + 40 + 40 * 256 + 256  # d 4, 10 d, D 256 of the demo model
    assert plan["adapter"] == 4 * numbers and plan["fits"]
