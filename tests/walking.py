"""Walks every RPC by its descriptor, so that a new one is covered without being listed."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from operator import methodcaller
from typing import Any
from uuid import UUID

import grpc
import protovalidate
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from libs.client import Refusal, refusal
from libs.errors import DomainError
from libs.gateway.ending import Ending
from libs.local.paths import ROOT

CALL_TIMEOUT_S = 10.0
RULES_MAX = 20
"""So many rules a request may have to be mended for."""


def methods(*services: str) -> list[MethodDescriptor]:
    """The RPCs of all contracts, or of the gRPC services of these full names."""
    paths = sorted((ROOT / "protos").glob("driveflow/*/v1/*_pb2.py"))
    modules = [".".join(path.relative_to(ROOT / "protos").with_suffix("").parts) for path in paths]
    return [
        method
        for module in modules
        for service in importlib.import_module(module).DESCRIPTOR.services_by_name.values()
        if not services or service.full_name in services
        for method in service.methods
    ]


def request_class(method: MethodDescriptor) -> type[Message]:
    return GetMessageClass(method.input_type)


def valid(method: MethodDescriptor) -> Message:
    """A request that passes the rules of the contract, and says as little as that takes."""
    request = request_class(method)()
    request.MergeFrom(_valid(method))
    return request


@cache
def _valid(method: MethodDescriptor) -> Message:
    """Found once: asking for the rules that it breaks takes milliseconds."""
    request = request_class(method)()
    for _ in range(RULES_MAX):
        try:
            protovalidate.validate(request)
        except protovalidate.ValidationError as error:
            _mend(request, error.violations[0])
        else:
            return request
    raise AssertionError(f"{method.full_name}: no request is valid")


def _mend(request: Message, violation: protovalidate.Violation) -> None:
    """Give a field a value that keeps the rule it breaks."""
    path: Any = violation.proto.field
    parent: Any = request
    *above, last = path.elements
    for step in above:
        parent = getattr(parent, step.field_name)
        parent = parent[step.subscript.value] if step.subscript else parent
    name, rule = last.field_name, violation.proto.rule_id
    if rule == "required":
        choices = parent.DESCRIPTOR.oneofs_by_name.get(name)
        getattr(parent, choices.fields[0].name if choices else name).SetInParent()
    elif rule == "repeated.min_items":
        values = getattr(parent, name)
        values.add() if hasattr(values, "add") else values.append(str(UUID(int=1)))
    elif rule == "string.pattern" and name == "currency":
        setattr(parent, name, "AUD")
    elif rule.endswith(".gt"):
        setattr(parent, name, violation.rule_value + 1)
    elif rule.startswith("string.uuid"):
        setattr(parent, name, str(UUID(int=1)))
    else:
        setattr(parent, name, "a" if rule.startswith("string") else violation.rule_value)


def subclasses(kind: type[DomainError]) -> Iterator[type[DomainError]]:
    """A class of errors and all below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from subclasses(below)


def channel(address: str) -> grpc.aio.Channel:
    """A channel that repeats nothing by itself."""
    return grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)])


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that carry a token."""
    return (("authorization", f"Bearer {token}"),)


@dataclass(frozen=True)
class Answer:
    """Everything that a caller gets from a call."""

    responses: tuple[Message, ...] = ()
    refusal: Refusal | None = None

    @property
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK if self.refusal is None else self.refusal.code


async def call(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    requests: Iterable[Message] = (),
    *,
    responses_max: int = 100,
    last: Callable[[Message], bool] | None = None,
    metadata: tuple[tuple[str, str], ...] = (),
    timeout_s: float = CALL_TIMEOUT_S,
) -> Answer:
    """Call a method of any of the four kinds with its requests; an empty one unless given.

    With `last` the caller leaves with the first response that it is true of, and keeps his side of
    the stream open until then.
    """
    sent = list(requests) or [request_class(method)()]
    kind = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming]
    make: Any = kind(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=methodcaller("SerializeToString"),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    argument: Any = sent[0]
    if method.client_streaming:
        argument = iter(sent) if last is None else _kept_open(sent)
    under_way = make(argument, metadata=metadata, timeout=timeout_s)
    got: list[Message] = []
    # A write that meets the end of a stream hides the server's status.
    ending = Ending(under_way) if method.client_streaming else None
    try:
        if not method.server_streaming:
            got.append(await under_way)
        else:
            async for message in under_way:
                got.append(message)
                if len(got) >= responses_max or (last is not None and last(message)):
                    break
    except grpc.aio.AioRpcError as error:
        return Answer(tuple(got), await ending.refusal() if ending else refusal(error))
    finally:
        under_way.cancel()
    return Answer(tuple(got))


async def _kept_open(requests: Iterable[Message]) -> AsyncIterator[Message]:
    """The requests, and no end."""
    for request in requests:
        yield request
    await asyncio.Event().wait()
