"""predict.py on a run: its prompts are those of training, which eval.py and a hand-written prompt confirm."""

import csv
import gzip
import io
import json
import re

import pytest

import predict
import train
from cli.verb import run_verb
from data.interactions import Item
from data.sources.own_files import read_catalogue
from errors import DataError
from tests.test_predict import flags_for, predict_json, with_a_tokenizer

STEPS, USERS = 13, 10
TITLES = [f"Tree {i}" for i in range(20)]
AUTHORS = {title: f"A. {title[-1]}" for title in TITLES[:18]}  # the last two have none


def rated(user):
    """[(title, liked)] of a user, oldest first; likes and dislikes alternate."""
    return [(TITLES[(user * 3 + step * 7) % 20], (step + user) % 2 == 0) for step in range(STEPS)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which train.py has written `run`, of own data whose histories hold ten items."""
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def run(trained, make_checkpoint, tokenizer_bytes):
    if (trained / "run").exists():
        return trained / "run"
    data = trained / "books"
    data.mkdir()
    lines = [f"{i},{title},{AUTHORS.get(title, '')}\n" for i, title in enumerate(TITLES)]
    (data / "items.csv").write_text("item,title,author\n" + "".join(lines))
    lines = [
        f"{user},{TITLES.index(title)},{1_000_000 + step * 100 + user},{int(liked)}\n"
        for user in range(USERS)
        for step, (title, liked) in enumerate(rated(user))
    ]
    (data / "interactions.csv").write_text("user,item,timestamp,liked\n" + "".join(lines))
    base = with_a_tokenizer(make_checkpoint, tokenizer_bytes).rename(trained / "base")
    argv = ["--data", data, "--noun", "tree book", "--model", base, "--shots", 4, "--max-steps", 1, "--eval-every", 1]
    argv += ["--max-len", 2000, "--lr", 0.05, "--device", "cpu", "--precision", "fp32", "--out", trained / "run"]
    train.main(list(map(str, argv)))
    return trained / "run"


@pytest.fixture
def call(capsys):
    def forget_training_and_predict(*argv):
        capsys.readouterr()
        return predict_json(capsys, *argv)

    return forget_training_and_predict


def of_eval(run):
    """{(user, title): both probabilities} of the run's own predictions.csv, for each user's last interaction."""
    rows = csv.DictReader(io.StringIO((run / "predictions.csv").read_text()))
    both = {(int(row["user"]), TITLES[int(row["item"])]): row for row in rows}
    return {
        key: (float(both[key]["p_yes_positive"]), float(both[key]["p_yes_negative"]))
        for key in [(user, rated(user)[-1][0]) for user in range(USERS)]
    }


def write_users(path, shown):
    """users.jsonl with the whole history of each user. shown: from a title to its entry."""
    lines = []
    for user in range(USERS):
        *history, (target, _) = rated(user)
        lists = {
            name: [shown(t) for t, liked in history if liked == (name == "liked")] for name in ("liked", "disliked")
        }
        lines.append(json.dumps({"user": user, **lists, "target": [shown(target)]}) + "\n")
    path.write_text("".join(lines))


# ---- the same prompts as in training ------------------------------------------------------------


def test_titles_alone_get_the_scores_that_training_gave_them_with_authors_and_ten_items(call, run, tmp_path):
    write_users(tmp_path / "users.jsonl", str)
    _, shown = call("--run", run, "--input", tmp_path / "users.jsonl", "--output", tmp_path / "scores.csv")
    found = list(csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text())))
    expected = of_eval(run)
    assert len(found) == USERS
    for row in found:
        p = expected[int(row["user"]), row["target"]]
        assert (float(row["p_yes_positive"]), float(row["p_yes_negative"])) == pytest.approx(p, abs=2e-5)
        assert row["author"] == AUTHORS.get(row["target"], "")
    assert "10 of 10 histories have more than 10 titles: the latest 10 are shown" in shown
    assert "18 titles got the author from the run's data, such as 'Tree " in shown
    assert "not in the run's data" not in shown and "without one" not in shown


def test_an_author_has_the_same_form_in_flags_csv_and_json_lines(call, run, tmp_path):
    (tmp_path / "u.csv").write_text('user,liked,disliked,target\n1,New \\| A::N. N.|Tree 1,,"Tree 2 :: Else|B\\::C"\n')
    entries = {"liked": [{"title": "New | A", "author": "N. N."}, "Tree 1"]}
    entries["target"] = [{"title": "Tree 2", "author": "Else"}, "B::C"]
    (tmp_path / "u.jsonl").write_text(json.dumps({"user": "1", **entries}) + "\n")
    flags = flags_for(liked=["New | A::N. N.", "Tree 1"], target=["Tree 2::Else", "B\\::C"])
    results, shown = call("--run", run, *flags)
    assert {(row["target"], row["author"]) for row in results["predictions"]} == {("Tree 2", "Else"), ("B::C", None)}
    assert "not in the run's data: 3 titles of 4, such as 'New | A::N. N.', 'Tree 2::Else'" in shown
    assert "1 title without one, such as 'B\\\\::C': write TITLE::AUTHOR" in shown
    for name in ("u.csv", "u.jsonl"):
        call("--run", run, "--input", tmp_path / name, "--output", tmp_path / "scores.csv")
        rows = {row["target"]: row for row in csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text()))}
        for row in results["predictions"]:
            assert float(rows[row["target"]]["score"]) == pytest.approx(row["score"], abs=1e-5)
    prompts, _ = call("--run", run, *flags, "--show-prompt")
    assert 'User Preference: "New | A" written by N. N., "Tree 1" written by A. 1\n' in prompts["positive"]
    assert 'will dislike the target tree book "Tree 2" written by Else?\n' in prompts["negative"]


def test_a_run_without_catalogue_file_takes_its_data_if_they_are_there_and_says_so_if_not(call, run, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for name in ("config.json", "adapter_config.json", "adapter_model.safetensors"):
        (old / name).write_bytes((run / name).read_bytes())
    flags = flags_for(liked=["Tree 3"], target=["Tree 2"])
    expected = call("--run", run, *flags)[0]["predictions"]
    assert call("--run", old, *flags)[0]["predictions"] == expected
    config = json.loads((old / "config.json").read_text())
    config["flags"]["data"]["value"] = str(tmp_path / "gone")
    (old / "config.json").write_text(json.dumps(config))
    results, shown = call("--run", old, *flags)
    assert results["predictions"][0]["author"] is None
    assert "it has no catalogue.jsonl, and its data are not here (--data " in shown and "TITLE::AUTHOR" in shown


def test_history_noun_and_template_that_differ_from_the_runs_are_named(call, run):
    flags = flags_for(liked=TITLES[:4], target=["Tree 9"])
    prompts, shown = call(
        "--run", run, *flags, "--history", 2, "--noun", "film", "--template", "released", "--show-prompt"
    )
    assert 'User Preference: "Tree 2" written by A. 2, "Tree 3" written by A. 3\n' in prompts["positive"]
    assert "--noun film: the run was trained with tree book" in shown and "--template released: the run was" in shown
    assert "1 of 1 histories have more than 2 titles: the latest 2 are shown (as --history says)" in shown


# ---- catalogues ---------------------------------------------------------------------------------


def test_a_catalogue_is_ranked_as_its_titles_would_be_one_by_one(call, run, tmp_path):
    liked = flags_for(liked=["Tree 3", "Tree 4"])
    results, shown = call("--run", run, *liked, "--catalogue", "run", "--top", 4)
    targets = [title for title in TITLES if title not in ("Tree 3", "Tree 4")]
    alone = call("--run", run, *liked, *flags_for(target=targets))[0]["predictions"]
    assert results["scored"] == 18 and "18 titles for 1 users, both questions, in " in shown
    assert [row["target"] for row in results["predictions"]] == [row["target"] for row in alone[:4]]
    for row, expected in zip(results["predictions"], alone):
        assert row["score"] == pytest.approx(expected["score"], abs=1e-4) and row["author"] == expected["author"]

    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"{i},{title}\n" for i, title in enumerate(targets)))
    (tmp_path / "users.csv").write_text("user,liked,disliked\nx,Tree 3|Tree 4,\ny,Tree 5,Tree 6\n")
    call(
        "--run",
        run,
        "--catalogue",
        tmp_path / "items.csv",
        "--top",
        4,
        "--input",
        tmp_path / "users.csv",
        "--output",
        tmp_path / "o.csv",
    )
    rows = list(csv.DictReader(io.StringIO((tmp_path / "o.csv").read_text())))
    assert [row["user"] for row in rows] == ["x"] * 4 + ["y"] * 4 and [row["rank"] for row in rows] == list("1234") * 2
    assert [row["target"] for row in rows[:4]] == [row["target"] for row in alone[:4]]
    assert not {"Tree 5", "Tree 6"} & {row["target"] for row in rows[4:]}


def test_bad_items_of_a_catalogue_are_all_named(monkeypatch, capsys, tmp_path):
    (tmp_path / "items.csv").write_text('item;Title;Author\n1;"A"", ""B";\n2;C\n3;D;E\n4;[];\n')
    monkeypatch.setattr("sys.argv", ["predict.py", "--catalogue", str(tmp_path / "items.csv")])
    with pytest.raises(SystemExit):
        run_verb(predict.main)
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert [re.search(r"items\.csv (line \d)", line)[1] for line in lines[:3]] == ["line 2", "line 3", "line 5"]
    assert "which separates titles" in lines[0] and "has 2 fields" in lines[1] and "is a list" in lines[2]
    assert lines[3].startswith("predict.py: error: 3 lines cannot be used: ") and "--skip-bad" not in lines[3]


def test_a_catalogue_is_read_as_the_items_of_own_data(tmp_path):
    """Names of columns, separators, gzip, MovieLens' layout; alone the column item may be missing."""
    expected = [Item("Oak"), Item("Elm", "Fay")]
    (tmp_path / "a.csv").write_text("itemId;Name;Writer;year\n1;Oak;;1\n2;Elm;Fay;2\n3;Elm;Fay;2\n")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress("title\tauthors\nOak\t\nElm\tFay\n".encode("utf-8-sig")))
    (tmp_path / "movies.dat").write_text("1::Oak::Drama\n2::Elm::Drama\n")
    assert read_catalogue(tmp_path / "a.csv", print) == read_catalogue(tmp_path / "b.csv.gz", print) == expected
    assert read_catalogue(tmp_path / "movies.dat", print) == [Item("Oak"), Item("Elm")]
    (tmp_path / "c.csv").write_text("title\n")
    with pytest.raises(DataError, match=r"c\.csv: has no line below its header"):
        read_catalogue(tmp_path / "c.csv", print)


