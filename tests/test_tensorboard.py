"""--tensorboard: the events are the lines of metrics.jsonl, also after --resume; the package is optional."""

import json
import sys

import pytest

import train
from errors import UserError

SHORT = (
    "--data demo --shots 4 --batch-size 4 --eval-every 2 --valid-rows 12 --test-rows 4 --precision fp32 --device cpu"
)


def scalars(folder):
    """{tag: {step: value}} of every event in the folder, as TensorBoard reads it."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def is_what_the_run_says(found, run):
    lines, results = lines_of(run), json.loads((run / "results.json").read_text())
    validated = [line for line in lines if "valid_auc" in line]
    measured = {name for name in validated[0] if name.startswith("valid_")}
    for name in set(lines[0]) - {"step", "epoch"} - measured:
        assert found[f"train/{name}"] == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines], name
    before = results["valid"]["before"]
    assert {f"valid_{name}" for name in ("auc", "auc_combined", "contradiction_rate", "group_accuracy")} < measured
    for name in measured:
        wanted = {0: before[name.removeprefix("valid_")]} | {line["step"]: line[name] for line in validated}
        assert dict(found[name.replace("_", "/", 1)]) == pytest.approx(wanted, rel=1e-6), name


def test_the_events_are_the_metrics_of_the_run_and_those_of_a_resumed_one_follow(tmp_path):
    pytest.importorskip("tensorboard")
    run = tmp_path / "runs" / "a"
    train.main([*SHORT.split(), "--max-steps", "3", "--out", str(run), "--tensorboard", str(tmp_path / "events")])
    is_what_the_run_says(scalars(tmp_path / "events" / "a"), run)
    train.main(["--resume", "--out", str(run), "--max-steps", "4"])
    found = scalars(tmp_path / "events" / "a")
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4]
    assert dict(found["train/loss"]) == pytest.approx({line["step"]: line["loss"] for line in lines_of(run)}, rel=1e-6)


def test_a_run_that_is_resumed_with_the_flag_has_the_steps_before_too_and_its_result_is_the_same(tmp_path):
    pytest.importorskip("tensorboard")
    run = tmp_path / "b"
    train.main([*SHORT.split(), "--max-steps", "2", "--out", str(run)])
    train.main(["--resume", "--out", str(run), "--max-steps", "3", "--tensorboard", str(tmp_path / "events")])
    found = scalars(tmp_path / "events" / "b")
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3]
    is_what_the_run_says(found, run)


def test_without_the_package_there_is_one_line_and_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError) as caught:
        train.main([*SHORT.split(), "--tensorboard", "events"])
    assert str(caught.value) == (
        "--tensorboard events: needs the package tensorboard, which is not installed; "
        "install it (python -m pip install tensorboard), or leave the flag out"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events").write_text("mine")
    with pytest.raises(UserError, match="--tensorboard events: cannot be written .* is not a folder"):
        train.main([*SHORT.split(), "--tensorboard", "events"])
    assert (tmp_path / "events").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
