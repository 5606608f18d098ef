"""Unary calls by h2load: fixed bytes, little CPU of its own, and how long each call took."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 4
IN_FLIGHT = 8
"""On each connection."""
TIMEOUT_S = 120
_DONE = re.compile(r"finished in ([\d.]+)(ms|s|m)?,")
_COUNTS = re.compile(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")


@dataclass(frozen=True)
class Load:
    """What a run of h2load saw. HTTP alone: gRPC's status is in the trailers."""

    calls: int
    seconds: float
    latencies_ms: list[float]


def program() -> str:
    """Where h2load is; says what to install when it is not there."""
    found = shutil.which("h2load")
    if found is None:
        sys.exit("h2load is not installed: apt-get install nghttp2-client")
    return found


def framed(message: bytes) -> bytes:
    """A message as it stands in the body of a call."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def run(
    address: str,
    path: str,
    message: bytes,
    token: str,
    calls: int,
    *,
    connections: int = CONNECTIONS,
    per_s: float | None = None,
) -> Load:
    """So many calls, as fast as they go or `per_s`; exits when one got no HTTP answer."""
    pace = ("--rps", f"{per_s / connections:.1f}") if per_s else ()
    with tempfile.TemporaryDirectory(prefix="driveflow-h2load-") as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(framed(message))
        done = subprocess.run(
            [
                program(),
                *("-n", str(calls), "-c", str(connections), "-m", str(IN_FLIGHT), *pace),
                *("-d", str(body), f"--log-file={log}"),
                *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                *("-H", "grpc-timeout: 10S", "-H", f"authorization: Bearer {token}"),
                f"http://{address}{path}",
            ],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        return _read(done.stdout, log.read_text(), calls)


def _read(output: str, log: str, calls: int) -> Load:
    done, counts = _DONE.search(output), _COUNTS.search(output)
    if done is None or counts is None or [int(n) for n in counts.groups()] != [calls, 0, 0, 0]:
        sys.exit(f"h2load: not all of {calls} calls were answered:\n{output}")
    unit = {"ms": 1e-3, "s": 1.0, "m": 60.0}[done[2] or "s"]
    # start, HTTP status, microseconds
    latencies = [int(line.split("\t")[2]) / 1e3 for line in log.splitlines()]
    return Load(calls, float(done[1]) * unit, latencies)
