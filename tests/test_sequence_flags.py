"""What baseline.py passes to the sequence models."""

import pytest

from baselines.base import Option, history_form, settings_of
from baselines.methods import METHODS
from baselines.rows import History
from cli.baseline import BaselineFlags, check_baseline, given_settings
from cli.flags import parse_flags
from errors import FlagError


def parsed(*argv):
    return parse_flags(BaselineFlags, list(argv), "", check=check_baseline)[0]


def test_a_flag_of_zero_is_a_value_and_not_an_absent_flag():
    flags = parsed("--method", "dros", "--alpha", "0", "--l2", "0", "--dropout", "0")
    assert given_settings(flags) == {"alpha": 0.0, "l2": 0.0, "dropout": 0.0}
    assert given_settings(parsed("--method", "dros")) == {}


@pytest.mark.parametrize("name", ["gru4rec", "caser", "sasrec", "dros"])
def test_the_history_that_is_read_follows_from_flags(name):
    def form(*argv):
        flags = parsed("--method", name, *argv)
        return history_form(METHODS[name], settings_of(METHODS[name], "movie", False) | given_settings(flags))

    assert form() == History(10, "right", "all")
    assert form("--history", "liked", "--length", "5") == History(5, "right", "liked")
    assert form("--history", "signed") == History(10, "right", "signed")


def test_full_data_sasrec_reads_liked_items_padded_on_the_left():
    method = METHODS["sasrec-full"]
    assert history_form(method, settings_of(method, "ml-1m", True)) == History(25, "left", "liked")
    assert history_form(method, settings_of(method, "amazon-book", True)) == History(20, "left", "liked")
    with pytest.raises(FlagError, match="--history signed: with --method sasrec-full choose one of liked, all"):
        parsed("--method", "sasrec-full", "--history", "signed")


def test_an_option_that_could_not_be_turned_off_is_refused_where_it_is_declared():
    assert Option("center", False, "a toy").default is False
    with pytest.raises(ValueError, match="center: a bool begins as False"):
        Option("center", True, "a toy")
