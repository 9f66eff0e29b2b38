"""Two processes of torchrun, on CPUs with gloo, make one run: the gradients, scores, files and endings of one process.

Under torchrun this file is the program that they run (the last part).
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from objectives.by_name import make_objective
from tensors import trainable_parameters

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import audit
import eval as eval_verb
import predict
import train
from cli.data import load_data
from cli.train import TrainFlags
from cli.verb import run_verb
from data.sources.stand_in import stand_in
from data.sources.tallrec import write_split
from data.splits import encode_split
from errors import FlagError, RunError
from lora.inject import add_lora, lora_layers
from machine import ranks
from machine.sharding import equal_forward_passes, shard
from objectives import paper
from run import outcome
from run.base import load_base
from scoring import splits as evaluation
from tests.test_run_folder import FILES_OF_A_RUN

OBJECTIVES = {
    "own": {"kl_weight": 0.1},
    "shared": {"kl_weight": 0.1, "kl_forcing": "shared"},
    "tallrec": {"objective": "tallrec"},
    "tallrec-prompt": {"objective": "tallrec", "train_on_prompt": True},
    "released": {"objective": "released", "kl_weight": 0.1},
}
PAIRS = (5, 1)  # of 2 ranks one gets more, or one gets none
RUN = [
    "--data",
    "rows",
    "--shots",
    "12",
    "--batch-size",
    "4",
    "--micro-batch-size",
    "2",
    "--eval-every",
    "2",
    "--max-len",
    "128",
    "--precision",
    "fp32",
    "--device",
    "cpu",
]


def torchrun(*words, cwd, program=__file__):
    """The program at the end of this file, or another, on two ranks."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program), *words],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in, with few rows of simulated viewers in TALLRec's form."""
    path = tmp_path_factory.mktemp("ranks")
    data = stand_in()
    (path / "rows").mkdir()
    for split, rows in (("train", data.train[:12]), ("valid", data.valid[7:14]), ("test", data.test[:5])):
        write_split(path / "rows" / f"{split}.json", rows, data)
    return path


@pytest.fixture(scope="module")
def done(folder):
    """What two ranks have computed and run there."""
    finished = torchrun("all", cwd=folder)
    assert finished.returncode == 0, finished.stderr
    return finished


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def last(run, part):
    return (run / "last/step-00000004" / f"{part}.safetensors").read_bytes()


# ---- what the ranks compute ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(folder):
    os.chdir(folder)
    return computed(fsdp=False)


@pytest.mark.parametrize("kind", ["plain", "fsdp"])
def test_gradients_are_those_of_one_process_in_float64(folder, done, alone, kind):
    found = load_file(folder / f"{kind}.safetensors")
    assert found.keys() == alone.keys() and len(found) > 10 * len(OBJECTIVES)
    for name, tensor in alone.items():
        if not name.startswith("scores"):
            assert tensor.dtype == torch.float64 and tensor.abs().max() > 0
            torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-13, msg=name)


@pytest.mark.parametrize("kind", ["plain", "fsdp"])
def test_scores_are_those_of_one_process(folder, done, alone, kind):
    found = load_file(folder / f"{kind}.safetensors")
    for name in ("scores", "scores auc", "scores hidden"):
        torch.testing.assert_close(found[name], alone[name], rtol=1e-5, atol=1e-6)


# ---- the run that they make ---------------------------------------------------------------------


def test_a_run_without_dropout_is_that_of_one_process(folder, done):
    os.chdir(folder)
    train.main([*RUN, "--lora-dropout", "0", "--max-steps", "2", "--out", "one"])
    for one, two in zip(records(folder / "one"), records(folder / "still"), strict=True):
        for name in ("loss", "ce_pos", "ce_neg", "kl", "grad_norm", "lr"):
            assert two[name] == pytest.approx(one[name], rel=2e-4, abs=1e-6)
        assert two.get("valid_auc") == one.get("valid_auc")
    one, two = (json.loads((folder / name / "results.json").read_text()) for name in ("one", "still"))
    assert two["valid"]["after"]["auc"] == one["valid"]["after"]["auc"]
    assert json.loads((folder / "still/config.json").read_text())["ranks"] == 2


def test_eval_on_two_ranks_gives_what_the_run_gave(folder, done):
    results = json.loads((folder / "still/results.json").read_text())["test"]["after"]
    scored = json.loads((folder / "still/eval-rows-test/results.json").read_text())
    assert {name: scored[name] for name in results} == results
    assert (folder / "still/eval-rows-test/predictions.csv").read_bytes() == (
        folder / "still/predictions.csv"
    ).read_bytes()


