"""SIGINT and SIGTERM: in a loop that listens a request to save and stop, elsewhere an immediate end.

Exit statuses, also in docs/reliability.md: 75 (EX_TEMPFAIL of sysexits.h) for a run that was saved and
can be resumed, 128 + the signal's number for what ended at once.
"""

import os
import signal
import threading
import time

RESUMABLE = 75
SAME_REQUEST = 1.0  # seconds: a launcher may pass the first signal on; within this time it is no second request


class Stopped(Exception):
    """A signal ended a run after it was saved; the message says how to resume."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


def end_at_once(number: int, frame: object) -> None:
    """Handler: raise KeyboardInterrupt or Terminated where the program is."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


class StopRequest:
    """with StopRequest() as stop: the first SIGINT or SIGTERM becomes stop.signal, its name; a second ends at once.

    A signal that is ignored (nohup, a background job of a shell) stays ignored. Outside the main thread no handler can
    be set, so no signal is noticed.
    """

    def __init__(self):
        self.signal: str | None = None
        self._heard_at = 0.0
        self._before = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            wanted = [
                number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN
            ]
            self._before = {number: signal.signal(number, self._heard) for number in wanted}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: object) -> None:
        if self.signal:
            if time.monotonic() - self._heard_at < SAME_REQUEST:
                return
            end_at_once(number, frame)
        self.signal, self._heard_at = signal.Signals(number).name, time.monotonic()
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{self.signal}: saving after this step; a second signal stops at once\n".encode())