# ---- files of users -----------------------------------------------------------------------------


def test_skip_bad_scores_the_rest_and_writes_what_it_left_out(call, tmp_path):
    users = 'user,liked,disliked,target\r\na,"A\n",,T\r\nb,A,,\r\nc,A,A,T|T\r\nd,A,,"T, U"\r\na,B,,T\r\n'
    (tmp_path / "u.csv").write_bytes(users.encode())
    results, _ = call("--input", tmp_path / "u.csv", "--output", tmp_path / "s.csv", "--skip-bad")
    skipped = list(csv.DictReader(io.StringIO((tmp_path / "s.skipped.csv").read_text())))
    assert [(row["line"], row["row"]) for row in skipped] == [("4", "b,A,,"), ("5", "c,A,A,T|T"), ("7", "a,B,,T")]
    assert "is among those liked, too" in skipped[1]["problem"] and "is named twice" in skipped[1]["problem"]
    assert "user 'a' has it in line 2 already" in skipped[2]["problem"]
    assert (tmp_path / "s.csv").read_text().count("\n") == 3
    assert results["skipped"] == {"rows": 3, "file": str(tmp_path / "s.skipped.csv")}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    def problems(name, content, *more):
        (tmp_path / name).write_text(content)
        argv = ["predict.py", "--input", tmp_path / name, "--output", tmp_path / "o.csv", *more]
        monkeypatch.setattr("sys.argv", list(map(str, argv)))
        with pytest.raises(SystemExit):
            run_verb(predict.main)
        return [line for line in capsys.readouterr().err.splitlines() if "error: " in line]

    return problems


