"""The audit with a vocabulary of tens of thousands of words: NumPy in place of the loops, and words on the page."""

# ruff: noqa: F401, F811 (imported fixtures)

import json

import pytest
import torch

import audit
import auditing.naive
from auditing.figures import row_figures
from report.audit_page import audit_page
from tests.test_audit import KL_WEIGHT, Pieces, figures, model, pair, report


@pytest.mark.parametrize("size", [2, 7, 300])
def test_numpy_computes_what_the_loops_do(size, monkeypatch):
    """Vocabularies beyond LONGEST_LOOP are left to NumPy."""
    generator = torch.Generator().manual_seed(size)
    rows = (torch.randn(2, size, generator=generator, dtype=torch.float64) * 30).tolist()
    rows[0][0] = -1e4  # its probability is zero

    def every_value() -> list[float]:
        a, b = (auditing.naive.naive_log_softmax(row) for row in rows)
        shares = auditing.naive.naive_contributions(a, b)
        return [*a, *b, *shares, auditing.naive.naive_kl(a, b)]

    looped = every_value()
    monkeypatch.setattr("auditing.naive.LONGEST_LOOP", 0)
    assert every_value() == pytest.approx(looped, rel=1e-12, abs=1e-13) and every_value() != []
    assert looped[2 * size] == 0.0


def test_the_audit_agrees_with_numpy_as_well(model, pair, monkeypatch):
    monkeypatch.setattr("auditing.naive.LONGEST_LOOP", 0)
    figures = audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32")
    assert figures["ok"] and json.loads(json.dumps(figures)) == figures


@pytest.mark.parametrize(
    ("marks", "others"),
    [({" ": "Ġ", "\n": "Ċ"}, ["Ġ", "Ċ"]), ({" ": "▁", "\n": "<0x0A>"}, ["▁", "&lt;0x0A&gt;"])],
)
def test_the_page_shows_words(report, marks, others):
    """Whatever marks a space in the vocabulary; letters that another vocabulary uses as marks stay."""
    space, line_break = marks[" "], marks["\n"]
    letter = "Ġ" if space == "▁" else "▁"
    words = ["Given", f"{space}the", f"{space}user", line_break, f"x{letter}y"]
    for side in report["rows"]:
        for i, token in enumerate(report["rows"][side]):
            token["piece"] = words[i % len(words)]
    for row in report["answer_tokens"]:
        row["target_pos"] = {"id": 7, "piece": f"{space}Yes"}
    page = audit_page(report)
    assert page.count("</style>") == 1
    body = page.split("</style>")[1]
    assert ">Given</span>" in body and "> the</span>" in body and ">↵</span>" in body and f">x{letter}y</span>" in body
    assert "·Yes 7" in body and not any(mark in body for mark in others if mark != letter)


class Bytes(Pieces):
    """A byte-level vocabulary in which token 5 is " the", and token 7 the word that begins with a real letter Ġ."""

    def piece(self, token_id):
        return {5: "Ġthe", 7: "Ġgantija"}.get(token_id, "Given")

    def decode(self, ids):
        return {5: " the", 7: "Ġgantija"}.get(ids[0], "Given")


def test_a_letter_that_is_also_a_mark_stays_a_letter(report, pair):
    page = audit_page(report | {"rows": row_figures(Bytes(), pair)})
    assert 5 in pair.positive.ids and 7 in pair.positive.ids
    assert "> the</span>" in page and ">Ġgantija</span>" in page and "Ġthe" not in page
