"""TALLRec's JSON form: what is written is read back, and what is malformed is named by file and row."""

import json

import pytest

from data.interactions import Dataset, Interaction, Item
from data.sources.tallrec import read_folder, read_split, write_split
from errors import DataError

CATALOGUE = {
    1: Item("Lantern, The (1971)"),
    2: Item('The "Quoted" Man (1984)'),
    3: Item("Nîmes, mon amour (1966)"),
    4: Item("Wires {and} Strings (1993)"),
}
ROWS = [
    Interaction(9, ((1, True), (2, False), (3, True)), 4, True, 100),
    Interaction(9, ((2, False),), 3, False, 101),
    Interaction(10, ((4, True),), 2, True, 102),
    Interaction(10, (), 1, False, 103),
]
DATA = Dataset("movie", "invented", "movie", CATALOGUE, ROWS, ROWS, ROWS)

INSTRUCTION = (
    "Given the user's preference and unpreference, identify whether the user will like the target movie "
    'by answering "Yes." or "No.".'
)
GOOD = {
    "instruction": INSTRUCTION,
    "input": 'User Preference: "A (1990)", "B (1991)"\nUser Unpreference: "C (1992)"\n'
    'Whether the user will like the target movie "D (1993)"?',
    "output": "No.",
}


def write_rows(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_a_written_split_has_indent_four_ascii_escapes_and_no_final_newline(tmp_path):
    write_split(tmp_path / "x.json", ROWS[1:2], DATA)
    assert (tmp_path / "x.json").read_bytes() == (
        b"[\n    {\n"
        b'        "instruction": "Given the user\'s preference and unpreference, identify whether the user will like '
        b'the target movie by answering \\"Yes.\\" or \\"No.\\".",\n'
        b'        "input": "User Preference: \\nUser Unpreference: \\"The \\"Quoted\\" Man (1984)\\"\\n'
        b'Whether the user will like the target movie \\"N\\u00eemes, mon amour (1966)\\"?",\n'
        b'        "output": "No."\n'
        b"    }\n]"
    )


def test_rows_come_back_with_titles_as_items_and_likes_before_dislikes(tmp_path):
    write_split(tmp_path / "x.json", ROWS, DATA)
    rows, catalogue, noun = read_split(tmp_path / "x.json")
    assert noun == "movie"
    assert catalogue == {item.title: item for item in CATALOGUE.values()}
    lantern, quoted, nimes, wires = (item.title for item in CATALOGUE.values())
    assert rows == [
        Interaction(None, ((lantern, True), (nimes, True), (quoted, False)), wires, True),
        Interaction(None, ((quoted, False),), nimes, False),
        Interaction(None, ((wires, True),), quoted, True),
        Interaction(None, (), lantern, False),
    ]


def test_reading_and_writing_again_gives_the_same_bytes(tmp_path):
    write_split(tmp_path / "a.json", ROWS, DATA)
    rows, catalogue, noun = read_split(tmp_path / "a.json")
    write_split(tmp_path / "b.json", rows, Dataset("x", "x", noun, catalogue, rows, rows, rows))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_folder_is_three_splits_with_one_catalogue(tmp_path):
    for split, row in zip(("train", "valid", "test"), ROWS):
        write_split(tmp_path / f"{split}.json", [row], DATA)
    data = read_folder(tmp_path, "mine")
    assert (data.name, data.source, data.noun) == ("mine", "tallrec-json", "movie")
    assert [rows[0].label for rows in (data.train, data.valid, data.test)] == [True, False, True]
    assert set(data.catalogue) == {item.title for item in CATALOGUE.values()}


def test_the_fingerprint_changes_with_a_label_a_title_a_user_and_the_cut_between_splits():
    def fingerprint(train=ROWS, valid=ROWS, catalogue=CATALOGUE):
        return Dataset("movie", "invented", "movie", catalogue, train, valid, ROWS).fingerprint()

    changed = [
        fingerprint(train=[Interaction(9, ROWS[0].history, 4, False), *ROWS[1:]]),
        fingerprint(train=[Interaction(8, ROWS[0].history, 4, True), *ROWS[1:]]),
        fingerprint(train=[Interaction(9, ROWS[0].history[1:], 4, True), *ROWS[1:]]),
        fingerprint(catalogue=CATALOGUE | {4: Item("Wires and Strings (1993)")}),
        fingerprint(train=ROWS[:-1], valid=[ROWS[-1], *ROWS]),
    ]
    assert len({fingerprint(), *changed}) == 1 + len(changed)
    assert fingerprint() == fingerprint(train=list(ROWS))


# ---- refusals -----------------------------------------------------------------------------------

NOT_A_LIST = {
    "truncated": '[{"instruction": "x"',
    "not text": b"\xff\xfe\xfa\x00\x01",
    "object": "{}",
    "empty list": "[]",
    "nothing": "",
    "deeply nested": "[" * 100_000,
}


@pytest.mark.parametrize("content", NOT_A_LIST.values(), ids=NOT_A_LIST)
def test_a_file_that_is_no_list_of_rows_is_refused_by_name(tmp_path, content):
    path = tmp_path / "train.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as refusal:
        read_split(path)
    assert str(refusal.value).startswith(f"{path}: ")


def changed(**fields):
    return {**GOOD, **fields}


MALFORMED_ROWS = {
    "not an object": ["Yes."],
    "missing key": {key: GOOD[key] for key in ("instruction", "input")},
    "surplus key": changed(user="7"),
    "number for text": changed(output=1),
    "another answer": changed(output="Yes"),
    "no target": changed(input="User Preference: \nUser Unpreference: "),
    "target without quotes": changed(input=GOOD["input"].replace('"D (1993)"', "D (1993)")),
    "will dislike": changed(input=GOOD["input"].replace("will like", "will dislike")),
    "titles without quotes": changed(input=GOOD["input"].replace('"C (1992)"', "C (1992)")),
    "a single quote mark": changed(input=GOOD["input"].replace('"C (1992)"', '"')),
    "text after the question": changed(input=GOOD["input"] + "\n"),
    "another instruction": changed(instruction=INSTRUCTION.replace("identify", "say")),
    "instruction about books": changed(instruction=INSTRUCTION.replace("movie", "book")),
}


@pytest.mark.parametrize("row", MALFORMED_ROWS.values(), ids=MALFORMED_ROWS)
def test_a_malformed_row_is_refused_by_file_and_row(tmp_path, row):
    path = write_rows(tmp_path / "train.json", [GOOD, GOOD, row])
    with pytest.raises(DataError) as refusal:
        read_split(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: row 2: ")
    assert "\n" not in message


def test_the_row_that_the_malformed_ones_are_made_from_is_good(tmp_path):
    assert len(read_split(write_rows(tmp_path / "train.json", [GOOD]))[0]) == 1


def books(row):
    return {key: value.replace("movie", "book") for key, value in row.items()}


def test_rows_about_different_nouns_are_refused(tmp_path):
    path = write_rows(tmp_path / "train.json", [GOOD, books(GOOD)])
    with pytest.raises(DataError, match=r"train\.json: its rows have different nouns \(book, movie\)"):
        read_split(path)


def test_splits_about_different_nouns_are_refused(tmp_path):
    for split, row in (("train", GOOD), ("valid", GOOD), ("test", books(GOOD))):
        write_rows(tmp_path / f"{split}.json", [row])
    with pytest.raises(DataError, match=r"different nouns \(book, movie\)"):
        read_folder(tmp_path, "mine")


def test_a_missing_split_is_named(tmp_path):
    write_rows(tmp_path / "train.json", [GOOD])
    with pytest.raises(DataError, match=r"valid\.json: missing"):
        read_folder(tmp_path, "mine")


def test_the_published_file_is_read_and_written_back_byte_for_byte(tmp_path, real_file):
    published = real_file("tallrec-movie/valid.json")
    rows, catalogue, noun = read_split(published)
    assert (len(rows), sum(row.label for row in rows)) == (1000, 658)
    write_split(tmp_path / "again.json", rows, Dataset("x", "x", noun, catalogue, rows, rows, rows))
    assert (tmp_path / "again.json").read_bytes() == published.read_bytes()
