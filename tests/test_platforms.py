"""Systems that lack something: Windows' modules and console, a Python without torch, macOS' unit of memory."""

import installed

import builtins
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import files
from cli.verb import print_what_it_can
from machine import cgroups, device, macos, memory, windows
from run.folder import RunFolder

ROOT = Path(__file__).parent.parent
VERBS = ("train", "baseline", "eval", "predict", "audit", "prepare")
HIDE = """
import importlib.abc, os, runpy, sys
hidden, (program, *argv) = sys.argv[1].split(","), sys.argv[2:]
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
sys.argv = [program, *argv]
sys.path.insert(0, os.path.dirname(program))
runpy.run_path(program, run_name="__main__")
"""


def call(hidden, verb, *argv, **environment):
    command = [sys.executable, "-c", HIDE, hidden, ROOT / f"{verb}.py", *argv]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(list(map(str, command)), capture_output=True, env=environment)


@pytest.mark.parametrize("verb", VERBS)
def test_help_needs_no_module_that_windows_lacks(verb):
    done = call("fcntl,resource,termios,pwd,grp", verb, "--help", PYTHONIOENCODING="cp1252")
    assert done.returncode == 0 and b"Traceback" not in done.stderr and f"{verb}.py".encode() in done.stdout


def test_a_run_is_trained_without_the_modules_that_windows_lacks(tmp_path):
    flags = ("--data", "demo", "--shots", "2", "--max-steps", "1", "--out", tmp_path / "run", "--json")
    done = call("fcntl,resource", "train", *flags)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["steps"] == 1 and b"has no locks" in done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_a_python_without_torch_is_told_how_to_set_up_in_one_line(verb):
    done = call("torch", verb, "--help")
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 2 and done.stdout == b"" and line.startswith(f"{verb}.py: error: {sys.executable} has no")
    assert "pip install -r requirements.txt" in line or f".venv/bin/python {verb}.py" in line


