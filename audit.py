"""Take the loss of one pair apart, and compute every number a second time in another way.

    python audit.py --run runs/NAME --sample 3                 a finished run, row 3 of its test split
    python audit.py --run runs/NAME --sample 3 --html FILE     the same, and as an HTML page
    python audit.py --model DIR --data movie --sample 0        a base model with a fresh adapter

Prints both prompts token by token, each term of each answer token, the vocabulary entries that make up
the KL, and L with its gradients under every reading of Eq. 2, next to what the authors' published code
computes. The values of loss.py are compared with a float64 implementation that shares no code with it
(auditing/naive.py), the gradients with central differences of that implementation. A disagreement beyond
the stated tolerance is shown in red, and the command ends with exit status 1.
"""

import installed  # noqa: F401

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from auditing.checks import figure_checks, gradient_checks, tolerances, value_checks
from auditing.figures import answer_figures, contrast_figures, reading_figures, released_figures, row_figures
from auditing.naive import naive_terms
from auditing.naive_contrasts import with_contrast
from auditing.terms import MAIN_LOSSES, Contrast, MainLoss, gradients, readings, rows_of, terms_of
from auditing.vectors import NamedVectors, vector_checks
from cli.data import data_problems, load_data
from cli.flags import Resolved, flag, parse_flags
from cli.model import RunDataFlags, model_problems
from cli.train import TrainFlags
from cli.verb import run_verb
from data.pairs import EncodedPair
from data.splits import encode_split
from errors import DataError, FlagError, RunError, answer, notice
from files import write_text
from lora.inject import add_lora
from loss import CONTRASTS
from machine import ranks
from machine.bar import at_work
from model.demo import base_in_results
from model.llama import Llama
from model.soft_tokens import vectors_of
from objectives.by_name import flags_of, make_objective
from protocols import Tokenizer
from report.audit_page import LONGEST_STYLE, PAGE_HEADING, audit_page
from report.audit_text import audit_text
from run.restore import refuse_other_data, resolve_settings, restore_model
from run.vectors import restore_vectors
from run.wording import in_words_of
from tensors import trainable_parameters


@dataclass(frozen=True)
class AuditFlags(RunDataFlags):
    """Pair and output."""

    split: str = flag("test", "which rows", choices=("train", "valid", "test"))
    sample: int = flag(0, "which row of the split, from 0", low=0)
    kl_weight: float = flag(None, "lambda; default: the run's, or 1e-4", low=0)
    html: str = flag(None, "also write the report as one HTML page, without external resources", metavar="FILE")


def check_flags(flags: AuditFlags, resolved: Resolved) -> None:
    """Raises FlagError with one line for every flag that is missing or cannot be used."""
    problems = model_problems(flags) + data_problems(flags.data, resolved)
    if flags.html and (Path(flags.html).is_dir() or not Path(flags.html).absolute().parent.is_dir()):
        problems.append(f"--html {flags.html}: must name a file in a folder that exists")
    elif flags.html and not is_replaceable(Path(flags.html)):
        problems.append(
            f"--html {flags.html}: is there and is no page of audit.py; choose another name, such as a.html"
        )
    if problems:
        raise FlagError("\n".join(problems))


def is_replaceable(path: Path) -> bool:
    """Whether nothing is lost by writing a page there: there is nothing, or a page of this program."""
    if not os.path.lexists(path):
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return PAGE_HEADING.encode() in file.read(LONGEST_STYLE)


def main(argv: list[str]) -> None:
    """Audit one row and report it; raises SystemExit(1) if a check disagrees."""
    flags, resolved = parse_flags(AuditFlags, argv, __doc__, check=check_flags)
    settings, config = resolve_settings(flags, resolved)
    data = in_words_of(load_data(vars(settings)), settings.wordings_file, config)
    refuse_other_data(flags, resolved, data, config)
    rows = getattr(data, flags.split)
    if flags.sample >= len(rows):
        raise DataError(
            f"--sample {flags.sample}: the {flags.split} split has {len(rows):,} rows; choose 0 to {len(rows) - 1}"
        )
    row, folder = rows[flags.sample], Path(flags.run or "")
    model, tokenizer = restore_model(flags, settings)
    data = restore_vectors(model, data, [row], folder)
    adapter = flags.run or flags.adapter
    if not adapter:
        torch.manual_seed(0)
        add_lora(model)  # gradients need trainable tensors; B is zero, so no value changes
    pair = encode_split([row], data, tokenizer, settings.template, settings.max_len).pairs[0]
    ids = data.vectors(row) if data.vectors else {}
    if ids:  # gradients are taken of the vectors, too
        vectors_of(model).requires_grad_(True)
        tokenizer = NamedVectors(tokenizer, {number: placeholder for placeholder, number in ids.items()})
    kl_weight = lambda_of(flags, config)
    with at_work("computing every value a second time"):
        trained = main_loss(settings, pair) or trained_contrast(config)
        figures = audit_pair(model.eval(), tokenizer, pair, kl_weight, settings.precision, trained)
        of_vectors = vector_checks(model, row, ids, folder)
    figures["value_checks"] += of_vectors
    figures["ok"] = figures["ok"] and all(check["ok"] for check in of_vectors)
    report = {
        "run": flags.run,
        **base_in_results(settings.model),
        "adapter": adapter,
        "data": data.name,
        "data_source": data.source,
        **{name: getattr(settings, name) for name in ("template", "precision", "base_dtype")},
        "split": flags.split,
        "sample": flags.sample,
        "user": row.user,
        "target": data.catalogue[row.target].title,
        "label": row.label,
        "kl_weight": kl_weight,
        "trained": trained_flags(config),
        "vectors": list(ids),
        **figures,
    }
    show(report, flags)
    if not report["ok"]:
        raise SystemExit(1)


