"""Every recommender without a language model, by the name that --method takes."""

from baselines import lightgcn, logreg, mf, rules
from baselines.base import Direct, Method, Option

METHODS: dict[str, Method | Direct] = {
    method.name: method for method in (mf.METHOD, lightgcn.METHOD, logreg.LOGREG, logreg.SHARE, *rules.METHODS)
}


def all_options() -> dict[str, Option]:
    """The options of all methods by name: a flag each, which the methods that have it share."""
    return {option.name: option for method in METHODS.values() for option in options_of(method)}


def options_of(method: Method | Direct) -> tuple[Option, ...]:
    """Those of one method; a Direct one has none."""
    return method.options if isinstance(method, Method) else ()
