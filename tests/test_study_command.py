"""reproduce.py: what a command asks for, and the page and the p values of a study."""

import html.parser
import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest

import reproduce
from data.interactions import Interaction
from errors import DataError, FlagError, RunError
from metrics import Scored, metric_values
from report.charts import LEFT, RIGHT, WIDTH, Interval, forest
from report.html import table
from resampling import two_sided_p
from studies.bench import TRAINED
from studies.command import case_study_words, items_of_all, read_command
from studies.declared import STUDIES
from studies.page import study_page
from studies.presets import ALL, PRESETS
from studies.published import FEW_SHOT_RECOMMENDERS, PUBLISHED
from studies.results import BASE, Line
from studies.significance import both_p, paired_t_p, student_p
from studies.study import BASELINE, EVAL, TRAIN
from studies.tables import differences, is_close, markdown, measure
from studies.texts import outcome_of, texts_of

OF_DEMO = ("--data", "demo")


class _Data:
    name, source, wording = "movie", "files", "tallrec"

    def __init__(self, rows):
        self.test, self.train = rows, rows

    def fingerprint(self):
        return "d"


def rows_of_users(counts, seed=0):
    """Interactions with labels drawn, so many of each user."""
    draw = np.random.default_rng(seed)
    users = [user for user, count in enumerate(counts) for _ in range(count)]
    return [Interaction(user, (), i, bool(draw.integers(2)), i) for i, user in enumerate(users)]


def lines_for(study, rows, seed=1):
    draw = np.random.default_rng(seed)
    about = {
        "test": {"auc": 0.5},
        "data": "d",
        "base": "b",
        "train_flags": "--valid-rows 5",
        "versions": {"torch": "x"},
    }
    return {name: Line(name, about, *np.round(draw.normal(size=(2, len(rows))), 4)) for name in [BASE, *study.runs()]}


# ---- commands -----------------------------------------------------------------------------------


def test_each_verb_gets_the_flags_after_the_marks_that_it_has():
    passed = ["--", "--test-rows=7", "--lr", "1", "--device", "cpu", "--drop-long", "--", "--epochs", "2"]
    command = read_command("table2", ["--seeds", "1", *passed])
    bench = command.bench(_Data([]))
    data, base = ["--data", "ml-1m"], ["--model", "demo"]
    assert list(bench.words[TRAIN]) == [*passed[1:7], *data, *base]
    assert set(bench.words[EVAL]) == {"--rows", "7", "--device", "cpu", "--drop-long", *data, *base}
    assert list(bench.words[BASELINE]) == ["--device", "cpu", *data]
    assert list(bench.words[TRAINED]) == ["--epochs", "2"]
    assert bench.common["train_flags"] == "--test-rows=7 --lr 1 --drop-long -- --epochs 2"
    assert read_command("figure3", ["--", "--lr", "1"]).passed_words == "--lr 1"


def test_a_studys_terms_get_the_weights_that_are_named():
    def weights(name, words):
        return [(s.method, s.flags.get("kl-weight")) for s in read_command(name, words).study.settings]

    given = dict(weights("consistency", ["--term-weights", "js=10,jeffreys=1e-3"]))
    assert given == dict(weights("consistency", [])) | {"js": "10", "jeffreys": "1e-3"}
    assert [w for m, w in weights("consistency-weights", ["--term-weights", "js=7"]) if m == "js"] == ["7"]
    names = read_command("consistency", ["--term-weights", "js=10"]).study.runs()
    assert (
        "shots=64-kl-weight=10-objective=js-seed=4" in names and "shots=64-kl-weight=1-objective=js-seed=4" not in names
    )


def test_a_weight_has_one_name_however_it_is_written():
    found = read_command("figure3", ["--kl-weights", " 0.0001,-0, 0.10,0.25,1E-3"]).study.settings
    assert [one.flags["kl-weight"] for one in found] == ["1e-4", "0", "1e-1", "0.25", "1e-3"]
    found = read_command("consistency", ["--term-weights", "js=10.0,jeffreys=0.001"]).study.settings
    weights = {one.flags.get("objective"): one.flags["kl-weight"] for one in found if "kl-weight" in one.flags}
    assert (weights["js"], weights["jeffreys"]) == ("10", "1e-3")


