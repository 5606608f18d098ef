"""Whether a service answers SERVING, for start-up scripts and containers.

`python -m libs.healthcheck [host:port]` asks the service of DRIVEFLOW_LISTEN unless another is
named; exit code 0 means SERVING. It speaks plaintext, as services do on loopback.
"""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 2.0
HEALTH_STATUS = health_pb2.HealthCheckResponse.ServingStatus


def status(address: str, timeout_s: float = TIMEOUT_S) -> str:
    """SERVING, NOT_SERVING, or the gRPC code of a service that does not answer."""
    with grpc.insecure_channel(address) as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
            answer = check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            return str(error.code().name)
    return HEALTH_STATUS.Name(answer.status)


def main() -> int:
    """Print the status of the service that is asked for."""
    listen = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DRIVEFLOW_LISTEN", "")
    host, _, port = listen.rpartition(":")
    # A server that listens everywhere is asked from within.
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104
    found = status(f"{here.get(host, host)}:{port}")
    print(found)
    return 0 if found == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
