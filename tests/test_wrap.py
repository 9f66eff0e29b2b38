"""Text within 80 columns: lines never end where a reader would stumble."""

import re
from pathlib import Path

import pytest

from report.wrap import WIDTH, wrapped

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("before", range(WIDTH))
def test_a_number_and_its_percent_sign_stay_on_one_line_wherever_the_line_ends(before):
    lines = wrapped(f"{'x' * before} 95 % intervals in [ ], from resampling users", "  ")
    text = "\n".join(lines)
    assert "95 %" in text and "[ ]" in text and max(map(len, lines)) <= max(WIDTH, before)
    assert " ".join(text.split()) == f"{'x' * before} 95 % intervals in [ ], from resampling users".strip()
    assert all(line.startswith("  ") for line in lines[1:])


def test_no_page_breaks_a_line_between_a_number_and_its_percent_sign():
    broken = [
        path.name for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if re.search(r"\d\n *%", path.read_text())
    ]
    assert broken == []
