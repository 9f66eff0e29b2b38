"""A user's own data: rows against nested loops, every error with its place, planted leaks."""

import random

import pytest

from data.interactions import Dataset, Interaction, Item
from data.leaks import leaks
from data.load import load_dataset
from data.prompts import prompt_pair
from data.sources import custom
from errors import DataError

ITEMS = "item,title,author\n" + "".join(f"{i},Game {i},{'Fay' if i % 2 else ''}\n" for i in range(12))


def write(folder, interactions, items=ITEMS):
    for name, text in (("interactions.csv", interactions), ("items.csv", items)):
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def build(folder, **options):
    return custom.build(custom.raw_files(folder), print, **options)


def invented(users=15, seed=2):
    """[(user, item, rating, time)] in random order, with many ties."""
    rng = random.Random(seed)
    rows = [
        (f"u{user}", str(item), rng.randint(1, 5), rng.randint(0, 60))
        for user in range(users)
        for item in rng.sample(range(12), rng.randint(1, 12))
    ]
    rng.shuffle(rows)
    return rows


def as_csv(rows):
    return "user,item,rating,timestamp\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)


# ---- from interactions to splits ----------------------------------------------------------------


def brute_force(rows, threshold):
    expected = []
    for user in dict.fromkeys(row[0] for row in rows):
        mine = [row for time in range(61) for row in rows if row[0] == user and row[3] == time]
        for i, (_, item, rating, time) in enumerate(mine):
            if i >= 1:
                history = tuple((b[1], b[2] >= threshold) for b in mine[:i])[-10:]
                expected.append(Interaction(user, history, item, rating >= threshold, time))
    return expected


@pytest.mark.parametrize("threshold", [3, 4.5])
def test_every_row_is_as_described_and_time_decides_the_split(tmp_path, threshold):
    rows = invented()
    data = build(write(tmp_path, as_csv(rows)), like_threshold=threshold, noun="board game")
    expected = brute_force(rows, threshold)
    expected = [row for time in range(61) for row in expected if row.timestamp == time]
    assert data.train + data.valid + data.test == expected
    n = len(expected)
    assert (len(data.train), len(data.valid)) == (int(n * 0.8), int(n * 0.9) - int(n * 0.8))
    assert max(row.timestamp for row in data.train) <= min(row.timestamp for row in data.test)
    assert (data.name, data.source, data.noun, data.wording) == (tmp_path.name, "own data", "board game", "tallrec")
    assert data.catalogue["1"] == Item("Game 1", "Fay") and data.catalogue["2"] == Item("Game 2", None)


def test_a_split_by_user_shares_no_user_and_loses_no_row(tmp_path):
    rows = invented(40)
    data = build(write(tmp_path, as_csv(rows)), like_threshold=3, split_by="user")
    users = [{row.user for row in split} for split in (data.train, data.valid, data.test)]
    assert not users[0] & users[1] and not users[0] & users[2] and not users[1] & users[2]
    assert sorted(data.train + data.valid + data.test, key=str) == sorted(brute_force(rows, 3), key=str)
    n = sum(map(len, users))
    assert list(map(len, users)) == [int(n * 0.8), int(n * 0.9) - int(n * 0.8), n - int(n * 0.9)]


def test_liked_may_be_said_in_words_and_columns_come_in_any_order(tmp_path):
    words = ["1", "0", "true", "FALSE", "Yes", "no"] * 5
    lines = "".join(f"note {i},{word},{i},u{i % 3},{i % 12}\n" for i, word in enumerate(words))
    data = build(write(tmp_path, "\ufeffnote,liked,timestamp,user,item\n" + lines))
    labels = {row.timestamp: row.label for row in (*data.train, *data.valid, *data.test)}
    assert labels == {i: i % 2 == 0 for i in range(3, 30)} and data.noun == "item"


