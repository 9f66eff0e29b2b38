"""The line of the untuned base, where runs of a study ask it in different prompts."""

import hashlib

import numpy as np
import pytest
from safetensors.numpy import save

from errors import RunError
from studies.results import BASE, read_lines
from studies.runs import make_runs
from tests import test_studies
from tests.test_studies import NAMES, STUDY

study_bench = test_studies.bench  # the fixture


def other_answers(study_bench):
    """As a run leaves them whose objective asks in other prompts. Its name comes first."""
    folder = study_bench.out / "base"
    folder.mkdir()
    columns = ("log_yes_pos", "log_no_pos", "log_yes_neg", "log_no_neg", "kl", "js")
    content = save({name: np.linspace(-1, -2 - i, 6) for i, name in enumerate(columns)})
    (folder / "test-!.scores").write_bytes(hashlib.sha256(content).digest() + content)


def test_the_base_is_told_apart_from_answers_to_other_prompts(study_bench):
    other_answers(study_bench)
    make_runs(STUDY, study_bench)
    line = read_lines(study_bench.results)[BASE]
    assert np.allclose(line.z_pos, 1.0) and np.allclose(line.z_neg, 1.0)


def test_answers_that_do_not_give_the_bases_figures_are_refused(study_bench):
    make_runs(STUDY, study_bench)
    (study_bench.out / "base/test-0.scores").unlink()
    (study_bench.out / "base").rmdir()
    other_answers(study_bench)
    study_bench.results.unlink()
    with pytest.raises(
        RunError, match=rf"{study_bench.out / 'base'}: has no answers .* in {NAMES[0]}; delete that run"
    ):
        make_runs(STUDY, study_bench)
