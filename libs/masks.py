"""Masks: which columns and joins a read fetches, not only which fields it sends; what to change."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from libs.errors import InvalidArgument

MessageT = TypeVar("MessageT", bound=Message)


def fields(of: Descriptor) -> dict[str, str]:
    """The fields of a message as known paths, for masks that choose among whole fields."""
    return {field.name: field.name for field in of.fields}


def kept(message: MessageT, chosen: Sequence[str]) -> MessageT:
    """A message with these paths only."""
    result = type(message)()
    FieldMask(paths=chosen).MergeMessage(message, result)
    return result


def paths(mask: FieldMask, known: Mapping[str, object], default: Sequence[str]) -> tuple[str, ...]:
    """The leaf paths that a mask asks for, in the order of `known`; `default` when it is empty.

    A path that names a message stands for all below it. Raises InvalidArgument for an unknown one.
    """
    if not mask.paths:
        return tuple(default)
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
