"""The flags of train.py: which fit together, what presets fill in, and what --resume takes from the run."""

import copy
import json
from dataclasses import fields
from pathlib import Path

import pytest

from cli.flags import parse_flags
from cli.train import SMALL_PRESET, TrainFlags, check_flags, presets, shot_count
from errors import RunError
from model.weights import parameter_count, read_llama_config
from run.base import base_identity
from run.inputs import adapter_settings
from run.resume import FOR_ONE_CALL, MAY_CHANGE, config_of_resumed, flags_of_run
from tests.test_flags import problems

# ---- train.py's flags ---------------------------------------------------------------------------


def train_flags(*argv):
    return parse_flags(TrainFlags, list(argv), "", presets)


def check(*argv):
    check_flags(*train_flags(*argv))


CONTRADICTIONS = {
    "--objective paper --train-on-prompt": "--train-on-prompt: has no effect with --objective paper",
    "--objective released --train-on-prompt": "--train-on-prompt: has no effect with --objective released",
    "--objective tallrec --kl-weight 1e-4": "--kl-weight: has no effect with --objective tallrec",
    "--objective tallrec --kl-forcing own": "--kl-forcing: has no effect with --objective tallrec",
    "--objective tallrec --kl-tokens all": "--kl-tokens: has no effect with --objective tallrec",
    "--objective tallrec --kl-cap 5": "--kl-cap: has no effect with --objective tallrec",
    "--objective released --kl-forcing shared": "--kl-forcing: has no effect with --objective released",
    "--objective released --kl-tokens first": "--kl-tokens: has no effect with --objective released",
    "--objective released --kl-cap 5": "--kl-cap: has no effect with --objective released",
    "--kl-forcing shared --kl-tokens first": "--kl-forcing shared: has no effect with --kl-tokens first",
    "--data demo --data-dir x": "--data-dir: has no effect with --data demo",
    "--data demo --real-data": "--real-data: contradicts --data demo",
    "--schedule cosine --lr 0.1 --end-lr 1": "--end-lr 1: is above --lr 0.1, and the rate must not rise",
    "--warmup-steps 1000 --max-steps 5": "--warmup-steps 1000: not below --max-steps 5, so --lr is never reached",
    "--data demo/games --like-threshold 4 --noun =": "--noun '\"': expected a word without quotes",
    "--init-adapter x --lora-r 4": "--lora-r: is taken from --init-adapter",
    "--init-adapter x --lora-alpha 4": "--lora-alpha: is taken from --init-adapter",
    "--init-adapter x --lora-targets q_proj": "--lora-targets: is taken from --init-adapter",
    "--batch-size 4 --micro-batch-size 5": "--micro-batch-size 5: is larger than --batch-size 4",
    "--resume": "--resume: say which run with --out DIR",
    "--shots 0": "--shots 0: expected a whole number from 1, or all",
    "--shots -4": "--shots -4: expected a whole number",
    "--shots many": "--shots many: expected a whole number",
    "--shots 6.5": "--shots 6.5: expected a whole number",
}


@pytest.mark.parametrize("argv", CONTRADICTIONS)
def test_flags_that_do_not_fit_together_are_refused(argv):
    found = problems(check, *('"' if word == "=" else word for word in argv.split()))
    assert len(found) == 1 and found[0].startswith(CONTRADICTIONS[argv])


def test_all_contradictions_are_listed_at_once():
    found = problems(
        check,
        "--objective",
        "tallrec",
        "--kl-cap",
        "5",
        "--kl-weight",
        "1",
        "--shots",
        "x",
        "--data",
        "demo",
        "--real-data",
    )
    assert len(found) == 4


@pytest.mark.parametrize(
    "argv",
    [
        "",
        "--objective tallrec --train-on-prompt",
        "--objective released",
        "--kl-forcing shared",
        "--kl-weight 0",
        "--micro-batch-size 4 --batch-size 4",
        "--init-adapter x --lora-dropout 0",
        "--shots all",
        "--batch-size 4",
    ],
)
def test_flags_that_fit_together_are_accepted(argv):
    check(*argv.split())


