"""Run LLM requests of any number through a provider's Batch API; replies come back in the order of the rows.

    import batchline

    rows = [{"text": "a good film"}, {"text": "a bad film"}]
    for reply in batchline.run(rows, provider="together", model="openai/gpt-oss-20b", prompt="Classify: {{text}}"):
        print(reply.text or reply.error)

:func:`run` takes a list, an iterator, a file, or a pandas, polars or Arrow table. It starts the program ``batchline``
that this package carries, which checks all rows before it sends any, and waits until they are answered. Interrupted or
killed, it is resumed by the same call: rows that were sent are never sent again. ``python -m batchline`` is the program.

Everything here is plain Python over that program; pandas, polars and pyarrow are used only if a table of theirs is
passed. The key comes from the provider's environment variable, such as ``TOGETHER_API_KEY``; ``provider="local"`` needs
none and answers with an echo.
"""

from importlib.metadata import PackageNotFoundError, version

from ._progress import Progress
from ._replies import Replies, Reply, ReplyError, Summary, Usage
from ._rows import Rows
from ._run import run
from .errors import (
    ConfigurationError,
    DefectError,
    Error,
    HeldError,
    InputError,
    InternalError,
    Interrupted,
    LocalStateError,
    LockedError,
    ProviderError,
    UsageError,
)

try:
    __version__ = version("batchline")
except PackageNotFoundError:  # the source tree, not installed
    __version__ = "0+unknown"

__all__ = [
    "ConfigurationError",
    "DefectError",
    "Error",
    "HeldError",
    "InputError",
    "InternalError",
    "Interrupted",
    "LocalStateError",
    "LockedError",
    "Progress",
    "ProviderError",
    "Replies",
    "Reply",
    "ReplyError",
    "Rows",
    "Summary",
    "Usage",
    "UsageError",
    "run",
]
