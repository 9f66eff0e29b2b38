"""The one rule for titles and authors: what a prompt can show so that it has one reading.

Prompts put each title between quotes and `, ` between titles: `"Dune", "Emma" written by Jane Austen`. A title that
holds such a separator reads as several. It is refused, not escaped: models never saw an escape, and the prompt must
show the title as its owner writes it. Published rows are not checked; they stay as they were published.
"""

import re

# Line breaks, other control characters, unpaired surrogates.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
CONTROL = "has a line break or another control character; take it out"
SEPARATOR = '", "'  # between two titles
AUTHOR_FOLLOWS = '" written by '  # between a title and its author
MISSING = ("nan", "NaN", "<NA>")  # what pandas writes for an empty cell
LIST_CELL = re.compile(r"""\[\s*(?:'.*'|".*")?\s*\]""")  # what pandas writes for a list


def title_problem(title: str) -> str | None:
    """Why a prompt cannot show this title, and what to do; None if it can."""
    if not title.strip():
        return "is empty; leave it out"
    if UNPRINTABLE.search(title):
        return CONTROL
    if problem := _of_pandas(title):
        return problem
    for separator, what in ((SEPARATOR, "separates titles"), (AUTHOR_FOLLOWS, "separates a title from its author")):
        if separator in f'"{title}"':  # other quotes are as good as in the published prompts
            return f"has `{separator}`, which {what} in prompts; write it differently"
    return None


def noun_problem(noun: str) -> str | None:
    """Why no prompt can call a title this, and what to do; None if one can."""
    if not noun.strip() or UNPRINTABLE.search(noun) or '"' in noun:
        return "expected a word without quotes, such as book"
    return None


def author_problem(author: str) -> str | None:
    """Why a prompt cannot show this author, and what to do; None if it can."""
    if not author.strip():
        return "is empty; leave it out"
    if UNPRINTABLE.search(author):
        return CONTROL
    if problem := _of_pandas(author):
        return problem
    if SEPARATOR[1:] in f'{author}"':
        return f"has `{SEPARATOR[1:]}`, which begins a title in prompts; write it differently"
    return None


def looks_garbled(text: str) -> bool:
    """Whether the text seems to be UTF-8 that was read as Latin-1 or Windows-1252: `Ã©` for `é`."""
    for encoding in ("latin-1", "cp1252"):
        try:
            if not text.isascii() and text.encode(encoding).decode("utf-8"):
                return True
        except UnicodeError:
            pass
    return False


def _of_pandas(text: str) -> str | None:
    if text.strip() in MISSING:
        return f"is {text.strip()}, which stands for an empty cell; leave the cell empty"
    if LIST_CELL.fullmatch(text.strip()):
        return "is a list as Python writes it; write the names themselves"
    return None
