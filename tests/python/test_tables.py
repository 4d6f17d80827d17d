"""Tables of pandas, polars and Arrow: the same rows, the same run, and the replies beside them."""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import batchline
import pandas
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

TEXTS = [f'row {number}, "quoted", ä\u2028' for number in range(2500)]
NUMBERS = list(range(2500))
PROMPT: dict[str, Any] = {"provider": "local", "model": "m", "prompt": "{{n}}: {{text}}"}


class Tables(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.place = Path(directory.name)
        environment = mock.patch.dict(os.environ, {"BATCHLINE_HOME": directory.name + "/state"})
        environment.start()
        self.addCleanup(environment.stop)

    def test_every_kind_of_table_is_the_same_run(self) -> None:
        rows = [{"text": text, "n": number} for text, number in zip(TEXTS, NUMBERS, strict=True)]
        expected = batchline.run(rows, **PROMPT)
        arrow = pyarrow.table({"text": TEXTS, "n": NUMBERS})
        pyarrow.parquet.write_table(arrow, self.place / "rows.parquet", row_group_size=700)
        frame = pandas.DataFrame({"text": TEXTS, "n": NUMBERS})
        tables: dict[str, batchline.Rows] = {
            "pandas": frame,
            "pandas, another index": frame.set_index(frame["n"] + 7),
            "pandas on Arrow": frame.convert_dtypes(dtype_backend="pyarrow"),
            "polars": polars.DataFrame({"text": TEXTS, "n": NUMBERS}),
            "arrow": arrow,
            "arrow, in pieces": pyarrow.concat_tables([arrow.slice(0, 1), arrow.slice(1)]),
            "a stream": arrow.to_reader(max_chunksize=300),
            "a dataset of Parquet": pyarrow.dataset.dataset(self.place / "rows.parquet"),
        }
        for name, table in tables.items():
            with self.subTest(name):
                replies = batchline.run(table, **PROMPT)
                self.assertTrue(replies.summary.resumed, "the same run")
                self.assertEqual(replies.summary.directory, expected.summary.directory)
                self.assertEqual(len(replies), len(TEXTS))
        for number, reply in enumerate(expected):
            self.assertTrue(reply.text and reply.text.endswith(f": {number}: {TEXTS[number]}"), reply)

    def test_replies_become_a_column(self) -> None:
        frame = pandas.DataFrame({"text": TEXTS, "n": NUMBERS}).sample(frac=1, random_state=1)
        frame["reply"] = [reply.text for reply in batchline.run(frame, **PROMPT)]
        self.assertTrue(all(row.reply.endswith(f": {row.n}: {row.text}") for row in frame.itertuples()))
        table = polars.DataFrame({"text": TEXTS, "n": NUMBERS})
        replies = polars.Series("reply", [reply.text for reply in batchline.run(table, **PROMPT)])
        joined = table.with_columns(replies)
        self.assertTrue(all(reply.endswith(f": {n}: {text}") for text, n, reply in joined.iter_rows()))

    def test_gaps_are_named(self) -> None:
        gap: Any
        for gap in (
            pandas.DataFrame({"text": ["a", None]}),
            pandas.DataFrame({"text": pandas.array(["a", None], dtype="string")}),
            pandas.DataFrame({"text": pandas.to_datetime(["2026-01-01", None])}),
            polars.DataFrame({"text": ["a", None]}),
            polars.DataFrame({"text": [1.0, float("nan")]}),
            pyarrow.table({"text": ["a", None]}),
        ):
            with self.assertRaisesRegex(batchline.InputError, "row 2, column 'text' has no value"):
                batchline.run(gap, provider="local", model="m", prompt="{{text}}")

    def test_numbers_and_lists_are_those_of_python(self) -> None:
        def text(table: Any) -> Any:
            return next(iter(batchline.run(table, provider="local", model="m", prompt="{{a}} {{b}} {{c}}"))).text

        columns: dict[str, Any] = {"a": [1], "b": [True], "c": [["x", "y"]]}
        texts = [text(table(columns)) for table in (pandas.DataFrame, polars.DataFrame, pyarrow.table)]
        self.assertTrue(texts[0].endswith(': 1 true ["x", "y"]'), texts[0])
        self.assertEqual(set(texts), {texts[0]})

    def test_what_is_no_table_yet_is_said(self) -> None:
        with self.assertRaisesRegex(batchline.UsageError, "collect"):
            batchline.run(polars.DataFrame({"text": ["a"]}).lazy(), **PROMPT)  # type: ignore[arg-type]
        twice = pandas.DataFrame([["a", "b"]], columns=["text", "text"])
        with self.assertRaisesRegex(batchline.InputError, "two columns of one name"):
            batchline.run(twice, **PROMPT)


class Readme(unittest.TestCase):
    def test_its_lines_work(self) -> None:
        readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
        program = readme.partition("```python\n")[2].partition("```")[0]
        with tempfile.TemporaryDirectory() as place:
            Path(place, "reviews.csv").write_text("id,text\n7,good\n8,bad\n")
            state = {"BATCHLINE_HOME": place + "/state"}
            before = os.getcwd()
            self.addCleanup(os.chdir, before)
            os.chdir(place)
            with mock.patch.dict(os.environ, state):
                exec(program, {})  # it is our own # noqa: S102
            os.chdir(before)
            labels = pandas.read_csv(place + "/labels.csv")
        self.assertEqual([label[-6:] for label in labels["label"]], ["? good", "d? bad"])
