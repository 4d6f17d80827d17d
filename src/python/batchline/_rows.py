"""Rows to lines of requests.

In: a file, rows, or a table. Out: one line of JSON for each row, in their order.

Invariants: equal rows give equal bytes, so that the program finds the run that they belong to: members keep the order
that they were built in, and nothing depends on time, place or memory. One row, or one slice of a table, is in memory at
a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from ._prompt import Prompt
from .errors import Error, InputError, UsageError

#: Rows of a table that are converted together.
_SLICE = 1000

#: The column of a row that is a plain string.
_TEXT = "text"


@runtime_checkable
class Table(Protocol):
    """What tables of pandas, polars and Arrow have in common."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...


#: A file of JSON Lines, rows (a string is a row with the one column ``text``), or a table.
Rows = str | os.PathLike[str] | Iterable[Mapping[str, Any] | str] | Table


class Request:
    """How a row becomes the body of a request. Without a prompt the rows are requests, or bodies, as they are."""

    def __init__(
        self, model: str | None, prompt: str | None, system: str | None, parameters: Mapping[str, Any] | None
    ) -> None:
        self._prompt = Prompt(prompt) if prompt is not None else None
        self._system = Prompt(system) if system is not None else None
        self._model = model
        self._parameters = dict(parameters or {})

    @property
    def is_made(self) -> bool:
        """Whether there is something to make a request of."""
        return self._prompt is not None

    def line(self, row: Mapping[str, Any] | str, place: str) -> bytes:
        """The line of a row."""
        if isinstance(row, str):
            if self._prompt is None:
                self._prompt = Prompt("{{text}}")
            row = {_TEXT: row}
        if not isinstance(row, Mapping):
            raise InputError(f"{place} is of type {type(row).__name__}, not a mapping or a string")
        try:
            member = row if self._prompt is None else self._body(self._prompt, row, place)
            return json.dumps(member, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        except Error:
            raise
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{place} cannot be written as JSON: {error}") from error

    def _body(self, prompt: Prompt, row: Mapping[str, Any], place: str) -> dict[str, Any]:
        if self._model is None:
            raise UsageError("rows with a prompt need a model")
        messages = [{"role": "user", "content": prompt.fill(row, place)}]
        if self._system is not None:
            messages.insert(0, {"role": "system", "content": self._system.fill(row, place)})
        return {"model": self._model, "messages": messages, **self._parameters}

    def refuse_unused(self) -> None:
        """Raises if there is something that rows without a prompt do not use."""
        given = {"model": self._model, "system": self._system, "parameters": self._parameters or None}
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name} is for rows with a prompt; these rows are requests as they are")


def each(rows: Rows) -> Iterator[Any]:
    """The rows, one after the other."""
    if isinstance(rows, (str, os.PathLike)):
        return _file(rows)
    table: Any = rows
    if hasattr(table, "iter_rows"):  # polars
        return iter(table.iter_rows(named=True))
    if hasattr(table, "to_batches"):  # a table or dataset of pyarrow
        return _batches(table.to_batches())
    if hasattr(table, "iloc") and hasattr(table, "columns"):  # pandas
        return _pandas(table)
    if hasattr(table, "collect") and hasattr(table, "lazy"):
        raise UsageError("a lazy frame has no rows yet: pass the result of its collect()")
    if hasattr(table, "read_next_batch"):  # a stream of pyarrow
        return _batches(table)
    return iter(table)


def _file(path: str | os.PathLike[str]) -> Iterator[Any]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):  # bytes are split at "\n" alone
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                hint = "for CSV pass csv.DictReader(file), or a table of pandas or polars"
                raise InputError(f"{os.fspath(path)}:{number} is not JSON: {error}", hint=hint) from error
            yield row


def _batches(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        for start in range(0, batch.num_rows, _SLICE):
            yield from batch.slice(start, _SLICE).to_pylist()


def _pandas(table: Any) -> Iterator[Any]:
    names = [str(name) for name in table.columns]
    if len(set(names)) < len(names):
        raise InputError("the table has two columns of one name")
    for start in range(0, len(table), _SLICE):
        part = table.iloc[start : start + _SLICE]
        part.columns = names
        yield from part.to_dict("records")
