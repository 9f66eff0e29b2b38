"""The benchmark of a whole job: that all forms do the same job, and what is reported of it."""

import dataclasses

import pytest
import torch

from bench import job as jobs
from bench import peer_work
from bench.job import Job, answering, summary, table
from errors import FlagError
from tests.test_bench import pairs_with_common_starts


def made_job(folder, form, **changes):
    pairs = pairs_with_common_starts(12)
    batches = [pairs[:4], pairs[4:8], pairs[8:]]
    labels = [index % 3 == 0 for index in range(12)]
    job = Job(
        "released", form, False, folder, "fp32", "cpu", 1, 0.0, batches, pairs, labels, {True: [3, 7], False: [4, 7]}
    )
    few = {"test": tuple(pairs[:9]), "test_labels": tuple(labels[:9]), "micro_batch_size": 4, "eval_every": 2}
    return dataclasses.replace(job, lr=0.03, warmup=1, **(few | changes))


def test_the_turns_are_the_steps_with_validations_between_them_and_a_test():
    job = made_job(None, peer_work.OURS)
    kinds = [("step", 0), ("step", 1), ("valid", 1), ("step", 2), ("valid", 2), ("test", 0)]
    assert job.turns() == kinds
    assert [kind for kind, _ in dataclasses.replace(job, eval_every=3).turns()] == [*["step"] * 3, "valid", "test"]


@pytest.fixture
def figures_of(make_checkpoint):
    """figures_of(form, ...): the figures of every turn, in this process."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    folder = make_checkpoint()

    def run(form, **changes):
        job = made_job(folder, form, **changes)
        answer = answering(peer_work.load(job, torch.device("cpu"), torch.float32), job)
        return [answer(turn) for turn in job.turns()]

    return run


def test_all_forms_do_the_same_job(figures_of):
    ours, *peers = (figures_of(form) for form in peer_work.FORMS["released"])
    losses = [turn["loss"] for turn in ours if "loss" in turn]
    assert len(peers) == 2 and len(set(losses)) == 3
    for theirs in peers:
        for found, wanted in zip(theirs, ours, strict=True):
            assert found == pytest.approx(wanted, rel=1e-3)


def test_micro_batches_change_no_gradient_of_a_loss_over_answers(figures_of):
    whole, cut = (figures_of("ours", case="own", micro_batch_size=size) for size in (4, 2))
    for found, wanted in zip(cut, whole, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)


def test_the_test_takes_the_state_that_was_best_in_validation(make_checkpoint, monkeypatch):
    job = made_job(make_checkpoint(), "ours", eval_every=1)
    form = peer_work.load(job, torch.device("cpu"), torch.float32)
    answer, states = answering(form, job), []
    aucs = iter([0.6, 0.9, 0.7, 0.5])
    monkeypatch.setattr(jobs, "auc", lambda labels, scores: next(aucs))
    for turn in job.turns():
        answer(turn)
        if turn[0] == "valid":
            states.append(form.parameters[0].detach().clone())
    assert torch.equal(form.parameters[0], states[1]) and not torch.equal(states[1], states[2])


def test_the_time_to_a_result_is_that_of_all_turns():
    kinds = {
        "load": [{"seconds": 1.0}],
        "step": [{"seconds": 2.0, "loss": 3.0}, {"seconds": 2.5, "loss": 2.0}],
        "valid": [{"seconds": 4.0, "auc": 0.6}],
        "test": [{"seconds": 5.0, "auc": 0.7}],
    }
    ours, slower = summary("ours", kinds), summary("published", kinds | {"step": [{"seconds": 33.5, "loss": 1.0}]})
    assert (ours["to_result_s"], ours["step_s"], ours["load_s"], ours["last_loss"]) == (13.5, 4.5, 1.0, 2.0)
    assert "| published | 42 | 33.5 | 4.0 | 5.0 | 3.15 | 0.700 |" in table([ours, slower], "heading")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--micro-batch-size", "3"], "--micro-batch-size 3: must divide --batch-size 16"),
        (["--batch-size", "48"], "--batch-size 48: must divide --shots 64"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused(flags, message):
    with pytest.raises(FlagError, match=message):
        jobs.parse(flags)
