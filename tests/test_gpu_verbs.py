"""The verbs from end to end on a pretend GPU, and the benchmark for GPUs on the CPU."""

import json
import re

import pytest
import torch

import audit
import eval as eval_verb
import predict
import train
from bench import gpu as bench_gpu
from bench import gpu_checks, gpu_jobs, gpu_kernels, measure
from data.sources.stand_in import stand_in
from data.sources.tallrec import write_split
from errors import RunError
from run import outcome
from tests.pretend_cuda import NAME, WAITS, PretendCuda

RUN = (
    *("--data", "rows", "--shots", "4", "--batch-size", "4", "--micro-batch-size", "2", "--max-steps", "2"),
    *("--eval-every", "2", "--max-len", "128", "--precision", "fp32", "--lora-dropout", "0"),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a few rows of simulated viewers in TALLRec's form."""
    data = stand_in()
    (tmp_path / "rows").mkdir()
    for split, rows in (("train", data.train[:6]), ("valid", data.valid[7:11]), ("test", data.test[:3])):
        write_split(tmp_path / "rows" / f"{split}.json", rows, data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(outcome, "draw_curves", lambda *args: None)  # takes its time
    return tmp_path


def results(out):
    return json.loads((out / "results.json").read_text())["test"]["after"]


def test_several_processes_share_a_device_and_a_dead_one_is_said(capsys):
    small = bench_gpu.SELF_TEST | {"tie_word_embeddings": True}
    gpu_jobs.main(["--jobs", "1,2", "--seconds", "0.05", "--device", "cpu"], small)
    found = re.findall(r"(\d) at a time: ([\d.]+) steps of 8 pairs a second, (\d+) prompts", capsys.readouterr().out)
    assert [int(count) for count, *_ in found] == [1, 2] and all(
        float(rate) > 0 for _, *rates in found for rate in rates
    )
    for wrong in ("0", "a", "1,", ""):
        with pytest.raises(SystemExit):
            gpu_jobs.main(["--jobs", wrong], small)
        assert f"{wrong}: expected whole numbers from 1" in capsys.readouterr().err
    with pytest.raises(RunError, match="a process ended before it had measured"):
        gpu_jobs.main(["--jobs", "1", "--device", "cpu"], small | {"num_key_value_heads": 5})


def test_every_verb_runs_on_the_gpu_and_gives_what_the_cpu_gives(folder, capsys):
    train.main([*RUN, "--device", "cpu", "--out", "cpu"])
    with PretendCuda() as gpu:
        train.main([*RUN, "--out", "gpu"])
        assert json.loads((folder / "gpu/config.json").read_text())["device"] == NAME
        eval_verb.main(["--run", "gpu", "--merge-out", "merged"])
        capsys.readouterr()
        predict.main(["--run", "gpu", "--liked", "Alien (1979)", "--target", "Aliens (1986)", "--json"])
        there = json.loads(capsys.readouterr().out)
        audit.main(["--run", "gpu", "--sample", "0"])
        assert gpu.events
    capsys.readouterr()
    predict.main(["--run", "cpu", "--liked", "Alien (1979)", "--target", "Aliens (1986)", "--json", "--device", "cpu"])
    assert numbers(there) == pytest.approx(numbers(json.loads(capsys.readouterr().out)), rel=1e-3, abs=1e-3)
    assert numbers(results(folder / "gpu")) == pytest.approx(numbers(results(folder / "cpu")), rel=1e-3, abs=1e-3)
    assert (folder / "gpu/eval-rows-test/predictions.csv").read_bytes() == (folder / "gpu/predictions.csv").read_bytes()


def numbers(value):
    """All numbers in a JSON value, in order."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, (int, float)) else []


def test_a_base_in_int8_trains_on_the_gpu_with_deterministic_sums(folder):
    try:
        with PretendCuda():
            train.main([*RUN, "--base-dtype", "int8", "--precision", "bf16", "--deterministic", "--out", "run"])
            assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert json.loads((folder / "run/config.json").read_text())["flags"]["deterministic"]["value"] is True


def test_both_forms_of_attention_are_compared_on_the_gpu(small):
    with PretendCuda():
        found = gpu_checks.attention(torch.device("cuda:0"), None)
        assert torch.backends.cuda.flash_sdp_enabled()
    errors = found["relative distance"]
    assert found["passed"] and 0 < errors["varlen_attn"] != errors["masked"] < 0.1


def test_scoring_waits_once(folder):
    from scoring.forward import score

    with PretendCuda() as gpu:
        model = gpu_checks.demo_model(torch.device("cuda:0"), "fp32", 0.0)
        gpu.events.clear()
        score(model, gpu_checks.demo_split(3))
        assert not gpu.counts()[WAITS] and gpu.counts()["copy from the GPU, waiting"] == 1


# ---- the benchmark ------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """A benchmark that is quick on a CPU."""
    monkeypatch.setattr(gpu_checks, "PAIRS", 2)
    monkeypatch.setattr(gpu_checks, "PROMPTS", 4)
    monkeypatch.setattr(gpu_checks, "OBJECTIVES", {"own": {}})
    for name in ("TOKENS", "IN", "OUT"):
        monkeypatch.setattr(measure, f"PRODUCT_{name}", 64)
    monkeypatch.setattr(outcome, "draw_curves", lambda *args: None)


ARGUMENTS = ["--device", "cpu", "--shape", "self-test", "--pairs", "2", "--own", "9", "--prompts", "6", "--steps", "1"]


def test_the_benchmark_for_gpus_runs_on_a_cpu_and_says_what_it_skipped(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_gpu.importlib.util, "find_spec", lambda name: None)
    bench_gpu.main([*ARGUMENTS, "--compiled", "--out", str(tmp_path / "found")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["skipped"] == {
        "training, 2 pairs, masked attention": "RunError: varlen_attn is not used here",
        "training, 2 pairs of 512 tokens, 24 GB": "RunError: a CPU has no card",
        "training, 2 pairs, compiled": "RunError: it takes minutes on a CPU",
        "kernels, 2 pairs": "RunError: a CPU has no kernels to count",
        "expert peer, 2 pairs": "RunError: transformers is not installed",
    }
    assert all(found["lines"][name].get("passed", name == "attention in bf16") for name in gpu_checks.CHECKS)
    trained = found["lines"]["training, 2 pairs"]
    assert trained["attention"] == "masked" and trained["distinct_tokens"] == 66 + 2 * 16 + 4 * (9 + 3)
    assert trained["step_s"] > 0 and found["lines"]["scoring"]["prompts_per_s"] > 0
    shown = (tmp_path / "found.md").read_text()
    assert shown.strip() == capsys.readouterr().out.strip() and "Skipped: expert peer, 2 pairs" in shown


def test_the_benchmark_begins_no_part_when_the_time_is_over(tmp_path):
    bench_gpu.main([*ARGUMENTS, "--seconds", "-1", "--out", str(tmp_path / "found")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert not found["lines"] and set(gpu_checks.CHECKS) < set(found["skipped"])


def test_a_check_that_fails_ends_the_benchmark_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_gpu, "CHECKS", {"sums": lambda device, work: {"passed": False}})
    monkeypatch.setattr(bench_gpu, "ours", lambda *args: None)
    monkeypatch.setattr(bench_gpu, "expert", lambda *args: {})
    monkeypatch.setattr(bench_gpu, "Products", lambda *args: type("None", (), {"rates": dict}))
    with pytest.raises(RunError, match="^not as it should be: sums$"):
        bench_gpu.main([*ARGUMENTS, "--out", str(tmp_path / "found")])


def test_made_pairs_share_what_prompts_share():
    pairs = bench_gpu.made_pairs(8, 32_000)
    rows = [row.ids for pair in pairs for row in (pair.positive, pair.negative)]
    distinct = len({tuple(ids[: end + 1]) for ids in rows for end in range(len(ids))})
    assert sum(map(len, rows)) == 3952 and distinct == 2738  # MovieLens: 3,880 and 2,640


def test_the_idle_share_is_what_no_kernel_covers():
    assert gpu_kernels.idle_share([(4, 6), (0, 2), (1, 3), (9, 10)]) == pytest.approx(0.4)


def test_the_time_of_kernels_is_summed_by_what_they_do():
    spans = [("sm90_xmma_gemm_bf16", 0, 3000), ("flash_fwd_kernel", 3000, 4000), ("nvjet_tst", 4000, 4500)]
    assert gpu_kernels.milliseconds(spans, gpu_kernels.kind_of) == {"products": "3.50 (2)", "attention": "1.00 (1)"}
    assert gpu_kernels.kind_of("vectorized_elementwise_kernel<4, MulFunctor>") == gpu_kernels.OTHER


def test_the_peer_is_drawn_and_takes_the_same_pairs():
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    args = bench_gpu.arguments(ARGUMENTS)
    found = bench_gpu.expert(args, bench_gpu.SELF_TEST, torch.device("cpu"), 2)
    assert found["step_s"] > 0 and found["prompts_per_s, expert"] > 0
