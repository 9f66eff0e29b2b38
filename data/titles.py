"""The one rule for titles and authors: what a prompt can show so that it has one reading.

Prompts put each title between quotes and `, ` between titles: `"Dune", "Emma" written by Jane Austen`. A title that
holds such a separator reads as several. It is refused, not escaped: models never saw an escape, and the prompt must
show the title as its owner writes it. Published rows are not checked; they stay as they were published.
"""

import re

# Line breaks, other control characters, unpaired surrogates.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
SEPARATOR = '", "'  # between two titles
AUTHOR_FOLLOWS = '" written by '  # between a title and its author


def title_problem(title: str) -> str | None:
    """Why a prompt cannot show this title, and what to do; None if it can."""
    if not title.strip():
        return "is empty; leave it out"
    if UNPRINTABLE.search(title):
        return "has a line break or another control character; take it out"
    for separator, what in ((SEPARATOR, "separates titles"), (AUTHOR_FOLLOWS, "separates a title from its author")):
        if separator in f'"{title}"':  # other quotes are as good as in the published prompts
            return f"has `{separator}`, which {what} in the prompts; write it differently"
    return None


def author_problem(author: str) -> str | None:
    """Why a prompt cannot show this author, and what to do; None if it can."""
    if not author.strip():
        return "is empty; leave it out"
    if UNPRINTABLE.search(author):
        return "has a line break or another control character; take it out"
    if SEPARATOR[1:] in f'{author}"':
        return f"has `{SEPARATOR[1:]}`, which begins a title in the prompts; write it differently"
    return None
