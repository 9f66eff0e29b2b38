"""--config FILE: a run's flags come back, what is given comes first, and a wrong file is refused."""

import json
from pathlib import Path

import pytest

import train
from cli.flags import parse_flags
from cli.train import TrainFlags, check_flags
from data.own_wording import read_own_wording
from errors import FlagError, RunError
from run.resume import NEVER_TAKEN, presets_or_config
from run.start import start_run
from tests.test_train_flags import train_flags

ROOT = Path(__file__).parent.parent


def config_file(folder, *argv):
    """config.json of a run with these flags, as far as it is read again."""
    flags = train_flags(*argv)[1]
    recorded = {name: {"value": value, "source": flags.sources[name]} for name, value in flags.values.items()}
    (folder / "config.json").write_text(json.dumps({"flags": recorded}))
    return str(folder / "config.json")


def from_config(path, *argv):
    return parse_flags(TrainFlags, ["--config", path, *argv], "", presets_or_config, check_flags)


def test_every_flag_of_the_run_comes_back_with_its_source(tmp_path):
    path = config_file(tmp_path, "--lr", "0.5", "--objective", "tallrec", "--test-rows", "9", "--out", "x", "--json")
    flags, resolved = from_config(path)
    then = json.loads(Path(path).read_text())["flags"]
    for name, entry in then.items():
        if name not in NEVER_TAKEN:
            assert (resolved.values[name], resolved.sources[name]) == (entry["value"], f"config {path}")
    assert (flags.lr, flags.objective, flags.test_rows, flags.max_steps) == (0.5, "tallrec", 9, 60)
    assert flags.out is None and flags.json is False and flags.resume is False


def test_flags_that_are_given_come_first(tmp_path):
    path = config_file(tmp_path, "--lr", "0.5", "--seed", "3")
    flags, resolved = from_config(path, "--seed", "4", "--kl-weight", "0")
    assert (flags.lr, flags.seed, flags.kl_weight) == (0.5, 4, 0)
    assert resolved.sources["seed"] == "flag" and resolved.sources["lr"] == f"config {path}"


def test_a_folder_of_a_run_is_understood_and_other_files_are_refused(tmp_path):
    config_file(tmp_path, "--seed", "3")
    assert from_config(str(tmp_path))[0].seed == 3
    (tmp_path / "copy.json").write_bytes((tmp_path / "config.json").read_bytes())
    assert from_config(str(tmp_path / "copy.json"))[0].seed == 3
    with pytest.raises(RunError, match="--config .*/other: no such file"):
        from_config(str(tmp_path / "other"))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(RunError, match=r"config\.json: not the config\.json of a run"):
        from_config(str(tmp_path))


def test_another_objective_than_that_of_the_run_is_refused(tmp_path):
    """Its lambda, 0 of tallrec, would make a control of the paper's objective without a word."""
    path = config_file(tmp_path, "--objective", "tallrec")
    for words, objective in ((["--objective", "paper"], "paper"), (["--objective=js"], "js")):
        with pytest.raises(FlagError, match=f"--objective {objective}: the run of --config .* has 'tallrec'"):
            start_run(["--config", path, "--data", "demo", "--plan", *words], "")
    start_run(["--config", path, "--data", "demo", "--plan", "--shots", "8", "--objective", "tallrec"], "")


def test_a_value_that_the_flag_cannot_be_is_refused(tmp_path):
    path = Path(config_file(tmp_path))
    content = json.loads(path.read_text())
    content["flags"]["lr"]["value"] = "fast"
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match="lr is 'fast', which that flag cannot be"):
        from_config(str(path))


def test_a_flag_of_another_version_is_named_and_left(tmp_path, capsys):
    path = Path(config_file(tmp_path, "--seed", "3"))
    content = json.loads(path.read_text())
    content["flags"]["warp_factor"] = {"value": 9, "source": "flag"}
    path.write_text(json.dumps(content))
    assert from_config(str(path))[0].seed == 3
    assert "not taken: --warp-factor" in capsys.readouterr().err


def test_config_and_resume_exclude_each_other(tmp_path):
    with pytest.raises(FlagError, match="--config: a resumed run takes its flags"):
        train.main(["--resume", "--out", str(tmp_path), "--config", config_file(tmp_path)])


def test_words_that_changed_since_the_run_are_refused(tmp_path):
    words = tmp_path / "words.json"
    words.write_text((ROOT / "docs/wordings-de.json").read_text(encoding="utf-8"), encoding="utf-8")
    path = config_file(tmp_path, "--wordings-file", str(words))
    content = json.loads(Path(path).read_text()) | {"wording": read_own_wording(words)}
    Path(path).write_text(json.dumps(content))
    assert from_config(path)[0].wordings_file == str(words)
    words.write_text(words.read_text(encoding="utf-8").replace("Film", "Buch"), encoding="utf-8")
    with pytest.raises(FlagError, match="asked in other words than .* holds now; bring that file back, or name one"):
        from_config(path)
    assert from_config(path, "--wordings-file", str(words))[0].wordings_file == str(words)