def test_the_control_of_a_study_is_not_there_twice():
    study = read_command("few-shot", ["--shots", "16", "--kl-weights", "0,1e-4"]).study
    assert [one.method for one in study.settings].count("control") == 1
    labels = [one.label for one in study.settings if one.flags.get("kl-weight") == "0"]
    assert labels == ["control, lambda 0, 16 shots"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["consistency", "--term-weights", "js"], "--term-weights js: expected NAME=NUMBER, with a name of js, margin"),
        (["consistency", "--term-weights", "js=1,paper=2"], "--term-weights paper=2: expected NAME=NUMBER"),
        (["consistency", "--term-weights", "js=-1"], "--term-weights js=-1: expected NAME=NUMBER"),
        (["consistency", "--term-weights", "js=1,js=2"], "--term-weights js=1,js=2: names js twice; keep one of them"),
        (["figure3", "--kl-weights", ""], "--kl-weights: expects a value"),
        (["figure3", "--kl-weights", "0.0001,0,1e-4"], "--kl-weights 0.0001,0,1e-4: names 1e-4 twice"),
        (["table1-recommenders", "--kl-weights", "7"], "--kl-weights: this study has no row of LCFT; leave it out"),
        (["table2-recommenders", "--", "--", "--bogus", "3"], "--bogus: unknown flag"),
        (["few-shot", "--shots", "64,"], "--shots 64,: this study has 16, 64, 256, and not an empty one"),
        (["few-shot", "--term-weights", "js=1"], "--term-weights: this study has no term in the place of the KL"),
        (["figure3", "--kl-weights", "0,,1"], "--kl-weights 0,,1: '' is not a number from 0"),
        (["figure3", "--kl-weights", "nan"], "--kl-weights nan: 'nan' is not a number from 0"),
        (["figure3", "--kl-weights", "1e999"], "--kl-weights 1e999: '1e999' is not a number from 0"),
    ],
)
def test_weights_that_are_none_are_refused_in_a_line(words, message):
    with pytest.raises(FlagError) as raised:
        read_command(words[0], words[1:])
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_names_of_runs_fit_into_a_file_system_and_stay_apart():
    for study in STUDIES.values():
        for data in study.data:
            runs = study.for_data(data).runs()
            assert max(len(f"{name}.log".encode()) for name in runs) <= 255
            settings = {name.partition("-seed=")[0] for name, run in runs.items() if not run.asks}
            assert len(settings) == len(
                {
                    (run.setting.shots, str(run.setting.words()), str(run.setting.needs))
                    for run in runs.values()
                    if not run.asks
                }
            )


def test_a_table_has_the_data_sets_lambda_and_flags_of_the_paper():
    def weights(words):
        settings = read_command("table1", words).study.settings
        return {setting.flags["kl-weight"] for setting in settings if setting.method == "LCFT"}

    assert weights([]) == {"1e-4"} and weights(["--data", "book"]) == {"1e-5"}
    assert weights(["--data", "book", "--kl-weights", "0.5"]) == {"0.5"}
    assert {one.shots for one in read_command("table4", []).study.settings} == {"256"}
    assert {one.shots for one in read_command("table4", ["--data", "book"]).study.settings} == {"16", "64"}
    lcft = read_command("table2", ["--data", "amazon-book"]).study.settings[-1]
    assert lcft.flags["kl-weight"] == "1e-5" and (lcft.flags["lr"], lcft.flags["batch-size"]) == ("1e-2", "8")
    assert "lr" not in read_command("table2", []).study.settings[-1].flags
    methods = {data: {one.method for one in read_command("table2", data).study.settings} for data in ((), OF_DEMO)}
    assert methods[()] - methods[OF_DEMO] == {"Prompt4NR-V"}  # its prompt is that of CoLLM's data sets


def test_a_preset_says_how_much_is_run_and_a_flag_overrides_it():
    command = read_command("table2", ["--preset", "laptop", "--", "--test-rows", "30"])
    words = command.passed[TRAIN]
    assert words.count("--test-rows") == 1 and words[-2:] == ["--test-rows", "30"] and "--valid-rows" in words
    assert {one.seeds for one in command.study.settings} == {1}
    movie = read_command("table1", ["--preset", "laptop"]).study
    assert {one.shots for one in movie.settings} == {"64"} and max(one.seeds for one in movie.settings) == 3
    assert {one.seeds for one in read_command("table1", ["--preset", "laptop", "--seeds", "9"]).study.settings} == {9}
    full = read_command("table1", ["--preset", "card24"])
    assert full.passed[TRAIN] == [] and {one.shots for one in full.study.settings} == {"16", "64", "256"}
    with pytest.raises(FlagError, match="--preset laptop: says nothing of --data demo"):
        read_command("table1", ["--preset", "laptop", "--data", "demo"])
    known = {name for study in STUDIES.values() for name in study.data}
    assert all(set(preset.seeds) == known >= set(preset.passed) for preset in PRESETS.values())


