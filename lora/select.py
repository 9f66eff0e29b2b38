"""Which linear layers LoRA wraps, and r and alpha of each, by the rules of PEFT's adapter_config.json."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field

from errors import AdapterError, quoted

CONFIG = "adapter_config.json"
ALL_LINEAR = "all-linear"
LONGEST_PATTERN, LARGEST_RANK = 2000, 2**16
NOT_WRAPPED = ["lm_head", "model.embed_tokens"]
SECONDS = 5  # for matching; an honest expression takes milliseconds
MATCH = (
    "import json,re,sys;patterns,names=json.load(sys.stdin);"
    "print(json.dumps([[n for n in names if re.fullmatch(p,n)] for p in patterns]))"
)


@dataclass(frozen=True)
class Selection:
    """The fields of adapter_config.json that choose layers. Names are those of modules, as in the base model.

    names: leaf names or ends of paths; or one string: a regular expression for the whole name, or "all-linear".
    exclude: the same, for layers left out; layers: numbers of the decoder layers, None for all; layers_pattern: what
    stands before the number; ranks, alphas: {regular expression for the end of the name: r or alpha of these layers}.
    """

    names: tuple[str, ...] | str
    exclude: tuple[str, ...] | str = ()
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)

    def choose(self, modules: list[str], r: int, alpha: float) -> dict[str, tuple[int, float]]:
        """{name: (r, alpha)} of the chosen ones of these modules, in their order.

        r, alpha: where no pattern says otherwise. Raises AdapterError if a regular expression takes too long.
        """
        whole = [names for names in (self.names, self.exclude) if isinstance(names, str)]
        ends = {pattern: rf"(?:.*\.)?(?:{pattern})" for pattern in (*self.ranks, *self.alphas)}
        found = match_all([*whole, *ends.values()], modules)

        def named(name: str, names: tuple[str, ...] | str) -> bool:
            return name in found[names] if isinstance(names, str) else ends_with_any(name, names)

        def first(values: dict, name: str, otherwise: float) -> float:
            return next((value for pattern, value in values.items() if name in found[ends[pattern]]), otherwise)

        return {
            name: (first(self.ranks, name, r), first(self.alphas, name, alpha))
            for name in modules
            if not (self.exclude and named(name, self.exclude))
            and (self.names_all() or named(name, self.names))
            and self._in_layers(name)
        }

    def names_all(self) -> bool:
        """Whether it takes every linear layer but lm_head."""
        return isinstance(self.names, str) and self.names.lower() == ALL_LINEAR

    def _in_layers(self, name: str) -> bool:
        """Whether the module is in one of `layers`; PEFT minds them only for names that are not whole paths."""
        if self.layers is None or isinstance(self.names, str) or name in self.names:
            return True
        for pattern in map(re.escape, self.layers_pattern) if self.layers_pattern else (r"[^.]*",):
            if found := re.match(rf"(?:.*?\.)?{pattern}\.(\d+)\.", name):
                return int(found[1]) in self.layers
        return False

    def refuse_unknown(self, modules: list[str], where: str) -> None:
        """Raises AdapterError, starting with `where`, if a name matches none of these modules, or what is not wrapped.

        That is lm_head and the embeddings. modules: the linear layers of the decoder.
        """
        whole = isinstance(self.names, str)
        shown = self.names if whole else ",".join(self.names)
        leaf_names = ", ".join(sorted({name.rpartition(".")[2] for name in modules}))
        if others := {} if self.names_all() else self.choose(NOT_WRAPPED, 1, 1):
            which = " and ".join(name.rpartition(".")[2] for name in others)
            problem = f"LoRA on {which} is not computed here, only on the decoder's linear layers: {leaf_names}"
        elif unknown := [] if whole else [n for n in self.names if not any(ends_with_any(m, (n,)) for m in modules)]:
            problem = f"no linear layer is called {', '.join(unknown)}; there are {leaf_names}"
        elif self.choose(modules, 1, 1):
            return
        elif whole:
            problem = f"no linear layer is taken; a regular expression must match a whole name, such as {modules[0]}"
        elif self.names:
            at_work = {"exclude_modules": self.exclude, "layers_to_transform": self.layers is not None}
            problem = f"{' and '.join(name for name, is_set in at_work.items() if is_set)} leaves no layer of these"
        else:
            problem = f"no linear layer is called (nothing); there are {leaf_names}"
        raise AdapterError(f"{where} {shown}: {problem}")

    def fields(self) -> dict:
        """The fields of adapter_config.json, without those that choose nothing."""
        rest = {
            "exclude_modules": self.exclude if isinstance(self.exclude, str) else list(self.exclude),
            "layers_to_transform": None if self.layers is None else list(self.layers),
            "layers_pattern": list(self.layers_pattern),
            "rank_pattern": self.ranks,
            "alpha_pattern": self.alphas,
        }
        names = self.names if isinstance(self.names, str) else sorted(self.names)
        return {"target_modules": names} | {name: value for name, value in rest.items() if value}


def parse_targets(text: str) -> tuple[str, ...]:
    """The names in the value of --lora-targets, between commas: without spaces around them, each once."""
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def as_selection(targets: tuple[str, ...] | Selection) -> Selection:
    """The same as a Selection."""
    return targets if isinstance(targets, Selection) else Selection(tuple(targets))


def read_selection(config: dict, where: str) -> tuple[str, ...] | Selection:
    """What the content of an adapter_config.json chooses: the names alone, if it says nothing else.

    Raises AdapterError, starting with `where`, naming the field that is not as PEFT writes it.
    """
    targets = config.get("target_modules")
    if not targets or not isinstance(targets, (str, list)) or len(targets) > 1000:
        raise AdapterError(f"{where}: target_modules must be a list of layer names, or a regular expression for them")
    layers = config.get("layers_to_transform")
    layers = [layers] if type(layers) is int else layers or None
    if layers is not None and not (isinstance(layers, list) and all(type(number) is int for number in layers)):
        raise AdapterError(f"{where}: layers_to_transform is {quoted(layers)}; expected a list of layer numbers")
    before = config.get("layers_pattern") or []
    before = _names([before] if isinstance(before, str) else before, "layers_pattern", where)
    if not all(re.fullmatch(r"\w+", name) for name in before):
        raise AdapterError(f"{where}: layers_pattern is {quoted(before)}; only plain names are supported")
    selection = Selection(
        _names(targets, "target_modules", where),
        _names(config.get("exclude_modules") or [], "exclude_modules", where),
        None if layers is None else tuple(layers),
        before if layers is not None else (),
        _by_pattern(config, "rank_pattern", where),
        _by_pattern(config, "alpha_pattern", where),
    )
    return selection.names if selection == Selection(selection.names) and isinstance(targets, list) else selection


def _names(value: object, name: str, where: str) -> tuple[str, ...] | str:
    """A list of names as a tuple, or a regular expression as it is."""
    if isinstance(value, str):
        refuse_bad_pattern(value, name, where)
        return value
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise AdapterError(f"{where}: {name} is {quoted(value)}; expected a list of layer names")
    for entry in value:
        if not entry.isprintable() or not 0 < len(entry) <= 200:
            raise AdapterError(f"{where}: {name} has {quoted(entry)}, which no layer is called")
    return tuple(dict.fromkeys(value))


def _by_pattern(config: dict, name: str, where: str) -> dict:
    """rank_pattern or alpha_pattern, checked."""
    value, kinds = config.get(name) or {}, (int,) if name == "rank_pattern" else (int, float)
    if not isinstance(value, dict) or len(value) > 10_000:
        raise AdapterError(f"{where}: {name} is {quoted(value)}; expected an object of layer name to number")
    for pattern, number in value.items():
        refuse_bad_pattern(pattern, name, where)
        if type(number) not in kinds or not 0 < number <= LARGEST_RANK:
            kind = "whole number" if name == "rank_pattern" else "number"
            raise AdapterError(f"{where}: {name} of {quoted(pattern)} is {quoted(number)}; expected a positive {kind}")
    return value


def refuse_bad_pattern(pattern: str, name: str, where: str) -> None:
    """Raises AdapterError unless this is a regular expression that a message can show."""
    try:
        re.compile(pattern)
        bad = not pattern.isprintable() or not 0 < len(pattern) <= LONGEST_PATTERN
    except (re.error, RecursionError, OverflowError):
        bad = True
    if bad:
        raise AdapterError(
            f"{where}: {name} has {quoted(pattern)}, which is no regular expression of at most {LONGEST_PATTERN} "
            "characters; list the names of the layers"
        )


def match_all(patterns: list[str], names: list[str]) -> dict[str, set[str]]:
    """{pattern: those of the names that it matches from start to end}.

    A regular expression from outside can keep Python's `re` busy for years, and nothing in the process can stop it. So
    expressions that repeat or branch are matched in a process of their own, which is ended after SECONDS. Raises
    AdapterError then.
    """
    plain = [pattern for pattern in patterns if not re.search(r"[*+?{|]", pattern.removeprefix(r"(?:.*\.)?(?:"))]
    found = {pattern: {name for name in names if re.fullmatch(pattern, name)} for pattern in plain}
    others = [pattern for pattern in patterns if pattern not in found]
    if others:
        command = [sys.executable, "-I", "-S", "-c", MATCH]
        content = json.dumps([others, names])
        try:
            answer = subprocess.run(command, input=content, capture_output=True, text=True, timeout=SECONDS, check=True)
        except subprocess.SubprocessError:
            raise AdapterError(
                f"{CONFIG}: {quoted(others[0])} is a regular expression that took more than {SECONDS} s to match, "
                "or could not be matched; list the names of the layers in its place"
            ) from None
        found |= {pattern: set(matched) for pattern, matched in zip(others, json.loads(answer.stdout))}
    return found


def ends_with_any(name: str, ends: tuple[str, ...]) -> bool:
    """Whether the name of a module is one of these, or ends with one after a dot."""
    return any(name == end or name.endswith("." + end) for end in ends)
