"""report.html of a run folder: collects what report/run_page.py shows, from what the run has in memory and on disk."""

import hashlib
import json
from itertools import groupby
from pathlib import Path

import numpy as np

from data.interactions import Dataset
from data.splits import Split
from lora.adapter import WEIGHTS
from metrics import Scored, reliability
from protocols import Tokenizer
from report.run_page import Row, Shown

PAGE = "report.html"
MOST_ROWS, VECTOR = 10, "<vector>"


def shown_answers(scored: dict[str, Scored]) -> dict:
    """The parts of Shown that follow from the answers alone, as keywords."""
    return {"scored": scored, "bins": {name: reliability(of.labels, of.p_pos) for name, of in scored.items()}}


def contradictory_rows(split: Split, data: Dataset, tokenizer: Tokenizer, scored: Scored) -> list[Row]:
    """The rows with the same answer to both questions that are surest of it, at most MOST_ROWS, surest first."""
    if not scored.has_both:
        return []
    same = (scored.p_pos > 0.5) == (scored.p_neg > 0.5)
    order = np.argsort(-np.abs(scored.p_pos + scored.p_neg - 1), kind="stable")
    rows = []
    for i in [int(i) for i in order if same[i]][:MOST_ROWS]:
        row, pair = split.rows[i], split.pairs[i]
        user = "unknown" if row.user is None else str(row.user)
        vectors = set(data.vectors(row).values()) if data.vectors else set()
        prompts = tuple(_as_read(tokenizer, side.prompt, vectors) for side in (pair.positive, pair.negative))
        answers = (float(scored.p_pos[i]), float(scored.p_neg[i]))
        title = data.catalogue[row.target].title
        rows.append(Row(split.numbers[i], user, title, row.label, answers, prompts))
    return rows


def _as_read(tokenizer: Tokenizer, ids: list[int], vectors: set[int]) -> str:
    """The text of a prompt, with a mark where an id is that of a vector and not of a token."""
    parts = groupby(ids, vectors.__contains__)
    return "".join(VECTOR * len(list(part)) if soft else tokenizer.decode(list(part)) for soft, part in parts)


def shown_score(
    split: Split, data: Dataset, tokenizer: Tokenizer, scored: Scored, command: str, adapter: str | None
) -> Shown:
    """What the page of eval.py shows. command: that scored the split; adapter: its folder, None for a base alone."""
    facts = {"data": f"{data.fingerprint()} ({data.source})"}
    facts |= fact_of_adapter(Path(adapter)) if adapter else {}
    rows = contradictory_rows(split, data, tokenizer, scored)
    return Shown(**shown_answers({"value": scored}), rows=rows, command=command, facts=facts)


def facts_of_run(folder: Path) -> dict[str, str]:
    """Hashes of all that the run depended on and of its adapter, and what it ran on, as the run folder has them."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {**config["fingerprints"], **fact_of_adapter(folder), **surroundings_of(config)}


def surroundings_of(config: dict) -> dict[str, str]:
    """What a run ran on. config: of its config.json."""
    versions = ", ".join(f"{name} {number}" for name, number in config["versions"].items())
    processes = f"{config['ranks']} process{'es' * (config['ranks'] > 1)}"
    return {"device": f"{config['device']}, {processes}", "versions": versions}


def fact_of_adapter(folder: Path) -> dict[str, str]:
    """sha256 of the file of the adapter's weights."""
    return {"file of the adapter": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()}
