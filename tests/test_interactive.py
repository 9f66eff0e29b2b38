"""predict.py --interactive: what it offers, what it answers, and how it ends, at a real terminal too."""

# ruff: noqa: F401, F811 (imported fixtures)

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import predict
from cli.verb import run_verb
from data.interactions import Item
from run.interactive import Oracle, matches, several, without_adapter
from tensors import trainable_parameters
from tests.test_predict import flags_for
from tests.test_predict_run import call, run, trained

ROOT = Path(__file__).parent.parent
FILMS = [Item(name) for name in ("Alien (1979)", "Alien 3 (1992)", "Aliens (1986)", "Amélie (2001)", "Heat (1995)")]


def choose(*lines):
    """(what several returns for these lines, everything that was said)."""
    typed, said = iter([*lines, ""]), []
    return several(FILMS, "> ", lambda prompt: next(typed), said.append), said


# ---- choosing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, titles",
    [
        ("alien", ["Alien (1979)", "Alien 3 (1992)", "Aliens (1986)"]),
        ("199", ["Alien 3 (1992)", "Heat (1995)"]),
        ("amelie", ["Amélie (2001)"]),
        ("1992 ALIEN", ["Alien 3 (1992)"]),
        ("zulu", []),
    ],
)
def test_a_part_of_a_title_finds_it_whatever_its_case_and_accents(text, titles):
    assert [item.title for item in matches(FILMS, text)] == titles


def test_a_title_that_begins_with_the_text_comes_first():
    films = [Item("The Heat (2013)"), Item("Heat (1995)")]
    assert [item.title for item in matches(films, "heat")] == ["Heat (1995)", "The Heat (2013)"]


def test_a_number_chooses_what_was_offered_last_and_an_empty_line_ends():
    chosen, said = choose("alien", "3", "heat", "1")
    assert [item.title for item in chosen] == ["Aliens (1986)", "Heat (1995)"]
    assert "  3  Aliens (1986)" in said and "  1  Heat (1995)" in said


def test_a_number_that_was_not_offered_is_a_part_of_a_title():
    chosen, said = choose("alien", "1995", "1")
    assert [item.title for item in chosen] == ["Heat (1995)"]


def test_what_was_chosen_is_not_offered_again_and_can_be_taken_back():
    chosen, said = choose("heat", "1", "heat", "-", "heat", "1")
    assert [item.title for item in chosen] == ["Heat (1995)"]
    assert "  no title has 'heat'; type another part of it" in said and "  without Heat (1995)" in said


def test_a_long_list_is_cut_and_says_how_much_is_left():
    films = [Item(f"Film {i}") for i in range(30)]
    said, typed = [], iter(["film", ""])
    several(films, "> ", lambda prompt: next(typed), said.append)
    assert sum(line.startswith("  ") for line in said) == 10 and "and 21 more" in said[-1]


def test_letters_that_would_spoil_a_terminal_are_not_shown():
    typed, said = iter(["x", ""]), []
    several([Item("x\x1b[2J")], "> ", lambda prompt: next(typed), said.append)
    assert said[0] == "  1  x?[2J"


# ---- answers ------------------------------------------------------------------------------------


def test_the_answers_are_those_of_predict_with_the_run_and_with_its_base_alone(run, call, monkeypatch, capsys):
    lines = iter(["tree 1", "1", "", "tree 4", "1", "", "tree 7", "1"])

    def ask(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(predict, "ask_at_terminal", ask)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    predict.main(["--run", str(run), "--device", "cpu", "--interactive"])
    shown = capsys.readouterr().out
    titles = flags_for(liked=["Tree 1"], disliked=["Tree 4"], target=["Tree 7"])
    after, _ = call("--run", run, "--device", "cpu", *titles)
    authors = flags_for(liked=["Tree 1::A. 1"], disliked=["Tree 4::A. 4"], target=["Tree 7::A. 7"])
    base = ("--model", run.parent / "base", "--precision", "fp32", "--max-len", 2000, "--noun", "tree book")
    before, _ = call(*base, "--device", "cpu", *authors)
    for name, found in (("before", before), ("after", after)):
        (line,) = [line for line in shown.splitlines() if line.strip().startswith(f"{name} tuning")]
        answers = found["predictions"][0]
        assert f"{answers['p_yes_positive']:.3f}" in line and f"{answers['p_yes_negative']:.3f}" in line
        assert ("contradiction" in line) == bool(answers["contradiction"])
    assert shown.startswith("Tree 7::A. 7\n")


def test_the_adapter_is_whole_again_afterwards(run):
    from cli.flags import parse_flags
    from cli.predict import PredictFlags
    from run.restore import resolve_settings, restore_model

    flags, resolved = parse_flags(PredictFlags, ["--run", str(run), "--device", "cpu"], "")
    model, _ = restore_model(flags, resolve_settings(flags, resolved)[0])
    before = {name: tensor.detach().clone() for name, tensor in trainable_parameters(model).items()}
    with pytest.raises(KeyboardInterrupt), without_adapter(model):
        assert not any(tensor.any() for name, tensor in trainable_parameters(model).items() if "lora_B" in name)
        raise KeyboardInterrupt
    after = trainable_parameters(model)
    assert before and all((after[name] == tensor).all() for name, tensor in before.items())


# ---- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, line",
    [
        (["--interactive"], "--interactive: say which run with --run DIR"),
        (["--interactive", "--liked", "Heat"], "--liked: contradicts --interactive, which asks"),
        (["--interactive", "--json"], "--json: contradicts --interactive"),
        (["--interactive"], "--interactive: standard input is no terminal; give --liked and --target"),
    ],
)
def test_what_does_not_fit_is_one_line(argv, line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["predict.py", *argv])
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(SystemExit) as end:
        run_verb(predict.main)
    assert end.value.code == 2 and f"predict.py: error: {line}" in capsys.readouterr().err


def at_terminal(run, *keys):
    """(exit status, all that a pseudo-terminal showed) of a conversation; each key waits for a prompt, `> `."""
    own, other = pty.openpty()
    argv = [sys.executable, "predict.py", "--run", str(run), "--device", "cpu", "--interactive"]
    process = subprocess.Popen(
        argv,
        cwd=ROOT,
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        preexec_fn=lambda: _control(other),
    )
    os.close(other)
    waiting, shown, deadline = list(keys), b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([own], [], [], 0.2)[0]:
            try:
                part = os.read(own, 4096)
            except OSError:  # the other end is closed
                break
            shown += part
            if not part:
                break
            if waiting and shown.endswith(b"> "):
                os.write(own, waiting.pop(0))
    os.close(own)
    return process.wait(timeout=30), shown.decode()


def _control(terminal):
    """Make it the controlling terminal of a new session, so that Ctrl-C becomes SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's job in the background ignores it, and its children do
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("end", [b"\x03", b"\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_a_conversation_at_a_terminal_ends_cleanly(run, end):
    status, shown = at_terminal(run, b"tree 1\n", b"1\n", b"\n", b"\n", b"tree 7\n", b"1\n", end)
    assert status == 0, shown
    assert "1  Tree 1::A. 1" in shown and "before tuning" in shown and "after tuning" in shown
    assert "Traceback" not in shown and "interrupted" not in shown
