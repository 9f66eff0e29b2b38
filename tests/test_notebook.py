"""docs/one_pair.ipynb: it runs from the first cell to the last, and has the cells of docs/one_pair.py."""

import json

import pytest

from docs.make_notebook import NOTEBOOK, SOURCE, cells_of, notebook_of

STORED = json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def outputs(notebook):
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def test_the_notebook_has_the_cells_of_the_file():
    stored = [(cell["cell_type"], "".join(cell["source"])) for cell in STORED["cells"]]
    assert stored == cells_of(SOURCE.read_text(encoding="utf-8"))
    assert (STORED["nbformat"], STORED["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in STORED["cells"]}) == len(STORED["cells"])


def test_every_cell_runs_and_shows_what_the_notebook_shows():
    """The cells assert that two ways to a figure agree; of pictures only that they are drawn is compared."""
    found = outputs(notebook_of(SOURCE.read_text(encoding="utf-8")))
    assert [output["output_type"] for output in found] == [output["output_type"] for output in outputs(STORED)]
    assert sum("data" in output for output in found) == 4
    ours, theirs = ("".join(o["text"]) for o in (found[1], outputs(STORED)[1]))
    assert ours == theirs and "will dislike the target movie" in ours


def test_a_cell_that_raises_is_not_passed_over():
    with pytest.raises(ZeroDivisionError):
        notebook_of("# %%\n1 / 0\n")


def test_cells_are_split_where_they_begin():
    source = '# %% [markdown]\n"""# Title\n\ntext\n"""\n\n# %%\nprint(1)\n\n\n# %%\nx = 1  # %% no cell\n'
    assert cells_of(source) == [("markdown", "# Title\n\ntext"), ("code", "print(1)"), ("code", "x = 1  # %% no cell")]