def test_quoted_titles_may_hold_commas_and_quotes(tmp_path):
    data = build(
        write(tmp_path, as_csv(invented()), ITEMS.replace("Game 3", '"The ""Best"", part 3"')),
        like_threshold=3,
        noun="game",
    )
    assert data.catalogue["3"].title == 'The "Best", part 3'
    row = next(row for row in data.train if row.target == "3")
    assert 'will like the target game "The "Best", part 3" written by Fay?' in prompt_pair(row, data).positive


# ---- errors -------------------------------------------------------------------------------------

GOOD = as_csv(invented())
BAD = {
    "unknown item": (GOOD + "u1,nix,3,5\n", ITEMS, "interactions.csv line {n}, column item: 'nix' is not in items.csv"),
    "empty user": (GOOD + " ,1,3,5\n", ITEMS, "interactions.csv line {n}, column user: is empty"),
    "rating": (
        GOOD + "u1,1,good,5\n",
        ITEMS,
        "interactions.csv line {n}, column rating: expected a number, found 'good'",
    ),
    "nan": (GOOD + "u1,1,nan,5\n", ITEMS, "interactions.csv line {n}, column rating: expected a number, found 'nan'"),
    "time": (
        GOOD + "u1,1,3,yesterday\n",
        ITEMS,
        "interactions.csv line {n}, column timestamp: expected unix time or a date",
    ),
    "endless time": (GOOD + "u1,1,3,inf\n", ITEMS, "interactions.csv line {n}, column timestamp: expected unix"),
    "short": (GOOD + "u1,1,3\n", ITEMS, "interactions.csv line {n}: has 3 fields, the header has 4"),
    "long": (GOOD + "u1,1,3,5,6\n", ITEMS, "interactions.csv line {n}: has 5 fields, the header has 4"),
    "after a quoted break": (
        GOOD.replace("\n", '\nu1,1,"3\n",5\n', 1) + "u1,nix,3,5\n",
        ITEMS,
        "interactions.csv line {m}, column item: 'nix'",
    ),
    "open quote": (GOOD + '"u1,1,3,5\n', ITEMS, "interactions.csv line {n}: "),
    "no column": (
        GOOD.replace("timestamp", "when", 1),
        ITEMS,
        "interactions.csv line 1: column timestamp is missing; found 'user, item, rating, when",
    ),
    "column twice": (GOOD.replace("rating", "user", 1), ITEMS, "interactions.csv line 1: column user is there twice"),
    "neither": (GOOD.replace("rating", "mood", 1), ITEMS, "interactions.csv line 1: rating or liked is missing"),
    "empty file": ("", ITEMS, "interactions.csv line 1: column user is missing; found an empty file"),
    "latin-1": (GOOD.encode() + b"\xe9,1,3,5\n", ITEMS, "interactions.csv: not UTF-8 (byte "),
    "item twice": (GOOD, ITEMS + "3,Again,\n", "items.csv line 14, column item: '3' is listed twice"),
    "no title": (GOOD, ITEMS + "99, ,\n", "items.csv line 14, column title: is empty"),
    "break in a title": (GOOD, ITEMS + '99,"a\nb",\n', "items.csv line 14, column title: has a line break"),
    "break in an author": (GOOD, ITEMS + '99,a,"x\ny"\n', "items.csv line 14, column author: has a line break"),
    "header alone": ("user,item,rating,timestamp\n", ITEMS, "interactions.csv: leaves no rows for train"),
    "one label": (
        as_csv([(u, i, 1, t) for u, i, _, t in invented()]),
        ITEMS,
        "all rows are disliked; check --like-threshold",
    ),
}


@pytest.mark.parametrize("interactions, items, message", BAD.values(), ids=BAD)
def test_malformed_input_is_reported_with_file_line_and_column(tmp_path, interactions, items, message):
    lines = GOOD.count("\n") + 1
    with pytest.raises(DataError) as refusal:
        build(write(tmp_path, interactions, items), like_threshold=3)
    assert message.format(n=lines, m=lines + 2) in str(refusal.value) and "\n" not in str(refusal.value)


