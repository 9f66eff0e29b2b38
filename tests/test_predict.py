"""predict.py against a float64 model that is asked one prompt at a time, in words written out here."""

import csv
import io
import json

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file

import predict
from cli.verb import run_verb
from lora.adapter import save_adapter
from lora.inject import add_lora, lora_parameters
from metrics import Scored
from model.demo import DEMO_FOLDER
from model.weights import load_llama
from report.tables import prediction_table

PROMPT = """\
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.{lint}

### Instruction:
Given the user's preference and unpreference, identify whether the user will {question} the target {noun} by answering "Yes." or "No.".

### Input:
User Preference: {liked}
User Unpreference: {disliked}
Whether the user will {asks_again} the target {noun} "{target}"?

### Response:
"""
TARGETS = ["Lantern, The (1971)", 'The "Quoted" Man (1984)', "Nîmes (1966)", "Wires (1993)", "A", "B"]


@pytest.fixture
def checkpoint(make_checkpoint, tokenizer_bytes):
    """A folder with a tiny random LLaMA and a tokenizer in which Yes and No are one token each."""
    size = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_bytes).GetPieceSize()
    folder = make_checkpoint(vocab_size=size, max_position_embeddings=2048)
    (folder / "tokenizer.model").write_bytes(tokenizer_bytes)
    return folder


