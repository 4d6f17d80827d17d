"""Prompts with columns: ``Classify: {{text}}``.

The text of a column becomes part of a string that is then written as JSON as a whole, so no value can break out of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from .errors import InputError

_COLUMN = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")

#: The types of what pandas has in the place of a missing value.
_GAPS = ("NAType", "NaTType")


class Prompt:
    """A text with ``{{column}}`` in it."""

    def __init__(self, template: str) -> None:
        # Literal text and names of columns, in turn.
        self._parts = _COLUMN.split(template)

    def fill(self, row: Mapping[str, Any], place: str) -> str:
        """The text for a row. ``place`` names the row in errors."""
        parts = list(self._parts)
        for at in range(1, len(parts), 2):
            name = parts[at]
            if name not in row:
                columns = ", ".join(str(column) for column in row)
                raise InputError(f"{place} has no column {name!r}; its columns are {columns}")
            parts[at] = _text(row[name], f"{place}, column {name!r}")
        return "".join(parts)


def _text(value: Any, place: str) -> str:
    """A value as text. A missing one is an error: a prompt with a hole in it would be paid for."""
    if hasattr(value, "tolist"):  # scalars and arrays of numpy
        value = value.tolist()
    if isinstance(value, str):
        return value
    is_nan = isinstance(value, float) and math.isnan(value)
    if value is None or is_nan or type(value).__name__ in _GAPS:
        raise InputError(f"{place} has no value", hint="fill the gaps or leave those rows out")
    if isinstance(value, (bool, list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise InputError(f"{place} is bytes, not text")
    return str(value)