def test_there_is_one_set_of_files_under_a_name_of_its_own(folder, done):
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["rows-12-paper-seed0", "rows-12-paper-seed0-2"]
    whole = folder / "runs/rows-12-paper-seed0"
    assert {path.name for path in whole.iterdir()} == FILES_OF_A_RUN
    assert sorted(path.name for path in (whole / "last").glob("step-*")) == ["step-00000002", "step-00000004"]
    assert [record["step"] for record in records(whole)] == [1, 2, 3, 4]
    assert len((whole / "predictions.csv").read_text().splitlines()) == 6


def test_fsdp_makes_the_same_run(folder, done):
    plain, sharded = folder / "runs/rows-12-paper-seed0", folder / "runs/rows-12-paper-seed0-2"
    for part in ("trained", "optimizer", "rng"):
        assert last(plain, part) == last(sharded, part)
    assert (plain / "predictions.csv").read_bytes() == (sharded / "predictions.csv").read_bytes()


@pytest.mark.parametrize("kind", ["plain", "fsdp"])
def test_a_broken_run_goes_on_bitwise_with_dropout_of_each_rank(folder, done, kind):
    whole, resumed = folder / "runs/rows-12-paper-seed0", folder / f"broken-{kind}"
    assert "Resuming after step 2\n" in done.stderr
    for part in ("trained", "optimizer", "rng"):
        assert last(whole, part) == last(resumed, part)
    assert [record["loss"] for record in records(whole)] == [record["loss"] for record in records(resumed)]
    states = load_file(resumed / "last/step-00000004/rng.safetensors")["cpu"]
    assert len(states) == 2 and not torch.equal(*states)


def test_only_the_first_rank_prints(done):
    assert done.stderr.count("2 processes share the work") == 1
    assert (done.stderr + done.stdout).count("test split:") == 6  # five runs that came to their end, and eval
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert json.loads(line)["steps"] == 2


# ---- how it ends --------------------------------------------------------------------------------


def ends(folder, name, program=Path(__file__)):
    """The words that a run which fails ends with; it has to end soon."""
    started = time.monotonic()
    finished = torchrun(name, cwd=folder, program=program)
    assert finished.returncode != 0 and time.monotonic() - started < 60
    errors = [line for line in finished.stderr.splitlines() if line.startswith(f"{program.name}: error:")]
    assert "RuntimeError" not in finished.stderr
    return errors


def test_a_killed_rank_ends_the_run_with_a_word_and_one_process_can_go_on(folder, capsys):
    """Rank 1 is killed in step 3, while the other waits for its gradients."""
    (error,) = ends(folder, "killed")
    assert "another process of this run died" in error and "--resume" in error
    os.chdir(folder)
    train.main(["--resume", "--out", "killed"])
    assert [record["step"] for record in records(folder / "killed")] == [1, 2, 3, 4]
    assert "Saved by 2 process(es), resumed by 1: dropout draws other masks" in capsys.readouterr().err


COMPUTES = """import os, signal, time
from machine import ranks
from cli.verb import run_verb

def main(argv):
    if ranks.index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(100)

run_verb(ranks.distributed(main))
"""


def test_a_killed_rank_ends_one_that_computes_too(folder):
    (folder / "computes.py").write_text(COMPUTES)
    (error,) = ends(folder, "", program=folder / "computes.py")
    assert "another process of this run died" in error


def test_what_goes_wrong_on_one_rank_is_said_once(folder):
    """A pair of rank 1 has an infinite KL in step 3."""
    (error,) = ends(folder, "poisoned")
    assert "kl of row" in error and "is inf" in error
    assert len(records(folder / "poisoned")) == 2 and (folder / "poisoned/adapter_model.safetensors").is_file()


def test_what_goes_wrong_on_all_ranks_is_said_by_one():
    store = torch.distributed.HashStore()
    assert [ranks._is_first_to_fail(store, rank) for rank in (2, 0, 1)] == [True, False, False]


def test_fsdp_wants_torchrun():
    with pytest.raises(FlagError, match="--fsdp: there is one process to cut the base over; start it with torchrun"):
        train.main(["--data", "demo", "--fsdp"])


