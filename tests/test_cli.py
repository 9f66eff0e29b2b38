"""Bad input on the command line: one line that names the file or the flag, exit status 2, nothing left behind."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

import audit
import eval as eval_verb
import predict
import train
from bench.kill_resume import content
from cli.verb import run_verb
from data.interactions import Dataset, Interaction, Item
from data.sources.tallrec import write_split

ROOT = Path(__file__).parent.parent
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 13476839424\n"


@pytest.fixture
def checkpoint(make_checkpoint, tokenizer_bytes):
    """checkpoint(**changes): a complete folder that a run can start from."""

    def build(**changes):
        pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_bytes)
        folder = make_checkpoint(vocab_size=pieces.GetPieceSize(), max_position_embeddings=1024, **changes)
        (folder / "tokenizer.model").write_bytes(tokenizer_bytes)
        return folder

    return build


@pytest.fixture
def rows(tmp_path):
    """A folder of six rows a split, from three users."""
    catalogue = {i: Item(f"Invented {i} (1990)") for i in range(1, 7)}
    split = [Interaction(i // 2, ((1 + i % 3, True), (4, False)), 5 + i % 2, i % 2 == 0) for i in range(6)]
    data = Dataset("movie", "invented", "movie", catalogue, split, split, split)
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        write_split(folder / f"{name}.json", split, data)
    return folder


def words(rows, base, more):
    """The command line of a run on these rows."""
    return ["--data", str(rows), "--model", str(base), *["--shots", "4", "--device", "cpu"], *more.split()]


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    """refuse(main, *argv, lines=1): the error lines; checks status 2, standard output and what is left."""

    def call(main, *argv, lines=1):
        program = Path(sys.modules[main.__module__].__file__).name
        monkeypatch.setattr(sys, "argv", [program, *map(str, argv)])
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as end:
            run_verb(main)
        shown = capsys.readouterr()
        assert end.value.code == 2
        assert shown.out == "" and "Traceback" not in shown.err
        assert sorted(tmp_path.rglob("*")) == before
        errors = [
            line.removeprefix(f"{program}: error: ")
            for line in shown.err.splitlines()
            if line.startswith(f"{program}: error: ")
        ]
        assert len(errors) == lines and shown.err.splitlines()[-1].startswith(f"{program}: error: ")
        return errors if lines > 1 else errors[0]

    return call


@pytest.fixture
def refuse_train(refuse, rows, tmp_path):
    """refuse_train(*argv) with the flags that a small run needs."""

    def call(*argv, data=rows):
        return refuse(train.main, "--data", data, "--shots", "4", "--device", "cpu", "--out", tmp_path / "out", *argv)

    return call


# ---- flags --------------------------------------------------------------------------------------


def test_unknown_flags_are_all_listed(refuse):
    assert refuse(train.main, "--lamda", "1", "--shot", "16", lines=2) == [
        "--lamda: unknown flag; --help lists them",
        "--shot: unknown flag; did you mean --shots?",
    ]


def test_more_shots_than_rows_are_refused(refuse_train, checkpoint):
    assert refuse_train("--model", checkpoint(), "--shots", "7").startswith("--shots 7: the training split has 6 rows")


def test_an_unknown_device_is_named(refuse_train):
    for name in ("gpu", "cuda:99", "meta"):
        assert refuse_train("--device", name).startswith(f"--device {name}: not available here")


def test_a_layer_that_is_not_there_is_answered_with_those_that_are(refuse_train, checkpoint):
    line = refuse_train("--model", checkpoint(), "--lora-targets", "q_proj,v_porj")
    assert (
        line.startswith("--lora-targets q_proj,v_porj: no linear layer is called v_porj; there are ")
        and "v_proj" in line
    )


def test_a_length_that_holds_no_prompt_is_refused_with_one_that_does(refuse_train, checkpoint):
    assert refuse_train("--model", checkpoint(), "--max-len", "20").startswith("--max-len 20: ")


# ---- --model ------------------------------------------------------------------------------------


def test_a_model_folder_that_is_not_there_is_named(refuse_train, tmp_path):
    assert refuse_train("--model", tmp_path / "absent") == f"--model {tmp_path / 'absent'}: no such checkpoint folder"


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.model", "model.safetensors"])
def test_a_missing_file_of_the_model_is_named(refuse_train, checkpoint, missing):
    folder = checkpoint()
    (folder / missing).unlink()
    line = refuse_train("--model", folder)
    assert line.startswith(str(folder)) and missing in line


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model", "config.json"])
def test_a_git_lfs_pointer_is_called_that(refuse_train, checkpoint, name):
    folder = checkpoint()
    (folder / name).write_bytes(POINTER)
    line = refuse_train("--model", folder)
    assert line.startswith(f"{folder / name}: a Git LFS pointer")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model", "config.json"])
def test_a_truncated_file_of_the_model_is_named(refuse_train, checkpoint, name):
    folder = checkpoint()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    assert refuse_train("--model", folder).startswith(f"{folder / name}: ")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(refuse_train, checkpoint, value):
    folder = checkpoint()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    line = refuse_train("--model", folder)
    assert line.startswith(
        f"{folder / 'model.safetensors'}: model.layers.1.mlp.up_proj.weight has NaN or infinite values"
    )


def test_an_adapter_that_is_not_there_is_named(refuse_train, checkpoint, tmp_path):
    line = refuse_train("--model", checkpoint(), "--init-adapter", tmp_path / "absent")
    assert line.startswith(f"{tmp_path / 'absent' / 'adapter_config.json'}: missing")


# ---- --data -------------------------------------------------------------------------------------


def test_a_malformed_rating_is_named_by_file_and_line(refuse, tmp_path, checkpoint):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "u.item").write_text("1|Invented (1990)|\n")
    (raw / "u.data").write_text("1\t1\t5\t100\n1\t1\tfive\t100\n")
    argv = ("--data", "movie", "--data-dir", raw, "--model", checkpoint(), "--out", tmp_path / "out")
    assert refuse(train.main, *argv).startswith(f"{raw / 'u.data'} line 2: expected user, item, rating and time")


def test_a_malformed_row_is_named_by_file_and_row(refuse_train, rows):
    content = json.loads((rows / "valid.json").read_text())
    content[3]["output"] = "Maybe."
    (rows / "valid.json").write_text(json.dumps(content))
    assert refuse_train().startswith(f"{rows / 'valid.json'}: row 3: `output` is 'Maybe.'")


def test_data_that_is_not_there_is_named(refuse_train, tmp_path):
    assert refuse_train(data=tmp_path / "absent").startswith(f"--data {tmp_path / 'absent'}: ")


def test_validation_rows_of_one_class_are_refused(refuse_train, rows, checkpoint):
    content = json.loads((rows / "valid.json").read_text())
    (rows / "valid.json").write_text(json.dumps([row for row in content if row["output"] == "Yes."]))
    assert "all validation rows have one label" in refuse_train("--model", checkpoint())


def test_the_stand_in_is_refused_for_a_real_model(refuse, checkpoint, tmp_path):
    argv = ("--data", "demo", "--model", checkpoint(), "--out", tmp_path / "out")
    assert refuse(train.main, *argv).startswith("--data demo: is simulated")


# ---- --out and --run ----------------------------------------------------------------------------


def test_a_run_is_not_written_over(refuse_train, checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("mine")
    assert refuse_train("--model", checkpoint()).startswith(f"--out {tmp_path / 'out'}: already exists")
    assert (tmp_path / "out" / "results.json").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_named(refuse_train, checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    line = refuse_train("--model", checkpoint(), "--out", tmp_path / "file" / "out")
    assert line == f"--out {tmp_path / 'file' / 'out'}: cannot be written ({tmp_path / 'file'} is not a folder)"


def test_resuming_or_scoring_what_is_no_run_is_refused(refuse, tmp_path):
    assert refuse(train.main, "--resume", "--out", tmp_path / "absent").startswith(
        f"--resume --out {tmp_path / 'absent'}: no run there"
    )
    assert refuse(eval_verb.main, "--run", tmp_path).startswith(f"--run {tmp_path}: no run there")
    assert refuse(eval_verb.main).startswith("--run: say which run with --run DIR")


# ---- a run that succeeds, and what can be wrong with it afterwards ------------------------------


@pytest.fixture
def run(rows, checkpoint, tmp_path, capsys):
    """A finished run of one step, and what it printed on standard output."""
    train.main([*words(rows, checkpoint(), "--max-steps 1 --precision fp32"), "--out", str(tmp_path / "out"), "--json"])
    return tmp_path / "out", capsys.readouterr().out


def test_train_and_eval_print_one_json_line_and_agree_to_the_last_digit(run, capsys):
    folder, printed = run
    assert printed.count("\n") == 1 and json.loads(printed) == json.loads((folder / "results.json").read_text())
    left = {
        "config.json",
        "catalogue.jsonl",
        "metrics.jsonl",
        "adapter_config.json",
        "adapter_model.safetensors",
        "results.json",
        "predictions.csv",
        "README.md",
        "report.html",
    }
    assert {path.name for path in folder.iterdir()} == left | {".lock", "timings.jsonl", "last", "curves.png"}

    eval_verb.main(["--run", str(folder), "--device", "cpu", "--json"])
    scored = json.loads(capsys.readouterr().out)
    trained = json.loads(printed)["test"]["after"]
    assert {name: scored[name] for name in trained} == trained
    (again,) = folder.glob("eval-*/predictions.csv")
    assert again.read_bytes() == (folder / "predictions.csv").read_bytes()


def test_eval_of_a_run_whose_files_were_damaged_names_the_file(run, refuse):
    folder, _ = run
    weights = folder / "adapter_model.safetensors"
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights)
    for verb, argv in ((eval_verb, ()), (audit, ("--sample", "0")), (predict, ("--liked", "A", "--target", "B"))):
        line = refuse(verb.main, "--run", folder, "--device", "cpu", *argv)
        assert line.startswith(f"{weights}: ") and "NaN or infinite values" in line
    weights.write_bytes(POINTER)
    assert refuse(eval_verb.main, "--run", folder, "--device", "cpu").startswith(f"{weights}: a Git LFS pointer")
    (folder / "config.json").write_text('{"flags": {"model": 3}}')
    assert refuse(eval_verb.main, "--run", folder).startswith(f"{folder / 'config.json'}: not the config.json of a run")


def test_resuming_with_another_flag_or_other_data_is_refused(run, refuse, rows):
    folder, _ = run
    assert refuse(train.main, "--resume", "--out", folder, "--lr", "0.5").startswith("--lr 0.5: the run in ")
    content = json.loads((rows / "train.json").read_text())
    (rows / "train.json").write_text(json.dumps(content[1:]))
    data, prompts = refuse(train.main, "--resume", "--out", folder, lines=2)
    assert (
        data.startswith(f"--resume --out {folder}: data: not what the run was started with (then ")
        and "6 + 6 + 6 rows), now " in data
    )
    assert "prompts of train: not what" in prompts


def test_resuming_on_another_base_is_refused_by_what_is_another(run, refuse, tmp_path):
    folder, _ = run
    base = tmp_path / "checkpoint"
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] *= 1.5
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert ": weights of the base: not what the run was started with (then " in refuse(
        train.main, "--resume", "--out", folder
    )
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rope_theta": 200.0}))
    weights, fields = refuse(train.main, "--resume", "--out", folder, lines=2)
    assert ": config.json of the base: not what" in fields


def test_a_finished_run_gives_its_results_again_or_is_made_longer(run, capsys):
    folder, printed = run
    before = content(folder)
    train.main(["--resume", "--out", str(folder), "--json"])
    shown = capsys.readouterr()
    assert (
        shown.out == printed
        and content(folder) == before
        and "Nothing is left to train: the run ended after step 1" in shown.err
    )
    train.main(["--resume", "--out", str(folder), "--json", "--max-steps", "3", "--micro-batch-size", "1"])
    shown = capsys.readouterr()
    assert json.loads(shown.out)["steps"] == 3 and "Resuming after step 1" in shown.err
    assert "--max-steps was 1, is 3 (the learning rate" in shown.err and "--micro-batch-size was 8, is 1 (" in shown.err
    assert json.loads((folder / "config.json").read_text())["flags"]["max_steps"] == {"value": 3, "source": "resume"}


# ---- as a user types it -------------------------------------------------------------------------


def test_a_process_told_to_stop_says_how_to_go_on_and_ends_with_status_75(rows, checkpoint, tmp_path):
    out = tmp_path / "out"
    argv = words(rows, checkpoint(), "--max-steps 100000 --epochs 100000 --eval-every 100000 --out") + [str(out)]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *argv], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 75
    steps = len((out / "metrics.jsonl").read_text().splitlines())
    assert (
        shown.splitlines()[-1] == f"train.py: SIGTERM: saved after step {steps}; "
        f"resume with: {sys.executable} {ROOT / 'train.py'} --out {out} --resume"
    )
    assert [path.name for path in (out / "last").glob("step-*")] == [f"step-{steps:08d}"]


@pytest.mark.parametrize(
    "command, named",
    [
        (["train.py", "--epochs", "0", "--lr", "fast"], ["--lr fast", "--epochs 0"]),
        (["eval.py", "--run", "MISSING", "--splits", "test"], ["--splits"]),
    ],
)
def test_a_process_ends_with_status_2_and_one_line_a_problem(command, named, tmp_path):
    argv = [sys.executable, str(ROOT / command[0]), *(str(tmp_path / a) if a == "MISSING" else a for a in command[1:])]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert [line.split(": error: ")[0] for line in lines] == [command[0]] * len(named)
    assert all(any(f"error: {flag}: " in line for line in lines) for flag in named)
    assert list(tmp_path.iterdir()) == []