def lambda_of(flags: AuditFlags, config: dict) -> float:
    """The weight of the KL: of the flag, or of the run, or train.py's default."""
    if flags.kl_weight is not None:
        return flags.kl_weight
    return config["flags"].get("kl_weight", {"value": 1e-4})["value"]


def show(report: dict, flags: AuditFlags) -> None:
    """The text, with --html a page, with --json one line on standard output and the text on standard error."""
    stream = sys.stderr if flags.json else sys.stdout
    answer(audit_text(report, colour=stream.isatty()), aside=flags.json)
    if flags.html:
        write_text(Path(flags.html), audit_page(report))
        notice(f"\nWritten to {flags.html}")
    if flags.json:
        print(json.dumps(report, allow_nan=False))


def main_loss(settings: TrainFlags, pair: EncodedPair) -> MainLoss | None:
    """CoLLM's loss as the run was trained with it, if it was. settings: of the run."""
    if settings.objective not in MAIN_LOSSES:
        return None
    kind = settings.main_loss if "main_loss" in flags_of(settings.objective) else "bce-yes"
    return MainLoss(settings.objective, kind, make_objective(vars(settings)).rows_per_pair, pair.liked)


def trained_contrast(config: dict) -> Contrast | None:
    """The term in the place of the KL that the run was trained with, if there is one. config: the run's config.json."""
    flags = {name: entry["value"] for name, entry in config["flags"].items()}
    return Contrast(flags["objective"], flags["kl_cap"] or 0.0) if flags.get("objective") in CONTRASTS else None


def trained_flags(config: dict) -> dict | None:
    """The flags that say which loss the run was trained with; None without a run. config: the run's config.json."""
    names = ("objective", "kl_forcing", "kl_tokens", "kl_cap", "train_on_prompt")
    flags = {name: config["flags"][name]["value"] for name in names if name in config["flags"]}
    return flags if "objective" in flags else None


def audit_pair(
    model: Llama,
    tokenizer: Tokenizer,
    pair: EncodedPair,
    kl_weight: float,
    precision: str,
    contrast: Contrast | MainLoss | None = None,
) -> dict:
    """Every figure about one pair; "ok" says whether all checks agree.

    model: in evaluation mode, so that LoRA's dropout is off. precision: of the base, bf16 or fp32. contrast: the term
    or the loss that the run was trained with, if it is none of Eq. 2 and the published code.
    Raises RunError if a logit is not finite.
    """
    # Recompute every layer: time does not matter for one pair, and a 7B base takes most of the memory.
    model.model.checkpointed_layers = len(model.model.layers)
    batch = rows_of(pair)
    logits = model(batch.input_ids.to(model.lm_head.weight.device)).float()  # (3 rows, tokens, vocabulary)
    if not torch.isfinite(logits).all():
        raise RunError(f"logits of {pair.name} are not finite; the adapter or the base is damaged")
    notice("Computing every value and some gradients a second time, in another way ...")
    terms = terms_of(logits, batch, contrast)
    grads = gradients(terms, trainable_parameters(model))
    terms, logits64 = terms.detached(), logits.detach().double()
    naive = with_contrast(naive_terms(pair, logits64.cpu()), pair, contrast)
    terms64 = terms_of(logits64, batch, contrast)
    answers = answer_figures(tokenizer, pair, terms64, logits64)
    released = released_figures(tokenizer, pair, terms64)
    values = value_checks(terms, terms64, naive, kl_weight)
    values += figure_checks(pair, logits64.cpu(), naive, answers, released)
    differences = gradient_checks(model, pair, grads, precision, contrast)
    return {
        "rows": row_figures(tokenizer, pair),
        "answer_tokens": answers,
        "released": released,
        "contrast": contrast_figures(pair, contrast, terms, logits64),
        "readings": {name: reading_figures(name, terms, naive, grads[name], kl_weight) for name in readings(contrast)},
        "tolerance": tolerances(precision),
        "value_checks": values,
        "gradient_checks": differences,
        "ok": all(check["ok"] for check in values + differences),
    }


if __name__ == "__main__":
    run_verb(ranks.single_process(main))
