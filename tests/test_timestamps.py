"""The one reading of time: each form against Python's own datetime, and every mixture refused."""

from datetime import datetime, timedelta, timezone

import pytest

from data.timestamps import read_times
from errors import DataError


def read(*cells):
    return read_times(cells, range(2, 2 + len(cells)), "x.csv, column timestamp")


def at(*parts, hours=0, **more):
    return datetime(*parts, tzinfo=timezone(timedelta(hours=hours)), **more).timestamp()


@pytest.mark.parametrize(
    "cells, expected, form",
    [
        (("1700000000", " 5 ", "-5"), (1700000000, 5, -5), "unix seconds"),
        (("1.7e9", "1700000000,5"), (1700000000, 1700000000.5), "unix seconds"),
        (("1700000000123", "0"), (1700000000.123, 0), "unix milliseconds"),
        (("1700000000123456",), (1700000000.123456,), "unix microseconds"),
        (("1700000000123456789",), (1700000000.123456789,), "unix nanoseconds"),
        (("20240501", "19991231"), (at(2024, 5, 1), at(1999, 12, 31)), "dates, as YYYYMMDD"),
        (("20240501123000",), (at(2024, 5, 1, 12, 30),), "dates, as YYYYMMDDhhmmss"),
        (("2023", "2024"), (at(2023, 1, 1), at(2024, 1, 1)), "years, as YYYY"),
        (("0", "17", "1950", "4000"), (0, 17, 1950, 4000), "unix seconds"),  # a counter
        (("2024-05-01", "2024-5-2"), (at(2024, 5, 1), at(2024, 5, 2)), "dates, as YYYY-MM-DD"),
        (("2024/05/01",), (at(2024, 5, 1),), "dates, as YYYY/MM/DD"),
        (
            ("2024-05-01T12:30:00", "2024-05-01 12:30:00.25"),
            (at(2024, 5, 1, 12, 30), at(2024, 5, 1, 12, 30) + 0.25),
            None,
        ),
        (
            ("2024-05-01T12:30:00Z", "2024-05-01 12:30+0200", "2024-05-01T12:30:00,5-05:30"),
            (at(2024, 5, 1, 12, 30), at(2024, 5, 1, 10, 30), at(2024, 5, 1, 18) + 0.5),
            None,
        ),
        (("20240501T123000Z",), (at(2024, 5, 1, 12, 30),), None),
        (("0", "0"), (0, 0), "unix seconds"),
    ],
)
def test_each_form_is_read_as_pythons_datetime_reads_it(cells, expected, form):
    times = read(*cells)
    assert [tick / times.per_second for tick in times.ticks] == pytest.approx(list(expected), abs=2e-7)
    assert form is None or times.form == form


def test_nanoseconds_keep_their_order_exactly():
    times = read("1700000000000000001", "1700000000000000000")
    assert times.ticks == [1700000000000000001, 1700000000000000000] and times.seconds(times.ticks[0]) == 1700000000
    times = read("1700000000.000000001", "1700000000.000000000")
    assert times.ticks[0] == times.ticks[1] + 1
    times = read("2024-05-01T10:00:00.000000002", "2024-05-01T10:00:00.000000001")
    assert times.ticks[0] == times.ticks[1] + 1 and times.seconds(times.ticks[0]) == at(2024, 5, 1, 10)


@pytest.mark.parametrize(
    "cells, one, other",
    [
        (
            ("20240511", "2024-05-12"),
            "line 2 has '20240511' (dates, as YYYYMMDD)",
            "line 3 has '2024-05-12' (dates, as",
        ),
        (("1700000000", "1700000000123"), "(unix seconds)", "(unix milliseconds)"),
        (("2024-05-12", "2024"), "(dates, as YYYY-MM-DD)", "'2024' (years, as YYYY)"),
        (("1700000000", "2024"), "(unix seconds)", "'2024' (years, as YYYY)"),
        (("1700000000", "20240511"), "(unix seconds)", "(dates, as YYYYMMDD)"),
        (("2024-05-12", "2024/05/12"), "YYYY-MM-DD", "YYYY/MM/DD"),
        (("2024-05-12", "2024-05-12T10:00"), "dates, as YYYY-MM-DD", "dates with times"),
        (("2024-05-12T10:00Z", "2024-05-12T10:00"), "with zones", "without zones"),
        (("1700000000123", "1700000000123456"), "milliseconds", "microseconds"),
        (("x", "1700000000", "5", "2024-01-01"), "line 3 has", "line 5 has"),
    ],
)
def test_a_column_of_several_forms_is_refused_with_two_lines(cells, one, other):
    with pytest.raises(DataError) as refusal:
        read(*cells)
    message = str(refusal.value)
    assert message.startswith("x.csv, column timestamp: mixes forms of time: ") and "\n" not in message
    assert one in message and other in message


@pytest.mark.parametrize(
    "cell",
    ["yesterday", "", "inf", "nan", "01/05/2024", "2024-13-01", "2024-02-30", "2024-05-01T25:00", "9" * 30, "1e99"]
    + ["2024-05-01T10:00+25:00", "٤", "2024-05/01", "-99999999999", "1" * 5000, "0001-01-01T00:00+10:00"],
)
def test_what_is_no_time_is_left_to_the_caller(cell):
    times = read("1700000000", cell, "1700000001")
    assert times.ticks == [1700000000, None, 1700000001] and times.span().startswith("from 2023-11-14 22:13:20 to ")


def test_the_span_of_dates_shows_no_midnight():
    assert read("2024-05-01", "2024-05-03").span() == "from 2024-05-01 to 2024-05-03 UTC"