def test_what_would_be_the_same_run_with_any_seed_is_made_once():
    seeds = {one.method: one.seeds for one in read_command("table2", ["--seeds", "3"]).study.settings}
    assert (seeds["ICL"], seeds["logistic regression, user and item"], seeds["MF"]) == (1, 1, 3)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--part", "1/2", "--table"], "--part: the tables are of all parts"),
        (["--", "--collaborative", "mf:x"], "--collaborative: is set by the study"),
        (["--", "--", "--method", "mf"], "--method: is set by the study"),
        (["--part", "3/2"], "--part 3/2: expected I/N"),
    ],
)
def test_what_does_not_fit_is_refused(words, message):
    with pytest.raises(FlagError, match=message):
        read_command("table2", words)


def test_all_has_every_item_in_order_and_shares_runs_of_the_same_data():
    flags, items = items_of_all(["--base", "m", "--out", "o", "--seeds", "2", "--", "--lr", "1"], "about")
    assert list(dict.fromkeys(name for name, _, _ in items)) == list(ALL) and flags.base == "m"
    of = {(name, data): words for name, data, words in items}
    assert of["table1", "movie"][:6] == ["--data", "movie", "--out", "o/table1-movie", "--results", "o/movie.jsonl"]
    assert of["figure3", "movie"][6:] == ["--base", "m", "--seeds", "2", "--", "--lr", "1"]
    shots = {name: words for name, _, words in items_of_all(["--shots", "64,all,7"], "")[1]}
    said = {name: words[words.index("--shots") + 1] for name, words in shots.items()}
    assert said == dict.fromkeys(ALL, "64") | {"table2": "all", "case-study": "64,all,7"}
    assert {data for _, data, _ in items} == {"movie", "book", "ml-1m", "amazon-book"}
    assert {name for name, _, _ in items_of_all(["--data", "ml-1m"], "")[1]} == {"table2"}
    weighted = {name for name, _, words in items_of_all(["--term-weights", "js=1"], "")[1] if "--term-weights" in words}
    assert weighted == {"consistency"}
    assert {name for name, _, _ in items_of_all(["--data", "demo"], "")[1]} == set(ALL)
    with pytest.raises(FlagError, match="--results: all has a file for each data set"):
        items_of_all(["--results", "x"], "")


def test_all_says_in_a_line_what_it_leaves_out(tmp_path, capsys):
    with pytest.raises(RunError, match="nothing of it can be run here"):
        reproduce.main(["all", "--data-dir", str(tmp_path), "--data", "book", "--plan"])
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(said) == 2 and all("book: left out: --data book: not in" in line for line in said)
    flags, _ = items_of_all(["--data-dir", str(tmp_path)], "")
    with pytest.raises(DataError, match="has no raw MovieLens-100K"):
        case_study_words(flags)


def test_the_case_study_of_all_asks_the_base_and_the_runs_of_table_1(tmp_path):
    (tmp_path / "u.data").touch()
    (tmp_path / "u.item").touch()
    for name in ("shots=64-kl-weight=0-seed=0", "shots=64-kl-weight=0-seed=1", "shots=16-kl-weight=0-seed=0"):
        (tmp_path / "out" / "table1-movie" / name).mkdir(parents=True)
        (tmp_path / "out" / "table1-movie" / name / "adapter_model.safetensors").touch()
    flags, _ = items_of_all(["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")], "")
    of_base, of_run = case_study_words(flags)
    assert of_base == ["--data-dir", str(tmp_path), "--model", "demo"]
    assert of_run[2:] == ["--run", str(tmp_path / "out" / "table1-movie" / "shots=64-kl-weight=0-seed=0")]


# ---- p ------------------------------------------------------------------------------------------


def test_p_is_that_of_all_resamples_of_the_users():
    """Four users give 256 samples; p of all of them, each as likely, against that of the draws."""
    rows = rows_of_users((3, 4, 5, 4), seed=3)
    labels, draw = np.array([row.label for row in rows]), np.random.default_rng(4)
    a, b = (Scored([row.user for row in rows], labels, odds=draw.normal(size=(len(rows), 2))) for _ in "ab")
    names, changes = ("contradiction_rate", "group_accuracy", "auc"), []
    for sample in itertools.product(range(4), repeat=4):
        chosen = [i for user in sample for i, row in enumerate(rows) if row.user == user]
        of = [metric_values(Scored([None] * len(chosen), labels[chosen], odds=one.odds[chosen])) for one in (a, b)]
        changes.append([of[0][name] - of[1][name] for name in names])
    drawn = [measure("", [one], 1).draws for one in (a, b)]
    for name, exact in zip(names, np.array(changes).T):
        exact = exact[~np.isnan(exact)]  # a sample of one class has no AUC
        whole = 2 * min(np.mean(exact <= 0), np.mean(exact >= 0))
        assert 0 < whole < 0.95 and two_sided_p(drawn[0][name] - drawn[1][name]) == pytest.approx(whole, abs=0.06)