@pytest.fixture
def by_hand(checkpoint, tokenizer_bytes):
    """by_hand(model, liked, disliked, target, ...): (P(Yes) / (P(Yes) + P(No)) of both prompts, z+ - z-)."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_bytes)
    yes, no = pieces.PieceToId("Yes"), pieces.PieceToId("No")

    def log_odds(model, prompt):
        with torch.no_grad():
            logits = model(torch.tensor([[1, *pieces.EncodeAsIds(prompt)]]))[0, -1]
        return float(logits[yes] - logits[no])

    def compute(model, liked, disliked, target, noun="movie", released=False):
        shared = {
            "liked": liked,
            "disliked": disliked,
            "target": target,
            "noun": noun,
            "lint": "  # noqa: E501" if released else "",
        }
        z_pos = log_odds(model, PROMPT.format(question="like", asks_again="like", **shared))
        z_neg = log_odds(
            model, PROMPT.format(question="dislike", asks_again="like" if released else "dislike", **shared)
        )
        return 1 / (1 + np.exp(-z_pos)), 1 / (1 + np.exp(-z_neg)), z_pos - z_neg

    return compute


@pytest.fixture
def call(capsys):
    """call(*argv): (the JSON line of standard output, standard error)."""

    def run(*argv):
        predict.main([*map(str, argv), "--device", "cpu", "--precision", "fp32", "--json"])
        shown = capsys.readouterr()
        assert shown.out.count("\n") == 1
        return json.loads(shown.out), shown.err

    return run


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


def contradiction(p_pos, p_neg):
    return {(True, True): "Yes/Yes", (False, False): "No/No"}.get((p_pos > 0.5, p_neg > 0.5))


def flags_for(**titles):
    return [word for name, found in titles.items() for title in found for word in (f"--{name}", title)]


# ---- one user -----------------------------------------------------------------------------------


def test_probabilities_score_rank_and_contradiction_equal_those_by_hand(call, by_hand, checkpoint):
    model = load_llama(checkpoint, torch.float32, torch.device("cpu")).double().eval()
    argv = flags_for(liked=["Heat, The (1995)", 'Say "No"'], disliked=["Alien (1979)"], target=TARGETS)
    results, shown = call("--model", checkpoint, *argv)
    found = results["predictions"]
    assert sorted(row["target"] for row in found) == sorted(TARGETS)
    for row in found:
        p_pos, p_neg, score = by_hand(model, '"Heat, The (1995)", "Say "No""', '"Alien (1979)"', row["target"])
        assert row["p_yes_positive"] == pytest.approx(p_pos, abs=1e-4) and row["p_yes_negative"] == pytest.approx(
            p_neg, abs=1e-4
        )
        assert row["score"] == pytest.approx(score, abs=1e-3) and row["contradiction"] == contradiction(p_pos, p_neg)
    assert [row["rank"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert all(above["score"] >= below["score"] for above, below in zip(found, found[1:]))
    lines = [line for line in shown.splitlines() if any(row["target"] in line for row in found)]
    for row, line in zip(found, lines, strict=True):  # the table has the same, best first
        numbers = [
            f"{row['p_yes_positive']:.3f}",
            f"{row['p_yes_negative']:.3f}",
            f"{row['score']:+.3f}",
            row["contradiction"] or "-",
        ]
        assert line.split() == [str(row["rank"]), *row["target"].split(), *numbers]


def test_a_real_model_is_not_called_a_stand_in(call, checkpoint):
    results, shown = call("--model", checkpoint, "--target", "A")
    assert results["stand_in"] is False and "stand-in" not in shown.lower() and "DEMO" not in shown
    assert f"{checkpoint}; no adapter" in shown and "P(Yes) / (P(Yes) + P(No))" in shown


def test_a_user_without_history_is_asked_about_with_both_lists_empty(call, by_hand, checkpoint):
    model = load_llama(checkpoint, torch.float32, torch.device("cpu")).double().eval()
    (row,) = call("--model", checkpoint, "--target", "A", "--noun", "board game")[0]["predictions"]
    p_pos, p_neg, _ = by_hand(model, "", "", "A", noun="board game")
    assert (row["p_yes_positive"], row["p_yes_negative"]) == pytest.approx((p_pos, p_neg), abs=1e-4)


@pytest.fixture
def run_folder(checkpoint, tmp_path):
    """A run's config.json and adapter, and the base in float64 with that adapter added to its weights by hand."""
    folder = tmp_path / "run"
    folder.mkdir()
    model = load_llama(checkpoint, torch.float32, torch.device("cpu"))
    settings = {"r": 2, "alpha": 6.0, "dropout": 0.0, "rslora": False, "targets": ("q_proj", "v_proj")}
    add_lora(model, **settings)
    torch.manual_seed(5)
    for parameter in lora_parameters(model):
        torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(model, folder, {**settings, "base": str(checkpoint), "base_fingerprint": ""})
    values = {"model": str(checkpoint), "template": "released", "max_len": 600}
    entries = {name: {"value": value, "source": "flag"} for name, value in values.items()}
    (folder / "config.json").write_text(json.dumps({"flags": entries, "noun": "book", "data_source": "given"}))
    merged = load_llama(checkpoint, torch.float32, torch.device("cpu")).double().eval()
    tensors = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for name in [name.removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name]:
            change = tensors[f"{name}.lora_B.weight"].double() @ tensors[f"{name}.lora_A.weight"].double() * 6.0 / 2
            merged.get_submodule(name.removeprefix("base_model.model.")).weight.add_(change)
    return folder, merged


def test_a_run_brings_its_base_adapter_template_and_noun_which_flags_replace(call, by_hand, run_folder):
    folder, merged = run_folder
    results, shown = call("--run", folder, "--liked", "Heat", "--target", "A", "--target", "B")
    assert (results["noun"], results["template"], results["stand_in"]) == ("book", "released", False)
    assert f"adapter of {folder}" in shown
    for row in results["predictions"]:
        expected = by_hand(merged, '"Heat"', "", row["target"], noun="book", released=True)
        assert (row["p_yes_positive"], row["p_yes_negative"], row["score"]) == pytest.approx(expected, abs=1e-3)
    (row,) = call("--run", folder, "--target", "A", "--template", "paper", "--noun", "film")[0]["predictions"]
    expected = by_hand(merged, "", "", "A", noun="film")
    assert (row["p_yes_positive"], row["p_yes_negative"], row["score"]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("source, expected", [("stand-in", True), ("MovieLens-100K", False)])
def test_what_was_tuned_on_simulated_viewers_is_a_stand_in(call, run_folder, source, expected):
    folder, _ = run_folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "data_source": source}))
    results, shown = call("--run", folder, "--target", "A")
    assert results["stand_in"] is expected and ("STAND-IN" in shown) is expected


