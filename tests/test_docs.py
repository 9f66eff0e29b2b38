"""What the documents say of the code is so: equations stand on the lines that are named, files and flags exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import audit
import eval as eval_verb
import predict
from cli.train import TrainFlags

ROOT = Path(__file__).parent.parent
METHOD = (ROOT / "docs/method.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs/reading-guide.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"\[([\w/.]+):(\d+)\]\(\.\./([\w/.]+)#L(\d+)\) \| `([^`]+)` \|", METHOD)
VERBS = {
    "train.py": TrainFlags,
    "eval.py": eval_verb.EvalFlags,
    "predict.py": predict.PredictFlags,
    "audit.py": audit.AuditFlags,
}


def test_equations_1_to_3_and_the_published_loss_are_quoted():
    rows = re.findall(r"^\| (Eq\. \d|published \w+) \|", METHOD, re.M)
    assert sorted(set(rows)) == ["Eq. 1", "Eq. 2", "Eq. 3", "published KL", "published L", "published bound"]
    assert len(QUOTED) == 14


@pytest.mark.parametrize("file, number, linked_file, linked_number, code", QUOTED)
def test_an_equation_stands_on_its_line(file, number, linked_file, linked_number, code):
    lines = (ROOT / file).read_text(encoding="utf-8").split("\n")
    assert (file, number) == (linked_file, linked_number)
    assert code in lines[int(number) - 1], (
        f"{file}: now on line {[i for i, line in enumerate(lines, 1) if code in line]}"
    )


@pytest.mark.parametrize(
    "document", ["docs/method.md", "docs/reading-guide.md", "docs/reliability.md", "README.md", "demo/README.md"]
)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / document).parent / target).exists(), target


@pytest.mark.parametrize(
    "document", ["docs/method.md", "docs/reading-guide.md", "docs/reliability.md", "README.md", "demo/README.md"]
)
def test_commands_have_only_flags_that_their_verb_knows(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    commands = re.findall(r"python (\w+\.py)((?:[^`\n]|\\\n)*)", text)
    for verb, rest in commands:
        known = {"--" + f.name.replace("_", "-") for f in fields(VERBS[verb])} | {"--help"}
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", rest)) <= known, (verb, rest)


@pytest.mark.parametrize("document, names", [("docs/method.md", METHOD), ("docs/reading-guide.md", GUIDE)])
def test_names_in_code_style_exist_in_the_code(document, names):
    source = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py") if ".venv" not in path.parts)
    for name in re.findall(r"`([a-z]+_[a-z_]+)`", names):
        assert re.search(rf"\b{name}\b", source), name


def test_the_guide_has_six_sessions_each_with_reading_questions_and_exercises():
    sessions = re.split(r"^## Session (?=\d)", GUIDE, flags=re.M)[1:]
    assert [session[0] for session in sessions] == list("123456")
    for session in sessions:
        assert f"python -m docs.exercises.session{session[0]}" in session
        assert "**Read**" in session and "**Run**" in session and len(re.findall(r"^\d\. ", session, re.M)) >= 4
        assert session.count("<details>") == 1
