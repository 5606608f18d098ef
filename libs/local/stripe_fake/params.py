"""Parameters of a request: Stripe's form encoding, read with types."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from libs.local.stripe_fake.errors import Refusal

PART = re.compile(r"\[([^\]]*)\]")
METADATA_KEYS, METADATA_KEY, METADATA_VALUE = 50, 40, 500
EVERYWHERE = frozenset({"expand"})
OF_LISTS = frozenset({"limit", "starting_after", "ending_before", "expand", "created"})


def parse(encoded: str) -> dict[str, Any]:
    """`metadata[a]=b&expand[]=c` as nested dicts; list entries are keyed by their position."""
    parsed: dict[str, Any] = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        head = name.partition("[")[0]
        place, steps = parsed, [head, *PART.findall(name[len(head) :])]
        for step in steps[:-1]:
            below = place.setdefault(step or str(len(place)), {})
            if not isinstance(below, dict):
                raise Refusal(f"Invalid object: {name}", param=name)
            place = below
        place[steps[-1] or str(len(place))] = value
    return parsed


def merged(thing: dict[str, Any], metadata: dict[str, str]) -> dict[str, str]:
    """An object's metadata with these changes; an empty value takes a key away."""
    return {key: value for key, value in (thing["metadata"] | metadata).items() if value}


class Params:
    """What a request says. Reading refuses what is missing or wrong; nothing is saved then."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def only(self, names: Iterable[str]) -> None:
        """Refuse every parameter that the operation does not know."""
        for name in self._values.keys() - EVERYWHERE.union(names):
            raise Refusal(f"Received unknown parameter: {name}", "parameter_unknown", param=name)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def required(self, *names: str) -> None:
        """Refuse a request that lacks one of these."""
        for name in names:
            if name not in self._values:
                message = f"Missing required param: {name}."
                raise Refusal(message, "parameter_missing", param=name)

    def text(self, name: str, choices: Iterable[str] = ()) -> str | None:
        """A string, one of `choices` if there are any; None if it is not sent."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise Refusal("Invalid string", param=name)
        if not value:
            message = f"You passed an empty string for '{name}'."
            raise Refusal(message, "parameter_invalid_empty", param=name)
        if choices and value not in choices:
            raise Refusal(f"Invalid {name}: must be one of {', '.join(choices)}", param=name)
        return value

    def number(self, name: str, least: int = 1) -> int | None:
        """A whole number, at least `least`; None if it is not sent."""
        value = self.text(name)
        if value is None:
            return None
        if not re.fullmatch(r"-?\d{1,18}", value):
            raise Refusal(f"Invalid integer: {value}", "parameter_invalid_integer", param=name)
        if int(value) < least:
            message = f"This value must be greater than or equal to {least}."
            raise Refusal(message, "parameter_invalid_integer", param=name)
        return int(value)

    def flag(self, name: str) -> bool | None:
        """A boolean; None if it is not sent."""
        value = self.text(name, ("true", "false"))
        return None if value is None else value == "true"

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty if it is not sent."""
        value = self._values.get(name, {})
        if not isinstance(value, dict):
            raise Refusal("Invalid array", param=name)
        return [str(entry) for entry in value.values()]

    def mapping(self, name: str) -> dict[str, str]:
        """A flat object; empty if it is not sent."""
        value = self._values.get(name) or {}
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise Refusal("Invalid object", param=name)
        return value

    def metadata(self) -> dict[str, str]:
        """Metadata within Stripe's limits."""
        metadata = self.mapping("metadata")
        if len(metadata) > METADATA_KEYS:
            raise Refusal(f"Metadata can have up to {METADATA_KEYS} keys", param="metadata")
        for key, value in metadata.items():
            if len(key) > METADATA_KEY or len(value) > METADATA_VALUE:
                raise Refusal(f"Metadata is too long: {key}", param=f"metadata[{key}]")
        return metadata

    def created(self) -> dict[str, int]:
        """The bounds `gt`, `gte`, `lt`, `lte` in seconds; a plain number is that very second."""
        value = self._values.get("created", {})
        bounds = value if isinstance(value, dict) else {"gte": value, "lte": value}
        if bounds.keys() - {"gt", "gte", "lt", "lte"}:
            raise Refusal("Invalid created", param="created")
        reading = Params(bounds)
        return {name: reading.number(name, least=0) or 0 for name in bounds}
