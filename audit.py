"""Take the loss of one pair apart, and compute every number a second time in another way.

    python audit.py --run runs/NAME --sample 3                 a finished run, row 3 of its test split
    python audit.py --run runs/NAME --sample 3 --html FILE     and as a page to keep or to show
    python audit.py --model DIR --data movie --sample 0        a base alone, under a fresh adapter

Prints both prompts token by token, each term of each answer token, the words that make up the KL, and
L with its gradients under every reading of Eq. 2, beside what the authors' code computes. The values
of loss.py are held against a float64 implementation below that shares no code with it, the gradients
against central differences of that. A disagreement beyond the stated tolerance is shown in red and
ends with exit status 1.

Shape letters: T tokens, V vocabulary.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from auditing.terms import (
    READINGS,
    Tail,
    Terms,
    answer_figures,
    gradients,
    lora_tensors,
    released_figures,
    row_figures,
    rows_of,
    terms_of,
)
from cli.data import data_problems, load_data
from cli.flags import Resolved, flag, parse_flags
from cli.model import RunDataFlags, model_problems
from cli.verb import run_verb
from data.pairs import EncodedPair
from data.splits import encode_split
from errors import DataError, FlagError, RunError, notice
from files import write_text
from lora.inject import add_lora
from machine import ranks
from model.demo import is_demo
from model.llama import Llama
from model.tokenizer import Tokenizer
from report.audit_page import audit_page
from report.audit_text import audit_text
from run.restore import resolve_settings, restore_model

# How far loss.py may be from the naive implementation, in nats plus relative to it. On float64 logits only the order of
# summation differs; on float32 ones PyTorch's log_softmax alone is off by some 1e-5 at a vocabulary of 32,000.
VALUE_FLOAT64, VALUE_FLOAT32 = (1e-9, 1e-9), (1e-4, 1e-5)
# Both float64; a central difference is off by some STEP^2, and by rounding over STEP: some 3e-14 nats of what a last layer
# and a sum over the vocabulary lose. Relative to the largest gradient entry of the tensor.
STEP, GRADIENT_ABSOLUTE, GRADIENT_RELATIVE = 3e-5, 1e-9, 1e-6
# What float32 rounding may do to the gradients that training sees; relative likewise. Where p and q are all but equal, so
# that the KL's gradient is a difference of nearly equal numbers, relative to this much of the CE's.
TRAINED_RELATIVE, OF_CE = 1e-3, 0.1
TERMS = ("ce_pos", "ce_neg", "kl_own", "kl_shared")  # per answer token
TENSORS = 4  # LoRA tensors whose largest entry is nudged


@dataclass(frozen=True)
class AuditFlags(RunDataFlags):
    """Pair and output."""

    split: str = flag("test", "which rows", choices=("train", "valid", "test"))
    sample: int = flag(0, "which row of the split, from 0", low=0)
    kl_weight: float = flag(None, "lambda of Eq. 3; default: the run's, or 1e-4", low=0)
    html: str = flag(None, "write the same as one page, without external resources")


def check_flags(flags: AuditFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that is missing or cannot be used."""
    problems = model_problems(flags) + data_problems(flags.data, resolved)
    if flags.html and (Path(flags.html).is_dir() or not Path(flags.html).absolute().parent.is_dir()):
        problems.append(f"--html {flags.html}: must name a file in a folder that exists")
    if problems:
        raise FlagError("\n".join(problems))


def main(argv: list[str]) -> None:
    flags, resolved = parse_flags(AuditFlags, argv, __doc__, check=check_flags)
    settings, config = resolve_settings(flags, resolved)
    data = load_data(vars(settings))
    rows = getattr(data, flags.split)
    if flags.sample >= len(rows):
        raise DataError(
            f"--sample {flags.sample}: the {flags.split} split has {len(rows):,} rows; choose 0 to {len(rows) - 1}"
        )
    row = rows[flags.sample]
    model, tokenizer = restore_model(flags, settings)
    adapter = flags.run or flags.adapter
    if not adapter:
        torch.manual_seed(0)
        add_lora(model)  # gradients have to be of something; B is zero, so no value changes
    pair = encode_split([row], data, tokenizer, settings.template, settings.max_len).pairs[0]
    kl_weight = flags.kl_weight
    if kl_weight is None:
        kl_weight = config["flags"].get("kl_weight", {"value": 1e-4})["value"]
    report = {
        "run": flags.run,
        "model": settings.model,
        "demo_model": is_demo(settings.model),
        "adapter": adapter,
        "data": data.name,
        "data_source": data.source,
        "template": settings.template,
        "precision": settings.precision,
        "base_dtype": settings.base_dtype,
        "split": flags.split,
        "sample": flags.sample,
        "user": row.user,
        "target": data.catalogue[row.target].title,
        "label": row.label,
        "kl_weight": kl_weight,
        **audit_pair(model.eval(), tokenizer, pair, kl_weight, settings.precision),
    }
    notice(audit_text(report, colour=sys.stderr.isatty()))
    if flags.html:
        write_text(Path(flags.html), audit_page(report))
        notice(f"\nWritten to {flags.html}")
    if flags.json:
        print(json.dumps(report, allow_nan=False))
    if not report["ok"]:
        raise SystemExit(1)


