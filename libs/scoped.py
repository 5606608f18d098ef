"""A connection on which a school's statements travel together.

psycopg's own path costs 200 us of Python for a scoped read; most of it is bookkeeping for cases
that do not arise here. `libs.orgs` opens a scope on the connection, and inside it `execute` speaks
to libpq itself: what was put ahead (BEGIN, the scope, statements that nobody waits for) and the
statement leave in one message and are waited for once. Statements are prepared at their first use
and answer in the binary format. Everything else on the connection is psycopg's, as ever.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol, TypeAlias

from psycopg import AsyncConnection, abc, errors, waiting
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, ExecStatus, Format, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed
from psycopg.waiting import Ready, Wait

from libs import telemetry

Params: TypeAlias = Mapping[str, Any] | Sequence[Any] | None
PREPARED_MAX = 500
"""Statements that a connection keeps prepared; what comes after is parsed each time."""
COMPILED_MAX = 2_000
SETTLE_S = 5.0
"""How long a cancelled statement may take to end before its connection is closed."""
LOOK_EVERY_S = 0.5
"""How often a connection that waits looks whether it missed something."""
Received: TypeAlias = Generator[Wait, Ready | int, list[PGresult]]
_FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE, ExecStatus.PIPELINE_ABORTED)
_STALE = (errors.FeatureNotSupported, errors.InvalidSqlStatementName)
"""What a prepared statement raises when a migration, or DEALLOCATE, took its ground away."""


class Answer(Protocol):
    """What `execute` returns: psycopg's cursor, or the rows of a scope's statement."""

    @property
    def rowcount(self) -> int: ...
    async def fetchone(self) -> TupleRow | None: ...
    async def fetchall(self) -> list[TupleRow]: ...
    def __aiter__(self) -> AsyncIterator[TupleRow]: ...


class Rows:
    """The answer to one statement, all of it here already."""

    __slots__ = ("_next", "_rows", "rowcount")

    def __init__(self, rows: list[TupleRow], rowcount: int) -> None:
        self._rows = rows
        self._next = 0
        self.rowcount = rowcount

    async def fetchone(self) -> TupleRow | None:
        """The next row; None after the last."""
        if self._next == len(self._rows):
            return None
        self._next += 1
        return self._rows[self._next - 1]

    async def fetchall(self) -> list[TupleRow]:
        """The rows that were not fetched yet."""
        rows = self._rows[self._next :] if self._next else self._rows
        self._next = len(self._rows)
        return rows

    def all(self) -> list[TupleRow]:
        """Every row."""
        return self._rows

    async def __aiter__(self) -> AsyncIterator[TupleRow]:
        while (row := await self.fetchone()) is not None:
            yield row


@dataclass(slots=True, eq=False)
class Statement:
    """A statement as libpq wants it: `$1` for each parameter."""

    text: bytes
    names: tuple[str, ...]
    """Of the parameters, in their order; empty when they are given by place."""
    places: int
    observe: telemetry.statement
    format: Format = Format.TEXT
    """Of the answer; binary once it is known that every column can be read so."""
    settled: bool = False
    """Whether `format` is decided."""
    formats: list[PyFormat] = field(default_factory=list)

    def values(self, params: Params) -> Sequence[Any]:
        """The parameters in their order; ProgrammingError when one is missing."""
        # A dict is seen at once, for what else is a Mapping Python is asked.
        if type(params) is dict or isinstance(params, Mapping):
            try:
                return [*map(params.__getitem__, self.names)]
            except KeyError as missing:
                raise errors.ProgrammingError(f"no parameter {missing}") from None
        given = params or ()
        if len(given) != self.places or self.names:
            raise errors.ProgrammingError(f"{self.places} parameters are wanted")
        return given


_PLACEHOLDER = re.compile(rb"%(?:\((\w+)\)s|(s)|(%)|(.?))", re.DOTALL)


@lru_cache(COMPILED_MAX)
def compiled(query: bytes, parametrized: bool) -> Statement:
    """The statement of a query with psycopg's placeholders, `%(name)s` or `%s`."""
    names: dict[str, int] = {}
    places = 0

    def place(match: re.Match[bytes]) -> bytes:
        nonlocal places
        name, by_place, percent, _ = match.groups()
        if percent:
            return b"%"
        if by_place:
            places += 1
            return b"$%d" % places
        if name is None:
            raise errors.ProgrammingError("a placeholder is %s or %(name)s, a percent sign %%")
        return b"$%d" % names.setdefault(name.decode(), len(names) + 1)

    text = _PLACEHOLDER.sub(place, query) if parametrized else query
    if names and places:
        raise errors.ProgrammingError("parameters have names or places, not both")
    count = len(names) or places
    observe = telemetry.statement(telemetry.query_name(query))
    return Statement(text, tuple(names), count, observe, formats=[PyFormat.AUTO] * count)


