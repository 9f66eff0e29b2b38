"""The rooms against installed packages of the same names: ours are imported, whatever else is on the path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
VERBS = ("train.py", "baseline.py", "eval.py", "predict.py", "audit.py")


@pytest.fixture
def environment(tmp_path):
    """With a folder on PYTHONPATH that has a regular package for every room; importing one of these fails."""
    for room in ROOMS:
        package = tmp_path / "installed" / room
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"raise RuntimeError('the installed package {room} was imported')\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "PYTHONDONTWRITEBYTECODE": "1"}


def call(environment, folder, *argv):
    return subprocess.run([sys.executable, *argv], cwd=folder, env=environment, capture_output=True, text=True)


def test_there_are_rooms_to_speak_of():
    assert {"auditing", "baselines", "cli", "data", "demo", "lora", "machine", "model", "report", "run"} <= set(ROOMS)


def test_the_installed_packages_would_be_imported_without_ours(environment, tmp_path):
    done = call(environment, tmp_path, "-c", "import data")
    assert done.returncode == 1 and "the installed package data was imported" in done.stderr


def test_ours_are_imported_where_the_repository_comes_first(environment, tmp_path):
    program = f"""
import importlib, sys
sys.path.insert(0, {str(ROOT)!r})
import data.interactions
for room in {ROOMS!r}:
    print(importlib.import_module(room).__file__)
"""
    done = call(environment, tmp_path, "-c", program)
    assert done.stdout.split("\n")[:-1] == [str(ROOT / room / "__init__.py") for room in ROOMS], done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_called_from_another_folder_imports_ours(environment, tmp_path, verb):
    done = call(environment, tmp_path, str(ROOT / verb), "--help")
    assert done.returncode == 0 and f"usage: {verb}" in done.stdout, done.stderr


def test_a_module_called_from_the_repository_imports_ours(environment):
    done = call(environment, ROOT, "-m", "model.convert", "--help")
    assert done.returncode == 0 and "--dtype" in done.stdout, done.stderr