def audit_pair(model: Llama, tokenizer: Tokenizer, pair: EncodedPair, kl_weight: float, precision: str) -> dict:
    """Every figure about one pair; "ok" says whether all checks hold.

    The model is in evaluation mode, so LoRA's dropout is off. precision: of the base, bf16 or fp32.
    """
    model.model.checkpointed_layers = len(
        model.model.layers
    )  # one pair takes no time, and a 7B base most of the memory
    batch = rows_of(pair)
    logits = model(batch.input_ids.to(model.lm_head.weight.device)).float()  # (3, T, V)
    if not torch.isfinite(logits).all():
        raise RunError(f"logits of {pair.name} are not finite; the adapter or the base is damaged")
    notice("Computing every value and some gradients a second time, in Python floats ...")
    terms = terms_of(logits, batch)
    grads = gradients(terms, lora_tensors(model))
    terms, logits = terms.detached(), logits.detach()
    naive = naive_terms(pair, logits.double().cpu())
    logits64 = logits.double()
    terms64 = terms_of(logits64, batch)
    answers, released = answer_figures(tokenizer, pair, terms64, logits64), released_figures(tokenizer, pair, terms64)
    values = value_checks(terms, terms64, naive, kl_weight) + figure_checks(
        pair, logits64.cpu(), naive, answers, released
    )
    differences = gradient_checks(model, pair, grads, precision)
    return {
        "rows": row_figures(tokenizer, pair),
        "answer_tokens": answers,
        "released": released,
        "readings": {name: reading_figures(name, terms, naive, grads[name], kl_weight) for name in READINGS},
        "tolerance": {
            "float64": "{:g} nats + {:g} of the value".format(*VALUE_FLOAT64),
            "float32": "{:g} nats + {:g} of it".format(*VALUE_FLOAT32),
            "central_difference": f"{GRADIENT_ABSOLUTE:g} + {GRADIENT_RELATIVE:g} of the tensor's largest entry",
            "trained": f"{TRAINED_RELATIVE:g} of it, or of {OF_CE:g} of the largest of CE"
            if precision == "fp32"
            else "anything: bf16 can lose any share of terms that nearly cancel; --precision fp32 is judged",
        },
        "value_checks": values,
        "gradient_checks": differences,
        "ok": all(check["ok"] for check in values + differences),
    }


def reading_figures(
    name: str, terms: Terms, naive: dict, grads: dict[str, dict[str, Tensor]], kl_weight: float
) -> dict:
    """L of one reading and what it is made of, with the gradients over all LoRA parameters.

    cosine: between the gradients of CE and KL; where it is positive, pulling the answers apart and
    getting them right are at odds, since L subtracts the KL. None where a gradient is zero.
    """
    ce, kl = (torch.cat([grad.double().flatten() for grad in grads[term].values()]) for term in ("CE", "KL"))
    norms = float(ce.norm()), float(kl.norm())
    value, exact = float(terms.loss(name, kl_weight)), naive["CE"][name] - kl_weight * naive["KL"][name]
    return {
        "ce": float(terms.cross_entropy(name)),
        "kl": float(terms.divergence(name)),
        "weighted_kl": kl_weight * float(terms.divergence(name)),
        "loss": value,
        "loss_naive": exact,
        "grad_ce": norms[0],
        "grad_weighted_kl": kl_weight * norms[1],
        "cosine": float(ce @ kl) / (norms[0] * norms[1]) if all(norms) else None,
    }


# ---- the second implementation: Python floats, nested loops, nothing from loss.py -----------------


def naive_log_softmax(logits: list[float]) -> list[float]:
    largest = max(logits)
    total = 0.0
    for logit in logits:
        total += math.exp(logit - largest)
    return [logit - largest - math.log(total) for logit in logits]


def naive_contributions(log_a: list[float], log_b: list[float]) -> list[float]:
    """What each vocabulary entry adds to KL(a || b), nats."""
    found = []
    for a, b in zip(log_a, log_b):
        found.append(math.exp(a) * (a - b) if math.exp(a) > 0 else 0.0)
    return found


