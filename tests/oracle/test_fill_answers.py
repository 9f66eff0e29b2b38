"""docs/consistency-format.md as typed, with transformers on a random checkpoint: its answers are those of our model."""

import re
from pathlib import Path

import numpy as np
import pytest

import eval as eval_verb
from data.sources.tallrec import read_folder, write_split
from docs.fill_answers import fill
from run.answers import measure_answers, read_answers
from tests.oracle.test_transformers_folder import saved
from tests.test_byte_bpe import INVENTED

pytest.importorskip("transformers")

PAGE = (Path(__file__).parents[2] / "docs" / "consistency-format.md").read_text(encoding="utf-8")
ASK, API, CALL = re.findall(r"^```python\n(.*?)^```$", PAGE, re.S | re.M)


def test_answers_filled_with_transformers_are_those_of_our_own_model(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    saved(tmp_path / "model", "smollm")
    (tmp_path / "rows").mkdir()
    for split in ("train", "valid", "test"):
        write_split(tmp_path / "rows" / f"{split}.json", getattr(INVENTED, split) or INVENTED.train, INVENTED)
    found = {"folder": str(tmp_path / "model")}
    exec(ASK, found)
    fill(tmp_path / "theirs.json", "transformers", read_folder(tmp_path / "rows", "rows"), found["ask"])
    argv = ["--model", tmp_path / "model", "--data", tmp_path / "rows", "--precision", "fp32", "--device", "cpu"]
    argv += ["--max-len", 4096, "--negations", "--predictions-out", tmp_path / "ours.json"]
    eval_verb.main([str(word) for word in argv])
    theirs, ours = read_answers(tmp_path / "theirs.json"), read_answers(tmp_path / "ours.json")
    assert theirs.questions == ours.questions and theirs.rows == ours.rows and len(ours.questions) > 4
    np.testing.assert_allclose(theirs.odds, ours.odds, atol=1e-4)
    assert np.std(ours.odds) > 1e-3
    assert measure_answers(theirs)["contradiction_rate"] == measure_answers(ours)["contradiction_rate"]


def test_the_api_example_and_the_call_work_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"Yes": -0.1, " Yes": -4.0, "No": -2.5, "Perhaps": -3.0}
    found = {"most_likely_first_tokens": lambda prompt: given if "dislike" not in prompt else {"Perhaps": 0.0}}
    exec(API, found)
    yes, no = np.exp(-0.1) + np.exp(-4.0), np.exp(-2.5)
    assert found["ask"]("will like") == pytest.approx(yes / (yes + no)) and found["ask"]("will dislike") == 0.5
    exec(CALL.replace("rows=20", "rows=3"), found)
    answers = read_answers(tmp_path / "consistency.json")
    assert len(answers.rows) == 3 and answers.model == "my model" and answers.rules
    assert answers.odds[:, 0] == pytest.approx(np.log(yes / no))