@pytest.mark.parametrize("cell", ["['A', 'B']", '["A"]', "[]", "('A',)", "nan", "<NA>", "None"])
def test_what_pandas_writes_for_a_list_or_for_nothing_is_refused_with_the_way_to_write_it(refused, cell):
    text = io.StringIO()
    csv.writer(text).writerows([("user", "liked", "disliked", "target"), ("u", cell, "", "T"), ("nan", "", "", cell)])
    lines = refused("u.csv", text.getvalue())
    assert f"u.csv line 2, column liked {cell!r}: is " in lines[0] and (
        "A|B" in lines[0] or "leave it empty" in lines[0]
    )
    assert "line 3, column user: nan is how pandas writes" in lines[1] and "line 3, column target" in lines[2]


def test_a_title_in_brackets_is_a_title(call):
    results, _ = call("--liked", "[Rec] (2007)", "--target", "[Rec]")
    assert results["predictions"][0]["target"] == "[Rec]"


def test_a_bar_that_may_belong_to_a_title_is_refused_or_named(call, refused, tmp_path):
    header = "user,liked,disliked,target\n"
    assert "has both ` | ` and `|`" in refused("u.csv", header + "u,,,Prime | Final|Emma\n")[0]
    (tmp_path / "u.csv").write_text(header + "u,,,Prime | Final\n")
    _, shown = call("--input", tmp_path / "u.csv", "--output", tmp_path / "o.csv")
    assert "` | ` separates titles in 1 cells, such as line 2 'Prime | Final', read as 2 titles" in shown
    (tmp_path / "u.csv").write_text("User;Liked;Disliked;Target\nu;;;Prime \\| Final\n")
    _, shown = call("--input", tmp_path / "u.csv", "--output", tmp_path / "o.csv")
    assert ",Prime | Final," in "," + (tmp_path / "o.csv").read_text() and "columns are separated by ';'" in shown


