"""Read masks: which columns and joins a read fetches, not only which fields it sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.field_mask_pb2 import FieldMask

from libs.errors import InvalidArgument


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
