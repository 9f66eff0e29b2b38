"""The model card of an adapter: written with the results, whole, and true to them."""

import json
import re

import pytest

import train
from data.sources.stand_in import stand_in
from data.sources.tallrec import write_split
from report.card import model_card


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    data = stand_in()
    (folder / "rows").mkdir()
    for split in ("train", "valid", "test"):
        write_split(folder / "rows" / f"{split}.json", getattr(data, split)[:16], data)
    short = "--shots 8 --max-steps 1 --eval-every 1 --precision fp32 --device cpu --test-rows 12 --lora-r 4"
    train.main(["--data", str(folder / "rows"), "--out", str(folder / "run"), *short.split()])
    return folder / "run"


def test_the_card_has_base_data_objective_and_every_figure_of_the_results(run):
    card, results = (run / "README.md").read_text(), json.loads((run / "results.json").read_text())
    assert card.startswith('---\nlibrary_name: peft\nbase_model: "demo"\n')
    assert "objective paper with lambda 0.0001, 8 shots, seed 0" in card
    assert "users unknown; 95 % intervals from resampling rows." in card  # TALLRec's JSON names no users
    assert "| LoRA | r 4, alpha 16, dropout 0.005, on q_proj, v_proj |" in card
    likes = results["test"]["constants"]['Yes to "like", No to "dislike"']
    assert f'| Yes to "like", No to "dislike" | 0.000 | {likes["group_accuracy"]:.3f} [' in card
    assert (
        "| the same answer to both | 1.000 | 0.000 |" in card
        and "**Demo**" in card
        and "12 of 16 rows (seeded subset)" in card
    )
    for name, label in (("contradiction_rate", "contradiction rate"), ("group_accuracy", "both answers right")):
        (row,) = re.findall(rf"^\| {label} \| (.*) \|$", card, re.M)
        cells = [results["test"][when] for when in ("before", "after", "change")]
        for text, values in zip(row.split(" | "), cells, strict=True):
            found = [float(number) for number in re.findall(r"[+-]?\d\.\d+", text)]
            low, high = values["interval_95"][name]
            assert found == pytest.approx([values[name], *((low, high) if low < high else ())], abs=6e-4)


def test_stand_in_data_is_named_and_a_pipe_does_not_break_the_table(run):
    results = json.loads((run / "results.json").read_text())
    adapter = {"base": "a|b", "base_fingerprint": "f" * 64, "r": 4, "alpha": 16.0, "dropout": 0.0, "targets": ["q"]}
    card = model_card(results | {"data_source": stand_in().source}, adapter)
    assert "**Stand-in data**: simulated viewers" in card and "SIMULATED stand-in data" in card
    assert r"| base | `a\|b`" in card


@pytest.mark.parametrize("base", ["/data/models/llama-7b", "../llama-7b", "llama-7b/", "models/llama-7b"])
def test_the_card_names_the_base_as_another_person_may_know_it(run, base):
    results = json.loads((run / "results.json").read_text()) | {"model": base, "demo_model": False}
    adapter = {"base": base, "base_fingerprint": "f" * 64, "r": 4, "alpha": 16.0, "dropout": 0.0, "targets": ["q"]}
    card = model_card(results, adapter)
    assert (
        '\nbase_model: "llama-7b"\n' in card and "| base | `llama-7b`, sha256 of its weights `ffffffffffff` |" in card
    )
    assert "base_folder = 'llama-7b'" in card and ", llama-7b; objective paper" in card
    assert not re.search(r"(/data|\.\.|models)/", card)


def test_a_resumed_end_writes_the_same_card(run):
    before = (run / "README.md").read_bytes()
    train.main(["--out", str(run), "--resume"])
    assert (run / "README.md").read_bytes() == before
