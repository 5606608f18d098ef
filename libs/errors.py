"""Errors with a meaning, and how each becomes a gRPC status. The only place where that is decided.

Code below a servicer raises one of these; what it raises else (a driver's error, a bug) is
translated by `translate`. A client never sees a driver's words: messages here are fixed texts.
Reasons are listed in docs/errors.md.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping

import psycopg
import psycopg_pool
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from psycopg import errors as pg

DOMAIN = "driveflow.example"
DETAILS_KEY = "grpc-status-details-bin"


class DomainError(Exception):
    """An answer that is not a result: what happened, in the words of the API."""

    code = StatusCode.UNKNOWN

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        fields: Iterable[tuple[str, str]] = (),
        retry_after_s: float | None = None,
        resource: tuple[str, str] | None = None,
    ) -> None:
        """Name the `reason` (UPPER_SNAKE) and say it in a sentence.

        `fields` are (path, what is wrong) of a bad request; `resource` is (type, name).
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.fields = tuple(fields)
        self.retry_after_s = retry_after_s
        self.resource = resource

    def details(self) -> bytes:
        """The google.rpc.Status that goes out beside the code, serialized."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        status.details.extend(_packed(detail) for detail in self._details())
        serialized: bytes = status.SerializeToString()
        return serialized

    def _details(self) -> Iterable[Message]:
        yield error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        if self.fields:
            yield error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=wrong)
                    for field, wrong in self.fields
                ]
            )
        if self.retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(int(self.retry_after_s * 1000))
            yield error_details_pb2.RetryInfo(retry_delay=delay)
        if self.resource is not None:
            kind, name = self.resource
            yield error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name)


class InvalidArgument(DomainError):
    """The request is wrong whatever the state."""

    code = StatusCode.INVALID_ARGUMENT


class NotFound(DomainError):
    """The school has no such thing; another school's thing answers the same."""

    code = StatusCode.NOT_FOUND


class AlreadyExists(DomainError):
    """Something else has that name."""

    code = StatusCode.ALREADY_EXISTS


class FailedPrecondition(DomainError):
    """The state forbids it; the same call may succeed once the state is another."""

    code = StatusCode.FAILED_PRECONDITION


class Aborted(DomainError):
    """Someone else was faster: read again and decide anew."""

    code = StatusCode.ABORTED


class OutOfRange(DomainError):
    """Past the end of a sequence."""

    code = StatusCode.OUT_OF_RANGE


class Unauthenticated(DomainError):
    """No valid token."""

    code = StatusCode.UNAUTHENTICATED


class PermissionDenied(DomainError):
    """A valid token without the right."""

    code = StatusCode.PERMISSION_DENIED


class ResourceExhausted(DomainError):
    """More than the server takes on now."""

    code = StatusCode.RESOURCE_EXHAUSTED


class Unavailable(DomainError):
    """Not now; the same call may succeed in a moment."""

    code = StatusCode.UNAVAILABLE


class DeadlineExceeded(DomainError):
    """It took longer than the caller or the server allows."""

    code = StatusCode.DEADLINE_EXCEEDED


class Internal(DomainError):
    """A fault of ours; the log has it under `error_id`."""

    code = StatusCode.INTERNAL

    def __init__(self) -> None:
        self.error_id = uuid.uuid4().hex
        super().__init__(
            "INTERNAL",
            "An internal error occurred; its id is in the details.",
            metadata={"error_id": self.error_id},
        )


def not_found(kind: str, name: object) -> NotFound:
    """The answer for an id that the school does not have, whoever else may have it."""
    return NotFound(f"{kind.upper()}_NOT_FOUND", f"No such {kind}.", resource=(kind, str(name)))


def translate(error: BaseException) -> DomainError:
    """The meaning of any exception. What has none becomes Internal."""
    if isinstance(error, DomainError):
        return error
    for kinds, meaning in _MEANINGS:
        if isinstance(error, kinds):
            return meaning()
    if isinstance(error, pg.IntegrityError) and error.diag.constraint_name:
        return _constraint(error.diag.constraint_name, error)
    return Internal()


def _constraint(name: str, error: pg.IntegrityError) -> DomainError:
    """A rule kept by the database: the constraint is named after it, and so is the reason."""
    kind = AlreadyExists if isinstance(error, pg.UniqueViolation) else FailedPrecondition
    return kind(name.upper(), f"The rule {name} forbids it.")


def _database_unavailable() -> DomainError:
    return Unavailable("DATABASE_UNAVAILABLE", "The database can't be reached.", retry_after_s=1)


def _database_busy() -> DomainError:
    return Unavailable("DATABASE_BUSY", "The database is busy.", retry_after_s=1)


def _overloaded() -> DomainError:
    return ResourceExhausted("OVERLOADED", "The server is overloaded.", retry_after_s=1)


def _statement_timeout() -> DomainError:
    return DeadlineExceeded("STATEMENT_TIMEOUT", "The database took too long.", retry_after_s=1)


def _conflict() -> DomainError:
    return Aborted("CONFLICT", "Another call was under way on the same thing.", retry_after_s=0.1)


def _bad_text() -> DomainError:
    return InvalidArgument("INVALID_VALUE", "A value can't be stored: out of range or not text.")


def _malformed() -> DomainError:
    return InvalidArgument("INVALID_REQUEST", "The bytes are no message of this method.")


# First match wins: subclasses stand before their parents.
_MEANINGS = (
    (psycopg_pool.TooManyRequests, _overloaded),
    (psycopg_pool.PoolTimeout, _database_busy),
    (psycopg_pool.PoolClosed, _database_unavailable),
    (pg.QueryCanceled, _statement_timeout),
    (
        (pg.LockNotAvailable, pg.DeadlockDetected, pg.SerializationFailure),
        _conflict,
    ),
    ((pg.TransactionTimeout, pg.IdleInTransactionSessionTimeout), _database_unavailable),
    (pg.TooManyConnections, _database_busy),
    ((pg.InsufficientResources, pg.ReadOnlySqlTransaction), _database_unavailable),
    (psycopg.OperationalError, _database_unavailable),
    (psycopg.DataError, _bad_text),
    (DecodeError, _malformed),
)


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
