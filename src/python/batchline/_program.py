"""Where the program is, and where it keeps its state."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from .errors import ConfigurationError

#: Names another program file, such as one that was just built.
PROGRAM_VARIABLE = "BATCHLINE_PROGRAM"

_NAME = "batchline"


def find_program() -> str:
    """The path of the program that was installed with this package.

    Not searched in ``PATH``, where another version may be.
    """
    named = os.environ.get(PROGRAM_VARIABLE)
    if named:
        return named
    for path in _candidates():
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    raise ConfigurationError(
        "the program `batchline` is not beside this package",
        hint=f"reinstall the wheel, or set {PROGRAM_VARIABLE} to the program's path",
    )


def _candidates() -> Iterator[Path]:
    try:
        installed = distribution(_NAME)
        # What the installer recorded: right in environments that are laid over one another, too.
        for file in installed.files or ():
            if file.name == _NAME and file.parent.name == sysconfig.get_path("scripts").rpartition(os.sep)[2]:
                yield Path(str(installed.locate_file(file)))
    except PackageNotFoundError:
        pass
    yield Path(sysconfig.get_path("scripts")) / _NAME
    yield Path(sysconfig.get_path("scripts", scheme=sysconfig.get_preferred_scheme("user"))) / _NAME
    # `pip install --target DIR`
    yield Path(__file__).resolve().parent.parent / "bin" / _NAME


def state_directory() -> Path | None:
    """Where the program keeps runs, created if missing; ``None`` if it cannot be written to.

    Spool files go there: a temporary directory is often memory.
    """
    home, state = os.environ.get("BATCHLINE_HOME"), os.environ.get("XDG_STATE_HOME", "")
    if home:
        directory = Path(home)
    elif os.path.isabs(state):
        directory = Path(state) / _NAME
    else:
        directory = Path("~/.local/state").expanduser() / _NAME
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return directory if os.access(directory, os.W_OK) else None