def test_presets_follow_model_and_objective_and_yield_to_flags():
    flags, resolved = train_flags("--lr", "0.5")
    assert flags.lr == 0.5 and resolved.sources["lr"] == "flag"
    assert resolved.sources["batch_size"] == "preset demo"

    flags, resolved = train_flags("--model", "DIR")
    assert (flags.lr, flags.batch_size, flags.weight_decay, flags.template, flags.kl_weight) == (
        1e-4,
        64,
        1e-3,
        "tallrec",
        1e-4,
    )
    assert flags.lora_dropout == 0.005
    assert set(resolved.sources.values()) == {"default", "flag"}

    flags, resolved = train_flags("--model", "DIR", "--objective", "released", "--weight-decay", "0.1")
    assert (flags.template, flags.weight_decay, flags.lora_dropout) == ("released", 0.1, 0.05)
    assert resolved.sources["template"] == "preset released"

    flags, _ = train_flags("--model", "DIR", "--objective", "tallrec")
    assert (flags.kl_weight, flags.lora_dropout, flags.template) == (0.0, 0.05, "tallrec")
    assert train_flags("--objective", "tallrec", "--lora-dropout", "0.2")[0].lora_dropout == 0.2


def test_a_base_below_a_billion_parameters_has_a_preset_and_a_larger_one_has_not(make_checkpoint, monkeypatch):
    small = make_checkpoint()
    monkeypatch.setattr("cli.train.native_precision", lambda device: f"native {device}")
    flags, resolved = train_flags("--model", str(small), "--warmup-steps", "7", "--device", "cpu")
    assert {name: getattr(flags, name) for name in SMALL_PRESET} == SMALL_PRESET | {"warmup_steps": 7}
    assert (resolved.sources["lr"], resolved.sources["warmup_steps"]) == ("preset small base", "flag")
    assert flags.precision == "native cpu" and flags.kl_weight == 1e-4

    # TinyLlama's shape has 1.1 billion parameters; only config.json is read.
    fields = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "vocab_size": 32000}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 4}
    config = json.loads((small / "config.json").read_text()) | fields | heads
    (small / "config.json").write_text(json.dumps(config))
    assert parameter_count(read_llama_config(small)) == 1_100_048_384  # as its model card says
    assert train_flags("--model", str(small))[0].lr == 1e-4


def test_a_template_by_its_former_name_is_the_same_template(capsys):
    flags, resolved = train_flags("--template", "paper")
    assert (flags.template, resolved.values["template"]) == ("tallrec", "tallrec")
    assert capsys.readouterr().err == "--template: paper is now called tallrec; nothing else has changed\n"


def test_shots_are_a_number_or_all():
    assert (shot_count("16"), shot_count("all")) == (16, None)


# ---- --resume -----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """run(*argv): the folder of a run that was started with these flags."""

    def start(*argv, drop=()):
        _, resolved = train_flags(*argv)
        entries = {n: {"value": v, "source": resolved.sources[n]} for n, v in resolved.values.items() if n not in drop}
        (tmp_path / "config.json").write_text(json.dumps({"flags": entries}))
        return str(tmp_path)

    return start


def resumed(folder, *argv):
    return flags_of_run(*train_flags("--resume", "--out", folder, *argv))


def test_resume_keeps_the_dropout_and_the_template_of_a_run_that_recorded_them_by_former_defaults(run, capsys):
    folder = Path(run())
    config = json.loads((folder / "config.json").read_text())
    config["flags"]["template"]["value"], config["flags"]["lora_dropout"]["value"] = "paper", 0.05
    (folder / "config.json").write_text(json.dumps(config))
    flags, _ = resumed(str(folder))
    assert (flags.template, flags.lora_dropout) == ("tallrec", 0.05)
    assert "config.json: template: paper is now called tallrec" in capsys.readouterr().err
    assert resumed(str(folder), "--template", "paper")[0] == flags


