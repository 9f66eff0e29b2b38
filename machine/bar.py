"""How far work has come: a progress bar on a terminal, a line a minute in a log."""

import shutil
import time

from tqdm import tqdm

from errors import notice

WIDTH = 80
EVERY = 60.0  # seconds between the lines of a log
FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Bar:
    """with Bar(total, "tuned on test", "prompts") as bar: bar.update() after each. done: of the total, before now."""

    def __init__(self, total: int, doing: str, unit: str, done: int = 0, keep: bool = False):
        self.doing, self.unit, self.said = doing, unit, time.monotonic()
        columns = min(WIDTH, shutil.get_terminal_size().columns)
        self.bar = tqdm(
            total=total, initial=done, desc=doing, ncols=columns, leave=keep, disable=None, bar_format=FORMAT
        )
        self.done, self.began, self.first = done, time.monotonic(), done

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()

    @property
    def is_log(self) -> bool:
        """Whether there is no terminal."""
        return self.bar.disable

    def update(self, count: int = 1, note: str = "", remaining: float | None = None) -> None:
        """So many are done. remaining: seconds that are left, if the caller knows more than the pace so far."""
        self.done += count
        now = time.monotonic()
        if remaining is None:
            remaining = (now - self.began) / (self.done - self.first) * (self.bar.total - self.done)
        left = tqdm.format_interval(remaining)
        self.bar.bar_format = FORMAT.replace("{remaining}", left)
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(count)
        if self.is_log and now - self.said >= EVERY:
            self.said = now
            notice(f"{self.doing}: {self.done:,} of {self.bar.total:,} {self.unit}, about {left} left")
