"""The model card of an adapter: README.md in the run folder, for those who get the adapter without its history."""

import json
from pathlib import Path

from data.sources.stand_in import STAND_IN
from model.demo import DEMO_NAME
from report.cells import constant_rows, interval_cell, no_interval
from report.tables import METRICS, part_of_split, prompts_in_words, provenance, tuning

CARD = "README.md"
DEMO_PLACE = "demo/model"  # in the folder of this project
CONTRADICTION = (
    'A contradiction is the same answer to "will like?" and "will dislike?". Answers that are the same whoever is',
    "asked need not contradict each other: read the rate beside the share of pairs that are both right, and beside",
    "theirs.",
)
LOAD = (
    "```python",
    "from peft import PeftModel",
    "from transformers import LlamaForCausalLM",
    "",
    "base_folder = {base!r}  # wherever you have the base: the weights with the sha256 above",
    'adapter_folder = "."  # the folder of this file',
    'base = LlamaForCausalLM.from_pretrained(base_folder, dtype="auto")',
    "model = PeftModel.from_pretrained(base, adapter_folder).eval()",
    "```",
)


def model_card(results: dict, adapter: dict) -> str:
    """The card as Markdown. results: results.json of the run; adapter: what lora.adapter.save_adapter writes of it."""
    name, base = results["data"], base_name(adapter["base"])
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {json.dumps(base)}",
        "tags: [lora, recommendation, lcft]",
        "---",
        "",
        f"# LoRA adapter for {_plain(name)}, objective {results['objective']}",
        "",
        f"{_plain(provenance(results | {'model': base}))}; {tuning(results)}.",
        *_cautions(results),
        "",
        *_facts(results, adapter),
        "",
        "## Figures",
        "",
        *_figures(results["test"]),
        "",
        *CONTRADICTION,
        *_constants(results["test"]),
        "",
        "## How to load it",
        "",
        "\n".join(LOAD).format(base=DEMO_PLACE if base == DEMO_NAME else base),
        "",
        "The tokenizer is that of the base: `AutoTokenizer` reads a `tokenizer.model` if protobuf is installed.",
        "The answer is read at the last token of the prompt: the logits of Yes and No. The prompts are those of",
        f"`data/prompts.py`, template `{results['template']}`; `predict.py --run` asks them.",
    ]
    return "\n".join(lines) + "\n"


def base_name(model: str) -> str:
    """What others may know the base as: the name of its folder, without the folders of this machine above it."""
    return model if model == DEMO_NAME else Path(model).absolute().name


def _cautions(results: dict) -> list[str]:
    lines = []
    if results["demo_model"]:
        lines.append("**Demo**: the base is the built-in demo model, or was made from it; which is tiny.")
    if results["data_source"] == STAND_IN:
        lines.append("**Stand-in data**: simulated viewers. The figures show how the method works, and nothing else.")
    if prompts_in_words(results):
        lines.append(f"**{prompts_in_words(results)}**: in `vectors.safetensors`, which PEFT does not read.")
    return [line for text in lines for line in ("", text)]


def _facts(results: dict, adapter: dict) -> list[str]:
    validation = f"{results['best_valid_auc']:.3f}" if results["best_valid_auc"] is not None else "none"
    facts = {
        "base": f"`{base_name(adapter['base'])}`, sha256 of its weights `{adapter['base_fingerprint'][:12]}`",
        "data": f"{results['data']}: {results['data_source']}",
        "objective": tuning(results),
        "LoRA": f"r {adapter['r']}, alpha {adapter['alpha']:g}, dropout {adapter['dropout']:g}, "
        f"on {', '.join(adapter['targets'])}",
        "best state": f"step {results['best_step']} of {results['steps']}; AUC {validation} on the validation rows",
    }
    return ["| | |", "|---|---|", *(f"| {name} | {_plain(text)} |" for name, text in facts.items())]


def _figures(test: dict) -> list[str]:
    counts, columns = test["after"]["counts"], ("before", "after", "change")
    rows = part_of_split(test["chosen"]) if "chosen" in test else f"{counts['rows']:,} rows"
    users, unit = (f"{counts['users']:,} users", "users") if counts["users"] else ("users unknown", "rows")
    lines = [
        f"Test split: {rows}, {users}; 95 % intervals from resampling {unit}.",
        "",
        "| | base | with this adapter | change |",
        "|---|---|---|---|",
    ]
    for key, label in METRICS:
        if test["after"].get(key) is not None:
            cells = [interval_cell(test[column], key, "+" if column == "change" else "") for column in columns]
            lines.append(f"| {label.strip()} | {' | '.join(cells)} |")
    return lines + no_interval(lines, unit)


def _constants(test: dict) -> list[str]:
    """The rows to read contradictions beside, if the answers to both questions are known."""
    if test["after"].get("contradiction_rate") is None:
        return []
    rows = constant_rows(test["constants"])
    lines = ["| whoever is asked | contradiction rate | both answers right |", "|---|---|---|"]
    return ["", *lines, *(f"| {' | '.join(cells)} |" for cells in rows)]


def _plain(text: str) -> str:
    """The text in one cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
