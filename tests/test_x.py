import time, asyncio
async def test_a(tracking):
    await tracking.connections.aclose()
    srv=tracking.server
    for i in range(3):
        print(i, srv._streams._live, len(asyncio.all_tasks()))
        await asyncio.sleep(0.3)
    for t in asyncio.all_tasks():
        print(t.get_coro().__qualname__); t.print_stack(limit=3)
