"""Few-shot figures over seeds: `python -m bench.shots --data demo --shots 16,64,256 --seeds 5 --out DIR`.

Trains once for each objective, number of shots and seed, and prints a Markdown table of test figures: mean and
standard deviation over the seeds. The result of each run is written to --out; a run whose result is there is not
repeated.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import train

VARIANTS = {
    "lcft": [],
    "control": ["--kl-weight", "0"],
    "tallrec": ["--objective", "tallrec"],
    "released": ["--objective", "released"],
}
COLUMNS = (
    ("auc", "AUC"),
    ("uauc", "UAUC"),
    ("auc_combined", "AUC of both"),
    ("contradiction_rate", "contradiction"),
    ("group_accuracy", "both right"),
)


def run_once(data: list[str], variant: str, shots: str, seed: int, folder: Path) -> dict:
    """results.json of one training run, from `folder` if it has been written before."""
    path = folder / f"{variant}-{shots}-{seed}.json"
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()) as output:
            flags = ["--shots", shots, "--seed", str(seed), "--out", f"{scratch}/run", "--json"]
            train.main([*data, *flags, *VARIANTS[variant]])
        path.write_text(output.getvalue())
    return json.loads(path.read_text())


def table_row(label: str, runs: list[dict]) -> str:
    """One Markdown row: mean ± standard deviation over the runs."""
    cells = []
    for name, _ in COLUMNS:
        values = [run[name] for run in runs if run.get(name) is not None]
        cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "-")
    return f"| {label} | {' | '.join(cells)} |"


def constant_rows(split: dict) -> list[str]:
    """A Markdown row for each answer that is the same whoever is asked. split: of results.json."""
    return [
        f"| {label} | | | | {values['contradiction_rate']:.3f} | {values['group_accuracy']:.3f} |"
        for label, values in split["constants"].items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="demo", help="as for train.py")
    parser.add_argument("--data-dir", help="as for train.py")
    parser.add_argument("--shots", default="16,64,256")
    parser.add_argument("--variants", default="lcft", help=",".join(VARIANTS))
    parser.add_argument("--lora-dropout", help="for every run, in place of that of its objective")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results of single runs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = ["--data", args.data] + (["--data-dir", args.data_dir] if args.data_dir else [])
    data += ["--lora-dropout", args.lora_dropout] if args.lora_dropout else []

    rows = []
    for variant in args.variants.split(","):
        for shots in args.shots.split(","):
            results = [run_once(data, variant, shots, seed, args.out) for seed in range(args.seeds)]
            if not rows:
                first = results[0]
                print(f"Data: {first['data_source']}; base: {first['model']}; {args.seeds} seeds, test split\n")
                rows.append(table_row("untuned base", [results[0]["test"]["before"]]))
            rows.append(table_row(f"{variant}, {shots} shots", [result["test"]["after"] for result in results]))
            print(rows[-1], file=sys.stderr, flush=True)
    print(f"| | {' | '.join(label for _, label in COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    print("\n".join([*rows, *constant_rows(first["test"])]))


if __name__ == "__main__":
    main()
