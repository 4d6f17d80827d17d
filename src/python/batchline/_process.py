"""The program as a child process.

In: its arguments, and the requests as its standard input. Out: its records, one after the other, and its exit code.

Invariants: the child is never left behind: whatever is raised here, it has ended before that leaves. It is stopped by
one SIGINT, which it takes as "stop in good order"; it can be killed at any time, and then resumed.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

#: How long a child that an interrupt may have reached has to end by itself, in seconds. Ctrl-C in a terminal, and the
#: interrupt of a notebook, reach all processes of their group; a signal to this process alone does not.
_GRACE = 2.0

#: How long a child that was asked to stop has to end, in seconds.
_STOP = 30.0

#: Lines that are no records of which the last are kept, for errors.
_TEXT_LINES = 50

#: Records that wait to be read.
_QUEUE = 1000

Record = Mapping[str, Any]


class Process:
    """One run of the program, with ``--json``."""

    def __init__(self, command: Sequence[str], requests: IO[bytes] | int, replies: IO[bytes] | int) -> None:
        self._child = subprocess.Popen(command, stdin=requests, stdout=replies, stderr=subprocess.PIPE)
        self._lines: queue.Queue[bytes | None] = queue.Queue(_QUEUE)
        #: What it said apart from records.
        self.text: deque[str] = deque(maxlen=_TEXT_LINES)
        threading.Thread(target=self._read, name="batchline", daemon=True).start()

    def _read(self) -> None:
        assert self._child.stderr is not None
        with self._child.stderr as stderr:
            for line in stderr:
                self._lines.put(line)
        self._lines.put(None)

    def end(self, hear: Callable[[Record], None]) -> int:
        """Tells ``hear`` each record, and returns the exit code: negative for a signal."""
        try:
            while (line := self._lines.get()) is not None:
                self._hear(line, hear)
            return self._child.wait()
        except KeyboardInterrupt:
            self._stop(_GRACE)
            raise
        except BaseException:
            self._stop(0)
            raise

    def _hear(self, line: bytes, hear: Callable[[Record], None]) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and "kind" in record:
            hear(record)
        else:
            self.text.append(line.decode(errors="replace").rstrip("\n"))

    def _stop(self, grace: float) -> None:
        """Ends the child: asks it after ``grace`` seconds, and insists after :data:`_STOP`."""
        try:
            for signal_sent, patience in ((None, grace), (signal.SIGINT, _STOP), (signal.SIGKILL, _STOP)):
                if signal_sent is not None:
                    self._child.send_signal(signal_sent)
                if self._drained_within(patience):
                    break
            self._child.wait()
        except BaseException:  # a second Ctrl-C means now
            self._child.kill()
            self._child.wait()
            raise

    def _drained_within(self, patience: float) -> bool:
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            try:
                if self._lines.get(timeout=left) is None:
                    return True
            except queue.Empty:
                break
        return False
