"""The two implementations compared: values of loss.py with nested loops, gradients with central differences.

Shape letters: T tokens, V vocabulary.
"""

import math
from collections.abc import Iterator

from torch import Tensor

from auditing.naive import TERMS, naive_contributions, naive_log_softmax, naive_terms
from auditing.naive_contrasts import with_contrast
from auditing.tail import Tail, Whole
from auditing.terms import READINGS, Contrast, MainLoss, Terms, gradients, rows_of, sign, terms_of
from data.pairs import EncodedPair
from model.llama import Llama
from model.soft_tokens import vectors_of

# How far loss.py may be from the naive implementation: (nats, relative to the value). With float64 logits only the
# order of summation differs. With float32 logits, PyTorch's log_softmax alone is off by about 1e-5 at a vocabulary
# of 32,000.
VALUE_FLOAT64, VALUE_FLOAT32 = (1e-9, 1e-9), (1e-4, 1e-5)
# Both sides are float64. A central difference is off by about STEP^2, and by rounding over STEP: about 3e-14 nats are
# lost in the last layer and in a sum over the vocabulary. Relative to the largest gradient entry of the tensor.
STEP, GRADIENT_ABSOLUTE, GRADIENT_RELATIVE = 3e-5, 1e-9, 1e-6
# What float32 rounding may do to the gradients of training, relative to the tensor's largest entry. Where p and q are
# almost equal, the gradient of the KL is a difference of nearly equal numbers; the bound is then relative to OF_CE
# times the largest of the CE. The demo after 5 steps, whose B is small, has differences of 6e-4 and 1e-4 of the CE's
# largest, for the CE and the KL.
TRAINED_RELATIVE, OF_CE = 2e-3, 0.25
LARGEST_COPY = 2 * 10**8  # parameters of a model of which Whole makes a copy, 8 bytes each
CHECKED_TENSORS = 4  # trainable tensors whose largest gradient entry is checked
CHECKED_TERMS = (
    ("CE", "own"),
    ("KL", "own"),
    ("KL", "shared"),
    ("KL", "first"),
    ("CE", "released"),
    ("KL", "released"),
)


def tolerances(precision: str) -> dict[str, str]:
    """The allowed differences in words, for the report. precision: of the base, bf16 or fp32."""
    return {
        "float64": "{:g} nats + {:g} of the value".format(*VALUE_FLOAT64),
        "float32": "{:g} nats + {:g} of it".format(*VALUE_FLOAT32),
        "central_difference": f"{GRADIENT_ABSOLUTE:g} + {GRADIENT_RELATIVE:g} of the tensor's largest entry",
        "trained": f"{TRAINED_RELATIVE:g} of the tensor's largest entry, or {TRAINED_RELATIVE * OF_CE:g} of that of CE"
        if precision == "fp32"
        else "anything: bf16 can lose any share of terms that nearly cancel; --precision fp32 is judged",
    }


def close(value: float, exact: float, absolute: float, relative: float = 0.0) -> bool:
    """Whether the two agree; NaN agrees with nothing."""
    return bool(abs(value - exact) <= absolute + relative * abs(exact))


def named(term: str, reading: str) -> str:
    """What a check calls the CE, or the KL or the term in its place."""
    return f"{term}, {reading}" if sign(reading) < 0 or term != "KL" else f"term of {reading}"


# ---- values -------------------------------------------------------------------------------------


def value_checks(terms: Terms, terms64: Terms, naive: dict, kl_weight: float) -> list[dict]:
    """Each term of each answer token, and CE, KL and L of each reading, compared with naive_terms.

    terms, terms64: by loss.py from the logits of the model and from the same logits in float64.
    """
    ours, ours64 = named_values(terms, kl_weight), named_values(terms64, kl_weight)
    exact = {f"{name}, answer token {t + 1}": value for name in TERMS for t, value in enumerate(naive[name])}
    for name in (*READINGS, *terms.contrast):
        ce, kl = naive["CE"][name], naive["KL"][name]
        exact |= {f"CE, {name}": ce, named("KL", name): kl, f"L, {name}": ce + sign(name) * kl_weight * kl}
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


def named_values(terms: Terms, kl_weight: float) -> dict[str, float]:
    """The values of loss.py under the names that value_checks uses."""
    own, shared = terms.paper["own"], terms.paper["shared"]
    per_token = {"ce_pos": own.ce_pos, "ce_neg": own.ce_neg, "kl_own": own.kl, "kl_shared": shared.kl}  # (1, A) each
    values = {
        f"{name}, answer token {t + 1}": value
        for name, tensor in per_token.items()
        for t, value in enumerate(tensor[0].tolist())
    }
    for name in (*READINGS, *terms.contrast):
        values[f"CE, {name}"] = float(terms.cross_entropy(name))
        values[named("KL", name)] = float(terms.divergence(name))
        values[f"L, {name}"] = float(terms.loss(name, kl_weight))
    return values


# ---- the other figures of the report ------------------------------------------------------------


def figure_checks(pair: EncodedPair, logits: Tensor, naive: dict, answers: list[dict], released: dict) -> list[dict]:
    """The other figures of the report, compared with the naive functions: log-probabilities, top entries, positions.

    logits: (3, T, V), float64 on the CPU; answers, released: of answer_figures and released_figures, from these.
    """
    compared = [
        *(values for t, row in enumerate(answers) for values in _answer_values(pair, logits, t, row)),
        *_released_values(naive, released),
    ]
    return [
        {"what": what, "float32": None, "float64": value, "naive": exact, "ok": close(value, exact, *VALUE_FLOAT64)}
        for what, value, exact in compared
    ]


