"""What is said while a run works: a bar of at most 80 columns, or a line a minute; how long it still takes."""

import io
import math
import os
import sys
import threading
import time

import pytest
from tqdm import tqdm

import machine.bar
import train
from cli.train import TrainFlags
from errors import RunError
from machine.bar import Bar, at_work
from report.plan import plan_line
from run.failures import error_context
from run.progress import Progress, Times, ending, show_step


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_fits_a_terminal_of_80_columns(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(machine.bar.shutil, "get_terminal_size", lambda: os.terminal_size((200, 40)))
    hour = Times(0.0, 0.0, 3661.0)
    with Bar(1000, "training", "steps", keep=True) as bar:
        for step in range(1, 1001):
            progress = Progress(step, best_value=0.75 if step > 500 else -1.0, best_step=500 if step > 500 else 0)
            show_step(bar, progress, {"loss": 12.3456, "kl": 123.456}, hour, 1000, TrainFlags())
            bar.bar.refresh()
    shown = sys.stderr.getvalue()
    assert max(len(part.rstrip()) for part in shown.split("\r")) <= 80 and "<1:01:01, loss 12.346, KL 123.46" in shown
    assert "-1.000" not in shown and ", best 0.750]" in shown.split("\r")[-1]


def test_a_log_gets_a_line_a_minute_with_what_is_done_and_what_is_left(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(machine.bar.time, "monotonic", lambda: clock[0])
    with Bar(600, "tuned on test", "prompts", done=0) as bar:
        for _ in range(10):
            clock[0] += 25
            bar.update(40)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"tuned on test: {done} of 600 prompts, about {left} left"
        for done, left in ((120, "05:00"), (240, "03:45"), (360, "02:30"))
    ]


def test_a_log_says_what_would_make_it_take_longer(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(machine.bar.time, "monotonic", lambda: clock[0])
    with Bar(5000, "training", "epochs at most", keep=True) as bar:
        clock[0] = 61.0
        bar.update(1, remaining=305.0, unless="validation improves")
    line = "training: 1 of 5,000 epochs at most, about 05:05 left unless validation improves\n"
    assert capsys.readouterr().err == line


def test_a_piece_that_takes_longer_than_a_minute_is_told_of_meanwhile_and_nothing_afterwards(monkeypatch, capsys):
    """The minute is 50 ms here. After the block no thread is left that could say something."""
    monkeypatch.setattr(machine.bar, "EVERY", 0.05)
    before = threading.active_count()
    with pytest.raises(RunError, match="^step 3: "), error_context("step 3"):
        time.sleep(0.18)
        raise RunError("the loss is nan")
    with Bar(600, "tuned on test", "prompts") as bar:
        bar.update(40)
        time.sleep(0.18)
    lines = capsys.readouterr().err.splitlines()
    steps = [line for line in lines if line.startswith("step 3: at work for 00:0")]
    scoring = [line for line in lines if line.startswith("tuned on test: 40 of 600 prompts, at work for 00:0")]
    assert 2 <= len(steps) <= 3 and 1 <= len(scoring) <= 3 and len(steps) + len(scoring) == len(lines)
    assert threading.active_count() == before
    time.sleep(0.12)
    assert capsys.readouterr().err == ""


def test_a_terminal_that_shows_a_bar_gets_no_such_lines(monkeypatch):
    monkeypatch.setattr(machine.bar, "EVERY", 0.02)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with at_work("loading the base"):
        time.sleep(0.1)
    assert sys.stderr.getvalue() == ""


def test_the_long_phases_of_a_run_are_told_of(tmp_path, monkeypatch, capsys):
    """Every phase that has no bar, in a run that is slow because a minute is 1 ms."""
    monkeypatch.setattr(machine.bar, "EVERY", 0.001)
    short = "--data demo --shots 4 --max-steps 1 --eval-every 1 --valid-rows 4 --test-rows 4 --device cpu"
    train.main([*short.split(), "--out", str(tmp_path / "run")])
    shown = capsys.readouterr().err
    for phase in ("loading the data", "loading the base", "the longest micro-batch, tried before step 1", "step 1"):
        assert f"\n{phase}: at work for 00:00" in f"\n{shown}", phase
    for phase in ("validation after step 1", "intervals of the results"):
        assert f"\n{phase}: at work for 00:00" in shown, phase
    assert "\nbase on test: " in shown


@pytest.mark.parametrize("step, left", [(0, 25 * 2 + 3 * 10 + 100), (10, 15 * 2 + 2 * 10 + 100), (25, 100)])
def test_the_time_that_is_left_knows_validations_and_the_final_scoring(step, left):
    """25 steps, validated after 10, 20 and the last."""
    assert Times(2.0, 10.0, 100.0).left(step, 25, 10) == left


@pytest.mark.parametrize(
    "step, since_best, end", [(0, 0, 20), (7, 0, 20), (10, 0, 30), (10, 1, 20), (19, 1, 20), (20, 0, 35)]
)
def test_the_time_that_is_left_knows_when_patience_ends(step, since_best, end, capsys, monkeypatch):
    """At most 35 steps, validated after every tenth and the last, two validations of patience."""
    progress = Progress(step, since_best=since_best)
    assert progress.ends_at(35, 10, 2) == end
    ran = Progress(step, since_best=since_best)
    while not ran.is_over(35, 2):  # the loop of train.py, with no better validation
        ran.step += 1
        if ran.step % 10 == 0 or ran.step == 35:
            ran.validated(-2.0)
    assert ran.step == end
    clock = [0.0]
    monkeypatch.setattr(machine.bar.time, "monotonic", lambda: clock[0])
    flags = TrainFlags(eval_every=10, patience=2)
    with Bar(35, "training", "steps", keep=True) as bar:
        clock[0] = 61.0
        show_step(bar, progress, {"loss": 1.0, "kl": 0.0}, Times(2.0, 10.0, 5.0), 35, flags)
    validations = math.ceil(end / 10) - step // 10
    left = tqdm.format_interval((end - step) * 2 + validations * 10 + 5)
    ending = " unless validation improves" if end < 35 else ""
    assert capsys.readouterr().err == f"training: 1 of 35 steps, about {left} left{ending}\n"


def test_steps_that_take_longer_than_planned_make_all_that_is_left_longer():
    times = Times(2.0, 10.0, 100.0)
    for seconds in (9.0, 3.0):  # 6 s a step, three times what was planned
        times.measured(seconds)
    assert times.left(10, 25, 10) == 3 * (15 * 2 + 2 * 10 + 100)


def test_the_plan_and_the_end_are_one_line_each(monkeypatch):
    plan = {"peak": 5.5e8, "room": 2e9, "fits": True}
    assert plan_line(plan, 200) == "Planned for training and scoring: at most 550 MB of 2,000 MB, about 3 min"
    assert "THIS DOES NOT FIT" in plan_line({**plan, "fits": False}, 200)
    monkeypatch.setattr("run.progress.peak_memory", lambda: 0)
    monkeypatch.setattr("run.progress.time.monotonic", lambda: 100.0)
    assert ending(Progress(step=60, best_step=40), 9.0) == "\nDone in 01:31 (min:s); best step 40 of 60"
    monkeypatch.setattr("run.progress.peak_memory", lambda: 812_000_000)
    for on_gpu, counted in ((False, "resident, the whole process counted"), (True, "allocated on the GPU")):
        monkeypatch.setattr("torch.cuda.is_available", lambda on_gpu=on_gpu: on_gpu)
        assert f"; at most 812 MB {counted}; best step 40 of 60" in ending(Progress(step=60, best_step=40), 9.0)
