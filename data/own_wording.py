"""--wordings-file: prompts, answers and questions of your own, for another language or domain. docs/wordings.md.

A data set keeps its wording as text: the name of a built-in one, or the JSON of an own one. So fingerprints,
config.json and whatever asks as a run did have all of it, without the file.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from data.questions import KINDS, OPPOSITE, SAME, Questions
from errors import DataError, quoted
from files import NamedTwice, parse_json, read_whole

FIELD = re.compile(r"\{(\w*)\}")
NEEDED, OPTIONAL = ("question", "liked", "target"), ("disliked", "noun")
LONGEST = {"prompt": 20_000, "noun": 100, "words": 200}  # characters
PARTS = {"positives": SAME, "negatives": OPPOSITE, "held_out": KINDS}  # the kinds that each may have


@dataclass(frozen=True)
class OwnWording:
    """prompt: text with {question}, {liked}, {target} and perhaps {disliked} and {noun}; noun: None for the data's."""

    prompt: str
    answers: dict[bool, str]
    questions: Questions
    noun: str | None


def read_own_wording(path: Path) -> str:
    """The file as the text that a data set keeps. Raises DataError with a line for every fault."""
    if not path.is_file():
        raise DataError(f"--wordings-file {path}: no such file")
    try:
        content = parse_json(read_whole(path))
    except NamedTwice as error:
        raise DataError(f"--wordings-file {path}: {error}") from None
    except (ValueError, RecursionError):
        raise DataError(f"--wordings-file {path}: is not JSON; docs/wordings.md shows one") from None
    if faults := _faults(content):
        raise DataError("\n".join(f"--wordings-file {path}: {fault}" for fault in faults))
    return json.dumps(content)


def parse_own_wording(text: str) -> OwnWording:
    """What read_own_wording returned. Raises ValueError if it is anything else."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("not a wording") from None
    if faults := _faults(content):
        raise ValueError(faults[0])
    answers = {True: content["answers"]["yes"], False: content["answers"]["no"]}
    held_out = content.get("held_out", {})
    questions = Questions(content["positives"], content["negatives"], held_out, tuple(held_out))
    return OwnWording(content["prompt"], answers, questions, content.get("noun"))


def filled(prompt: str, fields: dict[str, str]) -> str:
    """The prompt with each {field} replaced; braces in a title stay what they are."""
    return FIELD.sub(lambda match: fields[match[1]], prompt)


def _faults(content: object) -> list[str]:
    if not isinstance(content, dict):
        return ["is not a JSON object; docs/wordings.md shows one"]
    known = {"prompt", "answers", "noun", *PARTS}
    faults = [f"{quoted(key)} is not known; known are {', '.join(sorted(known))}" for key in content.keys() - known]
    missing = [key for key in ("prompt", "answers", "positives", "negatives") if key not in content]
    faults += [f"{key} is missing; docs/wordings.md says what it holds" for key in missing]
    if "prompt" in content:
        faults += _prompt_faults(content["prompt"])
    if "noun" in content and not _is_text(content["noun"], LONGEST["noun"]):
        faults.append("noun: expected a word, such as movie")
    answers = content.get("answers", {"yes": "a", "no": "b"})
    if not isinstance(answers, dict) or answers.keys() != {"yes", "no"}:
        faults.append('answers: expected {"yes": "Yes.", "no": "No."}')
    elif not all(_is_text(word, LONGEST["words"]) for word in answers.values()) or answers["yes"] == answers["no"]:
        faults.append("answers: expected two different texts in one line each")
    return faults + _question_faults(content)


def _prompt_faults(prompt: object) -> list[str]:
    if not isinstance(prompt, str) or not 0 < len(prompt) <= LONGEST["prompt"] or not _is_encodable(prompt):
        return [f"prompt: expected a text of at most {LONGEST['prompt']:,} characters"]
    found = FIELD.findall(prompt)
    faults = [f"prompt: {{{field}}} is missing" for field in NEEDED if field not in found]
    allowed = ", ".join(f"{{{field}}}" for field in (*NEEDED, *OPTIONAL))
    unknown = dict.fromkeys(field for field in found if field not in (*NEEDED, *OPTIONAL))
    return faults + [f"prompt: {{{field}}} is not known; known are {allowed}" for field in unknown]


def _question_faults(content: dict) -> list[str]:
    faults, seen = [], {}
    for part, kinds in PARTS.items():
        questions = content.get(part, {} if part == "held_out" else {"": kinds[0]})
        if not isinstance(questions, dict) or (not questions and part != "held_out"):
            faults.append(f'{part}: expected {{"words": "kind", ...}}')
            continue
        for words, kind in questions.items():
            if words and words in seen:
                faults.append(f"{part}: {quoted(words)} stands in {seen[words]} too; keep it in one of them")
            seen[words] = part
            if part in content and not _is_text(words, LONGEST["words"]):
                faults.append(f"{part}: {quoted(words)}: expected words in one line, at most {LONGEST['words']}")
            if kind not in kinds:
                faults.append(f"{part}: {quoted(words)}: its kind is {quoted(kind)}; choose {', '.join(kinds)}")
    return faults


def _is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and value.strip() != "" and value.isprintable() and len(value) <= longest


def _is_encodable(text: str) -> bool:
    """Not with half a surrogate pair, which JSON allows."""
    return text.encode(errors="replace").decode() == text
