"""Command lines: all problems are reported together, one line each; every value records where it came from."""

import contextlib
import importlib
import sys
from dataclasses import dataclass

import pytest

from cli.flags import fit, flag, parse_flags
from cli.train import TrainFlags
from cli.verb import run_verb
from errors import AdapterError, CheckpointError, DataError, FlagError, RunError
from model import convert


@dataclass(frozen=True)
class Flags:
    name: str = flag("x", "a word")
    rows: int = flag(4, "a number of 100 % rows", low=1, high=10)
    rate: float = flag(0.5, "a rate", low=0)
    kind: str = flag("a", "a choice", choices=("a", "b"))
    folder: str = flag(None, "no default")
    yes_please: bool = flag(False, "a switch")


def parse(*argv, verb=Flags, **options):
    return parse_flags(verb, list(argv), "What it does.", **options)


def problems(call, *args, **options):
    with pytest.raises(FlagError) as refusal:
        call(*args, **options)
    return str(refusal.value).splitlines()


# ---- parsing ------------------------------------------------------------------------------------


def test_values_have_the_type_of_their_field():
    flags, _ = parse("--rows", "7", "--rate=2", "--name", "-1", "--yes-please", "--kind", "b")
    assert flags == Flags(name="-1", rows=7, rate=2.0, kind="b", folder=None, yes_please=True)
    assert type(flags.rate) is float and type(flags.rows) is int


def test_without_flags_every_value_is_the_default():
    flags, resolved = parse()
    assert flags == Flags()
    assert set(resolved.sources.values()) == {"default"}


def test_a_flag_takes_precedence_over_a_preset_and_a_preset_over_the_default():
    seen = []

    def preset(values):
        seen.append(dict(values))
        return {"rows": (9, "preset big"), "rate": (0.25, "preset big")}

    flags, resolved = parse("--rows", "2", "--yes-please", presets=preset)
    assert (flags.rows, flags.rate, flags.name) == (2, 0.25, "x")
    assert resolved.sources == {
        "name": "default",
        "rows": "flag",
        "rate": "preset big",
        "kind": "default",
        "folder": "default",
        "yes_please": "flag",
    }
    assert resolved.values["rate"] == 0.25
    assert seen[0]["rows"] == 2 and seen[0]["yes_please"] is True


def test_a_flag_that_repeats_the_default_counts_as_a_flag():
    assert parse("--rows", "4")[1].sources["rows"] == "flag"


def test_all_problems_are_listed_at_once_one_line_each():
    found = problems(
        parse, "--row", "3", "--rows", "many", "--rate", "-1", "--kind", "c", "stray", "--name", "--bogus=1", "--folder"
    )
    assert sorted(found) == sorted(
        [
            "--row: unknown flag; did you mean --rows?",
            "--bogus=1: unknown flag; --help lists them",
            "stray: not expected here; every value follows its flag",
            "--rows many: expected a whole number",
            "--rate -1: must be at least 0",
            "--kind c: choose one of a, b",
            "--name: expects a value",
            "--folder: expects a value",
        ]
    )


@pytest.mark.parametrize(
    "typo, meant", [("--nam", "--name"), ("--yes_please", "--yes-please"), ("--rate_=3", "--rate")]
)
def test_an_unknown_flag_suggests_the_nearest(typo, meant):
    assert problems(parse, typo) == [f"{typo}: unknown flag; did you mean {meant}?"]


def test_a_flag_is_not_abbreviated():
    assert problems(parse, "--na", "x")[0].startswith("--na: unknown flag")


@pytest.mark.parametrize("rows", ["1", "10"])
def test_bounds_are_inclusive(rows):
    assert parse("--rows", rows)[0].rows == int(rows)


@pytest.mark.parametrize("rows", ["0", "11", "-3"])
def test_out_of_bounds_is_refused_with_the_bounds(rows):
    assert problems(parse, "--rows", rows) == [f"--rows {rows}: must be from 1 to 10"]


@pytest.mark.parametrize("text", ["nan", "inf", "1e999"])
def test_a_number_must_be_finite(text):
    assert problems(parse, "--rate", text) == [f"--rate {text}: expected a finite number"]


@pytest.mark.parametrize("flag", ["--rows", "--rate", "--name"])
def test_an_empty_value_is_none(flag):
    """As of `--adapter "$ADAPTER"` where the variable is not set."""
    assert problems(parse, flag, "") == problems(parse, f"{flag}=") == [f"{flag}: expects a value"]


@pytest.mark.parametrize("words", [["", "--out", "x"], ["demo/model", "--out", ""], ["demo/model", "--out="]])
def test_nor_is_one_of_model_convert_the_folder_in_which_it_was_started(words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["convert", *words])
    with pytest.raises(SystemExit) as ended:
        convert.main()
    assert ended.value.code == 2 and "expects a value" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["2.5", "0x10", "1e3"])
