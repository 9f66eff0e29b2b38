"""The objectives by the names that --objective takes. To add one: CONTRIBUTING.md."""

from collections.abc import Mapping
from dataclasses import fields

from objectives.base import TERMS, Objective
from objectives.collm import CoLLM, LCFTCoLMF
from objectives.contrasts import CONTRAST_OBJECTIVES
from objectives.paper import Paper
from objectives.released import Released
from objectives.tallrec import TALLRec

OBJECTIVES: dict[str, type[Objective]] = {
    "paper": Paper,
    "released": Released,
    "tallrec": TALLRec,
    "collm": CoLLM,
    "lcft-colmf": LCFTCoLMF,
    **CONTRAST_OBJECTIVES,
}


def make_objective(flags: Mapping) -> Objective:
    """The objective that flags["objective"] names, with its fields from the flags of the same names."""
    objective = OBJECTIVES[flags["objective"]]
    return objective(**{name: flags[name] for name in flags_of(flags["objective"])})


def own_terms(name: str) -> tuple[str, ...]:
    """The recorded terms of an objective beside both cross-entropies: those that it alone has, else the KL."""
    return tuple(term for term in OBJECTIVES[name].terms if term not in TERMS) or ("kl",)


def flags_of(name: str) -> tuple[str, ...]:
    """The flags that this objective uses."""
    return tuple(field.name for field in fields(OBJECTIVES[name]))