def test_bad_lines_of_json_are_all_named(refused):
    lines = [
        '{"user": "a", "liked": "A", "target": ["T"]}',
        "",
        '{"user": 1.5, "target": [["T"], null, ""]}',
        "[1]",
        '{"user": "b", "target": []}',
        '{"user": "c", "target": [{"title": "T", "writer": "W"}, {"title": "U", "author": " "}]}',
        '{"user": "d", "target": ["T"]}',
        '{"user": "d", "target": ["T"]}',
    ]
    shown = refused("u.jsonl", "\n".join(lines) + "\n")
    assert [line.split("u.jsonl line ")[1][0] for line in shown[:-1]] == list("1333345668")
    assert "7 of 7" not in shown[-1] and "6 of 7 rows cannot be scored; --skip-bad scores the others" in shown[-1]
    assert "expected a list of titles, found 'A'; [] says none" in shown[0] and "the author is empty" in "".join(shown)


@pytest.mark.parametrize(
    "argv, problem",
    [
        (("--top", "3", "--target", "T"), "--top: is for --catalogue"),
        (("--catalogue", "run", "--liked", "T"), "--catalogue run: say which run with --run DIR"),
        (("--catalogue", "x", "--target", "T"), "--target: contradicts --catalogue"),
        (("--skip-bad", "--target", "T"), "--skip-bad: is for the rows of --input"),
        (("--target", "A::B::C"), "--target 'A::B::C': has `::` twice"),
        (("--target", "A::"), "--target 'A::': the author is empty"),
        (("--target", "T", "--liked", "['A', 'B']"), "--liked \"['A', 'B']\": is a list as Python writes it"),
    ],
)
def test_flags_that_do_not_fit_are_refused(monkeypatch, capsys, argv, problem):
    monkeypatch.setattr("sys.argv", ["predict.py", *argv])
    with pytest.raises(SystemExit):
        run_verb(predict.main)
    assert f"predict.py: error: {problem}" in capsys.readouterr().err
