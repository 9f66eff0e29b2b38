"""Score a finished run, or an untuned base, on a split.

    python eval.py --run runs/NAME                     the test split of the data the run was trained on
    python eval.py --run runs/NAME --split valid --json
    python eval.py --run runs/NAME --data movie        another data set, or the real one
    python eval.py --model DIR --data movie            the base alone, without any adapter

One forward pass per prompt: the logits of "Yes" and "No" are read at the prompt's last token.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from data.interactions import DataError
from lora.adapter import load_adapter, read_adapter_config
from lora.inject import add_lora
from metrics import evaluate
from report.tables import score_table
from runtime import setup
from runtime.evaluation import rules_without_learning, score_split
from runtime.files import write_json
from runtime.flags import FlagError, Resolved, flag, notice, parse_flags, run_verb
from runtime.run_folder import read_config, write_predictions


@dataclass(frozen=True)
class EvalFlags:
    run: str = flag(None, "folder that train.py wrote; its base, data and template are used unless a flag says otherwise")
    model: str = flag(None, "checkpoint folder, or demo; default: the run's")
    split: str = flag("test", "which rows", choices=("test", "valid"))
    data: str = flag(None, "movie, demo, or a folder with TALLRec's JSON files; default: the run's")
    data_dir: str = flag(None, "where the raw files are; default: the run's, then $LCFT_DATA, then data/cache")
    real_data: bool = flag(False, "refuse the simulated viewers that stand in when MovieLens cannot be had")
    template: str = flag(None, "wording of the prompts; default: the run's, or paper", choices=("paper", "released"))
    max_len: int = flag(None, "tokens; default: the run's, or 512", low=8)
    precision: str = flag(None, "of the base; default: the run's, or bf16", choices=tuple(setup.DTYPES))
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, ...")
    out: str = flag(None, "folder for results.json and predictions.csv; default: RUN/eval-DATA-SPLIT; a base alone only prints")
    json: bool = flag(False, "print the results as one JSON line on standard output")


WITHOUT_RUN = {"model": "demo", "data": "movie", "data_dir": None, "template": "paper", "max_len": 512, "precision": "bf16", "real_data": False}


def check_flags(flags: EvalFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that is missing, unused or would overwrite something."""
    problems = []
    if not flags.run and not flags.model:
        problems.append("--run: say which run with --run DIR, or which base with --model DIR (or --model demo)")
    if flags.out and (Path(flags.out) / "config.json").exists():
        problems.append(f"--out {flags.out}: is a run folder, whose results.json this would replace; choose another")
    if flags.out and Path(flags.out).exists() and not Path(flags.out).is_dir():
        problems.append(f"--out {flags.out}: is not a folder")
    if flags.data not in (None, "movie") and flags.data_dir:
        problems.append(f"--data-dir: has no effect with --data {flags.data}; leave it out")
    if problems:
        raise FlagError("\n".join(problems))


def main(argv: list[str]) -> None:
    flags, resolved = parse_flags(EvalFlags, argv, __doc__, check=check_flags)
    config = read_config(Path(flags.run)) if flags.run else {"flags": {}}
    trained = {name: entry["value"] for name, entry in config["flags"].items()}
    chosen = {
        name: resolved.values[name] if resolved.sources[name] == "flag" else trained.get(name, fallback)
        for name, fallback in WITHOUT_RUN.items()
    }

    device = setup.pick_device(flags.device)
    data = setup.load_data(chosen["data"], chosen["data_dir"], chosen["model"], chosen["real_data"])
    if flags.run and not flags.data and data.source != config.get("data_source"):
        raise DataError(
            f"--run {flags.run}: was trained on {config.get('data_source')}, which is not here ({data.source} is); "
            "name the folder with --data-dir, or say --data to score it on something else"
        )
    model, tokenizer = setup.load_base(chosen["model"], chosen["precision"], device)
    if flags.run:
        adapter = read_adapter_config(Path(flags.run))
        add_lora(model, adapter["targets"], adapter["r"], adapter["alpha"], adapter["dropout"])
        load_adapter(model, Path(flags.run))

    split = setup.encode_split(getattr(data, flags.split), data, tokenizer, chosen["template"], chosen["max_len"], notice)
    scored = score_split(model, split, setup.answers_in_context(data, tokenizer, chosen["template"]), f"{data.name} {flags.split}")
    results = {
        "run": flags.run,
        "model": chosen["model"],
        "data": data.name,
        "data_source": data.source,
        "template": chosen["template"],
        "split": flags.split,
        **evaluate(scored),
        "rules": rules_without_learning(data.train, split.rows),
    }
    notice(score_table(results))
    if flags.out or flags.run:
        out = Path(flags.out) if flags.out else Path(flags.run) / f"eval-{data.name}-{flags.split}"
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "results.json", results)
        write_predictions(out / "predictions.csv", [row.target for row in split.rows], scored)
        notice(f"\nWritten to {out}: results.json, predictions.csv")
    if flags.json:
        print(json.dumps(results, allow_nan=False))


if __name__ == "__main__":
    run_verb(main)
