"""predict.py over a file of users, and the files and flags that it refuses."""

import csv
import io

import pytest

import predict
from cli.verb import run_verb
from tests.test_predict import flags_for, predict_json, with_a_tokenizer


@pytest.fixture
def checkpoint(make_checkpoint, tokenizer_bytes):
    return with_a_tokenizer(make_checkpoint, tokenizer_bytes)


@pytest.fixture
def call(capsys):
    return lambda *argv: predict_json(capsys, *argv)


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    """refuse(*argv): the error lines; checks status 2, standard output and that nothing was written."""

    def run(*argv):
        monkeypatch.setattr("sys.argv", ["predict.py", *map(str, argv)])
        before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        with pytest.raises(SystemExit) as end:
            run_verb(predict.main)
        shown = capsys.readouterr()
        assert (end.value.code, shown.out) == (2, "") and "Traceback" not in shown.err
        assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
        return [
            line.removeprefix("predict.py: error: ")
            for line in shown.err.splitlines()
            if line.startswith("predict.py: error: ")
        ]

    return run


# ---- a file of users ----------------------------------------------------------------------------

USERS = (
    "target,note,user,disliked,liked\r\n"
    '"Lantern, The (1971) | The ""Quoted"" Man",x,"Doe, ""J""",C,A|B\r\n'
    "\r\n"
    "Nîmes (1966),,bob,,\r\n"
    'D,,"Doe, ""J""",C,A|B\r\n'
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_gives_the_scores_that_each_user_gets_alone(call, checkpoint, tmp_path, encoding):
    (tmp_path / "users.csv").write_bytes(USERS.encode(encoding))
    (tmp_path / "scores.csv").write_text("from before")
    files = ("--input", tmp_path / "users.csv", "--output", tmp_path / "scores.csv")
    left = {*tmp_path.iterdir()}
    results, shown = call("--model", checkpoint, *files)
    assert {*tmp_path.iterdir()} == left
    content = (tmp_path / "scores.csv").read_bytes()
    assert (
        content.startswith(b"user,target,p_yes_positive,p_yes_negative,score,rank,contradiction\n")
        and b"\r" not in content
    )
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
    doe = 'Doe, "J"'
    targets = [(doe, "Lantern, The (1971)"), (doe, 'The "Quoted" Man'), ("bob", "Nîmes (1966)"), (doe, "D")]
    assert [(row["user"], row["target"]) for row in rows] == targets
    alone = call(
        "--model", checkpoint, *flags_for(liked="AB", disliked="C", target=[t for user, t in targets if user == doe])
    )[0]
    alone = {
        row["target"]: row
        for row in alone["predictions"] + call("--model", checkpoint, "--target", "Nîmes (1966)")[0]["predictions"]
    }
    for row in rows:
        expected = alone[row["target"]]
        for name in ("p_yes_positive", "p_yes_negative", "score"):
            assert float(row[name]) == pytest.approx(expected[name], abs=2e-5)
        assert (row["rank"], row["contradiction"]) == (str(expected["rank"]), expected["contradiction"] or "")
    said = [row["contradiction"] for row in rows]
    assert results["contradictions"] == {both: said.count(both) for both in ("Yes/Yes", "No/No")}
    assert (results["users"], results["targets"], results["stand_in"]) == (2, 4, False)
    both = f"{said.count('Yes/Yes')} Yes/Yes, {said.count('No/No')} No/No"
    assert f"4 targets of 2 users; the same answer to both questions: {both}" in shown


def test_a_file_scored_by_the_demo_model_is_called_a_stand_in(call, tmp_path):
    (tmp_path / "users.csv").write_text("user,liked,disliked,target\n1,,,A\n")
    results, shown = call("--input", tmp_path / "users.csv", "--output", tmp_path / "scores.csv")
    assert results["stand_in"] is True and shown.startswith("DEMO MODEL") and "STAND-IN" in shown


def test_a_link_to_the_output_stays_a_link(call, checkpoint, tmp_path):
    (tmp_path / "users.csv").write_text("user,liked,disliked,target\n1,,,A\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "scores.csv")
    call("--model", checkpoint, "--input", tmp_path / "users.csv", "--output", tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "scores.csv").read_text().startswith("user,target,")


HEADER = b"user,liked,disliked,target\n"
COLUMNS = "users.csv line 1: expected the columns user,liked,disliked,target"
BAD_FILES = {
    b"": f"{COLUMNS}, each once; look at user, liked, disliked, target",
    HEADER: "users.csv: has no line below its header",
    b"user,liked,target\n1,A,B\n": f"{COLUMNS}, each once; look at disliked",
    b"user,liked,liked,disliked,target\n": f"{COLUMNS}, each once; look at liked",
    b"user|liked|disliked|target\n1|A||B\n": COLUMNS,
    HEADER + b"1,A,,T\n2,Lantern, The,,T\n": (
        "users.csv line 3: expected 4 cells, as in the header; quote a cell that has commas"
    ),
    HEADER + b"1,A,T\n": "users.csv line 2: expected 4 cells",
    HEADER + b"1,,,T\n\n2,A,B,\n": "users.csv line 4, column target: is empty; name at least one title",
    HEADER + b" ,A,B,T\n": "users.csv line 2, column user: is empty",
    HEADER + b"1,A||B,,T\n": "users.csv line 2, column liked: a title is empty",
    HEADER + b"1,A,B|,T\n": "users.csv line 2, column disliked: a title is empty",
    HEADER + b"1,A,,T| \n": "users.csv line 2, column target: a title is empty",
    HEADER + b'1,A,,"T\nU"\n': "users.csv line 2, column target 'T\\nU': has a line break",
    HEADER + b'1,"A"", ""B",,T\n': 'users.csv line 2, column liked \'A", "B\': has `", "`',
    HEADER + b"1,A|B,C|B,T\n": "users.csv line 2, column disliked 'B': is among those liked, too",
    HEADER + b"1,A,B,T|B\n": "users.csv line 2, column target 'B': is among those disliked, too",
    HEADER + b"1,A,B,T|U|T\n": "users.csv line 2, column target 'T': is named twice",
    HEADER + b"1,A,,T\n2,,,T\n1,B,,U|T\n": "users.csv line 4, column target 'T': user '1' has it in line 2 already",
    HEADER + b"1,A,,T\n2,N\xeemes,,T\n": "users.csv line 3: not UTF-8",
    HEADER.decode().encode("utf-16"): "users.csv line 1: not UTF-8",
    HEADER + b'1,"A" B,,T\n': "users.csv line 2: not CSV (",
    HEADER + b'1,A,,T\n2,"A,,T\n3,,,T\n': "users.csv line 3: not CSV (",
}


@pytest.mark.parametrize("content", BAD_FILES)
def test_a_malformed_file_is_reported_with_line_and_column(refuse, tmp_path, content):
    (tmp_path / "users.csv").write_bytes(content)
    (tmp_path / "scores.csv").write_text("from before")
    line, *others = refuse("--input", tmp_path / "users.csv", "--output", tmp_path / "scores.csv")
    assert line.startswith(f"{tmp_path}/{BAD_FILES[content]}")
    assert all(line.endswith("rows cannot be scored; --skip-bad scores the others") for line in others)


def test_a_missing_file_is_reported_by_name(refuse, tmp_path):
    assert refuse("--input", tmp_path / "absent.csv", "--output", tmp_path / "o") == [
        f"--input {tmp_path / 'absent.csv'}: no such file"
    ]
    assert refuse("--input", tmp_path, "--output", tmp_path / "o") == [
        f"{tmp_path}: is a folder; put a plain file there"
    ]


@pytest.mark.parametrize(
    "output, why",
    [
        ("users.csv", "is the --input itself"),
        ("folder/../users.csv", "is the --input itself"),
        ("link.csv", "is the --input itself"),
        ("folder", "is there and is not a plain file"),
        ("/dev/null", "is there and is not a plain file"),  # which is never replaced by a file
        ("absent/scores.csv", "cannot be written ("),
        ("users.csv/scores.csv", "cannot be written ("),
    ],
)
def test_an_unusable_output_is_refused_before_anything_is_read(refuse, tmp_path, output, why):
    (tmp_path / "folder").mkdir()
    (tmp_path / "users.csv").write_bytes(HEADER + b"1,,,T\n")
    (tmp_path / "link.csv").hardlink_to(tmp_path / "users.csv")
    (line,) = refuse("--model", tmp_path / "absent", "--input", tmp_path / "users.csv", "--output", tmp_path / output)
    assert line.startswith(f"--output {tmp_path / output}: {why}")


# ---- flags --------------------------------------------------------------------------------------

BAD_FLAGS = {
    (): ["--target: say which title to score with --target TITLE, or name a file with --input FILE --output FILE"],
    ("--liked", "A"): ["--target: say which title to score"],
    ("--target", ""): ["--target: a title is empty"],
    ("--target", "T", "--liked", " "): ["--liked: a title is empty"],
    ("--target", "T\nU"): ["--target 'T\\nU': has a line break"],
    ("--target", "T\u2028U"): ["--target 'T\\u2028U': has a line break"],
    ("--target", "T\udce9"): ["--target 'T\\udce9': has a line break or another control character"],
    ("--target", 'T", "U'): ['--target \'T", "U\': has `", "`'],
    ("--target", "T", "--disliked", ', "A'): ['--disliked \', "A\': has `", "`'],
    ("--target", "T", "--target", "T"): ["--target 'T': is named twice"],
    ("--target", "T", "--liked", "T"): ["--target 'T': is among those liked, too"],
    ("--target", "T", "--disliked", "T"): ["--target 'T': is among those disliked, too"],
    ("--target", "T", "--liked", "A", "--disliked", "A"): ["--disliked 'A': is among those liked, too"],
    ("--target", "T", "--output", "x"): ["--output: is for the scores of --input"],
    ("--input", "x"): ["--input x: say where its scores go with --output FILE"],
    ("--input", "x", "--output", "y", "--target", "T"): ["--target: contradicts --input"],
    ("--input", "x", "--output", "y", "--liked", "T", "--disliked", "U"): [
        "--liked: contradicts --input",
        "--disliked: contradicts --input",
    ],
    ("--target", "T", "--noun", ""): ["--noun: expects a value"],
    ("--target", "T", "--noun", " "): ["--noun ' ': expected a word"],
    ("--target", "T", "--noun", "a\nb"): ["--noun 'a\\nb': expected a word"],
    ("--target", "T", "--run", "x", "--adapter", "y"): ["--adapter: --run brings an adapter of its own"],
    ("--target", "T", "--adapter", "y"): ["--adapter: say which base it belongs to"],
    ("--target", "T", "--run", "absent"): ["--run absent: no run there"],
    ("--target", "T", "--model", "absent"): ["--model absent: no such checkpoint folder"],
    ("--target", "T", "--max-len", "20"): ["--max-len 20: the prompt of row 0 (target 'T') has "],
    ("--target", "T", "U"): ["U: not expected here"],
    ("--target", "T", "--targets", "U"): ["--targets: unknown flag; did you mean --target?"],
}


@pytest.mark.parametrize("argv", BAD_FLAGS)
def test_unusable_flags_are_refused_one_line_each(refuse, tmp_path, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").touch()
    lines = refuse(*argv)
    assert len(lines) == len(BAD_FLAGS[argv])
    assert all(line.startswith(start) for line, start in zip(lines, BAD_FLAGS[argv]))
