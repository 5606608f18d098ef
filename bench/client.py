"""The load of bench/ingest.py: gateways that stream batches, in a process of their own.

Messages are serialized before the clock starts and go out as bytes, so that the bench measures the
service and not its client. Speaks with its parent in lines of JSON: it reads a Load, says how the
streams were opened, and for each phase waits for a line, sends and says how that went.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any, Self

import grpc
import uvloop

from bench import points
from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.local.paths import ROOT

METHOD = "/driveflow.tracking.v1.TrackingService/StreamTripPoints"
PHASE_TIMEOUT_S = 300
END_TIMEOUT_S = 30
OPENED_AT_ONCE = 50
CHANNEL_OPTIONS = [
    # A connection for each gateway, as in the field.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", 1024 * 1024),
]


@dataclass(frozen=True)
class Load:
    """What to send: every gateway streams one trip."""

    address: str
    token: str
    trip_ids: list[str]
    start: int
    """Time of the first point of each trip, seconds since 1970."""
    phases: list[int]
    """Points of each trip in each phase."""
    batch_points: int
    dense: bool = False
    repeater: str = ""
    """Trip of one more gateway, which sends points that are stored already, until the end."""
    repeater_points: int = 0


@dataclass(frozen=True)
class Opened:
    """All streams are open."""

    seconds: float


@dataclass(frozen=True)
class Sent:
    """All points of a phase were sent and acknowledged as durable."""

    seconds: float
    points: int
    wire_bytes: int
    """Serialized messages with their gRPC headers of five bytes."""
    stored: int
    """As the acknowledgements say."""
    repeated: int
    """Points that the repeater had acknowledged as duplicates."""


class Client:
    """A load's process, seen from its parent. All its streams are open once it is made."""

    def __init__(self, load: Load) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._say(json.dumps(asdict(load)))
        self.opened = Opened(**self._hear())

    def send(self) -> Sent:
        """Have it send the next phase; returns when all of it is durable."""
        self._say("go")
        return Sent(**self._hear())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=END_TIMEOUT_S)
        finally:
            self._process.kill()
            self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ClientFailed(f"the client ended with exit code {self._process.wait()}")
        return json.loads(line)


class ClientFailed(Exception):
    """The client could not send all; why is on stderr."""


class Gateway:
    """One stream."""

    def __init__(self, load: Load) -> None:
        self._channel = grpc.aio.insecure_channel(load.address, CHANNEL_OPTIONS)
        self._call: grpc.aio.StreamStreamCall[bytes, bytes] = self._channel.stream_stream(METHOD)(
            metadata=(("authorization", f"Bearer {load.token}"),)
        )
        self.sequence = 0
        self.durable = 0
        self.stored = 0
        self.duplicates = 0

    async def open(self) -> None:
        """Open an upload of its own."""
        upload = pb.OpenUpload(upload_id=str(uuid.uuid4()), gateway="bench")
        await self._call.write(pb.StreamTripPointsRequest(open=upload).SerializeToString())
        opened = pb.StreamTripPointsResponse.FromString(await self._answer())
        assert opened.HasField("opened"), opened

    async def send(self, messages: list[bytes]) -> None:
        """Send batches, numbered on from the last; return once all are durable."""
        self.sequence += len(messages)
        writing = asyncio.ensure_future(self._write(messages))
        try:
            while self.durable < self.sequence:
                await self.acknowledged()
        finally:
            writing.cancel()

    async def acknowledged(self) -> None:
        """Take in the next acknowledgement."""
        self._take(await self._answer())

    async def write(self, message: bytes) -> None:
        """Send one message; waits while the service takes no more."""
        await self._call.write(message)

    async def half_close(self) -> None:
        """Send no more."""
        await self._call.done_writing()

    async def end(self) -> None:
        """Send no more, and return once all that was sent is durable."""
        await self.half_close()
        await self.listen()

    async def listen(self) -> None:
        """Take in acknowledgements until the stream ends."""
        while isinstance(answer := await self._call.read(), bytes):
            self._take(answer)

    async def _write(self, messages: list[bytes]) -> None:
        for message in messages:
            await self.write(message)

    async def _answer(self) -> bytes:
        answer = await self._call.read()
        if not isinstance(answer, bytes):
            raise SystemExit(f"the stream ended: {await self._call.code()}")
        return answer

    def _take(self, answer: bytes) -> None:
        ack = pb.StreamTripPointsResponse.FromString(answer).ack
        assert not ack.rejected_count, ack
        self.durable = ack.durable_through
        self.stored += ack.stored
        self.duplicates += ack.duplicates


