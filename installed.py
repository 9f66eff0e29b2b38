"""What every verb needs, looked for before anything else: where something is missing, one line says how to set up.

Imports nothing but the standard library, so that an old Python, or one without torch, gets that far.
"""

import importlib.util
import os
import sys

OLDEST = (3, 10)
PACKAGES = ("torch", "numpy", "safetensors", "sentencepiece", "sklearn", "tqdm", "matplotlib")
FOLDER = os.path.dirname(os.path.abspath(__file__))


def require() -> tuple:
    """The version of Python; ends with one line and exit status 2 if it is too old, or lacks a package."""
    missing = [name for name in PACKAGES if not is_there(name)]
    if sys.version_info < OLDEST:
        problem = "needs Python %d.%d or newer, this is %d.%d" % (OLDEST + sys.version_info[:2])  # noqa: UP031
    elif missing:
        problem = f"{sys.executable} has no {' and no '.join(missing[:2])}"
    else:
        return sys.version_info[:2]
    program = os.path.basename(sys.argv[0])
    print(f"{program}: error: {problem}; {advice(program)}", file=sys.stderr)
    raise SystemExit(2)


def is_there(name: str) -> bool:
    """Whether a package can be imported; it is not."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def advice(program: str) -> str:
    """What to type: the Python of .venv if it is set up, else the commands that set it up."""
    scripts = ".venv/Scripts" if os.name == "nt" else ".venv/bin"
    if os.path.exists(os.path.join(FOLDER, scripts)) and not os.path.abspath(sys.prefix).startswith(FOLDER):
        return f"type {scripts}/python {program} ... instead"
    python = "python" if os.name == "nt" else "python3"
    return f"set up with: {python} -m venv .venv && {scripts}/pip install -r requirements.txt"


PYTHON = require()
