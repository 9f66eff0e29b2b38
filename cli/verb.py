"""What every verb does around its work: user errors, signals and lack of memory become one line and an exit status."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from errors import UserError
from machine.memory import ELSEWHERE, keep_freed_memory, memory_line
from machine.signals import RESUMABLE, Stopped, Terminated, end_at_once


def run_verb(main: Callable[[list[str]], None]) -> None:
    """Call main(argv).

    What a user can mend becomes a line per problem on standard error and exit status 2. A signal becomes a line and a
    status of its own (machine/signals.py). Anything else is a bug and keeps its traceback.
    """
    program = Path(sys.argv[0]).name
    keep_freed_memory()
    print_what_it_can()
    signal.signal(signal.SIGTERM, end_at_once)
    try:
        main(sys.argv[1:])
    except UserError as error:
        status, lines = 2, [f"error: {line}" for line in str(error).splitlines()]
    except OSError as error:
        status, lines = 2, [f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}"]
    except (MemoryError, RuntimeError) as error:
        if (line := memory_line(error)) is None:
            raise
        status, lines = 2, [f"error: {line}. {ELSEWHERE}"]
    except Stopped as stopped:
        status, lines = RESUMABLE, [str(stopped)]
    except Terminated:
        status, lines = 128 + signal.SIGTERM, ["terminated"]
    except KeyboardInterrupt:
        status, lines = 128 + signal.SIGINT, ["interrupted"]
    else:
        return
    for line in lines:
        print(f"{program}: {line}", file=sys.stderr)
    raise SystemExit(int(status))


def print_what_it_can() -> None:
    """Let a console that lacks letters, as cp1252 of Windows, show escapes in their place: no title stops a verb."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
