import time, logging
async def test_a(tracking, caplog):
    t=time.monotonic()
    import libs.server as s
    await tracking.connections.aclose()
    print("conn", time.monotonic()-t)
    srv=tracking.server
    srv._watch.cancel()
    await srv._health.enter_graceful_shutdown()
    print("h", time.monotonic()-t)
    await srv._streams.drain(2)
    print("d", time.monotonic()-t)
    await srv._server.stop(2)
    print("stop", time.monotonic()-t)
