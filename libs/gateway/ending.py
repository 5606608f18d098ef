"""How a stream of points ended, and whether another one would help."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeAlias, TypeVar

import grpc

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.client import Refusal, refusal

# What grpc itself says of a broken connection; from a service they would carry a reason.
CODES_OF_TRANSPORT = (
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
)
CODES_TO_REOPEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.OK)

ResultT = TypeVar("ResultT")
Call: TypeAlias = grpc.aio.StreamStreamCall[pb.StreamTripPointsRequest, pb.StreamTripPointsResponse]


class Ending:
    """How a call ended, in the server's words.

    When a write fails because the server has just ended the call, grpc.aio overwrites the status
    that arrived with INTERNAL (in four of ten tries). A gateway that took a supersession for a
    fault would open again and supersede its superseder, so the status is noted as it arrives.
    """

    MASK = "Internal error from Core"
    WAIT_S = 1.0

    def __init__(self, call: Call) -> None:
        self._call = call
        self._heard: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note)

    def _note(self, _: object) -> None:
        if self._heard.done():
            return
        details = _result(self._call.details())
        if details != self.MASK:
            self._heard.set_result(refusal(self._error(details)))

    def _error(self, details: str) -> grpc.aio.AioRpcError:
        trailing = _result(self._call.trailing_metadata())
        code = _result(self._call.code())
        return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details)

    async def refusal(self) -> Refusal:
        """The server's status; INTERNAL without a reason when it never came."""
        try:
            async with asyncio.timeout(self.WAIT_S):
                return await asyncio.shield(self._heard)
        except TimeoutError:
            return Refusal(grpc.StatusCode.INTERNAL, "", "the stream broke")


def _result(answer: Coroutine[Any, Any, ResultT]) -> ResultT:
    """What a coroutine returns that has nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as returned:
        result: ResultT = returned.value
        return result
    raise RuntimeError("the call is still under way")


async def read(call: Call) -> pb.StreamTripPointsResponse | None:
    """The next message; None at the end, however it ended."""
    try:
        message = await call.read()
    except grpc.aio.AioRpcError:
        return None
    except asyncio.CancelledError:
        # Also raised when it is the server that cancelled the call.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return None
    return message if isinstance(message, pb.StreamTripPointsResponse) else None


def resumable(refused: Refusal) -> bool:
    """Whether opening the stream again may help."""
    if refused.reason == "STREAM_SUPERSEDED":
        return False
    if refused.code in CODES_TO_REOPEN or refused.retry_after_s is not None:
        return True
    return not refused.reason and refused.code in CODES_OF_TRANSPORT
