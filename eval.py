"""Score a finished run, or an untuned base, on a split.

    python eval.py --run runs/NAME                     the test split of the data the run was trained on
    python eval.py --run runs/NAME --split valid --json
    python eval.py --run runs/NAME --data movie        another data set, or the real one
    python eval.py --model DIR --data movie            the base alone, without any adapter
    python eval.py --model DIR --adapter DIR           the base with an adapter of PEFT's
    python eval.py --run runs/NAME --negations         asked in words that training never used
    python eval.py --run runs/NAME --merge-out DIR     and write base and adapter as one plain checkpoint

One forward pass per prompt: the logits of "Yes" and "No" are read at the prompt's last token.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from cli.data import data_problems, load_data
from cli.flags import Resolved, flag, parse_flags
from cli.model import RunDataFlags, model_problems
from cli.verb import run_verb
from data.splits import Split, answers_in_context, encode_split
from errors import DataError, FlagError, notice
from files import write_json
from machine import ranks
from metrics import evaluate
from model.demo import is_demo, model_folder
from report.tables import score_table, wording_table
from run.merge import refuse_merging_twice, refuse_unusable_output, write_merged
from run.predictions import write_predictions
from run.restore import resolve_settings, restore_model
from scoring.splits import rules_without_learning, score_split, score_wordings


@dataclass(frozen=True)
class EvalFlags(RunDataFlags):
    split: str = flag("test", "which rows", choices=("test", "valid"))
    negations: bool = flag(False, "ask in words that training never used, too: negations, and paraphrases as a control")
    merge_out: str = flag(None, "folder for a plain checkpoint with the adapter merged into the base")
    out: str = flag(
        None, "folder for results.json and predictions.csv; default: RUN/eval-DATA-SPLIT; a base alone only prints"
    )


def check_flags(flags: EvalFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that is missing, unused or would overwrite something."""
    problems = model_problems(flags) + data_problems(flags.data, resolved)
    if flags.out and (Path(flags.out) / "config.json").exists():
        problems.append(f"--out {flags.out}: is a run folder, whose results.json this would replace; choose another")
    if flags.out and Path(flags.out).exists() and not Path(flags.out).is_dir():
        problems.append(f"--out {flags.out}: is not a folder")
    if flags.merge_out and not flags.run and not flags.adapter:
        problems.append("--merge-out: there is no adapter to merge; say which with --run or --adapter")
    if problems:
        raise FlagError("\n".join(problems))


def main(argv: list[str]) -> None:
    flags, resolved = parse_flags(EvalFlags, argv, __doc__, check=check_flags)
    chosen, config = resolve_settings(flags, resolved)
    if flags.merge_out:
        refuse_unusable_output(Path(flags.merge_out), "--merge-out")
        refuse_merging_twice(model_folder(chosen["model"]), Path(flags.run or flags.adapter))
    data = load_data(chosen)
    if flags.run and not flags.data and data.source != config.get("data_source"):
        raise DataError(
            f"--run {flags.run}: was trained on {config.get('data_source')}, which is not here ({data.source} is); "
            "name the folder with --data-dir, or say --data to score it on something else"
        )
    model, tokenizer = restore_model(flags, chosen)
    answers = answers_in_context(data, tokenizer, chosen["template"])
    rows = getattr(data, flags.split)

    def encoded(question: str | None = None) -> Split:
        return encode_split(rows, data, tokenizer, chosen["template"], chosen["max_len"], question=question)

    split = encoded()
    scored = score_split(model, split, answers, f"{data.name} {flags.split}")
    results = {
        "run": flags.run,
        "model": chosen["model"],
        "demo_model": is_demo(chosen["model"]),
        "adapter": flags.adapter,
        "data": data.name,
        "data_source": data.source,
        "template": chosen["template"],
        "split": flags.split,
        **evaluate(scored),
        "rules": rules_without_learning(data.train, split.rows),
    }
    notice(score_table(results))
    if flags.negations:
        results["negations"] = score_wordings(model, scored, encoded, answers, data.wording)
        notice(wording_table(results["negations"]))
    if not ranks.is_first():
        return
    if flags.out or flags.run:
        out = Path(flags.out) if flags.out else Path(flags.run) / f"eval-{data.name}-{flags.split}"
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "results.json", results)
        write_predictions(out / "predictions.csv", [row.target for row in split.rows], scored)
        notice(f"\nWritten to {out}: results.json, predictions.csv")
    if flags.merge_out:
        write_merged(model_folder(chosen["model"]), model, Path(flags.run or flags.adapter), Path(flags.merge_out))
        notice(f"Merged checkpoint written to {flags.merge_out}")
    if flags.json:
        print(json.dumps(results, allow_nan=False))


if __name__ == "__main__":
    run_verb(ranks.distributed(main))
