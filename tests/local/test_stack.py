"""What a local stack needs of the machine."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from libs.local.stack import first_taken
from tests.waiting import eventually


async def test_a_port_that_a_connection_was_given_is_waited_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        port = client.getsockname()[1]
        waiting = asyncio.create_task(asyncio.to_thread(first_taken, [port]))
        await eventually(lambda: f"waiting for port {port}" in capsys.readouterr().err)
        assert not waiting.done()
        # Ended with a reset it leaves nothing behind.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert await waiting is None


def test_a_port_where_somebody_listens_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert first_taken([port]) == port
