"""Run docs/one_pair.py cell by cell, and write docs/one_pair.ipynb with what it shows: python -m docs.make_notebook

The source is a plain Python file, in which `# %%` begins a cell. No package of Jupyter is needed to make the notebook.
"""

import ast
import base64
import contextlib
import io
import json
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from files import write_text

SOURCE, NOTEBOOK = Path(__file__).parent / "one_pair.py", Path(__file__).parent / "one_pair.ipynb"
PYTHON = {"display_name": "Python 3", "language": "python", "name": "python3"}


def cells_of(source: str) -> list[tuple[str, str]]:
    """("markdown" or "code", text) of each cell, in order."""
    cells = []
    for kind, text in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", source, re.S | re.M):
        cells.append(("markdown", ast.literal_eval(text.strip()).strip()) if kind else ("code", text.strip()))
    return cells


def run_cell(code: str, names: dict, number: int) -> list[dict]:
    """The outputs of a cell, as a notebook has them: what it printed, and a PNG of each figure that it drew."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"{SOURCE.name}, cell {number}", "exec"), names)  # noqa: S102 (our own file)
    outputs = [_stream(printed.getvalue())] if printed.getvalue() else []
    for figure in map(plt.figure, plt.get_fignums()):
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=80, metadata={"Software": None})
        outputs.append(_picture(base64.b64encode(image.getvalue()).decode()))
    plt.close("all")
    return outputs


def _stream(text: str) -> dict:
    return {"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)}


def _picture(png: str) -> dict:
    return {"output_type": "display_data", "data": {"image/png": png}, "metadata": {}}


def notebook_of(source: str) -> dict:
    """The executed notebook, format 4.5. Raises whatever a cell raises."""
    matplotlib.use("Agg")
    names, cells = {"__name__": "__main__"}, []
    for number, (kind, text) in enumerate(cells_of(source)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": run_cell(text, names, number)}
        cells.append(cell)
    return {"cells": cells, "metadata": {"kernelspec": PYTHON}, "nbformat": 4, "nbformat_minor": 5}


def main() -> None:
    """Write the notebook."""
    notebook = notebook_of(SOURCE.read_text(encoding="utf-8"))
    write_text(NOTEBOOK, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
