"""Messages written straight from rows, as the bytes that they are on the wire.

A page of twenty bookings is 140 values. To make an object of each booking, and of each time in it,
only to write them out a moment later costs several times what writing them costs. `writer` makes of
a message's descriptor and the columns of a row a function that writes: one expression, as the
fields are known beforehand.

It writes what the message's own SerializeToString would write. Until the end the bytes are text of
which each character is a byte (Latin-1): joined and formatted faster than bytes, and most columns
come as text.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

Row: TypeAlias = tuple[Any, ...]
Write: TypeAlias = Callable[[Row], str]
Response = TypeVar("Response", bound=Message)
REMEMBERED_MAX = 65_536
"""Numbers and times that need not be written anew: lengths, prices, and starts repeat."""
_VARINT, _I64, _LEN = 0, 1, 2
_UUID_CHARS = 36
_TIME = "google.protobuf.Timestamp"


def response(kind: type[Response], *parts: str) -> Response:
    """What a method returns instead of a `kind`: its fields as they are written, as bytes.

    For the layers above alone, which send them as they are.
    """
    return cast("Response", "".join(parts).encode("latin-1"))


@lru_cache(REMEMBERED_MAX)
def varint(number: int) -> str:
    """A number; a negative one has ten bytes."""
    number &= 2**64 - 1
    written = ""
    while number > 0x7F:
        written += chr(number & 0x7F | 0x80)
        number >>= 7
    return written + chr(number)


@lru_cache(REMEMBERED_MAX)
def moment(us: int) -> str:
    """A Timestamp with its length, of microseconds since 1970."""
    seconds, us = divmod(us, 1_000_000)
    written = f"\x08{varint(seconds)}" if seconds else ""
    if us:
        written += f"\x10{varint(us * 1_000)}"
    return varint(len(written)) + written


def string(value: str) -> str:
    """Text with its length."""
    written = value if value.isascii() else value.encode().decode("latin-1")
    return varint(len(written)) + written


def double(value: float) -> str:
    """A number with a fraction."""
    return struct.pack("<d", value).decode("latin-1")


def message(written: str) -> str:
    """A message within another, with its length."""
    return varint(len(written)) + written


def repeated(before: str, messages: Iterable[str]) -> str:
    """Each of the messages, behind what stands before them."""
    return "".join([f"{before}{varint(len(each))}{each}" for each in messages])


def written(of: Message) -> str:
    """The fields of a message that there is."""
    return of.SerializeToString().decode("latin-1")


@lru_cache(REMEMBERED_MAX)
def field(of: Descriptor, name: str) -> str:
    """What stands before the value of a field that is a string or a message."""
    return _tag(of.fields_by_name[name], _LEN)


def writer(of: Descriptor, paths: Sequence[str], enums: Mapping[str, Mapping[str, int]]) -> Write:
    """What writes the fields `paths` of a message, each from the row's column in the same place.

    A path may lead into a message within: student.full_name. Columns come as text, int or float,
    enums by their names in `enums`; a …_time in microseconds since 1970, an id or …_id as the text
    of a UUID. None is unset, and so is a message within of which nothing is known.
    """
    for path in paths:
        _find(of, path)
    places = {path: at for at, path in enumerate(paths)}
    text = f'lambda row: "".join(({_fields(of, "", places, enums)}))'
    names = {each.__name__: each for each in (varint, moment, string, double, message)}
    found: Write = eval(text, {**names, **_constants(of, enums)})  # noqa: S307 (of names of fields)
    return found


def _find(of: Descriptor, path: str) -> None:
    """ValueError unless the path leads to a field."""
    name, _, below = path.partition(".")
    each = of.fields_by_name.get(name)
    if each is None or (below and each.message_type is None):
        raise ValueError(f"{of.full_name} has no {path}: it is not written here")
    if below and each.message_type is not None:
        _find(each.message_type, below)


def _constants(of: Descriptor, enums: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Enums by the names of their fields, written with what stands before them."""
    return {
        f"enum_{name}": {
            value: _tag(of.fields_by_name[name], _VARINT) + varint(number) if number else ""
            for value, number in numbers.items()
        }
        for name, numbers in enums.items()
    }


def _fields(
    of: Descriptor, above: str, places: Mapping[str, int], enums: Mapping[str, Mapping[str, int]]
) -> str:
    """Expressions of those fields that have a place, in the order of their numbers."""
    written = []
    for each in sorted(of.fields, key=lambda each: each.number):
        path = above + each.name
        if path in places:
            written.append(_field(each, f"row[{places[path]}]", enums))
        elif each.message_type is not None:
            below = {name: at for name, at in places.items() if name.startswith(f"{path}.")}
            if below:
                fields = _fields(each.message_type, f"{path}.", below, enums)
                within = f'{_tag(each, _LEN)!r} + message("".join(({fields})))'
                written.append(f'({within} if {_known(below)} else "")')
    return "".join(f"{each}, " for each in written)


def _known(below: Mapping[str, int]) -> str:
    """Whether anything is known of a message within. An address is never NULL, but empty."""
    return " or ".join(
        f"row[{at}]" if path.endswith(".address") else f"row[{at}] is not None"
        for path, at in below.items()
    )


def _field(of: FieldDescriptor, value: str, enums: Mapping[str, Mapping[str, int]]) -> str:
    """The expression that writes one field; empty where it has its default or no value."""
    if of.name in enums:
        return f"enum_{of.name}[{value}]"
    if of.message_type is not None and of.message_type.full_name == _TIME:
        return f'({_tag(of, _LEN)!r} + moment({value}) if {value} is not None else "")'
    if of.type == FieldDescriptor.TYPE_STRING and (of.name == "id" or of.name.endswith("_id")):
        before = _tag(of, _LEN) + varint(_UUID_CHARS)
        return f'({before!r} + {value} if {value} else "")'
    if of.type == FieldDescriptor.TYPE_STRING:
        return f'({_tag(of, _LEN)!r} + string({value}) if {value} else "")'
    if of.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64):
        return f'({_tag(of, _VARINT)!r} + varint({value}) if {value} else "")'
    if of.type == FieldDescriptor.TYPE_DOUBLE and of.has_presence:
        return f'({_tag(of, _I64)!r} + double({value}) if {value} is not None else "")'
    raise ValueError(f"{of.full_name} is of a kind that is not written here")


def _tag(of: FieldDescriptor, kind: int) -> str:
    return varint(of.number << 3 | kind)
