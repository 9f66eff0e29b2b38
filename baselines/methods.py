"""Every recommender without a language model, by the name that --method takes."""

import math
from dataclasses import replace

from baselines import caser, dros, dros_bert, gru4rec, gru_bert, lightgcn, logreg, mf, rules, sasrec, sasrec_full
from baselines.base import Direct, Method, Option

METHODS: dict[str, Method | Direct] = {
    method.name: method
    for method in (
        *(mf.METHOD, lightgcn.METHOD, sasrec_full.METHOD),
        *(gru4rec.METHOD, caser.METHOD, sasrec.METHOD, dros.METHOD),
        *(gru_bert.METHOD, dros_bert.METHOD),
        *(logreg.LOGREG, logreg.SHARE, *rules.METHODS),
    )
}


def options_of(method: Method | Direct) -> tuple[Option, ...]:
    """Those of one method; a Direct one has none."""
    return method.options if isinstance(method, Method) else ()


def all_options() -> dict[str, Option]:
    """The options of all methods by name, each as one flag.

    It takes what any method that has the option takes; `problem_with` says whether a method takes a value. Where the
    methods explain it in different words, all of them are shown.
    """
    having: dict[str, list[tuple[str, Option]]] = {}
    for method in METHODS.values():
        for option in options_of(method):
            having.setdefault(option.name, []).append((method.name, option))
    return {name: _merged(found) for name, found in having.items()}


def _merged(found: list[tuple[str, Option]]) -> Option:
    options = [option for _, option in found]
    texts: dict[str, list[str]] = {}
    for method, option in found:
        texts.setdefault(option.help, []).append(method)
    words = [f"{', '.join(methods)}: {text}" for text, methods in texts.items()] if len(texts) > 1 else list(texts)
    lows, highs = [option.low for option in options], [option.high for option in options]
    return replace(
        options[0],
        help="; ".join(words),
        choices=tuple(dict.fromkeys(choice for option in options for choice in option.choices)),
        low=None if None in lows else min(lows),
        high=None if None in highs else max(highs),
    )


def problem_with(option: Option, value: object) -> str | None:
    """Why a method that has this option cannot take the value; None if it can."""
    wanted = type(option.default)
    if type(value) is not wanted and not (wanted is float and type(value) is int):
        return f"expected a value like {option.default}"
    if wanted is float and not math.isfinite(value):
        return "expected a finite number"
    if option.choices and value not in option.choices:
        return f"choose one of {', '.join(option.choices)}"
    if option.low is not None and value < option.low:
        return f"must be at least {option.low}"
    if option.high is not None and value > option.high:
        return f"must be at most {option.high}"
    return None
