"""SIGKILL at random instants of the demo run, and of a tiny one in front of every change of a file."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def test_runs_that_are_killed_at_random_instants_end_as_one_that_was_not(tmp_path):
    command = [sys.executable, "-m", "bench.kill_resume", "--kills", "5", "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills, 0 differences from the unbroken run" in done.stdout


def test_a_run_killed_in_front_of_any_change_of_a_file_ends_as_one_that_was_not(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_points", str(tmp_path)],
        cwd=ROOT,
        env=ONE_THREAD,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == [], found["log"]
    assert found["changes"] > 40