def test_verbs_without_ranks_refuse_torchrun(monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    for verb in (predict, audit):
        with pytest.raises(FlagError, match="runs in one process; start it without torchrun"):
            ranks.single_process(verb.main)([])


# ---- the program of the ranks -------------------------------------------------------------------


def computed(fsdp):
    """Gradients and terms of a step for every objective and number of pairs, and the scores of the validation rows."""
    data = load_data(vars(TrainFlags(data="rows")))
    model, tokenizer = load_base("demo", "fp32", torch.device("cpu"))
    model.double()
    if fsdp:
        shard(model, torch.device("cpu"))
    torch.manual_seed(1)
    add_lora(model, dropout=0.0)
    for _, layer in lora_layers(model):
        layer.lora_A.data = layer.lora_A.double()
        layer.lora_B.data = torch.randn_like(layer.lora_B, dtype=torch.float64) / 50
    found = {}
    for name, changes in OBJECTIVES.items():
        flags = TrainFlags(data="rows", batch_size=6, micro_batch_size=2, max_len=128, fsdp=fsdp, **changes)
        pairs = encode_split(data.train, data, tokenizer, flags.template, flags.max_len).pairs
        for count in PAIRS:
            batch = sorted(pairs[:count], key=lambda pair: pair.length)
            record = train.accumulate_gradients(model.train(), batch, make_objective(vars(flags)), 2).read()
            found[f"{name} {count} record"] = torch.tensor(list(record.values()), dtype=torch.float64)
            for i, parameter in enumerate(list(trainable_parameters(model).values())):
                found[f"{name} {count} {i}"] = parameter.grad.clone()
                parameter.grad = None
    valid = encode_split(data.valid, data, tokenizer, "tallrec", 128)
    scored = evaluation.score_split(model, valid)
    found["scores"] = torch.stack(
        [
            torch.from_numpy(getattr(scored, name))
            for name in ("log_yes_pos", "log_no_pos", "log_yes_neg", "log_no_neg", "kl", "js")
        ]
    )
    with equal_forward_passes(model), torch.inference_mode():
        for _ in range(1 + 2 * ranks.index()):  # rank 1 makes two more passes
            found["scores hidden"] = model.model(torch.tensor([pairs[0].positive.prompt]))
    found["scores auc"] = torch.tensor(list(evaluation.validation_measures(model, valid).values()))
    return found


def breaking(in_step, how, argv):
    """train.main(argv), with how(real accumulate_gradients, its arguments) in the place of one step's gradients."""
    real, calls = train.accumulate_gradients, [-1]  # the first is the rehearsal's

    def accumulate(*args):
        calls[0] += 1
        return how(real, args) if calls[0] == in_step else real(*args)

    train.accumulate_gradients = accumulate
    try:
        train.main(argv)
    finally:
        train.accumulate_gradients = real


def interrupt(real, args):
    raise KeyboardInterrupt


def kill_rank_1(real, args):
    if ranks.index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)


def poison_rank_1(real, args):
    terms_of = paper.answer_terms
    if ranks.index() == 1:
        paper.answer_terms = lambda *a, **k: (terms := terms_of(*a, **k))._replace(kl=terms.kl + float("inf"))
    return real(*args)


def drift():
    """Ranks whose adapters differ notice it, and can be given those of the first."""
    adapter = [torch.ones(3) + ranks.index() / 1000]
    with pytest.raises(RunError, match="drifted apart"):
        ranks.refuse_drift(adapter)
    ranks.broadcast_tensors(adapter)
    ranks.refuse_drift(adapter)
    assert torch.equal(adapter[0], torch.ones(3))


def program(argv):
    run = [*RUN, "--lora-dropout", "0.2", "--max-steps", "4"]
    if argv == ["all"]:
        for kind in ("plain", "fsdp"):
            found = computed(fsdp=kind == "fsdp")
            if ranks.is_first():
                save_file(found, f"{kind}.safetensors")
            extra = ["--fsdp"] if kind == "fsdp" else []
            train.main([*run, *extra])
            outcome.draw_curves = lambda *args: None  # takes its time
            out = ["--out", f"broken-{kind}"]
            with pytest.raises(KeyboardInterrupt):
                breaking(3, interrupt, [*run, *extra, *out])
            train.main(["--resume", *extra, *out])
        train.main([*RUN, "--lora-dropout", "0", "--max-steps", "2", "--out", "still", "--json"])
        eval_verb.main(["--run", "still", "--device", "cpu"])
        drift()
    else:
        breaking(3, {"killed": kill_rank_1, "poisoned": poison_rank_1}[argv[0]], [*run, "--out", argv[0]])


if __name__ == "__main__":
    run_verb(ranks.distributed(program))
