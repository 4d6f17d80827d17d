"""Replies, read from the program's output as they are asked for."""

from __future__ import annotations

import io
import json
import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

#: How each line of the output begins.
_BEGIN = '{"custom_id":'

#: Bytes read at a time.
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Usage:
    """Tokens, as the service counted them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class ReplyError:
    """Why a request has no output."""

    #: The service's code, ``http_400`` for a status alone, ``missing`` or ``held``; ``None`` if there is none.
    code: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.code else self.message


@dataclass(frozen=True)
class Reply:
    """What became of one row."""

    #: The place of the row, counted from 0.
    index: int
    custom_id: str
    #: The HTTP status of the answer, if there is one.
    status: int | None
    #: The body of the answer, as the service sent it, if there is one.
    body: Any
    #: Why there is no output; ``None`` if there is one. Of an answer that Python cannot read as JSON, ``unreadable``.
    error: ReplyError | None
    #: The line of the output, without its end.
    raw: bytes

    @property
    def text(self) -> str | None:
        """The text of the first choice; ``None`` for an error, or an answer without text, such as an embedding."""
        if self.error is not None or not isinstance(self.body, Mapping):
            return None
        choice = _first(self.body.get("choices"))
        if isinstance(choice, Mapping):
            message = choice.get("message")
            text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
            return text if isinstance(text, str) else None
        return _output_text(self.body.get("output"))

    @property
    def usage(self) -> Usage | None:
        """The tokens of this reply; ``None`` where the service does not say."""
        usage = self.body.get("usage") if isinstance(self.body, Mapping) else None
        if not isinstance(usage, Mapping):
            return None
        prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
        completion = usage.get("completion_tokens", usage.get("output_tokens", 0))
        if not isinstance(prompt, int) or not isinstance(completion, int):
            return None
        return Usage(prompt, completion)


def _first(items: Any) -> Any:
    return items[0] if isinstance(items, list) and items else None


def _output_text(output: Any) -> str | None:
    """The text of a body of /v1/responses."""
    items = output if isinstance(output, list) else []
    parts = [part for item in items if isinstance(item, Mapping) for part in item.get("content") or ()]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "output_text"]
    return "".join(text for text in texts if isinstance(text, str)) if texts else None


@dataclass(frozen=True)
class Summary:
    """How a run ended. ``outputs + errors + missing + held + invalid == requests``."""

    requests: int
    outputs: int
    errors: int
    #: Requests that the service did not answer.
    missing: int
    #: Requests on hold: see :class:`batchline.HeldError`.
    held: int
    #: Lines that were skipped, with ``--skip-invalid``.
    invalid: int
    prompt_tokens: int
    completion_tokens: int
    #: The run directory.
    directory: str
    #: Whether the run was there before: nothing that was sent then was sent again.
    resumed: bool

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Summary:
        """From the record that the program prints."""
        counts = ("outputs", "errors", "missing", "held", "invalid", "prompt_tokens", "completion_tokens")
        return cls(
            requests=record["lines"],
            directory=record["directory"],
            resumed=record["resumed"],
            **{name: record[name] for name in counts},
        )


class Replies:
    """The replies of a run, in the order of its rows. Can be iterated any number of times, in constant memory."""

    #: How the run ended.
    summary: Summary

    def __init__(self, file: IO[bytes], summary: Summary) -> None:
        self._file = file
        self.summary = summary
        weakref.finalize(self, file.close)

    def __len__(self) -> int:
        return self.summary.requests

    def __iter__(self) -> Iterator[Reply]:
        with io.BufferedReader(_Cursor(self._file), _READ_BYTES) as lines:
            for index, line in enumerate(lines):  # bytes are split at "\n" alone
                yield _reply(index, line.removesuffix(b"\n"))

    def __repr__(self) -> str:
        summary = self.summary
        return f"<Replies: {summary.outputs} outputs, {summary.errors} errors, {summary.missing} missing>"


def _reply(index: int, raw: bytes) -> Reply:
    # The body is as the service sent it, and the program accepts more than JSON is: see "Whole or not at all".
    text = raw.decode(errors="replace")
    try:
        line = json.loads(text, strict=False)
    except (ValueError, RecursionError) as unreadable:
        custom_id, _ = json.JSONDecoder().raw_decode(text, len(_BEGIN))
        return Reply(index, custom_id, None, None, ReplyError("unreadable", str(unreadable)), raw)
    response, error = line["response"] or {}, line["error"]
    return Reply(
        index=index,
        custom_id=line["custom_id"],
        status=response.get("status_code"),
        body=response.get("body"),
        error=ReplyError(error.get("code"), error.get("message") or "") if error else None,
        raw=raw,
    )


class _Cursor(io.RawIOBase):
    """Reads a file from its beginning, whoever else reads it meanwhile."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._offset = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = os.pread(self._file.fileno(), len(buffer), self._offset)
        buffer[: len(read)] = read
        self._offset += len(read)
        return len(read)
