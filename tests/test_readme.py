"""What the README says is so: its commands, its equation lines, its tree, its links to all other pages."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


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


def test_the_files_in_the_tree_exist():
    tree = re.search(r"^```\n(train\.py .*?)^```$", README, re.S | re.M)[1]
    for line in tree.splitlines():
        place = line.split()[0]
        assert (ROOT / place).exists(), place
        for name in re.findall(r"\b\w+\.py\b", line) if place.endswith("/") else []:
            assert (ROOT / place / name).exists(), f"{place}{name}"


def test_every_room_is_in_the_tree():
    rooms = {path.parent.relative_to(ROOT).as_posix() + "/" for path in ROOT.glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"^(\w+/) ", README, re.M))


def test_every_page_is_linked():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("demo/*.md")]
    links = set(re.findall(r"\]\(([^)#]+)", README))
    assert {page.relative_to(ROOT).as_posix() for page in pages} - {"README.md"} <= links


def test_no_placeholder_is_left():
    assert not re.findall(r"@[A-Z]+@", README)
