"""How far work has come: a progress bar on a terminal, a line a minute in a log, however long one piece takes."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from errors import notice

WIDTH = 80
EVERY = 60.0  # seconds between the lines of a log
FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class EveryMinute:
    """Calls say() after each EVERY seconds, from a thread of its own, until close() returns."""

    def __init__(self, say: Callable[[], None]):
        self.say, self.closed = say, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)  # it never keeps a process alive
        self.thread.start()

    def _run(self) -> None:
        while not self.closed.wait(EVERY):
            self.say()

    def close(self) -> None:
        """Nothing is said afterwards."""
        self.closed.set()
        self.thread.join()


@contextmanager
def at_work(doing: str) -> Iterator[None]:
    """Around what may take minutes and has no bar: a line a minute in a log, nothing on a terminal."""
    if sys.stderr.isatty():
        yield
        return
    began = time.monotonic()
    pulse = EveryMinute(lambda: notice(f"{doing}: at work for {_since(began)}"))
    try:
        yield
    finally:
        pulse.close()


def _since(moment: float) -> str:
    return tqdm.format_interval(time.monotonic() - moment)


class Bar:
    """with Bar(total, "tuned on test", "prompts") as bar: bar.update() after each. done: of the total, before now.

    keep: it stays on the terminal; each of its pieces is then within at_work, which says more of a long one.
    """

    def __init__(self, total: int, doing: str, unit: str, done: int = 0, keep: bool = False):
        self.doing, self.unit, self.said = doing, unit, time.monotonic()
        columns = min(WIDTH, shutil.get_terminal_size().columns)
        self.bar = tqdm(
            total=total, initial=done, desc=doing, ncols=columns, leave=keep, disable=None, bar_format=FORMAT
        )
        self.done, self.began, self.first = done, time.monotonic(), done
        self.pulse = EveryMinute(self._still) if self.is_log and not keep else None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error) -> None:
        if self.pulse:
            self.pulse.close()
        self.bar.close()

    def _still(self) -> None:
        """Say where it stands if no update has done so for a minute."""
        if time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            done = f"{self.done:,} of {self.bar.total:,} {self.unit}"
            notice(f"{self.doing}: {done}, at work for {_since(self.began)}")

    @property
    def is_log(self) -> bool:
        """Whether there is no terminal."""
        return self.bar.disable

    def update(self, count: int = 1, note: str = "", remaining: float | None = None, unless: str = "") -> None:
        """So many are done. remaining: seconds that are left, if the caller knows more than the pace so far.

        unless: for a log, what would make it more.
        """
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
            done = f"{self.done:,} of {self.bar.total:,} {self.unit}"
            notice(f"{self.doing}: {done}, about {left} left" + (f" unless {unless}" if unless else ""))
