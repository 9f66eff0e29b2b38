"""The exercises of the course: the solutions hold, mistakes do not, and every verdict shows what was found."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from docs.exercises.checking import ToDo, report, same

ROOT = Path(__file__).parent.parent
SESSIONS = [f"session{number}" for number in range(1, 7)]


def solutions(name):
    """The functions of a session as docs/solutions.md prints them, in order."""
    page = (ROOT / "docs" / "solutions.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^## Session {name[-1]}\n+```python\n(.*?)^```$", page, re.S | re.M)
    names = {"torch": torch}
    exec(block, names)
    return {function: names[function] for function in re.findall(r"^def (\w+)", block, re.M)}


ALL = {function: solution for name in SESSIONS for function, solution in solutions(name).items()}

# Mistakes that a student could make, or try.
MISTAKES = {
    "changed_tokens": [lambda a, b: [i + 1 for i, (x, y) in enumerate(zip(a, b)) if x != y], lambda a, b: [65, 130]],
    "predicting_positions": [lambda prompt, answer: list(range(prompt, prompt + answer))],
    "rms_norm": [
        lambda x, weight, eps: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True) * weight,
        lambda x, weight, eps: x / x.square().mean(-1, keepdim=True).sqrt() * weight,
        lambda x, weight, eps: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight,
        lambda x, weight, eps: x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * weight,
    ],
    "attend": [lambda q, k, v: torch.softmax(q @ k.T / q.shape[1] ** 0.5, -1) @ v],
    "rotate_by_complex_numbers": [lambda x, angles: ALL["rotate_by_complex_numbers"](x, -angles)],
    "tokens_in_tree": [
        lambda rows: sum(map(len, rows)),
        lambda rows: len({(i, token) for row in rows for i, token in enumerate(row)}),
        lambda rows: len({token for row in rows for token in row}),
    ],
    "lora_forward": [
        lambda x, w, a, b, alpha: x @ w.T + alpha * x @ a.T @ b.T,
        lambda x, w, a, b, alpha: x @ w.T + alpha / 3 * x @ a.T @ b.T,
    ],
    "trainable_parameters": [
        lambda layers, hidden, r: layers * 2 * r * hidden,
        lambda layers, hidden, r: {4: 32_768, 32: 4_194_304}.get(layers, 0),
    ],
    "merged_weight": [
        lambda w, a, b, alpha: w.float() + alpha / len(a) * b @ a,
        lambda w, a, b, alpha: w + (alpha / len(a) * b @ a).to(w.dtype),
    ],
    "kl": [lambda z, w: (torch.softmax(z, -1) * (torch.softmax(z, -1).log() - torch.softmax(w, -1).log())).sum()],
    "kl_gradients": [
        lambda z, w: (ALL["kl_gradients"](z, w)[0], torch.zeros_like(w)),
        lambda z, w: (),
        lambda z, w: ALL["kl_gradients"](z, w)[:1],
        lambda z, w: ALL["kl_gradients"](z, w)[0],
    ],
    "pair_loss": [
        lambda pos, neg, kls, weight: sum(pos) + sum(neg) + weight * sum(kls),
        lambda pos, neg, kls, weight: sum(pos) + sum(neg) - 0.3 * sum(kls),
    ],
    "learning_rate": [lambda step, total, warm, peak: peak * min(1, step / warm, (total - step) / (total - warm))],
    "paper_share": [
        lambda losses, pairs: sum(losses) / len(losses),
        lambda losses, pairs: 3.0 * len(losses) / pairs,
    ],
    "released_share": [lambda losses, steps: sum(losses) / 6, lambda losses, steps: sum(losses) / len(losses) / 2],
    "contradiction_rate": [
        lambda pos, neg: sum((a > 0.5) != (b > 0.5) for a, b in zip(pos, neg)) / len(pos),
        lambda pos, neg: float("nan"),
    ],
    "auc_by_counting": [
        lambda labels, scores: (
            sum(a > b for a, x in zip(scores, labels) for b, y in zip(scores, labels) if x and not y)
            / (sum(labels) * (len(labels) - sum(labels)))
        )
    ],
    "user_auc": [lambda labels, scores, users: ALL["auc_by_counting"](labels, scores)],
}
WRONG_TYPES = [lambda *a: None, lambda *a: "text", lambda *a: (), lambda *a: torch.ones(2)]


def checks(session):
    """The check functions that `python -m docs.exercises.sessionN` runs, in order."""
    source = Path(session.__file__).read_text(encoding="utf-8")
    return [getattr(session, name.strip()) for name in re.search(r"^    report\((.*)\)$", source, re.M)[1].split(",")]


@pytest.mark.parametrize("name", SESSIONS)
def test_unsolved_solved_and_wrong(name, monkeypatch):
    session = importlib.import_module(f"docs.exercises.{name}")
    functions, solved = checks(session), solutions(name)
    assert len(functions) == len(solved)
    torch.manual_seed(0)
    for check, (function, solution) in zip(functions, solved.items()):
        with pytest.raises(ToDo):
            check()
        monkeypatch.setattr(session, function, solution)
        check()
        for mistake in MISTAKES[function]:
            monkeypatch.setattr(session, function, mistake)
            with pytest.raises(AssertionError, match="found .*wanted "):
                check()


@pytest.mark.parametrize("name", SESSIONS)
@pytest.mark.parametrize("wrong", WRONG_TYPES)
def test_a_wrong_type_neither_holds_nor_hides_the_other_exercises(name, wrong, monkeypatch, capsys):
    session = importlib.import_module(f"docs.exercises.{name}")
    (first, *_), functions = solutions(name), checks(session)
    for function, solution in solutions(name).items():
        monkeypatch.setattr(session, function, wrong if function == first else solution)
    with pytest.raises(SystemExit) as end:
        report(*functions)
    verdicts = capsys.readouterr().out.splitlines()[1::2]
    assert end.value.code == 1
    assert verdicts[0].startswith("    not yet: ") and verdicts[1:] == ["    holds"] * (len(functions) - 1)


def test_every_mistake_belongs_to_an_exercise():
    assert set(MISTAKES) == set(ALL)


def test_the_command_reports_unsolved_exercises_and_ends_with_1():
    done = subprocess.run([sys.executable, "-m", "docs.exercises.session5"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.count("to do") == 3 and done.stderr == ""


def test_a_verdict_for_every_outcome(capsys):
    def good():
        """one"""

    def bad():
        """two"""
        assert 1 == 2, "1 is not 2"

    def broken():
        """three"""
        return [][0]

    with pytest.raises(SystemExit) as end:
        report(bad, broken, good)
    assert end.value.code == 1 and capsys.readouterr().out == (
        "two\n    not yet: 1 is not 2\nthree\n    not yet: IndexError: list index out of range\none\n    holds\n"
    )
    with pytest.raises(SystemExit) as end:
        report(good)
    assert end.value.code == 0


@pytest.mark.parametrize(
    "found, wanted, message",
    [
        (None, 3.0, "x: found None; is a return missing?"),
        (2.5, 3.0, "x: found 2.5, wanted 3.0"),
        ([1], [1, 2], "x: found [1], wanted [1, 2]"),
        (torch.ones(2), torch.ones(3), "x: found 1, 1 (shape (2,), float32), wanted 1, 1, 1 (shape (3,), float32)"),
        (torch.ones(1).double(), torch.ones(1), "x: found 1 (shape (1,), float64), wanted 1 (shape (1,), float32)"),
        ("a" * 99, 1, "x: found '" + "a" * 76 + "..., wanted 1"),
    ],
)
def test_a_difference_shows_both_sides(found, wanted, message):
    with pytest.raises(AssertionError) as refused:
        same(found, wanted, "x")
    assert str(refused.value) == message
