"""predictions.csv: written with all digits, read back to the last one, and read from the version before."""

import csv

import numpy as np
import pytest

from data.interactions import Interaction
from data.splits import Chosen, Split
from errors import DataError
from metrics import Scored, metric_values
from run.predictions import COLUMNS, FIRST_COLUMNS, read_predictions, write_predictions

TARGETS = [3, 'The "Quoted" Man, A (1984)', "Nîmes (1966)"]


def scored_rows(users=(7, None, "u, 8"), seed=0):
    """A Scored with awkward digits: one probability is 1.0 in every float, its log-odds are not."""
    generator = np.random.default_rng(seed)
    logs = -generator.gamma(2.0, size=(6, len(users)))
    logs[1, 0] = -50.0
    labels = np.arange(len(users)) % 2 == 0
    return Scored(list(users), labels, *logs[:4], *-logs[4:])


def split_of(scored, targets=TARGETS, times=(11, None, 13), chosen=None):
    rows = [
        Interaction(user, (), target, bool(label), time)
        for user, target, label, time in zip(scored.users, targets, scored.labels, times)
    ]
    return Split(rows, [], 0, {}, chosen)


def test_predictions_have_a_line_per_row_with_the_old_columns_first(tmp_path):
    scored = scored_rows()
    write_predictions(tmp_path / "p.csv", split_of(scored, chosen=Chosen([2, 5, 9], 10)), scored)
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header[:6] == ["user", "item", "label", "p_yes_positive", "p_yes_negative", "contradiction"]
    assert [line[:3] for line in lines] == [["7", "3", "1"], ["", TARGETS[1], "0"], ["u, 8", TARGETS[2], "1"]]
    assert [line[6:8] for line in lines] == [["2", "11"], ["5", ""], ["9", "13"]]
    for i, line in enumerate(lines):
        assert [float(text) for text in line[3:5]] == [scored.p_pos[i], scored.p_neg[i]]  # all digits
        assert line[5] == str(int((scored.p_pos[i] > 0.5) == (scored.p_neg[i] > 0.5)))
    assert b"\r" not in (tmp_path / "p.csv").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_the_file_gives_back_every_score_to_the_last_digit(tmp_path):
    scored = scored_rows([i % 5 for i in range(40)])
    split = split_of(scored, range(40), range(40))
    write_predictions(tmp_path / "p.csv", split, scored)
    read = read_predictions(tmp_path / "p.csv")
    assert read.exact and read.numbers == read.timestamps == [str(i) for i in range(40)]
    assert np.array_equal(read.scored.z_pos, scored.z_pos) and np.array_equal(read.scored.z_neg, scored.z_neg)
    assert metric_values(read.scored) == metric_values(scored)


def old_file(path, *lines):
    path.write_text("\n".join([",".join(FIRST_COLUMNS), *lines]) + "\n")
    return path


def test_a_file_of_the_version_before_is_read_with_its_six_digits(tmp_path):
    path = old_file(tmp_path / "p.csv", "7,3,1,0.880797,0.731059,1", ",x,0,1.000000,0.000000,0", "7,4,0,0.500000,0.4,0")
    read = read_predictions(path)
    assert not read.exact and read.numbers is None and read.scored.users == ["7", None, "7"]
    assert read.scored.p_pos[:2] == pytest.approx([0.880797, 1.0], abs=1e-6)
    assert read.scored.p_pos[2] > 0.5  # hidden by rounding, told by the column `contradiction`
    assert np.isfinite(read.scored.z_pos).all() and "kl" not in metric_values(read.scored)


MALFORMED = {
    "label": "7,3,2,0.5,0.5,1",
    "not a number": "7,3,1,x,0.5,1",
    "no probability": "7,3,1,1.5,0.5,1",
    "not finite": "7,3,1,nan,0.5,1",
    "too short": "7,3,1,0.5",
    "too long": "7,3,1,0.5,0.5,1,9",
}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_row_is_named(tmp_path, line):
    path = old_file(tmp_path / "p.csv", "7,3,1,0.5,0.5,1", line)
    with pytest.raises(DataError, match=r"p\.csv row 2: malformed"):
        read_predictions(path)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe", b'user,"item\n'])
def test_another_file_is_no_predictions(tmp_path, content):
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"not a predictions\.csv"):
        read_predictions(tmp_path / "p.csv")


def test_a_file_without_rows_is_refused(tmp_path):
    (tmp_path / "p.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(DataError, match="has no rows"):
        read_predictions(tmp_path / "p.csv")
