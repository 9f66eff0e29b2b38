"""What stops a run, on purpose or not: one clear line, the last good state whole, and the same end once it goes on."""

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from bench.kill_resume import content
from cli.verb import run_verb
from errors import RunError
from machine import signals
from machine.memory import HUGE_PAGES, memory_line
from machine.signals import Stopped, StopRequest, Terminated
from objectives.base import PairLoss
from objectives.paper import Paper
from run import folder as run_folder
from run.folder import RunFolder, refuse_unusable
from tests.kill_points import small_run

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The content of a small run that nothing happened to."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    small_run(out)
    return content(out)


def at_validation(number, action):
    """A validation that gives 0.5, 0.25, 0.125, ... and does `action` at one of them."""
    calls = []

    def validate():
        calls.append(None)
        if len(calls) == number:
            action()
        return 0.5 ** len(calls)

    return validate


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


# ---- SIGINT and SIGTERM -------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def sigint_is_listened_to():
    """A shell starts what runs in its background with SIGINT ignored, which the program respects, as it should."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_saves_after_the_step_and_the_run_goes_on_to_the_same_end(
    tmp_path, unbroken, monkeypatch, number
):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    real, calls = train.accumulate_gradients, []

    def interrupted(*args):
        calls.append(None)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return real(*args)

    monkeypatch.setattr(train, "accumulate_gradients", interrupted)
    with pytest.raises(
        Stopped,
        match=f"^{number.name}: saved after step 2; resume with: .*train.py --out {tmp_path}/run --resume$",
    ):
        small_run(tmp_path / "run", eval_every=3)
    assert [path.name for path in (tmp_path / "run" / "last").iterdir()] == ["step-00000002"]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert small_run(tmp_path / "run", eval_every=3).step == 3
    monkeypatch.undo()
    small_run(tmp_path / "other", eval_every=3)
    assert losses(tmp_path / "run") == losses(tmp_path / "other")
    last = "last/step-00000003/"
    ends = [
        {name: data for name, data in content(tmp_path / out).items() if name.startswith((last, "adapter"))}
        for out in ("run", "other")
    ]
    assert ends[0] == ends[1] and len(ends[0]) > 6


@pytest.mark.parametrize("number, error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_second_signal_ends_at_once_unless_it_is_the_first_passed_on(monkeypatch, number, error):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), number)
        assert stop.signal == "SIGTERM"
        monkeypatch.setattr(signals, "SAME_REQUEST", 0.0)
        with pytest.raises(error):
            os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    "action, status, line",
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, "terminated"),
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130, "interrupted"),
        (lambda: (_ for _ in ()).throw(Stopped("saved; go on")), 75, "saved; go on"),
        (lambda: torch.empty(2**50), 2, "error: out of memory ("),
    ],
)
def test_every_end_has_its_exit_status_and_one_line(monkeypatch, capsys, action, status, line):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        run_verb(lambda argv: next(action()) if action() else None)
    signal.signal(signal.SIGTERM, before)
    shown = capsys.readouterr().err
    assert end.value.code == status and shown.startswith(f"train.py: {line}") and shown.count("\n") == 1


# ---- the disk and the folder --------------------------------------------------------------------

FULL_DISK = """
import json, resource, sys
from pathlib import Path
from bench.kill_resume import content
from errors import RunError
from tests.kill_points import small_run
from tests.test_failures import at_validation

folder, found = Path(sys.argv[1]), {}
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
small_run(folder / "unbroken", at_validation(0, None))
for size in (0, 200, 500, 2000):
    out = folder / str(size)
    try:
        small_run(out, at_validation(2, lambda: limit(size)))
    except RunError as error:
        found[size] = [str(error)]
    limit(resource.RLIM_INFINITY)
    found[size] += [sorted(path.name for path in (out / "last").iterdir())]
    small_run(out, at_validation(0, None))
    found[size] += [content(out).keys() == content(folder / "unbroken").keys()]