@dataclass(slots=True)
class Sent:
    """A statement with its parameters."""

    statement: Statement
    values: Sequence[Any]
    later: Later | None = None
    """Who gets the rows, where it is not the caller of `execute`."""


class Later:
    """The rows of a statement that `conn.later` put ahead: there once the next one is answered."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: Sequence[TupleRow] = ()


@dataclass(slots=True)
class Wired:
    """A statement with its parameters as libpq takes them."""

    statement: Statement
    dumped: Sequence[Any]
    types: tuple[int, ...]
    formats: Sequence[Format] | None


def statement(query: bytes, params: Params = None) -> Sent:
    """A statement of `queries.sql` with its parameters."""
    found = compiled(query, params is not None)
    return Sent(found, found.values(params))


def wired(sent: Sent, adapt: abc.Transformer) -> Wired:
    """What libpq is told; psycopg's errors when a value has no form in SQL."""
    if not sent.values:
        return Wired(sent.statement, (), (), None)
    dumped = adapt.dump_sequence(sent.values, sent.statement.formats)
    return Wired(sent.statement, dumped, adapt.types or (), adapt.formats)


_BEGIN = statement(b"BEGIN")
_COMMIT = statement(b"COMMIT")
_ROLLBACK = statement(b"ROLLBACK")


