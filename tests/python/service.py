"""The local service in a process of its own, with its access log."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchline._program import find_program


class Service:
    """A service that was started."""

    def __init__(self, directory: Path, base_url: str) -> None:
        self._log = directory / "access.jsonl"
        #: What leads a run there.
        self.arguments: dict[str, Any] = {
            "provider": "local",
            "base_url": base_url,
            "options": ["--poll-interval", "50ms"],
        }

    def calls(self, endpoint: str) -> int:
        """How often an endpoint was called so far."""
        lines = self._log.read_bytes().split(b"\n") if self._log.exists() else []
        return sum(json.loads(line)["endpoint"] == endpoint for line in lines if line)


@contextlib.contextmanager
def service(directory: str, *arguments: str) -> Iterator[Service]:
    """Starts a service below ``directory`` and ends it."""
    place = Path(directory) / "service"
    command = [find_program(), "serve", "--listen", "127.0.0.1:0", "--until-stdin-ends", "-d", str(place), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdin and child.stdout
        try:
            yield Service(place, child.stdout.readline().decode().strip())
        finally:
            child.stdin.close()