print(json.dumps(found))
"""


def test_a_disk_that_is_full_stops_the_run_by_name_and_what_was_saved_is_whole(tmp_path):
    """By a limit on the size of files, which is met at different ones."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for size, (line, left, whole) in found.items():
        assert line.startswith(f"{tmp_path / size}/") and f"cannot be written ({os.strerror(errno.EFBIG)})" in line
        assert (
            line.endswith(f" train.py --out {tmp_path / size} --resume")
            and "resume with: " in line
            and "\n" not in line
        )
        assert left == ["step-00000001"] and whole
    assert len({line.split(": ")[0].removeprefix(str(tmp_path / size)) for size, (line, *_) in found.items()}) > 1


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_vanishes_is_said_and_not_made_again(tmp_path, replaced):
    out = tmp_path / "run"

    def vanish():
        out.rename(tmp_path / "elsewhere")
        if replaced:
            RunFolder(out, False)

    with pytest.raises(RunError, match=f"^{out}: the run folder was removed or replaced"):
        small_run(out, at_validation(2, vanish))
    assert out.exists() == replaced and (not replaced or [path.name for path in out.iterdir()] == [".lock"])
    if replaced:
        shutil.rmtree(out)
    (tmp_path / "elsewhere").rename(out)
    assert small_run(out).step == 3


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr(run_folder, "open", read_only, raising=False)
    with pytest.raises(RunError, match=rf"^--out {tmp_path}/run: cannot be written \({os.strerror(errno.EROFS)}\)$"):
        RunFolder(tmp_path / "run", False)


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("process 7 on another", file=file, flush=True)
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_runs_in_one_folder_are_refused_until_the_first_is_killed(tmp_path):
    small_run(tmp_path / "run")
    before = content(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run" / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"locked\n"
        for refused in (refuse_unusable, RunFolder):
            with pytest.raises(RunError, match="another process is working there .process 7 on another.; wait for it"):
                refused(tmp_path / "run", True)
        holder.kill()
    refuse_unusable(tmp_path / "run", True)
    RunFolder(tmp_path / "run", True)
    assert content(tmp_path / "run") == before


def test_what_killed_runs_left_is_cleared_and_what_is_not_theirs_stays(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").touch()
    (out / ".config.json.77.part").write_text("{")
    RunFolder(out, False).write_config({"flags": {}})  # killed before its config was whole: the folder counts as empty
    (out / "last" / ".step-00000002.77.part").mkdir(parents=True)
    (out / ".best-x.part").mkdir()
    for kept in ("notes.part", ".hidden", "eval-movie-test"):
        (out / kept).touch()
    RunFolder(out, True)
    assert sorted(path.name for path in out.iterdir()) == [
        ".hidden",
        ".lock",
        "config.json",
        "eval-movie-test",
        "last",
        "notes.part",
    ]
    assert list((out / "last").iterdir()) == []


# ---- values that are not finite -----------------------------------------------------------------


def test_a_gradient_that_is_not_finite_is_traced_to_its_pair_and_term(tmp_path, monkeypatch):
    real = Paper.loss

    def poisoned(self, model, pairs, pairs_in_step):
        loss, terms, tokens = real(self, model, pairs, pairs_in_step)
        for i, pair in enumerate(pairs):
            if pair.name == "row 5":
                nothing = (0 * terms["ce_neg"][i]).sqrt()  # 0, with a gradient of 0 * infinity
                terms = terms | {"ce_neg": terms["ce_neg"] + nothing}
                loss = loss + nothing
        return PairLoss(loss, terms, tokens)

    monkeypatch.setattr(Paper, "loss", poisoned)
    with pytest.raises(
        RunError,
        match=r"^step \d: the gradient of ce_neg of row 5 is not finite; stopped before the update, the last state",
    ):
        small_run(tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text() if (tmp_path / "run" / "metrics.jsonl").exists() else ""
    assert "NaN" not in lines


def test_an_update_that_makes_weights_not_finite_is_not_saved(tmp_path, unbroken, monkeypatch):
    real, calls = torch.optim.AdamW.step, []

    def destroys(optimizer):
        real(optimizer)
        calls.append(None)
        if len(calls) == 2:
            optimizer.param_groups[0]["params"][1].data[0, 0] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", destroys)
    with pytest.raises(
        RunError,
        match=r"^step 2: the update made model\.\S+lora_B NaN or infinite, .* stopped before anything was saved",
    ):
        small_run(tmp_path / "run")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run" / "last").iterdir()] == ["step-00000001"]
    small_run(tmp_path / "run")
    assert content(tmp_path / "run") == unbroken


def test_a_term_that_is_not_finite_is_named_with_its_pair_before_the_update(tmp_path, monkeypatch):
    real = Paper.loss

    def infinite(self, model, pairs, pairs_in_step):
        loss, terms, tokens = real(self, model, pairs, pairs_in_step)
        more = torch.tensor([float("inf") if pair.name == "row 5" else 0.0 for pair in pairs])
        return PairLoss(loss - more.sum(), terms | {"kl": terms["kl"] + more}, tokens)

    monkeypatch.setattr(Paper, "loss", infinite)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda optimizer: None)
    with pytest.raises(RunError, match=r"^step \d: kl of row 5 is inf; stopped before the update, the last state"):
        small_run(tmp_path / "run")


def test_weights_that_an_update_destroyed_are_named_before_a_pair_is_blamed(tmp_path, monkeypatch):
    """They are looked at when they are validated or saved, and when the next loss is not finite."""
    real = torch.optim.AdamW.step

    def destroys(optimizer):
        real(optimizer)
        optimizer.param_groups[0]["params"][1].data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim.AdamW, "step", destroys)
    with pytest.raises(RunError, match=r"^step 2: the update made model\.\S+lora_B NaN or infinite"):
        small_run(tmp_path / "run", eval_every=3)
    assert not list((tmp_path / "run").glob("last/*"))


# ---- memory -------------------------------------------------------------------------------------


def too_large():
    torch.empty(2**50)


@pytest.mark.parametrize(
    "error", [None, MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore")]
)
def test_a_lack_of_memory_names_the_step_and_what_to_change(tmp_path, monkeypatch, error):
    def fail(*args):
        if error is None:
            too_large()
        raise error

    monkeypatch.setattr(train, "accumulate_gradients", fail)
    with pytest.raises(
        RunError, match=r"^step 1: out of memory.*Lower --micro-batch-size or set --checkpointing on"
    ) as found:
        small_run(tmp_path / "run")
    assert "\n" not in str(found.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert memory_line(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert memory_line(ValueError("x")) is None


KEEPING = """
import torch
from cli.verb import run_verb

def kilobytes(name):
    return int(next(line for line in open("/proc/self/smaps_rollup") if line.startswith(name)).split()[1])

def main(argv):
    tensors = [torch.ones(2**22) for _ in range(8)]  # 16 MB each
    huge, full = kilobytes("AnonHugePages"), kilobytes("Rss")
    tensors.clear()
    print(huge, full - kilobytes("Rss"))

run_verb(main)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("wanted", ["1", "0"])
def test_what_tensors_free_stays_with_the_process_and_is_in_large_pages_where_there_are_any(wanted):
    done = subprocess.run(
        [sys.executable, "-c", KEEPING],
        env=os.environ | {HUGE_PAGES: wanted},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    huge, given_back = map(int, done.stdout.split())
    modes = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if modes.exists() and "[madvise]" in modes.read_text():
        assert (huge > 100_000) == (wanted == "1")
    assert given_back < 10_000  # of 131,072