def test_without_run_or_model_the_demo_answers_and_says_so_everywhere(call):
    results, shown = call("--liked", "Alien (1979)", "--target", "Aliens (1986)")
    assert results["stand_in"] is True and results["model"] == "demo"
    assert (
        shown.startswith("DEMO MODEL: ")
        and "untuned" in shown
        and "simulated viewers" in shown
        and "--run runs/NAME" in shown
    )
    assert "STAND-IN (simulated viewers): built-in demo model; no adapter" in shown
    results, shown = call("--model", DEMO_FOLDER / ".." / "model", "--target", "A")  # the same by another name
    assert results["stand_in"] is True and "STAND-IN" in shown and "DEMO MODEL" not in shown


def test_a_prompt_that_lost_history_is_told(call, checkpoint, by_hand, tokenizer_bytes):
    model = load_llama(checkpoint, torch.float32, torch.device("cpu")).double().eval()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_bytes)
    shared = {
        "question": "dislike",
        "asks_again": "dislike",
        "noun": "movie",
        "lint": "",
        "disliked": '"bad"',
        "target": "A",
    }
    whole = PROMPT.format(liked='"old", "mid", "new"', **shared)
    length = len(pieces.EncodeAsIds(whole + "Yes.")) + 2  # BOS, and EOS after the answer
    argv = ("--model", checkpoint, *flags_for(liked=["old", "mid", "new"], disliked=["bad"], target="A"))
    assert "--max-len" not in call(*argv, "--max-len", length)[1]
    results, shown = call(*argv, "--max-len", length - 1)
    assert f"--max-len {length - 1}: 1 of 1 prompts lost their oldest history items" in shown
    assert results["predictions"][0]["score"] == pytest.approx(
        by_hand(model, '"mid", "new"', '"bad"', "A")[2], abs=1e-3
    )


# ---- histories and ranks ------------------------------------------------------------------------


def test_the_longer_list_loses_its_oldest_first_and_the_order_within_a_list_is_kept():
    (row,) = predict.user_rows("u", ("1", "2", "3"), ("x", "y"), ("T",))
    assert row.history == (("1", True), ("2", True), ("x", False), ("3", True), ("y", False))
    assert (row.user, row.target) == ("u", "T")


def scored(z_pos, z_neg, users):
    z_pos, z_neg = np.array(z_pos, dtype=float), np.array(z_neg, dtype=float)
    nothing = np.full(len(users), -20.0)
    return Scored(users, np.zeros(len(users), bool), z_pos - 20, nothing, z_neg - 20, nothing, nothing * 0, nothing * 0)