def test_resume_takes_every_flag_of_the_run_with_its_source(run):
    folder = run("--lr", "0.5", "--shots", "16", "--objective", "tallrec", "--model", "DIR")
    flags, resolved = resumed(folder)
    assert (flags.lr, flags.shots, flags.objective, flags.model, flags.kl_weight) == (0.5, "16", "tallrec", "DIR", 0.0)
    assert (flags.resume, flags.out) == (True, folder)
    assert (resolved.sources["lr"], resolved.sources["kl_weight"], resolved.sources["seed"]) == (
        "flag",
        "preset tallrec",
        "default",
    )


def test_resume_keeps_the_data_folder_and_the_device_unless_given_again(run):
    folder = run("--data-dir", "here", "--device", "cpu", "--json")
    assert resumed(folder)[0].data_dir == "here" and resumed(folder)[0].device == "cpu"
    assert resumed(folder, "--data-dir", "there")[0].data_dir == "there"
    assert resumed(folder, "--device", "cuda")[0].device == "cuda"
    assert resumed(folder)[0].json is False and resumed(folder, "--json")[0].json is True
    assert {"data_dir", "device", "json"} < {*FOR_ONE_CALL, *MAY_CHANGE}


def test_resume_lists_every_flag_that_differs_from_the_run(run):
    folder = run("--lr", "0.5", "--shots", "16")
    found = problems(resumed, folder, "--lr", "0.25", "--shots", "8", "--seed", "0")
    assert [line.split(":")[0] for line in sorted(found)] == ["--lr 0.25", "--shots 8"]
    assert "was started with 0.5" in sorted(found)[0]


def test_resume_allows_what_may_change_and_records_the_source(run):
    folder = run("--epochs", "3", "--max-steps", "50", "--batch-size", "8", "--micro-batch-size", "8", "--model", "DIR")
    given = [
        "--epochs",
        "4",
        "--max-steps",
        "0",
        "--micro-batch-size",
        "2",
        "--checkpointing",
        "on",
        "--deterministic",
        "--device",
        "cpu",
        "--data-dir",
        "D",
        "--tensorboard",
        "events",
    ]
    flags, resolved = resumed(folder, *given)
    assert (flags.epochs, flags.max_steps, flags.micro_batch_size, flags.checkpointing, flags.batch_size) == (
        4,
        0,
        2,
        "on",
        8,
    )
    assert {name for name, source in resolved.sources.items() if source == "resume"} == set(MAY_CHANGE)


@pytest.mark.parametrize(
    "started, given, line",
    [
        (
            ["--epochs", "3"],
            ["--epochs", "2"],
            "--epochs 2: the run in {} was started with 3, and this may only be raised",
        ),
        (
            ["--max-steps", "50"],
            ["--max-steps", "49"],
            "--max-steps 49: the run in {} was started with 50, and this may only be raised",
        ),
        (
            ["--max-steps", "0"],
            ["--max-steps", "10000"],
            "--max-steps 10000: the run in {} was started with 0, and this may only be raised",
        ),
        (["--batch-size", "8"], ["--micro-batch-size", "9"], "--micro-batch-size 9: is larger than --batch-size 8"),
        (
            ["--objective", "released"],
            ["--micro-batch-size", "2"],
            "--micro-batch-size 2: the run in {} was started with 8, and this loss depends on it",
        ),
        (
            ["--objective", "tallrec", "--train-on-prompt"],
            ["--micro-batch-size", "2"],
            "--micro-batch-size 2: the run in {} was started with 8, and this loss depends on it",
        ),
    ],
)
def test_resume_refuses_a_change_that_would_make_it_a_different_run(run, started, given, line):
    folder = run("--model", "DIR", *started)
    (found,) = problems(resumed, folder, *given)
    assert found.startswith(line.format(folder))


THEN = {
    "flags": {
        "epochs": {"value": 3, "source": "flag"},
        "json": {"value": False, "source": "default"},
        "resume": {"value": False, "source": "default"},
        "out": {"value": None, "source": "default"},
        "merge_out": {"value": None, "source": "default"},
    },
    "device": "cpu",
    "versions": {"torch": "1.0", "numpy": "2.0"},
    "fingerprints": {"data": "a" * 64 + " (stand-in, 3 rows)", "weights of the base": "c" * 64},
}