def test_ratings_without_a_threshold_are_refused_with_their_range(tmp_path):
    with pytest.raises(
        DataError, match="--like-threshold: interactions.csv has ratings from 1 to 5; say from which rating"
    ):
        build(write(tmp_path, GOOD))


def test_a_threshold_for_what_is_said_already_is_refused(tmp_path):
    with pytest.raises(DataError, match="--like-threshold: has no effect"):
        build(write(tmp_path, "user,item,liked,timestamp\nu,1,1,5\n"), like_threshold=3)


def test_both_columns_are_refused(tmp_path):
    with pytest.raises(DataError, match="has both rating and liked"):
        build(write(tmp_path, "user,item,liked,rating,timestamp\nu,1,1,5,5\n"))


def test_a_missing_second_file_is_named(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / "items.csv").unlink()
    with pytest.raises(DataError, match="items.csv: missing"):
        custom.raw_files(tmp_path)


# ---- leaks --------------------------------------------------------------------------------------


def dataset(train, valid, test):
    return Dataset("x", "x", "item", {i: Item(f"T{i}") for i in range(9)}, train, valid, test)


def test_planted_leaks_are_reported_with_number_and_first_case():
    train = [Interaction("a", ((1, True),), 2, True), Interaction("b", ((3, True), (4, False)), 4, True)]
    valid = [Interaction("a", (), 2, False), Interaction("c", (), 5, True)]
    test = [Interaction("c", ((5, True),), 5, True), Interaction("a", (), 2, True), Interaction("d", (), 2, True)]
    assert leaks(dataset(train, valid, test)) == [
        "1 rows of train have their target in their own history, first user b, 'T4'",
        "1 rows of test have their target in their own history, first user c, 'T5'",
        "1 rows of valid are also asked in train, first user a, 'T2'",
        "1 rows of test are also asked in train, first user a, 'T2'",
        "2 rows of test are also asked in valid, first user c, 'T5'",
    ]


def test_where_users_are_unknown_the_whole_question_counts():
    one, other = Interaction(None, ((1, True),), 2, True), Interaction(None, ((1, False),), 2, True)
    assert leaks(dataset([one], [other], [Interaction(None, ((1, True),), 2, False)])) == [
        "1 rows of test are also asked in train, first 'T2'"
    ]


def test_loading_reports_leaks_and_leaves_the_rows_alone(tmp_path):
    rows = invented() + [("u1", "1", 3, 61), ("u1", "1", 3, 62)]
    notices = []
    data = load_dataset(
        str(write(tmp_path, as_csv(rows))), None, True, notices.append, {"like_threshold": 3, "noun": "game"}
    )
    assert any("have their target in their own history" in line and line.startswith("LEAK: ") for line in notices)
    assert len(data.train + data.valid + data.test) == len(brute_force(rows[:-2], 3)) + 2


def test_data_without_leaks_says_nothing(tmp_path):
    notices = []
    load_dataset(str(write(tmp_path, GOOD)), None, True, notices.append, {"like_threshold": 3, "split_by": "user"})
    assert len(notices) == 2 and not any(line.startswith("LEAK") for line in notices)  # about the times alone


def test_items_are_compared_by_what_prompts_show():
    catalogue = {1: Item("Dune", "Fay"), 2: Item("Dune", "Fay"), 3: Item("Dune"), 4: Item(""), 5: Item("")}
    train = [Interaction("a", ((1, True),), 2, True), Interaction("b", ((1, True), (4, True)), 3, True)]
    valid, test = [Interaction("a", (), 1, True)], [Interaction("b", ((4, True),), 5, False)]
    assert leaks(Dataset("x", "x", "item", catalogue, train, valid, test)) == [
        "1 rows of train have their target in their own history (1 under another id with the same title and author), "
        "first user a, 'Dune'",
        "1 rows of valid are also asked in train (1 under another id with the same title and author), "
        "first user a, 'Dune'",
    ]
