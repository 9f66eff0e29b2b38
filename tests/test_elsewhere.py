"""Folders that are not where they are looked for: the message names the cause and the cure, whatever the flag."""

from pathlib import Path

import pytest

import audit
import baseline
import compare
import eval as eval_verb
import predict
import prepare
import train
from errors import UserError
from run.elsewhere import refuse_missing


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with data, a base and a run in it; the test runs in another one beside it."""
    for name in ("project/own", "project/base", "project/runs/a", "project/first", "other"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "other")
    return tmp_path / "project"


VALUES = {"data": "own", "data_dir": None, "model": "base", "init_adapter": "first"}


def lines_of(values, names, run, **more):
    with pytest.raises(UserError) as caught:
        refuse_missing("--run R", values, names, Path(run), **more)
    return str(caught.value).splitlines()


def test_what_a_run_named_is_found_beside_the_run_and_the_flag_is_given_as_it_must_be_typed(project):
    data, model = lines_of(VALUES, {"data", "model"}, "../project/runs/a")
    assert data == (
        f"--run R: was started with --data own, a folder that is not found from here ({Path.cwd()}); "
        "name it with --data ../project/own"
    )
    assert model.endswith("name it with --model ../project/base")
    (lost,) = lines_of(VALUES | {"data": "lost"}, {"data"}, "../project/runs/a")
    assert lost.endswith("name it with --data DIR")
    (moved,) = lines_of(VALUES | {"model": "/nowhere/base"}, {"model"}, "../project/runs/a")
    assert moved.endswith("--model /nowhere/base, which is not there any more; say where it is with --model DIR")


def test_a_resumed_run_whose_names_may_not_change_says_where_to_resume_it(project):
    lines = lines_of(VALUES, {"data", "model", "init_adapter"}, "../project/runs/a", resumed=True)
    assert len(lines) == 3
    assert all(line.endswith("started, which may be ../project") for line in lines)


def test_names_that_are_known_everywhere_and_flags_that_were_given_are_not_looked_for(project, monkeypatch):
    known = {"data": "movie", "data_dir": None, "model": "demo", "init_adapter": None}
    refuse_missing("--run R", known, set(known), Path("../project/runs/a"))
    refuse_missing("--run R", VALUES, set(), Path("../project/runs/a"))
    refuse_missing("--run R", VALUES | {"model": "demo", "data_dir": "gone"}, {"data_dir"}, Path("../project/runs/a"))
    (line,) = lines_of(known | {"data_dir": "raw"}, {"data_dir"}, "../project/runs/a")
    assert "--data-dir raw" in line
    monkeypatch.chdir(project)
    refuse_missing("--run R", VALUES, set(VALUES), Path("runs/a"))


HUB = "meta-llama/Llama-2-7b-hf"
TITLES = ("--liked", "A", "--target", "B")


@pytest.mark.parametrize(
    "main, argv",
    [
        (train.main, ("--data", "demo", "--init-adapter", HUB)),
        (train.main, ("--model", HUB)),
        (train.main, ("--data", HUB)),
        (train.main, ("--data-dir", HUB)),
        (train.main, ("--config", HUB)),
        (train.main, ("--resume", "--out", HUB)),
        (baseline.main, ("--data", HUB)),
        (baseline.main, ("--data", "demo", "--setting", HUB)),
        (baseline.main, ("--data", "demo", "--method", "gru-bert", "--bert", HUB)),
        (baseline.main, ("--config", HUB)),
        (baseline.main, ("--resume", "--out", HUB)),
        (eval_verb.main, ("--run", HUB)),
        (eval_verb.main, ("--model", HUB)),
        (eval_verb.main, ("--model", "demo", "--adapter", HUB)),
        (audit.main, ("--run", HUB)),
        (audit.main, ("--model", "demo", "--adapter", HUB)),
        (predict.main, ("--run", HUB, *TITLES)),
        (predict.main, ("--model", HUB, *TITLES)),
        (predict.main, ("--model", "demo", "--adapter", HUB, *TITLES)),
        (predict.main, ("--catalogue", HUB, "--liked", "A")),
        (predict.main, ("--input", HUB, "--output", "scores.csv")),
        (compare.main, (HUB, "other")),
        (prepare.main, ("movie", "--raw", HUB, "--out", "x")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.__module__,
)
def test_every_flag_that_takes_a_folder_or_a_file_says_where_it_looked_and_knows_names_of_the_hub(
    main, argv, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        main(list(argv))
    line = str(caught.value)
    flag = argv[argv.index(HUB) - 1]
    is_data = flag in ("--data", "--data-dir", "--catalogue", "--input", "--raw")
    assert "\n" not in line and f"looked for in {tmp_path}" in line
    assert f"download {HUB}{' --repo-type dataset' if is_data else ''} --local-dir Llama-2-7b-hf" in line
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_data_set_of_the_hub_is_downloaded_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="download owner/name --repo-type dataset --local-dir name"):
        train.main(["--data", "https://huggingface.co/datasets/owner/name"])
