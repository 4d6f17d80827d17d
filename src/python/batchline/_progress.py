"""Progress: one line in a terminal, one in a notebook, and otherwise the log."""

from __future__ import annotations

import html
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ._replies import Summary

_LOG = logging.getLogger("batchline")


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    #: Requests in all.
    requests: int = 0
    #: Requests that the service reports as done.
    done: int = 0
    #: Replies that have been received and are in order.
    received: int = 0
    #: Bytes uploaded by this process, and to upload.
    uploaded_bytes: int = 0
    upload_total_bytes: int = 0
    #: Bytes of replies downloaded by this process.
    downloaded_bytes: int = 0
    #: Shards by state: ``waiting``, ``uploaded``, ``submitted``, ``ended``, ``indexed``, ``held``.
    shards: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        batches = self.shards.get("submitted", 0)
        under_way = f", {batches:,} {'batch' if batches == 1 else 'batches'} in progress" if batches else ""
        return f"{max(self.done, self.received):,} of {self.requests:,} requests done{under_way}"


#: Whether to show progress, or what to call with it. ``None`` shows it in terminals and notebooks.
ProgressOption = bool | Callable[[Progress], None] | None


class View(Protocol):
    """Where a run is watched."""

    def show(self, progress: Progress) -> None: ...

    def say(self, level: int, text: str) -> None: ...

    def close(self, summary: Summary | None) -> None: ...


def view(option: ProgressOption) -> View:
    """The view that an option asks for."""
    if callable(option):
        return Callback(option)
    if option is False:
        return Log()
    if _is_notebook():
        return Notebook()
    if option or sys.stderr.isatty():
        return Terminal()
    return Log()


class Log:
    """Warnings in the log ``batchline``; nothing else."""

    def show(self, progress: Progress) -> None:
        _LOG.debug("%s", progress)

    def say(self, level: int, text: str) -> None:
        _LOG.log(level, "%s", printable(text))

    def close(self, summary: Summary | None) -> None:
        if summary is not None:
            _LOG.info("%s", _closing(summary))


class Callback(Log):
    """A function of the caller."""

    def __init__(self, call: Callable[[Progress], None]) -> None:
        self._call = call

    def show(self, progress: Progress) -> None:
        self._call(progress)


class Terminal:
    """One line that is written over, and lines that stay."""

    _BAR = 24
    _CLEAR = "\r\x1b[2K"

    def __init__(self) -> None:
        self._out = sys.stderr
        self._is_terminal = self._out.isatty()
        self._last = ""

    def show(self, progress: Progress) -> None:
        if not self._is_terminal:
            self._line(str(progress))
            return
        filled = self._BAR * max(progress.done, progress.received) // max(progress.requests, 1)
        self._last = f"{'█' * filled}{'░' * (self._BAR - filled)} {progress}"
        self._out.write(f"{self._CLEAR}{self._last}")
        self._out.flush()

    def say(self, level: int, text: str) -> None:
        self._line(printable(text) if level < logging.WARNING else f"warning: {printable(text)}")

    def close(self, summary: Summary | None) -> None:
        self._last = ""
        self._line(_closing(summary) if summary is not None else "")

    def _line(self, text: str) -> None:
        clear = self._CLEAR if self._is_terminal else ""
        self._out.write(f"{clear}{text}\n{self._last}" if text else clear)
        self._out.flush()


class Notebook:
    """A bar below the cell, and lines above it."""

    def __init__(self) -> None:
        display: Any = sys.modules["IPython"].display
        self._html = display.HTML
        self._handle: Any = display.display(self._html(""), display_id=True)
        self._lines: list[str] = []

    def show(self, progress: Progress) -> None:
        done = max(progress.done, progress.received)
        self._update(f'<progress value="{done}" max="{max(progress.requests, 1)}"></progress> {progress}')

    def say(self, level: int, text: str) -> None:
        # The last few: a cell is no log.
        self._lines = [*self._lines[-4:], html.escape(printable(text))]
        if level >= logging.WARNING:
            _LOG.log(level, "%s", printable(text))

    def close(self, summary: Summary | None) -> None:
        self._update(html.escape(_closing(summary)) if summary is not None else "")

    def _update(self, last: str) -> None:
        self._handle.update(self._html("<br>".join([*self._lines, last])))


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def _closing(summary: Summary) -> str:
    counts = {"outputs": summary.outputs, "errors": summary.errors, "missing": summary.missing, "on hold": summary.held}
    parts = [f"{number:,} {name}" for name, number in counts.items() if number or name in ("outputs", "errors")]
    tokens = f"{summary.prompt_tokens:,} prompt + {summary.completion_tokens:,} completion tokens"
    return f"{summary.requests:,} requests: {', '.join(parts)}; {tokens}"


def printable(text: str) -> str:
    """A text of others without what controls a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
