"""What the README says is so: its commands, its equation lines, its files, its flags."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from audit import AuditFlags
from cli.train import TrainFlags
from eval import EvalFlags
from predict import PredictFlags
from prepare import ShowFlags

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_there_are_exactly_two_commands_and_the_second_is_what_ci_runs():
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, re.S | re.M)
    assert len(blocks) == 2
    assert blocks[0].strip().endswith("train.py --data movie --shots 64")
    assert "pytest" in blocks[1] and "n == 2" in (ROOT / ".ci/run").read_text()
    for block in blocks:
        for name in re.findall(r"-r (\S+)", block):
            assert (ROOT / name).is_file()


def test_the_quoted_lines_stand_in_loss_py():
    quoted = re.findall(r"^\|(?: Eq\. \d)? \|.*\| `([^`]+)` \|$", README, re.M)
    assert len(quoted) == 4
    source = (ROOT / "loss.py").read_text(encoding="utf-8")
    for line in quoted:
        assert line in source, line


def test_linked_and_listed_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    tree = re.search(r"^```\n(train\.py .*?)^```$", README, re.S | re.M)[1]
    for line in tree.splitlines():
        place = line.split()[0]
        assert (ROOT / place).exists(), place
        for name in re.findall(r"\b\w+\.py\b", line) if place.endswith("/") else []:
            assert (ROOT / place / name).exists(), name


def test_flags_in_the_readme_exist():
    verbs = (
        TrainFlags,
        EvalFlags,
        PredictFlags,
        AuditFlags,
        ShowFlags,
    )  # which flag belongs to which, tests/test_docs.py looks at
    known = {"--" + f.name.replace("_", "-") for verb in verbs for f in fields(verb)} | {"--help"}
    known |= {"--raw", "--out", "--published"}  # of python prepare.py NAME
    known |= {"--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint"}  # torchrun's
    text = re.sub(r"`python -m bench\.[^`]*`", "", README)  # those have flags of their own
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known


def test_no_placeholder_is_left():
    assert not re.findall(r"@[A-Z]+@", README)


def test_the_example_of_own_data_works_as_typed(tmp_path):
    (block,) = re.findall(r"^```\n(mkdir games\n.*?)^```$", README, re.S | re.M)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    # The commands are typed in the project's folder; here in another one, with the project on the path.
    script = re.sub(r"python (\w+\.py)", lambda match: f"python {ROOT / match[1]}", block)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LCFT_DATA": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "will dislike the target game" in done.stdout and "games (own data), built-in demo model" in done.stderr
    assert (tmp_path / "runs" / "games-all-paper-seed0" / "results.json").is_file()
