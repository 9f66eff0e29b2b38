"""SIGKILL at random instants of the demo run, and before every change of a file in a tiny run."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def test_runs_killed_at_random_instants_end_like_an_uninterrupted_run(tmp_path):
    command = [sys.executable, "-m", "bench.kill_resume", "--kills", "5", "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills, 0 differences from the uninterrupted run" in done.stdout


def test_a_run_killed_before_any_change_of_a_file_ends_like_an_uninterrupted_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_points", str(tmp_path)],
        cwd=ROOT,
        env=ONE_THREAD,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["wrong"] == [], outcome["log"]
    assert outcome["changes"] > 40
