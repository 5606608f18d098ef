"""Masks: which columns and joins a read fetches, not only which fields it sends; what to change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from libs.errors import InvalidArgument
from libs.messages import date_message, stamp, struct

MessageT = TypeVar("MessageT", bound=Message)
Row = tuple[Any, ...]
MASKS_MAX = 1_000
"""So many masks are remembered."""


def fields(of: Descriptor) -> dict[str, str]:
    """The fields of a message as known paths, for masks that choose among whole fields."""
    return {field.name: field.name for field in of.fields}


def kept(message: MessageT, chosen: Sequence[str]) -> MessageT:
    """A message with these paths only."""
    result = type(message)()
    FieldMask(paths=chosen).MergeMessage(message, result)
    return result


def paths(
    mask: FieldMask, known: Collection[str], default: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The leaf paths that a mask asks for, in the order of `known`.

    When it is empty: `default`, or all. A path that names a message stands for all below it. Raises
    InvalidArgument for an unknown one.
    """
    if not mask.paths:
        return tuple(known if default is None else default)
    wanted: set[str] = set()
    for path in mask.paths:
        below = [leaf for leaf in known if leaf == path or leaf.startswith(path + ".")]
        if not below and path != "*":
            raise InvalidArgument(
                "READ_MASK_INVALID",
                f"read_mask: no field {path[:100]!r}.",
                fields=[("read_mask", f"no field {path[:100]!r}")],
            )
        wanted.update(known if path == "*" else below)
    return tuple(leaf for leaf in known if leaf in wanted)


def columns(known: Mapping[str, str], asked: Iterable[str]) -> tuple[str, ...]:
    """The SQL of the values at these paths, in their order."""
    return tuple(known[path] for path in asked)


def reader(kind: type[MessageT], asked: tuple[str, ...]) -> Callable[[Row], MessageT]:
    """What makes a message of a row that begins with the values at these paths, in their order.

    NULL leaves a field unset, and a nested message unless another field of it is there. A UUID
    becomes text, a time or date its message, a JSON object a Struct; of an enum the column has the
    names in lower case without their prefix: `paid` for PAYOUT_STATUS_PAID.
    """
    found: Callable[[Row], MessageT] = _reader(cast("Any", kind), asked)
    return found


@lru_cache(MASKS_MAX)
def _reader(kind: Any, asked: tuple[str, ...]) -> Callable[[Row], Any]:
    fields = [_field(kind.DESCRIPTOR, path) for path in asked]

    def read(row: Row) -> Any:
        told: dict[str, Any] = {}
        # A row goes on with what the next page is found by.
        for (above, name, told_of), value in zip(fields, row, strict=False):
            if value is not None:
                within = told
                for step in above:
                    within = within.setdefault(step, {})
                within[name] = told_of(value)
        return kind(**told)

    return read


def _field(kind: Descriptor, path: str) -> tuple[list[str], str, Callable[[Any], Any]]:
    """The messages above a field, its name, and what makes its value of the column's."""
    *above, name = path.split(".")
    for step in above:
        kind = cast("Descriptor", kind.fields_by_name[step].message_type)
    return above, name, _told_of(kind.fields_by_name[name])


def _told_of(field: FieldDescriptor) -> Callable[[Any], Any]:
    if field.enum_type is not None:
        return _numbers(field.enum_type).__getitem__
    if field.message_type is not None:
        return _MESSAGES.get(field.message_type.full_name, _plain)
    return str if field.type == FieldDescriptor.TYPE_STRING else _plain


_MESSAGES: Mapping[str, Callable[[Any], Any]] = {
    "google.protobuf.Timestamp": stamp,
    "google.type.Date": date_message,
    "google.protobuf.Struct": struct,
}


def _numbers(enum: EnumDescriptor) -> dict[str, int]:
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values}


def _plain(value: object) -> object:
    return value


def changes(mask: FieldMask, mutable: Collection[str], message: Message) -> tuple[str, ...]:
    """The leaf paths to change: those that a mask names; without one, those set in `message`.

    A path that names a message stands for all below it. Raises InvalidArgument for one that is
    unknown or can't be changed.
    """
    if not mask.paths:
        return tuple(path for path in mutable if _is_set(message, path))
    wanted: set[str] = set()
    for path in mask.paths:
        below = [leaf for leaf in mutable if leaf == path or leaf.startswith(path + ".")]
        if not below:
            raise InvalidArgument(
                "UPDATE_MASK_INVALID",
                f"update_mask: no field {path[:100]!r} that can be changed.",
                fields=[("update_mask", f"no field {path[:100]!r} that can be changed")],
            )
        wanted.update(below)
    return tuple(leaf for leaf in mutable if leaf in wanted)


def _is_set(message: Message, path: str) -> bool:
    """Whether a field has a value: for a plain one, another than its default."""
    name, _, below = path.partition(".")
    found = next((value for field, value in message.ListFields() if field.name == name), None)
    return found is not None and (not below or _is_set(found, below))
