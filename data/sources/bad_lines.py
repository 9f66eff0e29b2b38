"""Lines of a user's files that cannot be used: collected, then refused together, or left out with --skip-bad."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from errors import DataError

SHOWN = 10  # lines in a refusal
LISTED = 100  # lines that are named when they are left out


class BadLines:
    """What was found so far. skip: --skip-bad, leave these lines out and go on; None: the file has no such flag."""

    def __init__(self, skip: bool | None) -> None:
        self.skip = skip
        self.items: set[str] = set()  # items whose line in the file of items is among them
        self.remarks: list[str] = []  # lines about all of them
        self._found: dict[Path, list[tuple[int, str]]] = {}
        self._kinds: Counter[str] = Counter()

    def add(self, path: Path, line: int, place: str, problem: str, kind: str) -> None:
        """One line. place: ", column NAME" or ""; kind: what such lines have, in words, to count them."""
        self._found.setdefault(path, []).append((line, f"{path} line {line}{place}: {problem}"))
        self._kinds[kind] += 1

    def settle(self, notice: Callable[[str], None]) -> None:
        """Raise DataError listing what was found, or say what is left out; nothing was found: nothing happens."""
        texts = [text for of_file in self._found.values() for _, text in sorted(of_file)]
        if not texts:
            return
        kinds = ", ".join(f"{count:,} with {kind}" for kind, count in self._kinds.most_common())
        if self.skip:
            for text in texts[:LISTED]:
                notice(f"SKIPPED: {text}")
            more = f" (the first {LISTED} are listed)" if len(texts) > LISTED else ""
            notice(f"--skip-bad: {len(texts):,} lines are left out{more}: {kinds}")
            for remark in self.remarks:
                notice(remark)
        elif len(texts) == 1:
            other = "" if self.skip is None else ", or leave it out with --skip-bad"
            raise DataError(f"{texts[0]}; mend the line{other}")
        else:
            more = f" (the first {SHOWN} are above)" if len(texts) > SHOWN else ""
            other = "" if self.skip is None else ", or leave them out with --skip-bad"
            total = f"{len(texts):,} lines cannot be used{more}: {kinds}; mend them{other}"
            raise DataError("\n".join([*texts[:SHOWN], *self.remarks, total]))
