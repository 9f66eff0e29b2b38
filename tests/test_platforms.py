"""Systems that lack something: Windows' modules and console, a Python without torch, macOS' unit of memory."""

import installed

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import files
from cli.verb import print_what_it_can
from machine import memory, windows
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
