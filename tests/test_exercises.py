"""The exercises of the course: each check tells an unsolved, a right and a wrong solution apart."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from docs.exercises.checking import ToDo, report

ROOT = Path(__file__).parent.parent


def attend(q, k, v):
    rows = []
    for t in range(len(q)):
        weights = torch.softmax(torch.stack([q[t] @ k[s] / q.shape[1] ** 0.5 for s in range(t + 1)]), 0)
        rows.append(sum(weights[s] * v[s] for s in range(t + 1)))
    return torch.stack(rows)


def rotate_by_complex_numbers(x, angles):
    first, second = x.chunk(2, -1)
    turned = torch.complex(first, second) * torch.exp(1j * angles)
    return torch.cat((turned.real, turned.imag), -1)


def kl(z, w):
    p, q = torch.log_softmax(z, -1), torch.log_softmax(w, -1)
    return (p.exp() * (p - q)).sum()


def kl_gradients(z, w):
    p, q = torch.softmax(z, -1), torch.softmax(w, -1)
    return p * (p.log() - q.log() - kl(z, w)), q - p


def auc_by_counting(labels, scores):
    pairs = [(a, b) for a, liked in zip(scores, labels) for b, other in zip(scores, labels) if liked and not other]
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)


def user_auc(labels, scores, users):
    values = []
    for user in set(users):
        rows = [i for i, other in enumerate(users) if other == user]
        mine = [labels[i] for i in rows]
        if any(mine) and not all(mine):
            values.append(auc_by_counting(mine, [scores[i] for i in rows]))
    return float(np.mean(values))


SOLUTIONS = {
    "session1": {
        "changed_tokens": lambda a, b: [i for i, (x, y) in enumerate(zip(a, b)) if x != y],
        "predicting_positions": lambda prompt, answer: list(range(prompt - 1, prompt + answer - 1)),
    },
    "session2": {
        "rms_norm": lambda x, weight, eps: x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight,
        "attend": attend,
        "rotate_by_complex_numbers": rotate_by_complex_numbers,
    },
    "session3": {
        "lora_forward": lambda x, w, a, b, alpha: x @ w.T + alpha / len(a) * x @ a.T @ b.T,
        "trainable_parameters": lambda layers, hidden, r: layers * 2 * 2 * r * hidden,
        "merged_weight": lambda w, a, b, alpha: (w.float() + alpha / len(a) * b @ a).to(w.dtype),
    },
    "session4": {
        "kl": kl,
        "kl_gradients": kl_gradients,
        "pair_loss": lambda pos, neg, kls, weight: sum(pos) + sum(neg) - weight * sum(kls),
    },
    "session5": {
        "learning_rate": lambda step, total, warm, peak: (
            peak * min(1, (step + 1) / warm, (total - step) / (total - warm))
        ),
        "paper_share": lambda losses, pairs: sum(losses) / pairs,
        "released_share": lambda losses, steps: sum(losses) / len(losses) / steps,
    },
    "session6": {
        "contradiction_rate": lambda pos, neg: sum((a > 0.5) == (b > 0.5) for a, b in zip(pos, neg)) / len(pos),
        "auc_by_counting": auc_by_counting,
        "user_auc": user_auc,
    },
}

# One mistake that a student could make in each function.
MISTAKES = {
    "changed_tokens": lambda a, b: [i + 1 for i, (x, y) in enumerate(zip(a, b)) if x != y],
    "predicting_positions": lambda prompt, answer: list(range(prompt, prompt + answer)),
    "rms_norm": lambda x, weight, eps: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True) * weight,
    "attend": lambda q, k, v: torch.softmax(q @ k.T / q.shape[1] ** 0.5, -1) @ v,
    "rotate_by_complex_numbers": lambda x, angles: rotate_by_complex_numbers(x, -angles),
    "lora_forward": lambda x, w, a, b, alpha: x @ w.T + alpha * x @ a.T @ b.T,
    "trainable_parameters": lambda layers, hidden, r: layers * 2 * r * hidden,
    "merged_weight": lambda w, a, b, alpha: w.float() + alpha / len(a) * b @ a,
    "kl": lambda z, w: (torch.softmax(z, -1) * (torch.softmax(z, -1).log() - torch.softmax(w, -1).log())).sum(),
    "kl_gradients": lambda z, w: (kl_gradients(z, w)[0], torch.zeros_like(w)),
    "pair_loss": lambda pos, neg, kls, weight: sum(pos) + sum(neg) + weight * sum(kls),
    "learning_rate": lambda step, total, warm, peak: peak * min(1, step / warm, (total - step) / (total - warm)),
    "paper_share": lambda losses, pairs: sum(losses) / len(losses),
    "released_share": lambda losses, steps: sum(losses) / 6,
    "contradiction_rate": lambda pos, neg: sum((a > 0.5) != (b > 0.5) for a, b in zip(pos, neg)) / len(pos),
    "auc_by_counting": lambda labels, scores: (
        sum(a > b for a, x in zip(scores, labels) for b, y in zip(scores, labels) if x and not y)
        / (sum(labels) * (len(labels) - sum(labels)))
    ),
    "user_auc": lambda labels, scores, users: auc_by_counting(labels, scores),
}


def checks(session):
    """The check functions that `python -m docs.exercises.sessionN` runs, in order."""
    source = Path(session.__file__).read_text(encoding="utf-8")
    return [getattr(session, name.strip()) for name in re.search(r"^    report\((.*)\)$", source, re.M)[1].split(",")]


@pytest.mark.parametrize("name", SOLUTIONS)
def test_unsolved_solved_and_wrong(name, monkeypatch):
    session = importlib.import_module(f"docs.exercises.{name}")
    functions = checks(session)
    assert len(functions) == len(SOLUTIONS[name])
    torch.manual_seed(0)
    for check, (function, solution) in zip(functions, SOLUTIONS[name].items()):
        with pytest.raises(ToDo):
            check()
        monkeypatch.setattr(session, function, solution)
        check()
        monkeypatch.setattr(session, function, MISTAKES[function])
        with pytest.raises(AssertionError):
            check()


def test_the_command_reports_unsolved_exercises_and_ends_with_1():
    done = subprocess.run([sys.executable, "-m", "docs.exercises.session5"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.count("to do") == 3 and done.stderr == ""


def test_a_verdict_for_every_outcome(capsys):
    def good():
        """one"""

    def bad():
        """two"""
        assert 1 == 2, "1 is not 2"

    with pytest.raises(SystemExit) as end:
        report(good, bad)
    assert end.value.code == 1 and capsys.readouterr().out == "one\n    holds\ntwo\n    not yet: 1 is not 2\n"
    with pytest.raises(SystemExit) as end:
        report(good)
    assert end.value.code == 0
