"""`batchline.run` with the program and the local service: order, resuming, interrupts, errors, memory."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import batchline
from service import service

PROMPTS = Path(__file__).resolve().parents[2] / "data/prompts.jsonl"
LOCAL: dict[str, Any] = {"provider": "local", "model": "m"}

#: Seconds that a test waits for anything.
PATIENCE = 60

#: A program that runs two rows at the service whose arguments it is given.
INTERRUPTED = """
import json, sys, batchline
batchline.run(["one", "two"], model="m", **json.loads(sys.argv[1]))
"""


class Running(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.place = directory.name
        environment = mock.patch.dict(os.environ, {"BATCHLINE_HOME": os.path.join(self.place, "state")})
        environment.start()
        self.addCleanup(environment.stop)

    def path(self, name: str, content: str | bytes) -> Path:
        path = Path(self.place) / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def litter(self) -> list[str]:
        """What is left in the state directory apart from runs."""
        state = Path(self.place) / "state"
        return [path.name for path in state.iterdir() if not (path / "ledger.sqlite").exists()]

    def test_replies_come_in_the_order_of_the_rows(self) -> None:
        rows = [{"text": f"row {number}", "n": number} for number in range(200)]
        replies = batchline.run(rows, prompt="{{n}}: {{text}}", **LOCAL)
        self.assertEqual(len(replies), 200)
        for number, reply in enumerate(replies):
            self.assertEqual(reply.index, number)
            self.assertTrue(reply.text and reply.text.endswith(f": {number}: row {number}"), reply)
            self.assertIsNone(reply.error)
            assert reply.usage is not None
            self.assertGreater(reply.usage.prompt_tokens, 0)
        self.assertEqual(list(replies), list(replies))
        self.assertEqual(
            sum(reply.usage.prompt_tokens for reply in replies if reply.usage), replies.summary.prompt_tokens
        )
        self.assertEqual(self.litter(), [])

    def test_the_same_rows_are_the_same_run_however_they_come(self) -> None:
        rows = [{"text": "a"}, {"text": "b\u2028"}]
        first = batchline.run(rows, prompt="{{text}}", **LOCAL)
        table = io.StringIO("text\na\nb\u2028\n", newline="")
        lines = "\n".join(["", *(json.dumps(row) for row in rows), ""])
        others: list[Any] = [
            (dict(row) for row in rows),
            [row["text"] for row in rows],
            csv.DictReader(table),
            self.path("rows.jsonl", lines),
        ]
        for other in others:
            prompt = "{{text}}" if not isinstance(other, list) else None
            again = batchline.run(other, prompt=prompt, **LOCAL)
            self.assertTrue(again.summary.resumed, other)
            self.assertEqual(again.summary.directory, first.summary.directory)
            self.assertEqual(list(again), list(first))
        self.assertFalse(batchline.run(rows[::-1], prompt="{{text}}", **LOCAL).summary.resumed)

    def test_requests_and_bodies_are_sent_as_they_are(self) -> None:
        requests = [json.loads(line) for line in PROMPTS.read_bytes().splitlines()]
        replies = batchline.run(requests, provider="local")
        self.assertEqual([reply.custom_id for reply in replies], [request["custom_id"] for request in requests])
        of_file = batchline.run(str(PROMPTS), provider="local", output=Path(self.place) / "out.jsonl")
        # An echo has a digest of its request before the text; the file's white space is its own.
        texts = [reply.text and reply.text.partition(": ")[2] for reply in replies]
        self.assertEqual([reply.text and reply.text.partition(": ")[2] for reply in of_file], texts)
        self.assertEqual([reply.custom_id for reply in of_file], [reply.custom_id for reply in replies])
        self.assertEqual((Path(self.place) / "out.jsonl").read_bytes().count(b"\n"), len(requests))
        bodies = batchline.run([request["body"] for request in requests], provider="local")
        self.assertEqual([reply.text and reply.text.partition(": ")[2] for reply in bodies], texts)
        self.assertEqual(next(iter(bodies)).custom_id, "line-1")

    def test_a_messy_service_loses_no_reply(self) -> None:
        kinds = ("duplicate_rows", "lone_surrogate", "bigints", "nul", "bad_utf8", "duplicate_keys")
        script = "".join(f'[[fault]]\ndo = "{kind}"\nshare = 0.05\n' for kind in kinds)
        faults = self.path("faults.toml", script + '[[fault]]\ndo = "crlf"\nevery = 2\n')
        with service(self.place, "--batch-time", "0ms", "--faults", str(faults)) as messy:
            replies = batchline.run((f"row {number}" for number in range(1000)), model="m", **messy.arguments)
        given = list(replies)
        self.assertEqual([reply.custom_id for reply in given], [f"line-{number + 1}" for number in range(1000)])
        self.assertEqual(replies.summary.outputs, 1000)
        for reply in given:
            self.assertTrue(reply.text and reply.text.endswith(f": row {reply.index}"), reply.raw)

    def test_errors_have_their_class_and_the_words_of_the_program(self) -> None:
        unreachable = {"provider": "local", "model": "m", "base_url": "http://127.0.0.1:1"}
        cases: list[tuple[type[batchline.Error], int | None, str, dict[str, Any]]] = [
            (batchline.UsageError, 2, "the input has no requests", {"rows": []}),
            (batchline.UsageError, 2, "unexpected argument '--nope'", {"rows": ["a"], "options": ["--nope"], **LOCAL}),
            (batchline.UsageError, 2, "cannot open none.jsonl", {"rows": "none.jsonl"}),
            (batchline.UsageError, 2, "there is no provider", {"rows": ["a"], **LOCAL, "provider": "nobody"}),
            (
                batchline.ConfigurationError,
                3,
                "no API key for together",
                {"rows": ["a"], **LOCAL, "provider": "together"},
            ),
            (batchline.DefectError, 4, "line 2: body.model is missing", {"rows": [{"model": "m"}, {"messages": []}]}),
            (batchline.ProviderError, 5, "127.0.0.1:1", {"rows": ["a"], **unreachable}),
            (
                batchline.InputError,
                None,
                "row 2 has no column",
                {"rows": [{"a": 1}, {"b": 1}], "prompt": "{{a}}", **LOCAL},
            ),
            (batchline.UsageError, None, "--errors=e", {"rows": ["a"], "options": ["--yes", "--errors=e"], **LOCAL}),
            (batchline.UsageError, None, "-yo would", {"rows": ["a"], "options": ["-yo", "out"], **LOCAL}),
            (batchline.UsageError, None, "model is for rows with a prompt", {"rows": [{"a": 1}], **LOCAL}),
        ]
        with mock.patch.dict(os.environ):
            os.environ.pop("TOGETHER_API_KEY", None)
            for kind, code, words, arguments in cases:
                with self.subTest(words), self.assertRaises(batchline.Error) as caught:
                    batchline.run(**{"provider": "local", **arguments})
                self.assertIs(type(caught.exception), kind)
                self.assertEqual(caught.exception.exit_code, code)
                self.assertIn(words, str(caught.exception))
                if isinstance(caught.exception, batchline.DefectError):
                    self.assertEqual([defect["line"] for defect in caught.exception.defects], [2])

    def test_rows_that_fail_half_way_send_nothing(self) -> None:
        def rows() -> Iterator[str]:
            yield "one"
            raise OSError("the database is gone")

        with service(self.place) as listening:
            with self.assertRaisesRegex(OSError, "the database is gone"):
                batchline.run(rows(), model="m", **listening.arguments)
            self.assertEqual(listening.calls("create_batch"), 0)
        self.assertEqual(self.litter(), [])

    def test_held_requests_are_an_error_that_has_the_replies(self) -> None:
        faults = self.path("faults.toml", '[[fault]]\ndo = "drop_before"\ncall = "create"\nnth = 1\n')
        with service(self.place, "--faults", str(faults)) as lossy:
            options = [*lossy.arguments.pop("options"), "--on-ambiguous", "hold", "--settle", "1s"]
            with self.assertRaises(batchline.HeldError) as caught:
                batchline.run(["one"], model="m", options=options, **lossy.arguments)
        assert caught.exception.replies is not None
        self.assertEqual(caught.exception.exit_code, 7)
        self.assertEqual([reply.error and reply.error.code for reply in caught.exception.replies], ["held"])

    def test_a_second_run_at_the_same_time_is_refused(self) -> None:
        with service(self.place, "--batch-time", "10m") as slow, self.interrupted(slow, group=False) as child:
            with self.assertRaises(batchline.LockedError) as caught:
                batchline.run(["one", "two"], model="m", **slow.arguments)
            self.assertEqual(caught.exception.exit_code, 9)
            child.send_signal(signal.SIGINT)
            child.wait(PATIENCE)

    def interrupted(self, slow: Any, group: bool) -> subprocess.Popen[str]:
        """A process with a run whose batch has been created."""
        command = [sys.executable, "-c", INTERRUPTED, json.dumps(slow.arguments)]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=group)
        deadline = time.monotonic() + PATIENCE
        while slow.calls("create_batch") == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        return child

    def test_an_interrupt_leaves_a_run_that_resumes(self) -> None:
        # As in a terminal or a notebook, where it reaches the program, too; and as by a signal to this process alone.
        for group in (True, False):
            with self.subTest(group=group), service(f"{self.place}/{group}", "--batch-time", "4s") as slow:
                with self.interrupted(slow, group) as child:
                    os.killpg(child.pid, signal.SIGINT) if group else child.send_signal(signal.SIGINT)
                    _, said = child.communicate(timeout=PATIENCE)
                self.assertIn("Interrupted: interrupted; call run() again with the same rows to resume (run dir", said)
                # The run is not locked: its process has ended.
                replies = batchline.run(["one", "two"], model="m", **slow.arguments)
                self.assertTrue(replies.summary.resumed)
                self.assertEqual([bool(reply.text) for reply in replies], [True, True])
                self.assertEqual(slow.calls("create_batch"), 1)

    def test_a_callback_that_fails_ends_the_program(self) -> None:
        def fail(progress: batchline.Progress) -> None:
            raise ZeroDivisionError

        with service(self.place, "--batch-time", "1s") as slow:
            with self.assertRaises(ZeroDivisionError):
                batchline.run(["one"], model="m", progress=fail, **slow.arguments)
            seen: list[batchline.Progress] = []
            replies = batchline.run(["one"], model="m", progress=seen.append, **slow.arguments)
            self.assertEqual((replies.summary.outputs, slow.calls("create_batch")), (1, 1))
        self.assertEqual(seen[-1].requests, 1)

    def test_memory_does_not_grow_with_the_rows(self) -> None:
        text = "x" * 4000

        def rows() -> Iterator[str]:
            for number in range(15_000):
                yield f"{number} {text}"

        batchline.run(["warm"], **LOCAL)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        replies = batchline.run(rows(), **LOCAL)
        self.assertEqual(sum(reply.error is None for reply in replies), 15_000)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        self.assertLess(grown, 16 * 1024, "KiB, for 60 MB of rows")


class Bodies(unittest.TestCase):
    def test_text_and_usage_of_every_endpoint(self) -> None:
        message = [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "hi"}]}]
        cases: list[tuple[Any, str | None, batchline.Usage | None]] = [
            ({"choices": [{"message": {"content": "hi"}}]}, "hi", None),
            (
                {"choices": [{"text": "hi"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
                "hi",
                batchline.Usage(1, 2),
            ),
            ({"choices": [{"message": {"content": None, "tool_calls": []}}]}, None, None),
            ({"output": message, "usage": {"input_tokens": 1, "output_tokens": 2}}, "hi", batchline.Usage(1, 2)),
            ({"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 1}}, None, batchline.Usage(1, 0)),
            ({"choices": [], "usage": None}, None, None),
            ({"choices": "?", "output": [None, {"content": [None]}], "usage": {"prompt_tokens": "?"}}, None, None),
            (["?"], None, None),
            (None, None, None),
        ]
        for body, text, usage in cases:
            reply = batchline.Reply(0, "a", 200, body, None, b"")
            self.assertEqual((reply.text, reply.usage), (text, usage), body)

    def test_an_answer_that_python_cannot_read_is_kept(self) -> None:
        bodies = [b"[" * 100_000 + b"]" * 100_000, b"9" * 5000, b'"\xff\x00"', b"NaN", b'"\xe2\x80\xa8\\ud83d"']
        lines = [
            b'{"custom_id":"\\u00e4","response":{"status_code":200,"body":%s},"error":null}' % body for body in bodies
        ]
        with tempfile.TemporaryFile() as file:
            file.write(b"\n".join(lines) + b"\n")
            file.flush()
            summary = batchline.Summary(5, 5, 0, 0, 0, 0, 0, 0, "", False)
            replies = list(batchline.Replies(file, summary))
        self.assertEqual([reply.raw for reply in replies], lines)
        self.assertEqual([reply.custom_id for reply in replies], ["ä"] * 5)
        codes = [reply.error and reply.error.code for reply in replies]
        self.assertEqual(codes, ["unreadable", "unreadable", None, None, None])
        self.assertEqual([replies[2].body, replies[4].body], ["\ufffd\x00", "\u2028\ud83d"])


class Views(unittest.TestCase):
    def test_a_terminal_shows_no_control_characters(self) -> None:
        from batchline._progress import printable

        self.assertEqual(printable("a\x1b[2J\u202eb\n"), "a\\x1b[2J\\u202eb\n")

    def test_a_notebook_shows_a_bar(self) -> None:
        from batchline import _progress

        shell = type("ZMQInteractiveShell", (), {})()
        ipython = mock.MagicMock(get_ipython=lambda: shell)
        ipython.display.HTML = str
        with mock.patch.dict(sys.modules, {"IPython": ipython}):
            shown = _progress.view(None)
            shown.say(logging.INFO, "<b>")
            shown.show(batchline.Progress(requests=4, done=1))
        last = ipython.display.display.return_value.update.call_args.args[0]
        self.assertIn('<progress value="1" max="4">', last)
        self.assertIn("&lt;b&gt;", last)
