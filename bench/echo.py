"""The bare server that shares are shares of: grpc.aio with the options of ours, and nothing else.

    python bench/echo.py HOST:PORT

`/bench.Echo/<n>` takes any bytes and answers with n of them. Same options, event loop and garbage
collector settings as libs/server.py; no layers, no messages, no database.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import grpc
import uvloop

from libs import server
from libs.settings import Settings

PATH = "/bench.Echo/"


class Echo(grpc.GenericRpcHandler):
    """Finds the method that answers with as many bytes as its name says."""

    def __init__(self) -> None:
        self._methods: dict[str, Any] = {}

    def service(self, details: Any) -> Any:
        """One handler per size, made at its first call."""
        path = details.method
        if path not in self._methods:
            self._methods[path] = _answering(bytes(int(path.removeprefix(PATH))))
        return self._methods[path]


def _answering(answer: bytes) -> Any:
    async def echo(_: bytes, __: Any) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(echo)


async def serve(address: str) -> None:
    """Until it is killed."""
    settings = Settings(listen=address, dsn="", jwks="", page_token_key="-" * 32)
    bare = grpc.aio.server(options=server.options(settings))
    bare.add_generic_rpc_handlers((Echo(),))
    bare.add_insecure_port(address)
    await bare.start()
    gc.freeze()
    gc.set_threshold(*server.GC_THRESHOLDS)
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