def test_ranks_are_within_a_user_wherever_its_rows_stand_and_equal_scores_keep_their_order():
    users = ["a", "b", "a", "a", "b", "a"]
    rows = [row for i, user in enumerate(users) for row in predict.user_rows(user, (), (), (f"T{i}",))]
    found = predict.predictions(rows, scored([1, 3, 2, -1, 1, 3], [1, -1, 0, 1, -3, 1], users))
    assert [row["score"] for row in found] == [0, 4, 2, -2, 4, 2]
    assert [row["rank"] for row in found] == [3, 1, 1, 4, 2, 2]
    assert [row["contradiction"] for row in found] == ["Yes/Yes", None, None, None, None, "Yes/Yes"]
    assert [row["target"] for row in found] == ["T0", "T1", "T2", "T3", "T4", "T5"]
    assert found[0]["p_yes_positive"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_the_table_names_both_kinds_of_contradiction():
    rows = [row for name in ("A", "B", "C") for row in predict.user_rows(None, (), (), (name,))]
    found = predict.predictions(rows, scored([2, -2, 1], [1, -1, -1], [None] * 3))
    table = prediction_table(
        {"run": None, "adapter": None, "model": "DIR", "demo_model": False, "stand_in": False, "predictions": found}
    )
    cells = [line.split() for line in table.splitlines() if line[:4].strip().isdigit()]
    assert [(row[1], row[-1]) for row in cells] == [("A", "Yes/Yes"), ("B", "No/No"), ("C", "-")]


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
    assert (
        f"4 targets of 2 users; the same answer to both questions: {said.count('Yes/Yes')} Yes/Yes, {said.count('No/No')} No/No"
        in shown
    )


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
BAD_FILES = {
    b"": "users.csv line 1: expected the columns user,liked,disliked,target, each once; look at user, liked, disliked, target",
    HEADER: "users.csv: has no line below its header",
    b"user,liked,target\n1,A,B\n": "users.csv line 1: expected the columns user,liked,disliked,target, each once; look at disliked",
    b"user,liked,liked,disliked,target\n": "users.csv line 1: expected the columns user,liked,disliked,target, each once; look at liked",
    b"user;liked;disliked;target\n1;A;;B\n": "users.csv line 1: expected the columns user,liked,disliked,target",
    HEADER
    + b"1,A,,T\n2,Lantern, The,,T\n": "users.csv line 3: expected 4 cells, as in the header; quote a cell that has commas",
    HEADER + b"1,A,T\n": "users.csv line 2: expected 4 cells",
    HEADER + b"1,,,T\n\n2,A,B,\n": "users.csv line 4, column target: is empty; name at least one title",
    HEADER + b" ,A,B,T\n": "users.csv line 2, column user: is empty",
    HEADER + b"1,A||B,,T\n": "users.csv line 2, column liked: a title is empty",
    HEADER + b"1,A,B|,T\n": "users.csv line 2, column disliked: a title is empty",
    HEADER + b"1,A,,T| \n": "users.csv line 2, column target: a title is empty",
    HEADER + b'1,A,,"T\nU"\n': "users.csv line 3, column target 'T\\nU': has a line break",
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
def test_a_file_that_cannot_be_used_is_named_with_line_and_column(refuse, tmp_path, content):
    (tmp_path / "users.csv").write_bytes(content)
    (tmp_path / "scores.csv").write_text("from before")
    (line,) = refuse("--input", tmp_path / "users.csv", "--output", tmp_path / "scores.csv")
    assert line.startswith(f"{tmp_path}/{BAD_FILES[content]}")


def test_a_file_that_is_not_there_is_named(refuse, tmp_path):
    assert refuse("--input", tmp_path / "absent.csv", "--output", tmp_path / "o") == [
        f"{tmp_path / 'absent.csv'}: No such file or directory"
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
        ("/dev/null", "is there and is not a plain file"),  # and is never replaced by a file
        ("absent/scores.csv", "cannot be written ("),
        ("users.csv/scores.csv", "cannot be written ("),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_read(refuse, tmp_path, output, why):
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
    ("--target", "T", "--noun", ""): ["--noun '': expected a word"],
    ("--target", "T", "--noun", "a\nb"): ["--noun 'a\\nb': expected a word"],
    ("--target", "T", "--run", "x", "--adapter", "y"): ["--adapter: --run brings an adapter of its own"],
    ("--target", "T", "--adapter", "y"): ["--adapter: say which base it belongs to"],
    ("--target", "T", "--run", "absent"): ["absent: no run there"],
    ("--target", "T", "--model", "absent"): ["absent: no such checkpoint folder"],
    ("--target", "T", "--max-len", "20"): ["--max-len 20: the prompt of row 0 (target 'T') has "],
    ("--target", "T", "U"): ["U: not expected here"],
    ("--target", "T", "--targets", "U"): ["--targets: unknown flag; did you mean --target?"],
}


@pytest.mark.parametrize("argv", BAD_FLAGS)
def test_flags_that_cannot_be_used_are_refused_a_line_each(refuse, tmp_path, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    lines = refuse(*argv)
    assert len(lines) == len(BAD_FLAGS[argv])
    assert all(line.startswith(start) for line, start in zip(lines, BAD_FLAGS[argv]))