def test_p_is_never_zero_at_most_one_and_agrees_with_the_interval():
    assert two_sided_p(np.full(999, 0.5)) == 2 / 1000 and two_sided_p(np.zeros(999)) == 1.0
    assert np.isnan(two_sided_p(np.full(3, np.nan))) and two_sided_p(np.array([1.0, np.nan])) == 1.0
    draws = np.random.default_rng(0).normal(size=1000)
    for shift in np.linspace(0.5, 3.5, 61):
        low = np.percentile(draws + shift, 2.5)
        assert (two_sided_p(draws + shift) < 0.05) == (low > 0) or abs(low) < 0.02


def test_p_over_seeds_is_the_tail_of_students_density():
    for freedom in (1, 2, 3, 4, 5, 8, 15):
        for t in (0.0, 0.3, 1.0, 2.5, 6.0):
            angle = np.linspace(math.atan(t / math.sqrt(freedom)), math.pi / 2, 20_001)
            density = np.cos(angle) ** (freedom - 1)  # of T, with T / sqrt(freedom) = tan(angle)
            whole = np.cos(np.linspace(0, math.pi / 2, 20_001)) ** (freedom - 1)
            area = [
                (y[1:] + y[:-1]).sum() * width for y, width in ((density, angle[1] - angle[0]), (whole, math.pi / 4e4))
            ]
            tail = area[0] / area[1]
            assert student_p(t, freedom) == pytest.approx(tail, abs=1e-7) == student_p(-t, freedom)
    changes = np.array([0.1, 0.4, -0.1, 0.3, 0.2])  # t = 0.18 / (0.19235 / sqrt(5)) = 2.0925; tables have .1045
    assert paired_t_p(changes) == pytest.approx(0.1045, abs=5e-4)
    assert paired_t_p(np.zeros(3)) == 1 and paired_t_p(np.full(3, 0.5)) == 0 and np.isnan(paired_t_p(np.ones(1)))


def test_a_difference_counts_if_it_holds_for_users_and_for_seeds():
    sure, split = np.full(1000, 0.2), np.array([0.9, -0.5])
    p, users, seeds = both_p(split, sure)
    assert p == seeds > 0.5 and users == two_sided_p(sure) < 0.01
    assert both_p(np.array([0.2, 0.2]), np.linspace(-1, 1, 1000))[0] > 0.9
    assert both_p(np.array([0.2]), sure)[0] == users


def test_a_difference_stands_with_its_p_and_other_rows_without():
    rows = rows_of_users([4] * 8)
    study = read_command("figure3", ["--kl-weights", "0,1", "--seeds", "2"]).study
    (change,) = differences(study, lines_for(study, rows), _Data(rows))
    cells = markdown([change], [], "+").splitlines()[2].split(" | ")[1:7]
    assert all(re.fullmatch(r"[-+][\d.]+ ± [\d.]+ \[[-+\d., ]+\], p [01]\.\d{3}", cell) for cell in cells)
    assert ", p " not in texts_of(outcome_of("figure3", study, {}, _Data(rows), BASE_MODEL))["figure3.md"]


# ---- what was set before ------------------------------------------------------------------------


def test_a_mean_is_compared_with_the_range_that_was_set_before():
    rows = rows_of_users([4] * 8)
    row = measure("", [Scored([r.user for r in rows], np.array([r.label for r in rows]), score=np.arange(32.0))], 1)
    auc = float(row.values["auc"].mean())
    mf = PUBLISHED["ml-1m"]["MF, published setting", "all"]
    assert mf.close["auc"] == pytest.approx((0.6382, 0.6582)) and mf.close["uauc"] == pytest.approx((0.6261, 0.6461))
    assert (
        PUBLISHED["movie"]["GRU4Rec", "16"].close == FEW_SHOT_RECOMMENDERS
        and not PUBLISHED["movie"]["LCFT", "16"].close
    )

    def close(**ranges):
        return is_close(type(row)(**vars(row) | {"published": type(mf)(0.5, close=ranges)}))

    assert close(auc=(auc, auc)) == "yes" and close(auc=(auc + 0.01, 1)) == "no" and close() == "" == is_close(row)
    assert close(auc=(0, 1), uauc=(2, 3)) == "no"


