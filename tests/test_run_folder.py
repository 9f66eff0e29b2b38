"""Run folders: files that are whole or absent, no run written over another."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from errors import RunError
from files import write_file, write_json, write_text
from lora.adapter import load_adapter, read_adapter_config
from lora.inject import add_lora, lora_state
from run.folder import LOCK, RunFolder, fresh_name, read_run_config, refuse_unusable
from tensors import trainable_parameters

ROOT = Path(__file__).parent.parent

FILES_OF_A_RUN = {  # that is finished
    *(".lock", "config.json", "catalogue.jsonl", "metrics.jsonl", "timings.jsonl", "last"),
    *("adapter_model.safetensors", "adapter_config.json", "README.md"),
    *("results.json", "predictions.csv", "curves.png", "report.html"),
}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- files that are whole or absent -------------------------------------------------------------


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")

    def fail(aside):
        aside.write_text("half of the new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(path, fail)
    assert path.read_text() == "old" and names(tmp_path) == ["results.json"]


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")

    def write(aside):
        aside.write_text("new")
        assert path.read_text() == "old" and aside.parent == path.parent

    write_file(path, write)
    assert path.read_text() == "new" and names(tmp_path) == ["results.json"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    program = (
        "import os, signal, sys; from pathlib import Path; from files import write_file\n"
        "def write(aside):\n    aside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_file(Path(sys.argv[1]), write)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_text_is_utf_8_and_json_refuses_what_json_has_not(tmp_path):
    write_text(tmp_path / "a.txt", "Nîmes\n")
    assert (tmp_path / "a.txt").read_bytes() == "Nîmes\n".encode()
    write_json(tmp_path / "b.json", {"a": 1})
    assert (tmp_path / "b.json").read_text() == '{\n  "a": 1\n}\n'
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert json.loads((tmp_path / "b.json").read_text()) == {"a": 1}


# ---- one folder, one run ------------------------------------------------------------------------


def test_a_new_run_makes_its_folder_and_leaves_nothing_but_its_lock_in_it(tmp_path):
    run = RunFolder(tmp_path / "runs" / "a", resume=False)
    assert run.path.is_dir() and names(run.path) == [".lock"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    RunFolder(tmp_path / "a", resume=False)


def test_a_folder_that_holds_anything_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(RunError, match=f"^--out {tmp_path}: already exists; choose another folder, or .*--resume$"):
        RunFolder(tmp_path, resume=False)
    assert names(tmp_path) == ["note.txt"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(RunError, match="already exists"):
        RunFolder(tmp_path / "a", resume=False)
    with pytest.raises(RunError, match=r"a/b: cannot be written \(.*a is not a folder\)"):
        RunFolder(tmp_path / "a" / "b", resume=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match=r"cannot be written \(Permission denied\)"):
        RunFolder(tmp_path / "a", resume=False)


@pytest.mark.parametrize("name", [LOCK, "last", "metrics.jsonl", "timings.jsonl", "results.json"])
def test_a_link_in_a_run_folder_is_refused_and_its_target_left_as_it_is(tmp_path, name):
    """Somebody may have sent the folder: nothing outside it may be written or deleted."""
    run, target = tmp_path / "run", tmp_path / "target"
    run.mkdir()
    (run / "config.json").write_text("{}")
    if name == "last":
        target.mkdir()
        (target / ".mine.part").write_text("mine")
    else:
        target.write_text("mine")
    (run / name).symlink_to(target)
    with pytest.raises(RunError, match=f"--out {run}: {name} is a link, which no run folder has"):
        refuse_unusable(run, True)
    assert (target / ".mine.part" if name == "last" else target).read_text() == "mine"


def test_a_lock_that_is_no_plain_file_is_refused_and_not_waited_for(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(RunError, match=r"\.lock is no plain file; delete it"):
        refuse_unusable(tmp_path, True)


def test_resuming_where_no_run_is_creates_nothing(tmp_path):
    with pytest.raises(RunError, match="no run there"):
        RunFolder(tmp_path / "a", resume=True)
    assert names(tmp_path) == []


def test_a_fresh_name_is_one_that_is_not_there(tmp_path):
    assert fresh_name(tmp_path, "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert fresh_name(tmp_path, "a") == tmp_path / "a-3"


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"flags": 3}', '{"flags": {"lr": 3}}', '{"flags": {"lr": {"value": 3}}}'),
        *('{"flags": {"lr": {"value": 3, "source": []}}}', '{"flags": {"lr": {"value": 3, "source": "\\u001b[2J"}}}'),
    ],
)
def test_a_config_that_no_run_wrote_is_refused_by_its_path(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match="config.json: not the config.json of a run"):
        read_run_config(tmp_path, "--run")


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(RunError, match=f"^--run {tmp_path}: no run there"):
        read_run_config(tmp_path, "--run")


# ---- metrics.jsonl ------------------------------------------------------------------------------


def test_the_log_is_read_back_without_a_line_that_a_crash_cut_off(tmp_path):
    run = RunFolder(tmp_path / "a", resume=False)
    assert run.history() == []
    records = [{"step": step, "ce_pos": 2.5, "ce_neg": 1.0, "kl": 0.5} for step in (1, 2)]
    for record in records:
        run.log(record)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert run.history() == records


def test_forget_after_drops_later_steps_and_the_cut_line(tmp_path):
    run = RunFolder(tmp_path / "a", resume=False)
    for step in (1, 2, 3, 4):
        run.log({"step": step, "ce_pos": step / 8, "ce_neg": 1.0, "kl": 0.5})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    run.forget_after(2)
    run.log({"step": 3, "ce_pos": 9.0, "ce_neg": 1.0, "kl": 0.5})
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [(record["step"], record["ce_pos"]) for record in map(json.loads, lines)] == [
        (1, 0.125),
        (2, 0.25),
        (3, 9.0),
    ]
    run.forget_after(0)
    assert run.history() == []


# ---- the best adapter ---------------------------------------------------------------------------

SETTINGS = {
    "r": 2,
    "alpha": 8.0,
    "dropout": 0.25,
    "rslora": False,
    "targets": ("v_proj", "q_proj"),
    "base": "demo",
    "base_fingerprint": "0",
}


def adapted(tiny_llama, scale=1.0):
    model = tiny_llama()
    add_lora(model, r=2, alpha=8.0)
    for i, parameter in enumerate(list(trainable_parameters(model).values())):
        parameter.data.fill_(scale * (i + 1))
    return model


def test_the_best_adapter_replaces_the_one_before_and_is_read_back(tiny_llama, tmp_path):
    run = RunFolder(tmp_path / "a", resume=False, adapter=SETTINGS)
    run.save_best(adapted(tiny_llama, 0.5))
    run.save_best(adapted(tiny_llama, 2.0))
    assert names(run.path) == [".lock", "adapter_config.json", "adapter_model.safetensors"]
    assert read_adapter_config(run.path) == {
        "r": 2,
        "alpha": 8.0,
        "dropout": 0.25,
        "rslora": False,
        "targets": ("q_proj", "v_proj"),
    }
    fresh = adapted(tiny_llama, 7.0)
    load_adapter(fresh, run.path)
    expected = lora_state(adapted(tiny_llama, 2.0))
    assert all((lora_state(fresh)[name] == tensor).all() for name, tensor in expected.items())


def test_an_adapter_that_cannot_be_written_leaves_the_one_before(tiny_llama, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "a", resume=False, adapter=SETTINGS)
    run.save_best(adapted(tiny_llama))
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(KeyError):
        run.adapter = {"r": 2}
        run.save_best(adapted(tiny_llama, 3.0))  # fails after the weights are written
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before
