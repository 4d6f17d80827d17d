"""What a wheel has installed in this environment, where there is nothing else: the program, the module, the manual.

usage: installed.py WHEEL

Exit code 0: it is small, runs on old systems, and works.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import batchline

#: The newest glibc that the program may want: that of the oldest systems in use.
GLIBC = (2, 28)

#: The largest wheel, in bytes.
WHEEL = 20_000_000


def insist(is_so: bool, what: object) -> None:
    if not is_so:
        sys.exit(f"the installed wheel: {what}")


program, prefix = Path(sys.prefix) / "bin/batchline", Path(sys.prefix)

wheel = Path(sys.argv[1])
insist(wheel.stat().st_size < WHEEL, f"{wheel.stat().st_size} bytes")

# A symbol has its version as a text in the file.
versions = {tuple(map(int, version.split(b"."))) for version in re.findall(rb"GLIBC_([0-9.]+)\0", program.read_bytes())}
insist(bool(versions) and max(versions) <= GLIBC, f"wants glibc {max(versions, default=None)}")

said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
insist(re.fullmatch(r"batchline \S+ \([0-9a-f]{9} \d{4}-\d\d-\d\d(, modified)?\)\n", said) is not None, said)
insist(said.split()[1] == batchline.__version__, f"{said} in the package {batchline.__version__}")
module = subprocess.run([sys.executable, "-m", "batchline", "--version"], capture_output=True, text=True, check=True)
insist(module.stdout == said, module.stdout)

for page in ("man1/batchline.1", "man1/batchline-run.1"):
    insist((prefix / "share/man" / page).stat().st_size > 1000, page)
for shell, script in {
    "bash": "bash-completion/completions/batchline",
    "fish": "fish/vendor_completions.d/batchline.fish",
    "zsh": "zsh/site-functions/_batchline",
}.items():
    printed = subprocess.run([program, "completions", shell], capture_output=True, check=True).stdout
    insist((prefix / "share" / script).read_bytes() == printed, script)

with tempfile.TemporaryDirectory() as state:
    os.environ["BATCHLINE_HOME"] = state
    replies = batchline.run(["one", "two"], provider="local", model="any")
    insist([reply.text and reply.text[-5:] for reply in replies] == [": one", ": two"], list(replies))

newest = ".".join(map(str, max(versions)))
print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, glibc {newest}, {said.strip()}")