def naive_kl(log_a: list[float], log_b: list[float]) -> float:
    """KL(a || b) in nats."""
    return sum(naive_contributions(log_a, log_b))


def naive_terms(pair: EncodedPair, logits: Tensor, held: Tensor | None = None) -> dict:
    """Every term from the definitions in docs/method.md, in nats: lists over the answer's tokens, "CE" and "KL" by reading.

    logits: (3, T, V) of the rows (X+, Y+), (X-, Y-), (X-, Y+), float64 on the CPU; what stands at a token
    predicts the next one. held: (T, V), the negative row that `released` detaches; logits[1] if None.
    """
    positive, negative = pair.positive, pair.negative
    n_pos, n_neg = len(positive.prompt), len(negative.prompt)
    found: dict = {name: [] for name in TERMS}
    for t in range(len(positive.answer)):
        log_p = naive_log_softmax(logits[0, n_pos - 1 + t].tolist())
        found["ce_pos"].append(-log_p[positive.answer[t]])
        found["kl_shared"].append(naive_kl(log_p, naive_log_softmax(logits[2, n_neg - 1 + t].tolist())))
        if t < len(negative.answer):
            found["kl_own"].append(naive_kl(log_p, naive_log_softmax(logits[1, n_neg - 1 + t].tolist())))
    for t in range(len(negative.answer)):
        found["ce_neg"].append(-naive_log_softmax(logits[1, n_neg - 1 + t].tolist())[negative.answer[t]])
    ce = sum(found["ce_pos"]) + sum(found["ce_neg"])
    released_ce, found["kl_released"] = naive_released(pair, logits[0], logits[1] if held is None else held)
    released_kl = min(sum(found["kl_released"]), 10_000.0)
    found["CE"] = {"own": ce, "shared": ce, "first": ce, "released": released_ce}
    found["KL"] = {
        "own": sum(found["kl_own"]),
        "shared": sum(found["kl_shared"]),
        "first": found["kl_own"][0],
        "released": released_kl,
    }
    return found


def naive_released(pair: EncodedPair, logits_pos: Tensor, logits_neg: Tensor) -> tuple[float, list[float]]:
    """(CE, KL at every position) as the authors' code has them: all of the positive row, the negative one beside it, both
    ending together.
    """
    ids, longer = pair.positive.ids, len(pair.negative.ids) - len(pair.positive.ids)
    ce, kl = 0.0, []
    for column in range(len(ids)):
        log_p = naive_log_softmax(logits_pos[column].tolist())
        if column + 1 < len(ids):
            ce -= log_p[ids[column + 1]]
        kl.append(
            naive_kl(naive_log_softmax(logits_neg[column + longer].tolist()), log_p) if column + longer >= 0 else 0.0
        )
    return ce / (len(ids) - 1), kl


# ---- one held against the other -----------------------------------------------------------------


def value_checks(terms: Terms, terms64: Terms, naive: dict, kl_weight: float) -> list[dict]:
    """loss.py on float32 and on float64 logits against the above: each term of each answer token, and CE, KL and L of each reading."""
    ours, ours64 = named_values(terms, kl_weight), named_values(terms64, kl_weight)
    exact = {f"{name}, answer token {t + 1}": value for name in TERMS for t, value in enumerate(naive[name])}
    for name in READINGS:
        ce, kl = naive["CE"][name], naive["KL"][name]
        exact |= {f"CE, {name}": ce, f"KL, {name}": kl, f"L, {name}": ce - kl_weight * kl}
    return [
        {
            "what": what,
            "float32": ours[what],
            "float64": ours64[what],
            "naive": value,
            "ok": close(ours[what], value, *VALUE_FLOAT32) and close(ours64[what], value, *VALUE_FLOAT64),
        }
        for what, value in exact.items()
    ]


