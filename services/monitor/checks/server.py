"""Questions about the server: settings that endanger data, disk, memory, cores, the way to it."""

from __future__ import annotations

import asyncio
import os
import time
from statistics import median

import psycopg

from services.monitor.checks.asked import Asked
from services.monitor.model.checks import (
    Direction,
    Measured,
    Question,
    Thresholds,
    Unmeasurable,
    grpcurl,
)
from services.monitor.model.sizes import pretty
from services.monitor.servicer.desk import Desk
from services.monitor.store import server as store

READS_MIN = 1_000
"""Fewer reads of blocks say nothing about the disk."""
ASKED_BLOCKS_MIN = 1_000_000
"""Fewer blocks asked for say nothing about memory: a server that has just begun is cold."""
TRIPS = 5
PATIENCE_S = 1.5


async def settings(desk: Desk) -> Measured:
    async with desk.read() as conn:
        found = await store.dangerous_settings(conn)
    if not found:
        return Measured(0, "No setting endangers data.")
    lines = tuple(f"{each.name} = {each.value}: {each.consequence}" for each in found)
    return Measured(len(found), f"Settings that endanger data: {len(found)}.", lines)


async def storage(desk: Desk) -> Measured:
    async with desk.read() as conn:
        disk = await store.storage(conn)
    planned = f"random_page_cost is {disk.random_page_cost:g}"
    if not disk.timed:
        raise Unmeasurable("track_io_timing is off: switch it on to see how fast the disk is")
    if disk.reads < READS_MIN:
        return Measured(None, f"Hardly anything was read from disk; {planned}.")
    each_ms = disk.read_ms / disk.reads
    return Measured(
        each_ms,
        f"A block takes {each_ms:.2f} ms from disk; {planned}.",
        (
            f"{disk.reads} reads since the statistics began",
            f"effective_io_concurrency = {disk.effective_io_concurrency}",
            "an SSD answers within 1 ms, and then random_page_cost is 1.1, not 4",
        ),
    )


async def memory(desk: Desk) -> Measured:
    async with desk.read() as conn:
        found = await store.memory(conn)
    sizes = (
        f"shared_buffers {pretty(found.shared_buffers_bytes)},"
        f" database {pretty(found.database_bytes)}"
    )
    asked = found.hits + found.reads
    if asked < ASKED_BLOCKS_MIN:
        return Measured(None, f"Too little was read to tell; {sizes}.")
    percent = 100.0 * found.hits / asked
    return Measured(percent, f"{percent:.2f} % of blocks were in memory; {sizes}.")


async def cores(desk: Desk) -> Measured:
    async with desk.read() as conn:
        active = await store.active_backends(conn)
    there = os.cpu_count() or 1
    share = active / there
    return Measured(
        share,
        f"Sessions at work: {active}, for {there} cores.",
        ("cores are counted where the monitor runs",),
    )


async def round_trip(desk: Desk) -> Measured:
    times = []
    try:
        async with asyncio.timeout(PATIENCE_S), desk.read() as conn:
            for _ in range(TRIPS):
                started = time.perf_counter()
                await store.round_trip(conn)
                times.append((time.perf_counter() - started) * 1000)
    except (psycopg.Error, OSError, TimeoutError) as error:
        # That is an answer to this question, and the worst.
        return Measured(
            PATIENCE_S * 1000, f"The database does not answer ({type(error).__name__})."
        )
    typical, worst = median(times), max(times)
    return Measured(
        typical, f"SELECT 1 takes {typical:.1f} ms, the slowest of {TRIPS} {worst:.1f} ms."
    )


ASKED = (
    Asked(
        Question(
            name="settings",
            title="Settings that endanger data",
            unit="count",
            why="What was acknowledged must survive a crash and damage must be seen.",
            next_step="Put them back as deploy/postgres/postgresql.conf has them, and reload.",
            command=grpcurl("CheckHealth", {"checks": ["settings"]}),
            thresholds=Thresholds(critical_at=1),
        ),
        settings,
    ),
    Asked(
        Question(
            name="storage",
            title="Disk",
            unit="ms",
            why="What is not in memory waits for the disk; the planner trusts random_page_cost.",
            next_step="Use an SSD, or give PostgreSQL more memory; see which statements read most.",
            command=grpcurl("ListSlowQueries", {"order": "QUERY_ORDER_TOTAL"}),
            thresholds=Thresholds(warning_at=20, critical_at=100, clear_at=10, for_s=600),
        ),
        storage,
    ),
    Asked(
        Question(
            name="memory",
            title="Working set in memory",
            unit="percent",
            why="When the working set outgrows shared_buffers, every statement slows down.",
            next_step="Raise shared_buffers to a quarter of the machine's memory, or read less.",
            command=grpcurl("ListTableStats", {"page_size": 10}),
            thresholds=Thresholds(
                direction=Direction.BELOW, warning_at=95, critical_at=80, clear_at=97, for_s=900
            ),
        ),
        memory,
    ),
    Asked(
        Question(
            name="cores",
            title="Sessions at work for each core",
            unit="ratio",
            why="More sessions at work than cores wait for each other.",
            next_step="See what runs; smaller pools answer faster than larger ones then.",
            command=grpcurl("GetConnectionStats"),
            thresholds=Thresholds(warning_at=4, critical_at=16, clear_at=2, for_s=600),
        ),
        cores,
    ),
    Asked(
        Question(
            name="round_trip",
            title="Way to the database",
            unit="ms",
            why="Every statement pays for the way; a call has several.",
            next_step="Look whether PostgreSQL runs, at its log, its load and the network.",
            command=grpcurl("GetConnectionStats"),
            thresholds=Thresholds(warning_at=50, critical_at=500, clear_at=25, for_s=600),
        ),
        round_trip,
    ),
)
