"""docs/walk/index.html: made from the code as it is now, along the whole reading path."""

import re
from html import unescape

import pytest

from docs.make_walk import PAGE, ROOT, code_of, coloured, walk_page
from docs.walk.stations import STATIONS
from tests.test_structure import READING_PATH

WITHOUT_STATION = {"objectives/base.py"}  # the contract, of which the page shows one example


def test_the_page_is_that_of_todays_code():
    assert PAGE.read_text(encoding="utf-8") == walk_page(), "python -m docs.make_walk writes it anew"


def test_it_passes_through_the_reading_path_in_its_order():
    files = list(dict.fromkeys(station.code.split(": ")[0] for station in STATIONS))
    assert files == [file for file in READING_PATH if file not in WITHOUT_STATION]


@pytest.mark.parametrize("station", STATIONS, ids=lambda station: station.code)
def test_the_code_of_a_station_stands_in_its_file_and_on_the_page(station):
    code, line = code_of(station)
    lines = (ROOT / station.code.split(": ")[0]).read_text(encoding="utf-8").split("\n")
    shown = code.split("\n")
    assert [text.strip() for text in lines[line - 1 : line - 1 + len(shown)]] == [text.strip() for text in shown]
    assert unescape(re.sub(r"<[^>]*>", "", coloured(code))) == code


def test_it_needs_nothing_from_outside():
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(|src=", PAGE.read_text(encoding="utf-8"))