def _answer_values(pair: EncodedPair, logits: Tensor, t: int, row: dict) -> Iterator[tuple[str, float, float]]:
    """(name, value shown, value computed here) for everything that answer_figures shows of answer token t, from 0."""
    n_pos, n_neg = len(pair.positive.prompt), len(pair.negative.prompt)
    longer = len(pair.negative.ids) - len(pair.positive.ids)
    places = ((0, n_pos - 1 + t), (1, n_neg - 1 + t), (2, n_neg - 1 + t), (1, n_pos - 1 + t + longer))
    log_p, own, shared, aligned = (naive_log_softmax(logits[place].tolist()) for place in places)
    y_pos, y_neg = pair.positive.answer[t], pair.negative.answer[t]
    log_probabilities = {
        "log_p_pos": log_p[y_pos],
        "log_q_pos_own": own[y_pos],
        "log_q_pos_shared": shared[y_pos],
        "log_q_neg": own[y_neg],
    }
    for name, value in log_probabilities.items():
        yield f"{name}, answer token {t + 1}", row[name], value
    for name, (a, b) in {"own": (log_p, own), "shared": (log_p, shared), "released": (aligned, log_p)}.items():
        nats = naive_contributions(a, b)
        entries = row["top"][name]
        pairs_of_values = []
        for entry in entries:
            v = entry["id"]
            computed = {"a": math.exp(a[v]), "b": math.exp(b[v]), "nats": nats[v]}
            pairs_of_values += [(entry[key], value) for key, value in computed.items()]
        yield f"words of {name}, answer token {t + 1}: the worst", *_worst(pairs_of_values)
        largest = sorted((abs(x) for x in nats), reverse=True)[: len(entries)]
        shown = sum(abs(entry["nats"]) for entry in entries)
        yield f"words of {name}, answer token {t + 1}: sum", shown, sum(largest)


def _released_values(naive: dict, released: dict) -> Iterator[tuple[str, float, float]]:
    """(name, value shown, value computed here) for everything that released_figures shows."""
    start = 0
    for part in released["parts"]:
        end = start + part["positions"]
        yield f"released, {part['part']}", part["kl"], sum(naive["kl_released"][start:end])
        start = end
    yield "released, the worst position", *_worst(list(zip(released["kl"], naive["kl_released"])))


def _worst(pairs_of_values: list[tuple[float, float]]) -> tuple[float, float]:
    """The two values that differ most."""
    return max(pairs_of_values, key=lambda both: abs(both[0] - both[1]))


# ---- gradients ----------------------------------------------------------------------------------


def gradient_checks(
    model: Llama, pair: EncodedPair, trained: dict, precision: str, contrast: Contrast | MainLoss | None = None
) -> list[dict]:
    """Autograd through loss.py compared with central differences of naive_terms, at the largest entry of a few tensors.

    Both are float64. trained: gradients() of the whole model in its own precision, compared with those of
    float64 less strictly, and not at all if precision is bf16. contrast: what the run was trained with. Vectors in the
    prompt are checked too, where a float64 copy of the whole model is small.
    """
    input_ids = rows_of(pair).input_ids.to(model.lm_head.weight.device)
    checks = _gradient_checks(Tail(model, input_ids), pair, trained, precision, contrast)
    if vectors_of(model) is not None and sum(p.numel() for p in model.parameters()) <= LARGEST_COPY:
        checks += _gradient_checks(Whole(model, input_ids), pair, trained, precision, contrast)
    return checks


def _of_training(contrast: Contrast | MainLoss | None) -> list[tuple[str, str]]:
    """The terms of what the run was trained with; CE is another one with CoLLM's loss alone."""
    if contrast is None:
        return []
    return [(term, contrast.name) for term in (("CE", "KL") if isinstance(contrast, MainLoss) else ("KL",))]


def _gradient_checks(
    tail: Tail, pair: EncodedPair, trained: dict, precision: str, contrast: Contrast | MainLoss | None
) -> list[dict]:
    """Those of the parameters of a float64 copy of the model or of its end."""
    batch = rows_of(pair)
    logits = tail.logits()  # (3, T, V)
    detached = logits[1].detach().cpu()
    exact = gradients(terms_of(logits, batch, contrast), tail.parameters)
    checks = []
    for name in list(tail.parameters)[-CHECKED_TENSORS:]:
        sizes_of_ce = exact["own"]["CE"][name].abs()
        index = int(sizes_of_ce.argmax())
        above, below = (
            with_contrast(naive_terms(pair, tail.nudged(name, index, by).cpu(), detached), pair, contrast)
            for by in (STEP, -STEP)
        )
        for term, reading in (*CHECKED_TERMS, *_of_training(contrast)):
            quotient = (above[term][reading] - below[term][reading]) / (2 * STEP)
            gradient, as_trained = (float(grads[reading][term][name].flatten()[index]) for grads in (exact, trained))
            largest = float(exact[reading][term][name].abs().max())
            allowed_trained = TRAINED_RELATIVE * max(largest, OF_CE * float(sizes_of_ce.max()))
            checks.append(
                {
                    "entry": f"{name}[{index}]",
                    "what": named(term, reading),
                    "autograd": gradient,
                    "central_difference": quotient,
                    "trained": as_trained,
                    "ok": close(quotient, gradient, GRADIENT_ABSOLUTE + GRADIENT_RELATIVE * largest)
                    and (precision != "fp32" or close(as_trained, gradient, allowed_trained)),
                }
            )
    return checks
