"""Rows to lines: the same rows give the same bytes, and no value breaks out of its string."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import unittest
from typing import Any

from batchline import InputError, UsageError
from batchline._prompt import Prompt
from batchline._rows import Request


class Prompts(unittest.TestCase):
    def test_columns_are_filled_in(self) -> None:
        prompt = Prompt("{{a}} and {{ b c }}, {a}, {{{a}}} {{")
        self.assertEqual(prompt.fill({"a": "A", "b c": 1}, "row 1"), "A and 1, {a}, {A} {{")
        self.assertEqual(Prompt("no column").fill({}, "row 1"), "no column")

    def test_what_is_filled_in_is_not_read_again(self) -> None:
        self.assertEqual(Prompt("{{a}}{{b}}").fill({"a": "{{b}}", "b": "\\1"}, "row 1"), "{{b}}\\1")

    def test_values_have_one_text(self) -> None:
        for value, text in [
            (True, "true"),
            (-0.5, "-0.5"),
            (10**30, "1" + "0" * 30),
            (decimal.Decimal("1.10"), "1.10"),
            (datetime.date(2026, 1, 2), "2026-01-02"),
            (["ä", {"b": None}], '["ä", {"b": null}]'),
            ("", ""),
        ]:
            self.assertEqual(Prompt("{{a}}").fill({"a": value}, "row 1"), text)

    def test_gaps_are_errors(self) -> None:
        for value in (None, math.nan, b"bytes"):
            with self.assertRaisesRegex(InputError, "row 7, column 'a'"):
                Prompt("{{a}}").fill({"a": value}, "row 7")
        with self.assertRaisesRegex(InputError, "row 7 has no column 'b'; its columns are a"):
            Prompt("{{b}}").fill({"a": 1}, "row 7")


class Lines(unittest.TestCase):
    def line(self, row: Any, model: str | None = "m", prompt: str | None = "{{text}}", **more: Any) -> bytes:
        return Request(model, prompt, more.get("system"), more.get("parameters")).line(row, "row 1")

    def test_bytes_are_fixed(self) -> None:
        line = self.line({"text": "é\n"}, system="{{text}}!", parameters={"temperature": 0.0})
        self.assertEqual(
            line.decode(),
            '{"model":"m","messages":[{"role":"system","content":"é\\n!"},{"role":"user","content":"é\\n"}],'
            '"temperature":0.0}\n',
        )
        self.assertEqual(self.line("é\n"), self.line({"text": "é\n"}))
        self.assertEqual(self.line("é\n", prompt=None), self.line({"text": "é\n"}))

    def test_values_stay_in_their_string(self) -> None:
        for text in ('"}], "x": [{"', "\\", "\x00\x1f\x7f", "\u2028\u2029\x85", "\r\n", "😀", "{{text}}"):
            line = self.line({"text": text})
            self.assertEqual(line.count(b"\n"), 1)
            self.assertEqual(json.loads(line)["messages"], [{"role": "user", "content": text}])

    def test_rows_without_a_prompt_are_as_they_are(self) -> None:
        row = {"custom_id": "z", "body": {"b": 1, "a": [None, 1.5]}}
        self.assertEqual(self.line(row, None, None), b'{"custom_id":"z","body":{"b":1,"a":[null,1.5]}}\n')

    def test_what_is_no_json_is_an_error(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        for value in (math.inf, object(), {1, 2}, "\ud83d", loop):
            with self.assertRaisesRegex(InputError, "row 1 cannot be written as JSON"):
                self.line({"value": value}, None, None)
        with self.assertRaisesRegex(InputError, "row 1 is of type int"):
            self.line(3)

    def test_what_would_not_be_used_is_refused(self) -> None:
        with self.assertRaisesRegex(UsageError, "need a model"):
            self.line("text", model=None)
        with self.assertRaisesRegex(UsageError, "system is for rows with a prompt"):
            Request(None, None, "be kind", None).refuse_unused()