class Connection(AsyncConnection[TupleRow]):
    """psycopg's connection, and scopes.

    Inside a scope `execute` and `send` are those of this class, outside psycopg's. A scope opens
    with `begin_reading` or `begin_writing` and must be closed: with `end_reading`, or with
    `commit_writing` and, where that was not reached or failed, `abandon_writing`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.used_at = 0.0
        """time.monotonic() when it was last in use."""
        self._scope = ""
        self._ahead: list[Sent] = []
        self._names: dict[tuple[Statement, tuple[int, ...]], bytes] = {}
        self._named = 0
        self._adapt = Transformer(self)
        self._listens_to = -1
        self._waiter: asyncio.Future[None] | None = None
        self._looking: asyncio.TimerHandle | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether it is known that the server has said nothing since it was last asked."""
        return self._listens_to >= 0

    # --- scopes ---

    async def once(self, scope: Sent, query: bytes, params: Params) -> Rows:
        """One SELECT behind `scope`, in a transaction of its own: one round trip."""
        async with self.lock:
            sent = [scope, statement(query, params)]
            try:
                return await self._answer(sent, sync=True)
            except _STALE:
                # Its plan was made before a migration; a new one is made now.
                return await self._answer(sent, sync=True)

    async def batch(
        self, reads: Sequence[tuple[Wired, Sequence[Wired]]]
    ) -> list[Rows | errors.Error | None]:
        """Statements, a few behind each scope, all in one transaction and one round trip.

        For each its rows or what is wrong with it; None behind a failure, where nothing ran, and
        for what can't be read.
        OperationalError when the connection is lost.
        """
        flat = [*chain.from_iterable((scope, *behind) for scope, behind in reads)]
        async with self.lock:
            fresh, received = await self._exchange(flat, sync=True)
        if self.pgconn.status != ConnStatus.OK:
            raise errors.OperationalError("the connection was lost")
        upcoming = self._executed(flat, fresh, received)
        found: list[Rows | errors.Error | None] = []
        for _, behind in reads:
            scoped = next(upcoming)
            found += [self._read(each, scoped, next(upcoming)) for each in behind]
        return found

    def _read(
        self, sent: Wired, scoped: PGresult | None, result: PGresult | None
    ) -> Rows | errors.Error | None:
        """What a statement of a batch came to; never rows without its scope."""
        if scoped is None or scoped.status != ExecStatus.TUPLES_OK:
            result = scoped
        if result is None or result.status == ExecStatus.PIPELINE_ABORTED:
            return None
        if result.status in _FAILED:
            return self._error(result)
        try:
            return self._rows(sent.statement, result)
        except Exception:  # noqa: BLE001 (asked for by itself, it says so again)
            return None

    def begin_reading(self, scope: Sent) -> None:
        """Open an implicit transaction; `scope` leaves with its first statement."""
        self._scope = "read"
        self._ahead = [scope]

    async def end_reading(self) -> None:
        """End the implicit transaction, however it went."""
        self._scope, self._ahead = "", []
        pgconn = self.pgconn
        if pgconn.status == ConnStatus.OK and pgconn.pipeline_status != PipelineStatus.OFF:
            await self._trip([], sync=True)

    def begin_writing(self, scope: Sent) -> None:
        """Open a transaction; BEGIN and `scope` leave with its first statement."""
        self._scope = "write"
        self._ahead = [_BEGIN, scope]

    async def commit_writing(self, last: Sent) -> Rows:
        """Commit; the rows of `last`, which sees it done: none when there was nothing to commit."""
        ahead, self._ahead = self._ahead, []
        if ahead and ahead[0] is _BEGIN and len(ahead) == 2:
            self._scope = ""
            return Rows([], 0)
        self._still_in_transaction(ahead)
        if self.pgconn.transaction_status == TransactionStatus.INERROR:
            raise errors.InFailedSqlTransaction("a statement failed: there is nothing to commit")
        batch = [*ahead, _COMMIT, last]
        results = await self._observed(_COMMIT.statement, batch, sync=True, optional=1)
        self._scope = ""
        return self._rows(last.statement, results[-1])

    async def abandon_writing(self) -> None:
        """Roll the transaction back; a connection that can't is closed."""
        self._scope, self._ahead = "", []
        status = self.pgconn.transaction_status
        if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            try:
                await self._trip([_ROLLBACK], sync=True)
            except errors.Error:
                await self.close()

    # --- statements ---

    async def execute(  # type: ignore[override] # less than psycopg's: what is used here
        self, query: bytes | str | SQL | Composed, params: Params = None, **options: Any
    ) -> Answer:
        """Run a statement; its rows are there when it returns."""
        if not self._scope or self._pipeline is not None or not isinstance(query, bytes) or options:
            return await super().execute(query, params, **options)
        async with self.lock:
            sent = statement(query, params)
            ahead, self._ahead = self._ahead, []
            self._still_in_transaction(ahead)
            return await self._answer([*ahead, sent], sync=self._scope == "write")

    async def send(self, query: bytes, params: Params = None) -> None:
        """Run a statement whose answer nobody needs: it leaves with the next one or the COMMIT.

        What is wrong with it is raised there.
        """
        if self._scope != "write":
            await self.execute(query, params)
            return
        self._ahead.append(statement(query, params))

    def later(self, query: bytes, params: Params = None) -> Later:
        """As `send`, for rows that nobody needs before those of the next statement."""
        if self._scope != "write":
            raise errors.ProgrammingError("nothing but a write puts statements ahead")
        sent = statement(query, params)
        sent.later = Later()
        self._ahead.append(sent)
        return sent.later

    async def flush(self) -> None:
        """Have what is ahead answered: the rows that were put off are there then."""
        async with self.lock:
            ahead, self._ahead = self._ahead, []
            if ahead:
                self._still_in_transaction(ahead)
                await self._observed(ahead[-1].statement, ahead, sync=True)

    async def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """psycopg's way to talk to the server; what is ahead goes first."""
        if self._scope == "read":
            raise errors.ProgrammingError("a read takes conn.execute with SQL as bytes alone")
        if self._ahead:
            ahead, self._ahead = self._ahead, []
            await self._trip(ahead, sync=True)
        self._deafen()
        return await super().wait(gen, *args, **options)

    def _still_in_transaction(self, ahead: Sequence[Sent]) -> None:
        """No statement runs outside of its scope, where no row would be found."""
        if ahead and ahead[0] is _BEGIN:
            return
        idle = self.pgconn.transaction_status == TransactionStatus.IDLE
        if idle and (self._scope == "write" or not ahead):
            raise errors.ProgrammingError("the transaction has ended")

    async def _answer(self, batch: Sequence[Sent], *, sync: bool) -> Rows:
        last = batch[-1].statement
        results = await self._observed(last, batch, sync=sync)
        return self._rows(last, results[-1])

    async def _observed(
        self, of: Statement, batch: Sequence[Sent], *, sync: bool, optional: int = 0
    ) -> list[PGresult | None]:
        """A trip under the name of one of its statements."""
        started = time.perf_counter()
        try:
            with of.observe.span():
                return await self._trip(batch, sync=sync, optional=optional)
        finally:
            of.observe.finished(time.perf_counter() - started)

    def _rows(self, of: Statement, result: PGresult | None) -> Rows:
        if result is None or result.status != ExecStatus.TUPLES_OK:
            return Rows([], _rowcount(result))
        if not of.settled:
            self._settle_format(of, result)
        adapt = self._adapt
        adapt.set_pgresult(result)
        return Rows(adapt.load_rows(0, result.ntuples, tuple), result.ntuples)

    def _settle_format(self, of: Statement, result: PGresult) -> None:
        """Binary from now on, if each column's type can be read so; else it would come as bytes."""
        load = self.adapters.get_loader
        types = [result.ftype(column) for column in range(result.nfields)]
        if all(load(oid, Format.BINARY) is not None for oid in types):
            of.format = Format.BINARY
        of.settled = True

    # --- on the wire ---

    async def _trip(
        self, batch: Sequence[Sent], *, sync: bool, optional: int = 0
    ) -> list[PGresult | None]:
        """Send the statements, wait once, return their results; raise the first error.

        With `sync` they end as a transaction of their own, or belong to one that BEGIN opened. The
        last `optional` of them may fail: their result is None.
        """
        pgconn = self.pgconn
        # All of it before anything is sent: it may fail.
        ready = [wired(sent, self._adapt) for sent in batch]
        fresh, received = await self._exchange(ready, sync=sync)
        alive = pgconn.status == ConnStatus.OK
        results, error = self._sort(ready, fresh, received, optional)
        if error is None:
            self._hand_over(batch, results)
            return results
        if not sync and alive:
            # What follows in this implicit transaction would be skipped: it ends here.
            await self._trip([], sync=True)
        raise error

    def _hand_over(self, batch: Sequence[Sent], results: Sequence[PGresult | None]) -> None:
        for sent, result in zip(batch, results, strict=True):
            if sent.later is not None:
                sent.later.rows = self._rows(sent.statement, result).all()

    async def _exchange(
        self, batch: Sequence[Wired], *, sync: bool
    ) -> tuple[dict[int, bytes], list[PGresult]]:
        """Send and wait: what was prepared, by its place, and all that came back."""
        pgconn = self.pgconn
        try:
            if pgconn.pipeline_status == PipelineStatus.OFF:
                pgconn.enter_pipeline_mode()
            fresh = self._put(batch)
            if sync:
                pgconn.pipeline_sync()
            else:
                pgconn.send_flush_request()
            expected = len(batch) + len(fresh) + sync
            return fresh, await self._wait_for(_received(pgconn, expected))
        finally:
            self._leave(sync=sync)

    def _leave(self, *, sync: bool) -> None:
        """After a trip, however it went: ready for the next one, or closed."""
        pgconn = self.pgconn
        if pgconn.status == ConnStatus.OK and sync:
            try:
                pgconn.exit_pipeline_mode()
            except errors.OperationalError:
                # Answers are missing that nobody will fetch any more.
                self._deafen()
                pgconn.finish()
        elif pgconn.status != ConnStatus.OK:
            self._deafen()

    def _put(self, batch: Sequence[Wired]) -> dict[int, bytes]:
        """Hand the statements to libpq; the names of those that it must prepare, by their place."""
        pgconn, names = self.pgconn, self._names
        fresh: dict[int, bytes] = {}
        repeated: dict[tuple[Statement, tuple[int, ...]], bytes] = {}
        for place, each in enumerate(batch):
            of, key = each.statement, (each.statement, each.types)
            name = names.get(key) or repeated.get(key)
            if name is None:
                name = fresh[place] = self._new_name()
                if name:
                    repeated[key] = name
                pgconn.send_prepare(name, of.text, each.types)
            pgconn.send_query_prepared(name, each.dumped, each.formats, of.format)
        return fresh

    def _new_name(self) -> bytes:
        if len(self._names) >= PREPARED_MAX:
            return b""
        self._named += 1
        return b"s%d" % self._named

    def _sort(
        self,
        batch: Sequence[Wired],
        fresh: Mapping[int, bytes],
        received: Sequence[PGresult],
        optional: int,
    ) -> tuple[list[PGresult | None], errors.Error | None]:
        """The result of each statement, and the first error; what was prepared is kept."""
        results: list[PGresult | None] = []
        must = len(batch) - optional
        for place, result in enumerate(self._executed(batch, fresh, received)):
            if result is not None and result.status not in _FAILED:
                results.append(result)
            elif place < must:
                return results, self._error(result)
            else:
                results.append(None)
        return results, None

    def _executed(
        self, batch: Sequence[Wired], fresh: Mapping[int, bytes], received: Iterable[PGresult]
    ) -> Iterator[PGresult | None]:
        """The result of each statement, None where it is missing; what was prepared is kept.

        Of one that could not be prepared it is that failure.
        """
        upcoming = iter(received)
        for place, each in enumerate(batch):
            if fresh and place in fresh:
                prepared = next(upcoming, None)
                if prepared is not None and prepared.status == ExecStatus.COMMAND_OK:
                    self._keep(each, fresh[place])
                else:
                    next(upcoming, None)  # that it was skipped
                    yield prepared
                    continue
            yield next(upcoming, None)

    def _keep(self, wired: Wired, name: bytes) -> None:
        if name:
            self._names[wired.statement, wired.types] = name

    def _error(self, result: PGresult | None) -> errors.Error:
        if result is None:
            return errors.OperationalError("the connection was lost")
        error = errors.error_from_result(result)
        if isinstance(error, _STALE):
            self._names.clear()
        return error

    async def _wait_for(self, received: Received) -> list[PGresult]:
        """Drive `received` to its end; a cancelled statement is ended on the server as well.

        As psycopg's wait, but without a timer and a registration of the socket at each wait, which
        costs a dozen system calls: both stay.
        """
        try:
            while next(received) == Wait.R:
                await self._readable()
            # More is to be sent than the socket takes at once.
            self._deafen()
            return await waiting.wait_async(received, self.pgconn.socket)
        except StopIteration as end:
            results: list[PGresult] = end.value
            return results
        except asyncio.CancelledError:
            await self._settle(received)
            raise
        except OSError as error:
            raise errors.OperationalError("the connection's socket is closed") from error

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        if self._listens_to < 0:
            self._listens_to = self.pgconn.socket
            loop.add_reader(self._listens_to, self._hear)
        if self._looking is None:
            self._looking = loop.call_later(LOOK_EVERY_S, self._look)
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _look(self) -> None:
        """Have who waits read: uvloop tells of a reset once, and that read may have found words."""
        self._looking = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _hear(self) -> None:
        """The server says something; unasked, it is most likely the end."""
        if self._waiter is None:
            self._deafen()
        elif not self._waiter.done():
            self._waiter.set_result(None)

    def _deafen(self) -> None:
        """Before psycopg waits for the socket, or its number may be another's."""
        if self._listens_to >= 0:
            asyncio.get_running_loop().remove_reader(self._listens_to)
            self._listens_to = -1

    def give_up(self) -> None:
        """Close it at once; who waits for an answer gets OperationalError."""
        self._deafen()
        self.pgconn.finish()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(errors.OperationalError("the connection was given up"))

    async def _settle(self, received: Received) -> None:
        """Cancel what is under way and take its answers, or close the connection."""
        self._deafen()
        fileno = self.pgconn.socket
        try:
            await self._try_cancel(timeout=SETTLE_S)
            await waiting.wait_async(received, fileno, interval=0.1, timeout=SETTLE_S)
        except Exception:  # noqa: BLE001 (whatever it is, the answers did not come)
            self.pgconn.finish()
        except BaseException:
            self.pgconn.finish()
            raise

    async def close(self) -> None:
        """Close the connection."""
        self._deafen()
        await super().close()


def _received(pgconn: Any, expected: int) -> Received:
    """Send what is waiting to be sent, then take so many results; fewer from a lost connection."""
    results: list[PGresult] = []
    try:
        while pgconn.flush():
            if (yield Wait.RW) == Ready.R:
                pgconn.consume_input()
        while len(results) < expected:
            while pgconn.is_busy():
                yield Wait.R
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is not None:
                results.append(result)
            elif pgconn.status != ConnStatus.OK:
                break
    except errors.OperationalError:
        if not results:
            raise
    return results


def _rowcount(result: PGresult | None) -> int:
    """Rows changed; -1 for a statement that changes none, or whose answer is not there."""
    changed = None if result is None else result.command_tuples
    return -1 if changed is None else changed
