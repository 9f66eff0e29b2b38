"""What the pages say is so: links lead somewhere, commands have only flags that exist, quoted lines of code stand."""

import contextlib
import functools
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from baselines.methods import METHODS

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "demo").rglob("*.md"))
)
OF_TODAY = [page for page in PAGES if page != "CHANGELOG.md"]  # the changelog names what is gone, too
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
METHOD, GUIDE, OWN_DATA = (TEXTS[f"docs/{name}.md"] for name in ("method", "reading-guide", "own-data"))
QUOTE = r"\[([\w/.]+):(\d+)\]\(\.\./([\w/.]+)#L(\d+)\) \| `([^`]+)` \|"
QUOTED, OF_BASELINES = re.findall(QUOTE, METHOD), re.findall(QUOTE, TEXTS["docs/baselines.md"])
FLAG = r"(?<![\w-])--[a-z][a-z0-9-]*"
VERBS = ("train", "baseline", "eval", "predict", "compare", "audit", "prepare movie", "prepare show")
OF_TORCHRUN = {"--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint"}
OF_OTHERS = {*OF_TORCHRUN, "--check", "--local-dir", "--no-deps"}  # ruff's, hf's, pip's

# ---- links --------------------------------------------------------------------------------------


def anchors(page):
    """Those that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", TEXTS[page], flags=re.S | re.M), re.M)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", TEXTS[page]):
        if target.startswith("https://"):
            continue
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path.relative_to(ROOT).as_posix()), f"{target}#{anchor}"
        elif anchor:
            assert int(anchor.removeprefix("L")) <= len(path.read_text(encoding="utf-8").splitlines()), target


# ---- commands, flags, files and names ------------------------------------------------------------


def snippets(page):
    """Every line of a fenced block and every piece of text in code style, without comments."""
    text = re.sub(r"\\\n", " ", TEXTS[page])
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.S | re.M)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines()]
    return [re.sub(r"\s#.*", "", " ".join(line.split())) for line in (*lines, *re.findall(r"`([^`]+)`", prose))]


def commands(page):
    """(verb or module, its arguments) of every command of ours on the page; prepare.py goes with its first argument."""
    for line in snippets(page):
        for command in line.split(" && "):
            if match := re.match(r"(?:\S*python3?|torchrun .*?) (-m (?=[a-z]+\.)|(?=\w+\.py))([\w.]+)(.*)", command):
                module, arguments = match[2] if match[1] else match[2].removesuffix(".py"), match[3]
                if module in ("prepare", "reproduce"):
                    module += " " + arguments.split()[0].replace("NAME", "movie").replace("STUDY", "few-shot")
                arguments, _, of_train = arguments.partition(" -- ")
                if of_train:
                    yield "train", of_train
                if not match[1] or (ROOT / module.split(".")[0]).is_dir():
                    yield module, arguments


@functools.cache
def flags_of(command):
    """The flags that the help of a verb, or of a module with a command line, lists."""
    name, *arguments = command.split()
    arguments.append("--help")
    main = importlib.import_module(name).main
    printed = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [name, *arguments]),
        contextlib.redirect_stdout(printed),
        pytest.raises(SystemExit) as ended,
    ):
        main(arguments) if inspect.signature(main).parameters else main()
    assert not ended.value.code
    return set(re.findall(rf"^  (?:-\w, )?({FLAG})", printed.getvalue(), re.M))


@pytest.mark.parametrize("page", OF_TODAY)
def test_commands_name_files_that_exist(page):
    for command, _ in commands(page):
        name = command.split()[0].replace(".", "/")
        assert (ROOT / f"{name}.py").is_file(), command


@pytest.mark.parametrize("page", OF_TODAY)
def test_commands_have_only_flags_that_their_verb_knows(page):
    for command, arguments in commands(page):
        if flags := set(re.findall(FLAG, arguments)):
            assert flags <= flags_of(command), command


@pytest.mark.parametrize("page", OF_TODAY)
def test_flags_outside_commands_exist_in_a_verb_or_in_a_command_of_the_page(page):
    known = OF_OTHERS.union(*(flags_of(command) for command in VERBS))
    for command, arguments in commands(page):
        known |= flags_of(command) if re.search(FLAG, arguments) else set()
    for line in snippets(page):
        assert set(re.findall(FLAG, line)) <= known, line


@pytest.mark.parametrize("page", OF_TODAY)
def test_files_in_code_style_exist(page):
    for line in snippets(page):
        for name in re.findall(r"^[\w./-]*\w\.(?:py|md|toml|txt|cff)$", line):
            if name not in ("__init__.py", "vocab.txt") and not name.endswith("NAME.py"):  # any name; a BERT's file
                assert any((folder / name).is_file() for folder in (ROOT, (ROOT / page).parent)), name


@pytest.mark.parametrize("page", OF_TODAY)
def test_names_in_code_style_exist_in_the_code(page):
    files = [path for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    source = "\n".join([*(path.stem for path in files), *(path.read_text(encoding="utf-8") for path in files)])
    for name in re.findall(r"`([a-z]+_[a-z_]+)`", TEXTS[page]):
        assert re.search(rf"\b{name}\b", source), name


# ---- docs/method.md ------------------------------------------------------------------------------


def test_equations_1_to_3_and_the_published_loss_are_quoted():
    rows = re.findall(r"^\| (Eq\. \d|published \w+) \|", METHOD, re.M)
    assert sorted(set(rows)) == ["Eq. 1", "Eq. 2", "Eq. 3", "published KL", "published L", "published bound"]
    assert len(QUOTED) == 23


def test_every_method_of_baseline_py_is_on_its_page():
    assert [name for name in METHODS if f"`{name}`" not in TEXTS["docs/baselines.md"]] == []


@pytest.mark.parametrize("file, number, linked_file, linked_number, code", QUOTED + OF_BASELINES)
def test_an_equation_stands_on_its_line(file, number, linked_file, linked_number, code):
    lines = (ROOT / file).read_text(encoding="utf-8").split("\n")
    assert (file, number) == (linked_file, linked_number)
    assert code in lines[int(number) - 1], (
        f"{file}: now on line {[i for i, line in enumerate(lines, 1) if code in line]}"
    )


# ---- docs/reading-guide.md -----------------------------------------------------------------------


def test_the_guide_has_six_sessions_each_with_reading_questions_and_exercises():
    sessions = re.split(r"^## Session (?=\d)", GUIDE, flags=re.M)[1:]
    assert [session[0] for session in sessions] == list("123456")
    for session in sessions:
        assert f"python -m docs.exercises.session{session[0]}" in session
        assert "**Read**" in session and "**Run**" in session and len(re.findall(r"^\d\. ", session, re.M)) >= 4
        assert session.count("<details>") == 1


# ---- docs/own-data.md ----------------------------------------------------------------------------


def test_the_example_of_own_data_works_as_typed(tmp_path):
    (block,) = re.findall(r"^```\n(head -3 demo/games.*?)^```$", OWN_DATA, re.S | re.M)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    # The commands are typed in the project's folder; here in another one, with the project on the path.
    script = re.sub(r"^python (\w+\.py)", rf"python {ROOT}/\1", block, flags=re.M)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LCFT_DATA": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "will dislike the target game" in done.stdout
    assert "games (own data), built-in demo model" in done.stdout + done.stderr
    assert (tmp_path / "runs" / "games-all-paper-seed0" / "results.json").is_file()


# ---- CHANGELOG.md --------------------------------------------------------------------------------


def test_the_version_is_that_of_the_newest_entry_and_stands_in_one_place():
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == version and "version:" not in (ROOT / "CITATION.cff").read_text().replace("cff-version:", "")
