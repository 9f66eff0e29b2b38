"""Memory, as macOS' own commands tell it; on other systems every function returns 0."""

import os
import re
import subprocess
import sys

FREE = ("free", "inactive", "speculative", "purgeable")  # pages that the system gives to whoever asks


def free_memory() -> int:
    """Bytes that programs may still take, from `vm_stat`."""
    return free_in(_output("vm_stat"))


def free_in(text: str) -> int:
    """The same, from what `vm_stat` prints."""
    size = re.search(r"page size of (\d+) bytes", text)
    pages = re.findall(rf"^Pages ({'|'.join(FREE)}): +(\d+)", text, re.MULTILINE)
    return int(size[1]) * sum(int(number) for _, number in pages) if size else 0


def resident_memory() -> int:
    """Bytes of this process that are in memory, from `ps`."""
    kilobytes = _output("ps", "-o", "rss=", "-p", str(os.getpid())).strip()
    return int(kilobytes) * 1024 if kilobytes.isdecimal() else 0


def _output(*command: str) -> str:
    if sys.platform != "darwin":
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