def figure_checks(pair: EncodedPair, logits: Tensor, naive: dict, answers: list[dict], released: dict) -> list[dict]:
    """What else the report shows, from float64 logits (3, T, V), against the above: log-probabilities, words, positions."""
    n_pos, n_neg, longer = (
        len(pair.positive.prompt),
        len(pair.negative.prompt),
        len(pair.negative.ids) - len(pair.positive.ids),
    )
    compared = []
    for t, row in enumerate(answers):
        places = ((0, n_pos - 1 + t), (1, n_neg - 1 + t), (2, n_neg - 1 + t), (1, n_pos - 1 + t + longer))
        log_p, own, shared, aligned = (naive_log_softmax(logits[place].tolist()) for place in places)
        y_pos, y_neg = pair.positive.answer[t], pair.negative.answer[t]
        exact = {
            "log_p_pos": log_p[y_pos],
            "log_q_pos_own": own[y_pos],
            "log_q_pos_shared": shared[y_pos],
            "log_q_neg": own[y_neg],
        }
        compared += [(f"{name}, answer token {t + 1}", row[name], value) for name, value in exact.items()]
        for name, (a, b) in {"own": (log_p, own), "shared": (log_p, shared), "released": (aligned, log_p)}.items():
            nats = naive_contributions(a, b)
            entries = row["top"][name]
            of_entries = [
                (e[key], by_hand)
                for e in entries
                for key, by_hand in (("a", math.exp(a[e["id"]])), ("b", math.exp(b[e["id"]])), ("nats", nats[e["id"]]))
            ]
            compared.append(
                (
                    f"words of {name}, answer token {t + 1}: the worst",
                    *max(of_entries, key=lambda both: abs(both[0] - both[1])),
                )
            )
            largest = sum(sorted((abs(x) for x in nats), reverse=True)[: len(entries)])
            compared.append(
                (f"words of {name}, answer token {t + 1}: sum", sum(abs(e["nats"]) for e in entries), largest)
            )
    start = 0
    for part in released["parts"]:
        compared.append(
            (f"released, {part['part']}", part["kl"], sum(naive["kl_released"][start : start + part["positions"]]))
        )
        start += part["positions"]
    compared.append(
        (
            "released, the worst position",
            *max(zip(released["kl"], naive["kl_released"]), key=lambda both: abs(both[0] - both[1])),
        )
    )
    return [
        {"what": what, "float32": None, "float64": value, "naive": exact, "ok": close(value, exact, *VALUE_FLOAT64)}
        for what, value, exact in compared
    ]


def named_values(terms: Terms, kl_weight: float) -> dict[str, float]:
    """What loss.py says, under the names that the checks use."""
    own, shared = terms.paper["own"], terms.paper["shared"]
    per_token = {"ce_pos": own.ce_pos, "ce_neg": own.ce_neg, "kl_own": own.kl, "kl_shared": shared.kl}  # (1, A) each
    found = {
        f"{name}, answer token {t + 1}": value
        for name, values in per_token.items()
        for t, value in enumerate(values[0].tolist())
    }
    for name in READINGS:
        found[f"CE, {name}"] = float(terms.cross_entropy(name))
        found[f"KL, {name}"] = float(terms.divergence(name))
        found[f"L, {name}"] = float(terms.loss(name, kl_weight))
    return found


def close(value: float, exact: float, absolute: float, relative: float = 0.0) -> bool:
    return abs(value - exact) <= absolute + relative * abs(exact)  # False for NaN


def gradient_checks(model: Llama, pair: EncodedPair, trained: dict, precision: str) -> list[dict]:
    """Autograd through loss.py against central differences of naive_terms, in float64, at the largest entry of a few tensors.

    trained: gradients() of the whole model in its own precision, held against the float64 ones more loosely.
    """
    batch = rows_of(pair)
    tail = Tail(model, batch.input_ids.to(model.lm_head.weight.device))
    logits = tail.logits()  # (3, T, V)
    held = logits[1].detach().cpu()
    exact = gradients(terms_of(logits, batch), tail.parameters)
    found = []
    for name in list(tail.parameters)[-TENSORS:]:
        index = int(exact["own"]["CE"][name].abs().argmax())
        above, below = (naive_terms(pair, tail.nudged(name, index, by).cpu(), held) for by in (STEP, -STEP))
        for term, reading in (
            ("CE", "own"),
            ("KL", "own"),
            ("KL", "shared"),
            ("KL", "first"),
            ("CE", "released"),
            ("KL", "released"),
        ):
            quotient = (above[term][reading] - below[term][reading]) / (2 * STEP)
            gradient, as_trained = (float(grads[reading][term][name].flatten()[index]) for grads in (exact, trained))
            largest = float(exact[reading][term][name].abs().max())
            scale = max(largest, OF_CE * float(exact["own"]["CE"][name].abs().max()))
            found.append(
                {
                    "entry": f"{name}[{index}]",
                    "what": f"{term}, {reading}",
                    "autograd": gradient,
                    "central_difference": quotient,
                    "trained": as_trained,
                    "ok": close(quotient, gradient, GRADIENT_ABSOLUTE + GRADIENT_RELATIVE * largest)
                    and (precision != "fp32" or close(as_trained, gradient, TRAINED_RELATIVE * scale)),
                }
            )
    return found


if __name__ == "__main__":
    run_verb(ranks.single_process(main))
