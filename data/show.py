"""Look at a data set before spending time on it.

    python -m data.show --data book --sample 3                        three samples, then every split in figures
    python -m data.show --data ml-1m --model DIR --max-len 300        with another tokenizer; who would lose history
    python -m data.show --data path/to/mine --like-threshold 4 --plot mine.png

The one file of this folder that is a verb: it brings a tokenizer, the others are handed one.
"""

import json
from dataclasses import dataclass

from cli.data import DataFlags, data_problems, load_data
from cli.flags import Resolved, flag, parse_flags
from cli.verb import run_verb
from data.interactions import Dataset, select_shots
from data.leaks import leaks
from data.pairs import encode_pairs
from data.prompts import TEMPLATES, prompt_pair
from data.statistics import UNBOUNDED, describe_split
from errors import FlagError, notice
from report.data_table import draw_histograms, statistics_table
from run.base import base_tokenizer

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class ShowFlags(DataFlags):
    split: str = flag("train", "where the samples are from", choices=SPLITS)
    sample: int = flag(1, "samples to print", low=0)
    seed: int = flag(0, "draws the samples", low=0, high=2**32 - 1)
    template: str = flag("paper", "wording of the prompts", choices=TEMPLATES)
    model: str = flag("demo", "whose tokenizer counts: a folder with a tokenizer, or demo")
    max_len: int = flag(512, "tokens; how many prompts are longer is counted", low=8)
    rows: int = flag(20_000, "rows of a split whose tokens are counted, at most", low=1)
    plot: str = flag(None, "picture file for the histograms: .png, .pdf or .svg")
    json: bool = flag(False, "print the figures as one JSON line on standard output, and nothing else there")


def check_flags(flags: ShowFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that has no effect or cannot be."""
    problems = data_problems(flags.data, resolved)
    if flags.plot and not flags.plot.endswith((".png", ".pdf", ".svg")):
        problems.append(f"--plot {flags.plot}: choose a name that ends in .png, .pdf or .svg")
    if problems:
        raise FlagError("\n".join(problems))


def show_samples(data: Dataset, flags: ShowFlags, tokenizer) -> str:
    """The drawn samples: what is known of the row, both prompts, and their tokens."""
    rows = select_shots(getattr(data, flags.split), flags.sample, flags.seed) if flags.sample else []
    pairs, _ = encode_pairs(rows, data, tokenizer, flags.template, UNBOUNDED)
    text = []
    for number, (row, pair) in enumerate(zip(rows, pairs), start=1):
        words = prompt_pair(row, data.catalogue, data.noun, flags.template, wording=data.wording)
        likes = sum(liked for _, liked in row.history)
        history = f"{likes} liked and {len(row.history) - likes} disliked before"
        text.append(
            f"==== {flags.split} sample {number} of {len(rows)}: user {row.user}, target {row.target}, {'liked' if row.label else 'disliked'}; {history}"
        )
        for side, prompt, answer, ids in (
            ("positive", words.positive, words.answer_positive, pair.positive),
            ("negative", words.negative, words.answer_negative, pair.negative),
        ):
            text.append(
                f"---- {side}: {len(ids.prompt)} tokens, answer {answer!r} as {list(ids.answer)} with EOS\n{prompt}"
            )
    return "\n".join(text)


def main(argv: list[str]) -> None:
    flags, _ = parse_flags(ShowFlags, argv, __doc__, check=check_flags)
    tokenizer = base_tokenizer(flags.model)
    data = load_data(vars(flags))
    samples = show_samples(data, flags, tokenizer)
    splits = {
        split: describe_split(data, split, tokenizer, flags.template, flags.max_len, flags.rows) for split in SPLITS
    }
    found = {
        "data": data.name,
        "data_source": data.source,
        "noun": data.noun,
        "wording": data.wording,
        "template": flags.template,
    }
    found |= {"tokenizer": flags.model, "selection": len(data.selection_rows()), "leaks": leaks(data), "splits": splits}
    if flags.json:
        print(json.dumps(found))
    else:
        print(samples, statistics_table(found), sep="\n\n")
    if flags.plot:
        draw_histograms(flags.plot, found)
        notice(f"Histograms written to {flags.plot}")


if __name__ == "__main__":
    run_verb(main)