# ---- the page -----------------------------------------------------------------------------------

BASE_MODEL = {"model": "somewhere/demo", "demo_model": True}


class _Balance(html.parser.HTMLParser):
    VOID = ("meta", "br", "line", "rect", "path", "polyline")

    def __init__(self):
        super().__init__()
        self.open, self.links, self.outside = [], [], []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name == "href"]
        self.outside += [value for name, value in attributes if name in ("src", "xlink:href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_has_every_figure_of_the_tables_and_links_the_runs_that_are_there(tmp_path):
    rows = rows_of_users([4] * 8)
    study = read_command("few-shot", ["--shots", "64", "--seeds", "2"]).study
    lines = lines_for(study, rows)
    del lines["shots=64-kl-weight=1e-4-seed=1"]
    linked = "shots=64-kl-weight=0-seed=0"
    (tmp_path / linked).mkdir()
    (tmp_path / linked / "report.html").write_text("")
    outcome = outcome_of("few-shot", study, lines, _Data(rows), BASE_MODEL)
    page = study_page(outcome, tmp_path, lines, ("--shots", "64", "--", "--lr", "<1>"))
    parser = _Balance()
    parser.feed(page)
    assert not parser.open and parser.links == ["shots%3D64-kl-weight%3D0-seed%3D0/report.html"] and not parser.outside
    assert not re.search(r"https?://|<script|url\(", page) and "somewhere" not in page and len(page) < 100_000
    assert "<1>" not in page and "--lr &#x27;&lt;1&gt;" in page and "Asked for: 6 runs; there: 5." in page
    for row in outcome.rows:
        assert f"{row.values['auc'].mean():.3f}" in page and row.label in page
    assert page.count("<svg") == 3 and "minus the control (1\u00a0of\u00a02 runs): contradictions" in page
    assert ", p " in page and "Flags of every run: --valid-rows 5" in page and "The base is the built-in demo" in page


@pytest.mark.parametrize(
    "users, said",
    [((4, 4), "2 users"), ((None,) * 2, "8 rows of unknown users"), ((4, None), "1 user and 4 rows of unknown users")],
)
def test_the_notes_say_what_the_bootstrap_draws(users, said):
    study = read_command("few-shot", ["--shots", "64", "--seeds", "2"]).study
    rows = rows_of_users([4] * 2)
    rows = [replace(row, user=None) if users[row.user] is None else row for row in rows]
    notes = outcome_of("few-shot", study, lines_for(study, rows), _Data(rows), BASE_MODEL).notes
    assert sum(f"(paired bootstrap, {said})" in note for note in notes) == 1
    assert any(note.startswith("Asked once, without learning: ") for note in notes)


def test_the_page_of_a_study_without_any_run_says_so(tmp_path):
    rows = rows_of_users([4] * 8)
    study = STUDIES["figure3"]
    page = study_page(outcome_of("figure3", study, {}, _Data(rows), BASE_MODEL), tmp_path, {}, ())
    assert "No run of this study is there yet." in page and page.count("not run") > 7 and "<svg" not in page


def test_a_forest_plot_has_each_mean_at_its_place_and_holds_what_it_must():
    lines = [Interval("<a>", 0.25, (0.1, 0.6), [0.2, 0.3], "blue"), Interval("b", 0.5, (0.5, 0.5), [0.5], "grey")]
    image = forest(lines, {0.75: "orange"}, "shares", (0, 1))
    width = WIDTH - LEFT - RIGHT
    for mean in (0.25, 0.5):
        assert f"M{LEFT + mean * width:.0f} " in image
    assert "&lt;a&gt;" in image and image.count("<polyline") == 3 and f"{LEFT + 0.75 * width:.1f}," in image
    assert f'viewBox="0 0 {WIDTH} ' in image and ">0.25<" not in image  # no numbers on the vertical axis


def test_a_cell_has_interval_and_p_in_a_line_of_their_own():
    cell = table([""], [["+0.012 ± 0.003 [-0.100, +0.200], p 0.040"]])
    assert "+0.012 <small>± 0.003</small><small>[-0.100, +0.200]</small><small>p 0.040</small>" in cell
    assert "<small>" not in table([""], [["not run"]])
