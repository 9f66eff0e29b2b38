"""reproduce.py with runs that need other runs, parts of a study, and in-context learning as a run: with stubs."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data.interactions import Interaction
from errors import FlagError, RunError
from studies import calls
from studies.bench import TRAINED, Bench, known_lines
from studies.calls import OTHER_BASES
from studies.declared import STUDIES
from studies.parts import Part, own_file, read_all_lines, read_part, runs_of_part
from studies.results import BASE, read_lines
from studies.runs import make_runs, wanted_runs
from studies.study import BASELINE, EVAL, TRAIN, Need, Setting, Study
from studies.tables import measured_rows

# What the verbs leave, without any model. A run that names a folder of another run fails if that one is not finished.
STUB = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save
verb, words = Path(sys.argv[0]).stem, sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
if "--plan" in words:
    print(json.dumps({"run_s": 60}))
    sys.exit()
out = Path(value("--out"))
with open(out.parent / "calls.jsonl", "a") as file:
    file.write(json.dumps({"run": out.name, "verb": verb, "words": words}) + "\\n")
for flag in ("--collaborative", "--init-adapter"):
    if flag in words and not (Path(value(flag).split(":")[-1]) / "results.json").exists():
        sys.exit(f"{flag}: not there yet")
if (out.parent / f"broken-{verb}").exists():
    sys.exit(f"{verb}: error: broken today")
out.mkdir(exist_ok=True)
values = {"auc": 0.5, "uauc": None, "contradiction_rate": 0.5, "interval_95": {}, "counts": {}}
columns = ("log_yes_pos", "log_no_pos", "log_yes_neg", "log_no_neg", "kl", "js")
if verb == "train":
    shared = Path(value("--base-scores"))
    shared.mkdir(exist_ok=True)
    content = save({name: np.full(3, -1.0 - i) for i, name in enumerate(columns)})
    (shared / f"test-{len(words)}.scores").write_bytes(hashlib.sha256(content).digest() + content)
if verb == "baseline":
    lines = ["user,item,label,score,row,timestamp", *(f"{i // 2},{i},{i % 2},{i},{i},0" for i in range(4))]
else:
    lines = ["user,item,label,p_yes_positive,p_yes_negative,contradiction,row,timestamp,"
             "log_yes_positive,log_no_positive,log_yes_negative,log_no_negative,kl,js"]
    lines += [f"{i // 2},{i},{i % 2},.5,.5,1,{i},0,-1,-2,-1,-2,0,0" for i in (0, 1, 3)]
(out / "predictions.csv").write_text("\\n".join(lines) + "\\n")
chosen = {} if verb == "baseline" else {"chosen": {"rows": 3}}
if verb == "eval":
    results = values | chosen | {"model": "m", "demo_model": True, "split": "test", "examples": 0}
else:
    (out / "config.json").write_text(json.dumps({"flags": {"seed": {"value": 0}}, "versions": {"torch": "x"}}))
    before = values | {"contradiction_rate": 1.0, "group_accuracy": 0.0}  # of the base's answers: Yes to everything
    results = {"test": {"before": before, "after": values} | chosen, "steps": 1}
(out / "results.json").write_text(json.dumps(results))
"""
MF = Setting("MF", "all", 2, {"method": "mf"}, BASELINE)
FIRST = Setting("stage 1", "all", 2, {"objective": "collm"}, plain=False)
NEEDS = {"collaborative": Need(MF, "mf:{}"), "init-adapter": Need(FIRST)}
SECOND = Setting("CoLLM-MF", "all", 2, {"objective": "collm"}, needs=NEEDS, plain=False)
TALLREC = Setting("TALLRec", "all", 1, {"objective": "tallrec"})
ICL = Setting("ICL", "all", 1, {"examples": "0"}, EVAL)
STUDY = Study("all kinds", (SECOND, ICL, TALLREC))  # MF and stage 1 have no row
WORDS = {TRAIN: ("--model", "m"), BASELINE: ("--data", "d"), EVAL: ("--model", "m", "--rows", "3")}
ROWS = [Interaction(i // 2, (), i, bool(i % 2), i) for i in range(4)]


class _Data:
    name, source, test, train = "movie", "files", ROWS, ROWS


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A Bench whose verbs are the stub, with three processes."""
    for verb in (TRAIN, BASELINE, EVAL):
        (tmp_path / verb).write_text(STUB)
    monkeypatch.setattr(calls, "VERBS", {verb: tmp_path / verb for verb in (TRAIN, BASELINE, EVAL)})
    (tmp_path / "out").mkdir()
    return Bench(tmp_path / "out", tmp_path / "results.jsonl", {"data": "d"}, WORDS, 3, 1)


def made_calls(bench):
    return [json.loads(line) for line in (bench.out / "calls.jsonl").read_text().splitlines()]


def test_what_a_run_needs_is_made_first_and_named_by_its_folder(bench):
    made = STUDY.runs()
    name = "shots=all-objective=collm-collaborative=method=mf-init-adapter=objective=collm-seed=1"
    assert made[name].after == ("shots=all-method=mf-seed=1", "shots=all-objective=collm-seed=1")
    assert len(made) == 2 + 2 + 2 + 1 + 1 and list(made) == sorted(made, key=lambda one: made[one].seed)
    make_runs(STUDY, bench)
    words = next(call["words"] for call in made_calls(bench) if call["run"] == name)
    folder, adapter = bench.out / "shots=all-method=mf-seed=1", bench.out / "shots=all-objective=collm-seed=1"
    assert words[-4:] == ["--collaborative", f"mf:{folder}", "--init-adapter", str(adapter)]
    assert words[:4] == ["--out", str(bench.out / name), "--base-scores", str(bench.out / OTHER_BASES)]
    assert max(Counter(call["run"] for call in made_calls(bench)).values()) == 1


def test_flags_of_training_go_to_recommenders_that_train_alone(bench):
    rule = Setting("a rule", "all", 1, {"method": "logreg"}, BASELINE)
    make_runs(Study("", (rule, MF)), replace(bench, words=WORDS | {TRAINED: ("--epochs", "2")}))
    given = {call["run"]: "--epochs" in call["words"] for call in made_calls(bench)}
    assert given == {rule.run_name(0): False, MF.run_name(0): True, MF.run_name(1): True}


def test_the_line_of_the_untuned_base_is_of_a_run_with_plain_prompts(bench):
    lines = make_runs(STUDY, bench)
    stored = [path.parent.name for path in bench.out.glob("*/test-*.scores")]
    assert Counter(stored)[BASE] == 1 and set(stored) == {BASE, OTHER_BASES}
    assert lines[BASE].about["rows"] == [0, 1, 3]
    (bench.results).unlink()
    without = Study("no plain prompts", (SECOND, ICL))
    assert BASE not in make_runs(without, bench)


def test_in_context_learning_is_a_run_of_eval(bench):
    lines = make_runs(STUDY, bench)
    (call,) = (call for call in made_calls(bench) if call["verb"] == "eval")
    assert call["run"] == "shots=all-examples=0-seed=0"
    given = ["--model", "m", "--rows", "3", "--examples-seed", "0", "--examples", "0"]
    assert call["words"] == ["--out", str(bench.out / call["run"]), *given]
    line = lines[call["run"]]
    assert line.about["test"] == {"auc": 0.5, "uauc": None, "contradiction_rate": 0.5}
    assert (line.about["verb"], line.about["rows"], line.about["flags"]) == (EVAL, [0, 1, 3], {"examples": "0"})
    of = {row.label: row for row in measured_rows(STUDY, lines, _Data)}
    assert of["ICL"].runs == 1 and "CoLLM-MF, all shots" in of


def test_an_unfinished_scoring_is_begun_anew(bench):
    make_runs(STUDY, bench)
    (bench.out / "shots=all-examples=0-seed=0" / "results.json").unlink()  # it was stopped before its last file
    bench.results.unlink()
    make_runs(STUDY, bench)
    assert [call["verb"] for call in made_calls(bench)].count("eval") == 2 and len(made_calls(bench)) == 9


def test_recommenders_are_measured_on_the_rows_that_language_models_were_asked(bench):
    lines = make_runs(Study("", (ICL, MF)), bench)
    _, mf = measured_rows(Study("", (ICL, MF)), lines, _Data)
    assert BASE not in lines and mf.values["auc"].tolist() == [1.0, 1.0]  # of rows 0, 1, 3; of all four it is 0.75


def test_runs_whose_need_failed_are_named_with_it(bench):
    (bench.out / "broken-baseline").touch()
    with pytest.raises(RunError) as failed:
        make_runs(STUDY, bench)
    lines = str(failed.value).splitlines()
    assert sum("baseline: error: broken today" in line for line in lines) == 2
    assert sum("not run, since shots=all-method=mf-seed=" in line for line in lines) == 2


def test_a_need_with_a_line_and_no_folder_is_made_again(bench):
    make_runs(Study("", (MF, FIRST)), bench)
    for path in (bench.out / MF.run_name(0)).iterdir():
        path.unlink()
    make_runs(STUDY, bench)
    made = Counter(call["run"] for call in made_calls(bench))
    assert {name for name, count in made.items() if count > 1} == {MF.run_name(0)}


def test_a_log_that_is_a_link_is_not_written_through(bench, tmp_path):
    (tmp_path / "mine").write_text("mine")
    bench.out.mkdir(parents=True, exist_ok=True)
    (bench.out / f"{MF.run_name(0)}.log").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="seed=0.log is a link; delete it"):
        make_runs(Study("", (MF,)), bench)
    assert (tmp_path / "mine").read_text() == "mine"


# ---- parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["table1", "table2", "figure3", "consistency"])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_the_parts_of_a_study_are_the_study_and_what_belongs_together_is_in_one(name, count):
    whole = STUDIES[name].runs()
    parts = [runs_of_part(whole, Part(i + 1, count)) for i in range(count)]
    assert Counter(run for part in parts for run in part) == Counter(list(whole))
    for part in parts:
        assert all(other in part for run in part.values() for other in run.after)
        assert list(part) == [run for run in whole if run in part]
    if name == "figure3" and count == 7:
        assert [len(part) for part in parts] == [3] * 7


def test_each_part_writes_a_file_of_its_own_and_together_they_are_the_study(bench):
    for number in (1, 2):
        part = replace(bench, part=Part(number, 2))
        made = make_runs(STUDY, part)
        own = set(read_lines(own_file(bench.results, part.part)))
        assert set(wanted_runs(STUDY, part)) == own - {BASE} <= set(made)
    assert not bench.results.exists() and set(read_all_lines(bench.results)) == {BASE, *STUDY.runs()}
    before = len(made_calls(bench))
    assert set(known_lines(bench)) == set(make_runs(STUDY, bench)) and len(made_calls(bench)) == before


def test_a_part_is_written_as_a_fraction():
    assert read_part("2/3") == Part(2, 3) and read_part(None) is None
    for wrong in ("0/3", "4/3", "x", "1", "1/", "-1/2", "1/2/3"):
        with pytest.raises(FlagError, match="expected I/N"):
            read_part(wrong)


def test_answers_of_a_part_of_the_rows_come_back(bench):
    line = make_runs(Study("", (ICL,)), bench)["shots=all-examples=0-seed=0"]
    assert np.allclose(line.z_pos, 1) and [row.target for row in (ROWS[i] for i in line.numbers(ROWS))] == [0, 1, 3]