def config_now(tmp_path, **changes):
    (tmp_path / "config.json").write_text(json.dumps(THEN))
    return config_of_resumed(tmp_path, copy.deepcopy(THEN) | changes)


def test_every_fingerprint_that_differs_is_reported_with_both_values(tmp_path):
    with pytest.raises(RunError) as found:
        config_now(tmp_path, fingerprints={"data": "b" * 64 + " (movielens, 4 rows)", "weights of the base": "d" * 64})
    data, weights = str(found.value).splitlines()
    both = "then aaaaaaaaaaaa (stand-in, 3 rows), now bbbbbbbbbbbb (movielens, 4 rows)"
    assert f"--resume --out {tmp_path}: data: not what the run was started with ({both})" in data
    assert "weights of the base: not what the run was started with (then cccccccccccc, now dddddddddddd)" in weights


def test_allowed_changes_are_reported_and_recorded_in_the_config(tmp_path, capsys):
    flags = {**THEN["flags"], "epochs": {"value": 5, "source": "resume"}, "json": {"value": True, "source": "flag"}}
    config = config_now(tmp_path, flags=flags, device="cuda", versions={"torch": "1.1", "numpy": "2.0"})
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in said] == [
        "changed since the run began: --epochs was 3, is 5",
        "changed since the run began: device was cpu, is cuda",
        "changed since the run began: torch was 1.0, is 1.1",
    ]
    assert "learning rate" in said[0] and "last bit" in said[1]
    assert config["flags"]["epochs"]["value"] == 5 and config["flags"]["json"]["value"] is False
    assert [sorted(change) for change in config["changes"]] == [["--epochs", "device", "torch"]]
    assert config_now(tmp_path) == THEN | {"changes": []} and capsys.readouterr().err == ""


FLAGS_OF_0_1 = """
data data_dir real_data book_zeros amazon_liked like_threshold noun split_by shots model init_adapter objective
kl_weight kl_forcing kl_tokens kl_cap train_on_prompt template max_len lora_r lora_alpha lora_dropout
lora_targets lr weight_decay warmup_steps clip epochs max_steps batch_size micro_batch_size eval_every patience
precision base_dtype checkpointing compile device fsdp seed out merge_out resume plan json
"""


def test_a_run_of_version_0_1_resumes(run):
    """FLAGS_OF_0_1 is the list of that version: a flag that is new must have a default that changes nothing."""
    new = {f.name for f in fields(TrainFlags)} - set(FLAGS_OF_0_1.split())
    folder = run(drop=new)
    _, resolved = resumed(folder)
    assert {resolved.sources[name] for name in new} == {"default"}


def test_resume_of_another_version_is_refused(run):
    folder = run(drop=("patience",))
    assert problems(resumed, folder, "--patience", "3") == [
        f"--resume: {folder}/config.json is from another version of train.py; start another run"
    ]


def test_adapter_settings_come_from_flags_or_from_the_adapter_that_training_starts_with(tmp_path):
    flags, _ = train_flags("--lora-r", "4", "--lora-targets", "q_proj,o_proj", "--lora-dropout", "0.25")
    expected = {"r": 4, "alpha": 16.0, "dropout": 0.25, "rslora": False, "targets": ("q_proj", "o_proj")}
    assert adapter_settings(flags) == {**expected, **base_identity("demo")}
    peft = {"peft_type": "LORA", "r": 3, "lora_alpha": 12, "lora_dropout": 0.5, "target_modules": ["v_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(peft))
    flags, _ = train_flags("--init-adapter", str(tmp_path), "--lora-dropout", "0.25")
    expected = {"r": 3, "alpha": 12, "dropout": 0.25, "rslora": False, "targets": ("v_proj",)}
    assert adapter_settings(flags) == {**expected, **base_identity("demo")}