def test_every_required_package_is_looked_for():
    names = [line.split("=")[0].split(">")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert set(installed.PACKAGES) == {name.replace("scikit-learn", "sklearn") for name in names if name}


def test_an_old_python_is_named(monkeypatch, capsys):
    monkeypatch.setattr(installed, "OLDEST", (99, 0))
    with pytest.raises(SystemExit) as end:
        installed.require()
    assert end.value.code == 2 and "needs Python 99.0 or newer, this is 3." in capsys.readouterr().err


def test_a_console_without_the_letters_of_a_title_shows_escapes(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    print_what_it_can()
    print("千と千尋 — Amélie")
    console.flush()
    assert console.buffer.getvalue().decode("cp1252") == "\\u5343\\u3068\\u5343\\u5c0b — Amélie\n"


def test_peak_memory_is_in_bytes_on_macos_and_in_kilobytes_on_linux(monkeypatch):
    class Usage:
        RUSAGE_SELF = 0

        @staticmethod
        def getrusage(who):
            return type("usage", (), {"ru_maxrss": 5})

    monkeypatch.setattr(memory, "optional_module", lambda name: Usage)
    for platform, size in (("darwin", 5), ("linux", 5 * 1024)):
        monkeypatch.setattr(sys, "platform", platform)
        assert memory.peak_resident_memory() == size


def test_without_linux_files_memory_is_still_told(monkeypatch):
    monkeypatch.setattr(memory, "_kilobytes", lambda path, name: 0)
    monkeypatch.setattr(cgroups, "free_memory", lambda: None)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.free_memory(memory.torch.device("cpu")) == pages and memory.resident_memory() > 10**7
    monkeypatch.setattr(windows, "free_memory", lambda: 7)
    monkeypatch.setattr(windows, "process_memory", lambda: (8, 9))
    monkeypatch.setattr(memory, "optional_module", lambda name: None)
    found = memory.free_memory(memory.torch.device("cpu")), memory.resident_memory(), memory.peak_resident_memory()
    assert found == (7, 8, 9)


class LockOfWindows:
    """msvcrt.locking, as documented: it locks a byte from the file's position on."""

    LK_NBLCK = 2

    def __init__(self):
        self.locked = set()

    def locking(self, handle, mode, size):
        place = os.fstat(handle).st_ino, os.lseek(handle, 0, os.SEEK_CUR)
        if place in self.locked:
            raise PermissionError(13, "Permission denied")
        self.locked.add(place)


def test_windows_locks_a_byte_that_nobody_reads(tmp_path, monkeypatch):
    lock = LockOfWindows()
    monkeypatch.setattr(files, "optional_module", lambda name: lock if name == "msvcrt" else None)
    RunFolder(tmp_path / "run", False)
    ((_, place),) = lock.locked
    assert place > (tmp_path / "run" / ".lock").stat().st_size > 0
    with open(tmp_path / "run" / ".lock") as file, pytest.raises(PermissionError):
        files.lock_file(file)


VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10.
Pages active:                            200.
Pages inactive:                           30.
Pages speculative:                         4.
Pages throttled:                           0.
Pages wired down:                        500.
Pages purgeable:                           6.
"File-backed pages":                     700.
"""


def test_macos_tells_the_free_memory_and_that_of_this_process(monkeypatch):
    assert macos.free_in(VM_STAT) == 50 * 16384 and macos.free_in("") == 0
    assert (macos.free_memory(), macos.resident_memory()) == (0, 0) or sys.platform == "darwin"
    monkeypatch.setattr(memory, "_kilobytes", lambda path, name: 0)
    monkeypatch.setattr(cgroups, "free_memory", lambda: None)
    monkeypatch.setattr(macos, "_output", lambda *command: {"vm_stat": VM_STAT, "ps": " 77\n"}[command[0]])
    assert memory.free_memory(memory.torch.device("cpu")) == 50 * 16384 and memory.resident_memory() == 77 * 1024


# ---- containers and batch systems ----------------------------------------------------------------


def group(folder, version, limit, used, given_back=0):
    folder.mkdir(parents=True, exist_ok=True)
    limit_file, used_file, name = cgroups.FILES[version]
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / used_file).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{name} {given_back}\n")


@pytest.mark.parametrize(
    "version, line, mount", [(2, "0::/a/b", ""), (1, "4:memory:/a/b", "memory"), (1, "3:cpu,memory:/a/b", "memory")]
)
def test_the_least_that_a_group_or_one_above_it_leaves_counts(tmp_path, version, line, mount):
    assert cgroups.free_memory(tmp_path) is None  # no Linux, or one without groups
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"9:pids:/x\n{line}\n")
    assert cgroups.free_memory(tmp_path) is None
    top = tmp_path / "sys/fs/cgroup" / mount
    none = "max" if version == 2 else 9223372036854771712
    group(top, version, none, 500)
    group(top / "a/b", version, 1000, 700, given_back=50)
    assert cgroups.free_memory(tmp_path) == 350
    group(top / "a", version, 900, 800)
    assert cgroups.free_memory(tmp_path) == 100
    group(top / "a", version, 900, 950)
    assert cgroups.free_memory(tmp_path) == 0
    group(top / "a", version, none, 800)
    group(top / "a/b", version, none, 800)
    assert cgroups.free_memory(tmp_path) is None
    (tmp_path / "proc/self/cgroup").write_text(f"{line}/of/the/host\nodd\n")  # in a container without its own view
    group(top, version, 600, 500)
    assert cgroups.free_memory(tmp_path) == 100


def test_the_plan_keeps_to_what_a_container_is_allowed(monkeypatch):
    monkeypatch.setattr(cgroups, "free_memory", lambda: 12345)
    assert memory.free_memory(memory.torch.device("cpu")) == 12345
    monkeypatch.setattr(cgroups, "free_memory", lambda: 2**70)
    assert memory.free_memory(memory.torch.device("cpu")) < 2**60


# ---- threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said, usable, processes, threads",
    [(None, 8, 2, 4), (None, 8, 3, 2), (None, 2, 5, 1), ("1", 8, 2, 1), ("6", 8, 2, 6), ("0", 4, 1, 4), ("x", 4, 2, 2)],
)
def test_what_omp_num_threads_says_counts_and_otherwise_the_cores_are_divided(
    said, usable, processes, threads, monkeypatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(usable)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert device.threads_each(processes) == threads


# ---- a busy machine ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "busy, cores, threads, said",
    [
        (0, 2, 2, ""),
        (1, 2, 1, ""),
        (1, 2, 2, "keep 1 of 2 cores busy. 2 threads, .* take several times as long as 1: put OMP_NUM_THREADS=1 "),
        (3, 8, 5, ""),
        (3, 8, 6, "keep 3 of 8 cores busy. 6 threads, .* as long as 5: put OMP_NUM_THREADS=5 before"),
        (9, 4, 4, "keep 4 of 4 cores busy. 4 threads, .* as long as 1: put OMP_NUM_THREADS=1 before"),
    ],
)
def test_a_run_that_wants_more_threads_than_cores_are_free_says_so(monkeypatch, capsys, busy, cores, threads, said):
    monkeypatch.setattr(device, "busy_cores", lambda: busy)
    device.say_if_busy(cores, threads)
    shown = capsys.readouterr().err
    assert re.search(said, shown) if said else not shown


@pytest.mark.parametrize("text", [None, "", "0.1 0.2", "0.1 0.2 0.3 running/many 7"])
def test_where_the_system_does_not_say_how_busy_it_is_nothing_is_said(monkeypatch, text):
    def opened(*args, **named):
        if text is None:
            raise FileNotFoundError(2, "No such file or directory")
        return io.StringIO(text)

    monkeypatch.setattr(builtins, "open", opened)
    assert device.busy_cores() == 0


@pytest.mark.skipif(not os.path.exists("/proc/loadavg"), reason="only Linux tells what runs now")
def test_a_program_that_computes_is_counted():
    with subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as one:
        one.stdout.readline()
        counted = device.busy_cores()
        one.kill()
    assert counted >= 1
