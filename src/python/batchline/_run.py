"""One call from rows to replies."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

from . import _rows
from ._process import Process, Record
from ._program import find_program, state_directory
from ._progress import Progress, ProgressOption, View, printable, view
from ._replies import Replies, Summary
from ._rows import Request, Rows
from .errors import BY_EXIT_CODE, DefectError, Error, HeldError, InternalError, Interrupted, UsageError

#: Exit codes with which the output has a line for every request.
_SUCCESS, _INCOMPLETE, _HELD = 0, 6, 7

#: Options that write replies elsewhere, in all spellings.
_ELSEWHERE = re.compile(r"-[a-z]*o|--(output|errors)(=|$)")

#: Exit codes of a child that was interrupted itself.
_INTERRUPTED = (130, 143, -2, -15)


def run(
    rows: Rows,
    *,
    provider: str | None = None,
    model: str | None = None,
    prompt: str | None = None,
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    endpoint: str | None = None,
    base_url: str | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: ProgressOption = None,
    options: Sequence[str] = (),
) -> Replies:
    """Sends each row as a request, waits for the answers, and returns them in the order of the rows.

    The same call again resumes a run that was interrupted or killed, and returns the replies of one that is complete
    without sending anything: a run is known by the bytes of its requests, whatever they came from, its provider and its
    endpoint. Rows that are changed, added or put in another order are another run, and all of them are sent.

    :param rows: a list or iterator of mappings or strings, a table of pandas, polars or Arrow (also a dataset), or the
        path of a file with a JSON object a line. Tables and iterators are written to a spool file a few rows at a time.
    :param provider: as listed by ``batchline providers``; ``together`` by default.
    :param model: the model, for rows with a prompt.
    :param prompt: the user's message; ``{{column}}`` stands for the row's value, whose absence is an error. For rows
        that are strings it is ``{{text}}`` by default. Without it, each row is a request (``custom_id`` and ``body``),
        or a body alone (``model``, ``messages``, …), which is given an id.
    :param system: a system message before it, with columns as well.
    :param parameters: further members of each body, such as ``{"max_tokens": 50, "temperature": 0}``.
    :param endpoint: the endpoint of the requests, such as ``/v1/embeddings``, for rows that are requests or bodies.
    :param base_url: the base URL of the API, with ``provider="online"`` that of a server without a Batch API.
    :param output: keep the replies in this file, a JSON object a line, in the same shape for every provider. Without
        it they are in a file without a name that disappears with the result.
    :param progress: ``True`` or ``False`` to show it or not, or a function to call with each :class:`Progress`. By
        default it is shown in terminals and notebooks; warnings are logged as ``batchline`` elsewhere.
    :param options: further options of ``batchline run``, as on the command line: ``["--rounds", "1"]``.
    :returns: the replies, of which some may have an ``error``. They are read from the file as you iterate.
    :raises Interrupted: on Ctrl-C, once the run is in a state to be resumed.
    :raises InputError: if a row is no valid request; nothing was sent then.
    :raises Error: if the run cannot go on; its subclasses stand for the program's exit codes.
    """
    for option in options:
        if _ELSEWHERE.match(option):
            raise UsageError(f"{option} would take replies away from the result; keep them in a file with output=")
    request = Request(model, prompt, system, parameters)
    command = [find_program(), "run", "--json", "--shape", "common"]
    for option, value in (("--provider", provider), ("--endpoint", endpoint), ("--base-url", base_url)):
        if value is not None:
            command += [option, value]
    watched = view(progress)
    with tempfile.TemporaryFile(dir=state_directory()) as spool:
        if isinstance(rows, (str, os.PathLike)) and not request.is_made:
            request.refuse_unused()
            command += ["--", os.fspath(rows)]
        else:
            command += _spool(rows, request, spool)
        # Options before the input, which may begin with a dash.
        command[2:2] = options
        if output is not None:
            command[2:2] = ["--output", os.fspath(output)]
        with ExitStack() as on_failure:
            replies: IO[bytes] = on_failure.enter_context(tempfile.TemporaryFile(dir=state_directory()))
            ended = _Run(watched).end(Process(command, spool, replies))
            on_failure.pop_all()
    if output is not None:
        replies.close()
        replies = open(output, "rb")  # the result closes it # noqa: SIM115
    return ended.replies(replies)


def _spool(rows: Rows, request: Request, spool: IO[bytes]) -> list[str]:
    """Writes the lines of all rows, and returns the options that they need."""
    place = f" of {os.fspath(rows)}" if isinstance(rows, (str, os.PathLike)) else ""
    has_ids = False
    for number, row in enumerate(_rows.each(rows), 1):
        if number == 1 and not request.is_made and not isinstance(row, str):
            request.refuse_unused()
            has_ids = isinstance(row, Mapping) and "custom_id" in row
        spool.write(request.line(row, f"row {number}{place}"))
    spool.seek(0)
    return [] if has_ids else ["--assign-ids"]


@dataclass(frozen=True)
class _Ended:
    """A run whose output has a line for every request."""

    code: int
    summary: Summary

    def replies(self, file: IO[bytes]) -> Replies:
        """The replies in the output; raises if some are on hold."""
        replies = Replies(file, self.summary)
        if self.code == _HELD:
            hint = f"`batchline status {self.summary.directory}` says why, and what to do"
            raise HeldError(f"{self.summary.held} requests are on hold", exit_code=_HELD, hint=hint, replies=replies)
        return replies


class _Run:
    """What the program says of a run, as it says it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._directory: str | None = None
        self._requests = 0
        self._summary: Summary | None = None
        self._failure: Record = {}
        self._defects: list[Record] = []

    def end(self, process: Process) -> _Ended:
        """Waits for the end of the process; raises what went wrong."""
        try:
            code = process.end(self._hear)
        except KeyboardInterrupt:
            raise Interrupted(self._directory) from None
        finally:
            self._view.close(self._summary)
        if self._summary is None or code not in (_SUCCESS, _INCOMPLETE, _HELD):
            raise self._error(code, process)
        return _Ended(code, self._summary)

    def _hear(self, record: Record) -> None:
        kind = record["kind"]
        if kind == "started":
            self._started(record)
        elif kind == "progress":
            self._view.show(self._progress(record))
        elif kind in ("note", "warning"):
            self._view.say(logging.WARNING if kind == "warning" else logging.INFO, str(record["message"]))
        elif kind == "summary":
            self._summary = Summary.of(record)
        elif kind == "defect":
            self._defects.append(record)
        elif kind == "error":
            self._failure = record

    def _started(self, record: Record) -> None:
        self._directory, self._requests = record["directory"], record["requests"]
        verb = "already complete:" if record["done"] else "resuming" if record["resumed"] else "starting"
        shards = f"{record['shards']:,} {'shard' if record['shards'] == 1 else 'shards'}"
        self._view.say(logging.INFO, f"{verb} {self._requests:,} requests in {shards}, run directory {self._directory}")
        self._view.show(Progress(requests=self._requests))

    def _progress(self, record: Record) -> Progress:
        return Progress(
            requests=self._requests,
            done=record["requests_done_at_service"],
            received=record["merged_lines"],
            uploaded_bytes=record["uploaded_bytes"],
            upload_total_bytes=record["upload_total_bytes"],
            downloaded_bytes=record["downloaded_bytes"],
            shards=record["shards"],
        )

    def _error(self, code: int, process: Process) -> BaseException:
        if code in _INTERRUPTED:
            return Interrupted(self._directory)
        said = [self._failure["message"], *self._failure["causes"]] if self._failure else process.text
        message = printable((": " if self._failure else "\n").join(said)) or f"the program ended with {code}"
        hint = printable(self._failure.get("hint") or "") or None
        kind: type[Error] = BY_EXIT_CODE.get(code, InternalError)
        if kind is DefectError:
            return DefectError(message, exit_code=code, hint=hint, defects=self._defects)
        return kind(message, exit_code=code, hint=hint)
