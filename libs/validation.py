"""The rules that a contract has for single fields, and a short way for requests that meet them.

protovalidate judges every request that might break a rule, and its words are what the caller reads.
Most break none, and the rules of most are of a few plain kinds: whether these are met is seen here,
at a tenth of the cost. Rules of other kinds are protovalidate's from the start.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import protovalidate
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from buf.validate import validate_pb2
from libs.errors import InvalidArgument

Check = Callable[[Any], object]
"""Of a field's value or a message: true if it breaks no rule; false if it may."""
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_DEPTH_MAX = 4
_NUMBERS = {"int32", "int64", "double"}


def validate(message: Any) -> None:
    """Raise InvalidArgument with every field of the message that breaks a rule of its proto."""
    met = _checks.get(type(message))
    if met is None:
        met = _checks[type(message)] = check(message.DESCRIPTOR)
    if not met(message):
        _judge(message)


_checks: dict[type, Check] = {}
"""By the message's class."""


def _judge(message: Any) -> None:
    try:
        protovalidate.validate(message)
    except protovalidate.ValidationError as error:
        fields = [(_path(violation), violation.proto.message) for violation in error.violations]
        raise InvalidArgument(
            "INVALID_REQUEST",
            "; ".join(f"{field}: {wrong}" for field, wrong in fields),
            fields=fields,
        ) from None


def _path(violation: protovalidate.Violation) -> str:
    path = violation.proto.field
    return ".".join(map(_step, path.elements)) if path else ""


def _step(element: Any) -> str:
    """A field, with its place where it is one of a list: bookings[57]."""
    at = element.subscript
    return f"{element.field_name}[{at.value}]" if at else str(element.field_name)


# --- the short way -----------------------------------------------------------------------------


def check(message: Descriptor) -> Check:
    """What sees whether a message of this kind surely breaks no rule."""
    return _of_message(message, _DEPTH_MAX) or _never


def _never(_: Any) -> bool:
    return False


def _of_message(message: Descriptor, depth: int) -> Check | None:
    """None: it has rules of a kind that is not known here."""
    options = message.GetOptions()
    oneofs = any(each.GetOptions().ListFields() for each in message.oneofs)
    if depth == 0 or options.HasExtension(validate_pb2.message) or oneofs:
        return None
    required, wanted = [], []
    for field in message.fields:
        holds = _of_field(field, depth)
        if holds is None:
            return None
        if _is_required(field):
            required.append(field.name)
        if holds is not _always:
            wanted.append((field.name, field.has_presence, holds))
    return _all(required, wanted) if required or wanted else _always


def _always(_: Any) -> bool:
    return True


def _is_required(field: FieldDescriptor) -> bool:
    """Whether it is a message that must be there, and no other rule is about it."""
    rules = field.GetOptions().Extensions[validate_pb2.field]
    told = [each.name for each, _ in rules.ListFields()]
    return field.message_type is not None and told == ["required"]


def _all(required: list[str], wanted: list[tuple[str, bool, Check]]) -> Check:
    """Fields that must be there; of others whether they may be unset, and what holds if not."""

    def met(message: Any) -> bool:
        for name in required:
            if not message.HasField(name):
                return False
        for name, optional, holds in wanted:
            if optional and not message.HasField(name):
                continue
            if not holds(getattr(message, name)):
                return False
        return True

    return met


def _of_field(field: FieldDescriptor, depth: int) -> Check | None:
    has_rules = field.GetOptions().HasExtension(validate_pb2.field)
    if field.message_type is not None:
        plain = not has_rules or (_is_required(field) and not field.is_repeated)
        below = _of_message(field.message_type, depth - 1) if plain else None
        return None if field.is_repeated and below is not _always else below
    if not has_rules:
        return _always
    if field.is_repeated:
        return None
    return _of_rules(field, field.GetOptions().Extensions[validate_pb2.field])


def _of_rules(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Check | None:
    kind = rules.WhichOneof("type")
    if kind is None or {each.name for each, _ in rules.ListFields()} - {kind, "ignore"}:
        return None
    told = {each.name: value for each, value in getattr(rules, kind).ListFields()}
    holds = _of_kind(field, kind, told)
    if holds is None or rules.ignore == validate_pb2.IGNORE_UNSPECIFIED:
        return holds
    if rules.ignore != validate_pb2.IGNORE_IF_ZERO_VALUE:
        return None
    return lambda value: not value or holds(value)


def _of_kind(field: FieldDescriptor, kind: str, told: dict[str, Any]) -> Check | None:
    if kind == "string" and told == {"uuid": True}:
        return _UUID.fullmatch
    if kind == "string" and told.keys() <= {"min_len", "max_len"}:
        least, most = told.get("min_len", 0), told.get("max_len", float("inf"))
        return lambda value: least <= len(value) <= most
    if kind in _NUMBERS and told.keys() <= {"gte", "lte"}:
        low, high = told.get("gte", float("-inf")), told.get("lte", float("inf"))
        return lambda value: low <= value <= high
    if kind == "enum" and told == {"defined_only": True} and field.enum_type is not None:
        return frozenset(field.enum_type.values_by_number).__contains__
    return None