class Repeater:
    """A gateway that has lost its memory: it sends what is stored already, over and over."""

    def __init__(self, load: Load, tracks: list[bytes]) -> None:
        self._load = load
        self._tracks = tracks
        self._gateway = Gateway(load)
        self._stopped = False
        self._tasks: list[asyncio.Future[None]] = []

    @property
    def duplicates(self) -> int:
        """Points acknowledged as stored already."""
        return self._gateway.duplicates

    async def prepare(self) -> None:
        """Store the points for the first time."""
        first = Gateway(self._load)
        await first.open()
        await first.send([points.message(n, track) for n, track in enumerate(self._tracks, 1)])
        await first.end()
        await self._gateway.open()

    def start(self) -> None:
        """Begin to send."""
        self._tasks = [
            asyncio.ensure_future(self._send()),
            asyncio.ensure_future(self._gateway.listen()),
        ]

    async def stop(self) -> None:
        """Send no more, and return once nothing of it can be stored any more."""
        # A cancelled write would end the stream, and leave behind what waits in the service.
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def _send(self) -> None:
        for sequence in itertools.count(1):
            if self._stopped:
                break
            track = self._tracks[sequence % len(self._tracks)]
            await self._gateway.write(points.message(sequence, track))
        await self._gateway.half_close()


class Fleet:
    """The gateways of a load."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._encode = points.dense_track if load.dense else points.plain_track
        self._gateways = [Gateway(load) for _ in load.trip_ids]
        self._repeater: Repeater | None = None

    async def run(self) -> None:
        """All phases, then the end of all streams."""
        phases = self._phases()
        started = time.perf_counter()
        # The service turns away what would wait for more connections than it has patience for.
        for first in range(0, len(self._gateways), OPENED_AT_ONCE):
            some = self._gateways[first : first + OPENED_AT_ONCE]
            await asyncio.gather(*(gateway.open() for gateway in some))
        opened = Opened(time.perf_counter() - started)
        await self._prepare_repeater()
        tell(opened)
        for phase in phases:
            if not await asyncio.to_thread(sys.stdin.readline):
                break
            async with asyncio.timeout(PHASE_TIMEOUT_S):
                tell(await self._send(phase))
        async with asyncio.timeout(END_TIMEOUT_S):
            await asyncio.gather(*(gateway.end() for gateway in self._gateways))
            if self._repeater is not None:
                await self._repeater.stop()

    async def _send(self, phase: list[list[bytes]]) -> Sent:
        stored = sum(gateway.stored for gateway in self._gateways)
        if self._repeater is not None:
            self._repeater.start()
        started = time.perf_counter()
        await asyncio.gather(
            *(
                gateway.send(messages)
                for gateway, messages in zip(self._gateways, phase, strict=True)
            )
        )
        return Sent(
            seconds=time.perf_counter() - started,
            points=self._load.batch_points * sum(map(len, phase)),
            wire_bytes=sum(len(message) + 5 for messages in phase for message in messages),
            stored=sum(gateway.stored for gateway in self._gateways) - stored,
            repeated=0 if self._repeater is None else self._repeater.duplicates,
        )

    async def _prepare_repeater(self) -> None:
        load = self._load
        if load.repeater:
            tracks = self._tracks(len(load.trip_ids), load.repeater, load.repeater_points)
            self._repeater = Repeater(load, tracks)
            await self._repeater.prepare()

    def _phases(self) -> list[list[list[bytes]]]:
        """Messages by phase and gateway."""
        load = self._load
        fleet = [
            self._tracks(number, trip_id, sum(load.phases))
            for number, trip_id in enumerate(load.trip_ids)
        ]
        phases = []
        sent = 0
        for count in load.phases:
            batches = count // load.batch_points
            phases.append(
                [
                    [
                        points.message(sequence + 1, tracks[sequence])
                        for sequence in range(sent, sent + batches)
                    ]
                    for tracks in fleet
                ]
            )
            sent += batches
        return phases

    def _tracks(self, number: int, trip_id: str, count: int) -> list[bytes]:
        load = self._load
        drive = points.drive(number, load.start, count)
        return [
            self._encode(trip_id, drive.part(first, load.batch_points))
            for first in range(0, count, load.batch_points)
        ]


def tell(report: Opened | Sent) -> None:
    """A line for the parent."""
    print(json.dumps(asdict(report)), flush=True)


async def main() -> None:
    """Do as the first line says."""
    await Fleet(Load(**json.loads(sys.stdin.readline()))).run()


if __name__ == "__main__":
    uvloop.run(main())
