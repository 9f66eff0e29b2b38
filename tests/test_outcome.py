"""What a run leaves when no validation beat the base, and what it prints where."""

import json

import pytest
from safetensors.torch import load_file

import eval as eval_verb
import train

SMALL = ("--data", "demo", "--shots", "2", "--max-steps", "2", "--eval-every", "1", "--device", "cpu")
BAD = (*SMALL, "--lr", "10", "--clip", "1000000", "--warmup-steps", "0")  # destroys whatever the base knew


def content(folder):
    """All files but timings and config.json, to which a resumed run adds what changed."""
    left_out = ("timings.jsonl", "config.json")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name not in left_out}


@pytest.fixture(scope="module")
def worse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worse") / "run"
    train.main([*BAD, "--out", str(folder)])
    return folder


def test_a_run_that_beats_nothing_ends_as_the_base(worse, capsys):
    results = json.loads((worse / "results.json").read_text())
    validated = [json.loads(line)["valid_auc"] for line in (worse / "metrics.jsonl").read_text().splitlines()]
    base = results["valid"]["before"]["auc"]
    assert max(validated) < base and (results["best_step"], results["best_valid_auc"]) == (0, base)
    assert results["test"]["after"] == results["test"]["before"] and results["steps"] == 2
    adapter = load_file(worse / "adapter_model.safetensors")
    of_b = [tensor for name, tensor in adapter.items() if "lora_B" in name]
    assert of_b and not any(tensor.any() for tensor in of_b)
    eval_verb.main(["--run", str(worse), "--device", "cpu", "--json"])
    assert json.loads(capsys.readouterr().out)["auc"] == results["test"]["before"]["auc"]


def test_resumed_it_ends_with_the_same_bytes(worse):
    before = content(worse)
    train.main(["--resume", "--out", str(worse)])
    assert content(worse) == before


def test_a_run_from_an_adapter_that_beats_nothing_ends_as_that_adapter(tmp_path):
    good, again = tmp_path / "good", tmp_path / "again"
    train.main([*SMALL, "--lr", "0.001", "--out", str(good)])
    train.main([*BAD, "--init-adapter", str(good), "--out", str(again)])
    first, last = (load_file(folder / "adapter_model.safetensors") for folder in (good, again))
    assert json.loads((again / "results.json").read_text())["best_step"] == 0
    assert first.keys() == last.keys() and all(first[name].equal(last[name]) for name in first)


@pytest.mark.parametrize("json_flag", [(), ("--json",)], ids=["text", "json"])
def test_results_are_all_there_is_on_standard_output(worse, json_flag, capsys):
    eval_verb.main(["--run", str(worse), "--device", "cpu", *json_flag])
    shown = capsys.readouterr()
    table, aside = (shown.err, shown.out) if json_flag else (shown.out, shown.err)
    assert "test split: 600 rows" in table and "test split" not in aside and "Written to" in shown.err
    assert len(shown.out.splitlines()) == 1 if json_flag else max(map(len, shown.out.splitlines())) <= 80
