"""Unary calls that differ from each other, by a client in C: Python's would measure itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import h2load

SOURCE = Path(__file__).with_name("create_client.c")
TIMEOUT_S = 120


@dataclass(frozen=True)
class Created:
    """What a run of the client saw; every answer was OK."""

    calls: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def compiled(folder: Path) -> Path:
    """The client, built into `folder`; says what to install when it can't be."""
    if shutil.which("cc") is None:
        sys.exit("there is no C compiler: apt-get install gcc libnghttp2-dev")
    program = folder / "create_client"
    command = ["cc", "-O2", "-std=c11", "-o", str(program), str(SOURCE), "-lnghttp2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"can't build {SOURCE.name}: apt-get install libnghttp2-dev\n{done.stderr}")
    return program


def run(program: Path, address: str, path: str, messages: Sequence[bytes], token: str) -> Created:
    """Each message once; exits when one of them was not answered OK."""
    requests = program.with_name("requests")
    requests.write_bytes(b"".join(h2load.framed(message) for message in messages))
    host, _, port = address.rpartition(":")
    done = subprocess.run(
        [
            *(str(program), host, port, path, str(requests)),
            *(str(h2load.CONNECTIONS), str(h2load.IN_FLIGHT)),
            *("authorization", f"Bearer {token}", "grpc-timeout", "10S"),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{path}: {done.stderr}")
    found = json.loads(done.stdout)
    if found["failures"] or found["count"] != len(messages):
        sys.exit(f"{path}: {found['failures']} of {found['count']} failed: {done.stderr}")
    return Created(
        found["count"], found["seconds"], found["p50_ms"], found["p95_ms"], found["p99_ms"]
    )
