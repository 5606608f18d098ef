"""A gateway: streams the points of cars into tracking, each stored exactly once.

    async with Gateway(connection.tracking, upload_id) as gateway:
        await gateway.send([dense_track(trip_id, time_us, lat, lng, speed_kph)])
        await gateway.flush()
    print(gateway.totals)

What was sent is kept until the server says that it is committed. When the stream breaks, the
gateway opens it again, learns how far the upload is stored, and sends what lies after that.
"""

from libs.gateway.tracks import Fix, dense_track, plain_track, point_count, track
from libs.gateway.upload import (
    Gateway,
    GatewayStopped,
    ServerUnreachable,
    StreamRefused,
    Totals,
    UploadDiverged,
)

__all__ = [
    "Fix",
    "Gateway",
    "GatewayStopped",
    "ServerUnreachable",
    "StreamRefused",
    "Totals",
    "UploadDiverged",
    "dense_track",
    "plain_track",
    "point_count",
    "track",
]