def test_a_whole_number_is_written_with_digits(text):
    assert problems(parse, "--rows", text) == [f"--rows {text}: expected a whole number"]


def test_a_switch_takes_no_value():
    assert len(problems(parse, "--yes-please=no")) == 1
    assert problems(parse, "--yes-please", "no") == ["no: not expected here; every value follows its flag"]


@dataclass(frozen=True)
class Repeated:
    title: tuple = flag((), "once for each")
    kind: tuple = flag(("a",), "a choice", choices=("a", "b"))
    name: str = flag("x", "a word")


def test_a_tuple_flag_keeps_every_value_in_order():
    flags, resolved = parse("--title", "B", "--name", "y", "--title=A, the first", "--title", "B", verb=Repeated)
    assert flags == Repeated(title=("B", "A, the first", "B"), name="y")
    assert (
        resolved.sources == {"title": "flag", "kind": "default", "name": "flag"}
        and resolved.values["title"] == flags.title
    )
    assert parse("--title", "", verb=Repeated)[0].title == ("",)


def test_a_tuple_flag_that_is_not_given_has_its_default_and_one_that_is_given_replaces_it():
    assert parse(verb=Repeated)[0] == Repeated((), ("a",), "x")
    assert parse("--kind", "b", verb=Repeated)[0].kind == ("b",)


def test_every_value_of_a_tuple_flag_is_checked():
    assert problems(parse, "--kind", "b", "--kind", "c", verb=Repeated) == ["--kind c: choose one of a, b"]
    assert problems(parse, "--title", "A", "--title", verb=Repeated) == ["--title: expects a value"]
    assert problems(parse, "--title", "A", "B", verb=Repeated) == ["B: not expected here; every value follows its flag"]


def test_the_last_value_counts_if_any_other_flag_is_given_twice():
    assert parse("--name", "y", "--name", "z", "--rows", "2", "--rows", "3")[0] == Flags(name="z", rows=3)


@pytest.mark.parametrize("verb", [Flags, Repeated, TrainFlags])
def test_help_lists_every_flag_keeps_the_lines_of_the_description_and_ends_with_status_0(verb, capsys):
    with pytest.raises(SystemExit) as end:
        parse_flags(verb, ["--help"], "First line.\n\n    a command    what it does\n    another one  and that\n")
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert "    a command    what it does\n    another one  and that\n" in shown
    for name in verb.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in shown
    assert "[WORD]" not in shown


VERBS = [
    ("train",),
    ("baseline",),
    ("eval",),
    ("predict",),
    ("audit",),
    ("prepare",),
    ("prepare", "show"),
    ("prepare", "book"),
]


@pytest.mark.parametrize("verb, command", [(verb, command) for verb, *command in VERBS])
def test_help_fits_80_columns_and_keeps_all_words(verb, command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"{verb}.py", *command, "--help"])
    module = importlib.import_module(verb)
    with contextlib.suppress(SystemExit):
        module.main(sys.argv[1:])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    if not command:
        assert [word for word in module.__doc__.replace("\\", "").split() if word not in shown] == []


def test_a_long_example_is_cut_where_a_shell_reads_on():
    command = "    python a.py " + " ".join(f"--flag-{i} value" for i in range(8))
    lines = fit(f"{command}   the comment").splitlines()
    assert max(map(len, lines)) <= 80 and lines[-1] == "        the comment"
    assert "".join(line.rstrip("\\") for line in lines[:-1]).split() == command.split()


# ---- run_verb -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FlagError, RunError, DataError, AdapterError, CheckpointError])
def test_an_error_that_the_user_can_correct_is_one_line_each_and_status_2(kind, capsys, monkeypatch):
    def verb(argv):
        raise kind("--a: wrong\n--b: wrong too")

    monkeypatch.setattr("sys.argv", ["/somewhere/verb.py"])
    with pytest.raises(SystemExit) as end:
        run_verb(verb)
    assert end.value.code == 2
    assert capsys.readouterr().err == "verb.py: error: --a: wrong\nverb.py: error: --b: wrong too\n"


def test_an_error_of_the_system_names_its_file(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        run_verb(lambda argv: (tmp_path / "absent").read_text())
    assert end.value.code == 2
    assert f"error: {tmp_path / 'absent'}: No such file or directory\n" in capsys.readouterr().err


def test_an_interrupt_is_status_130_and_a_bug_keeps_its_traceback():
    def interrupted(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_verb(interrupted)
    assert end.value.code == 130
    with pytest.raises(ZeroDivisionError):
        run_verb(lambda argv: 1 / 0)


@pytest.mark.parametrize(
    "name, text", [("--rate", "1_0"), ("--rate", "\uff11"), ("--rows", "1_0"), ("--rows", "\u0664")]
)
def test_a_number_that_only_python_reads_is_refused(name, text):
    with pytest.raises(FlagError, match=f"{name} {text}: expected a"):
        parse(name, text)
