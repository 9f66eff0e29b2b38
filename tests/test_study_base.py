"""The line of the untuned base, where runs of a study ask it in different prompts."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from data.sources.stand_in import stand_in
from errors import FlagError, RunError
from studies.bench import known_lines
from studies.command import read_command
from studies.results import BASE, Line, read_lines, write_lines
from studies.runs import make_runs
from tests import test_studies
from tests.test_studies import NAMES, STUDY

study_bench = test_studies.bench  # the fixture
ROOT = Path(__file__).parent.parent


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


def test_a_study_is_of_one_wordings_file(tmp_path):
    words = tmp_path / "words.json"
    words.write_text((ROOT / "docs/wordings-de.json").read_text(encoding="utf-8"), encoding="utf-8")
    command = read_command("figure3", ["--out", str(tmp_path / "s"), "--", "--wordings-file", str(words)])
    first = command.bench(stand_in())
    first.out.mkdir()
    write_lines(first.results, {BASE: Line(BASE, dict(first.common), np.zeros(1))})
    assert list(known_lines(first)) == [BASE]
    words.write_text(words.read_text(encoding="utf-8").replace("Film", "Buch"), encoding="utf-8")
    with pytest.raises(RunError, match="was made with wording .*give another --results and --out"):
        known_lines(command.bench(stand_in()))


@pytest.mark.parametrize("words, missing", [((), ("paraphrases 6",)), (("de",), ("paraphrases 6", "negatives 8"))])
def test_a_study_that_asks_more_than_the_wording_has_is_refused_before_its_first_run(words, missing, tmp_path):
    passed = ["--", *(w for name in words for w in ("--wordings-file", str(ROOT / f"docs/wordings-{name}.json")))]
    command = read_command("whole-bundle", ["--out", str(tmp_path / "s"), *passed])
    with pytest.raises(FlagError) as refusal:
        command.bench(stand_in())
    lines = str(refusal.value).split("\n")
    assert [line.split(":")[0] for line in lines] == [f"--train-{what}" for what in missing]
    double = ["--wordings-file", str(ROOT / "docs/wordings-double-negation.json")]
    read_command("whole-bundle", ["--out", str(tmp_path / "s"), "--", *double]).bench(stand_in())
