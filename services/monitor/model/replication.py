"""Replicas that are connected and those that should be, and the slots that hold WAL for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """As the primary sees it, and as it says itself."""

    name: str
    state: str
    """ABSENT: it is configured and not connected."""
    sync_state: str = ""
    lag_bytes: int | None = None
    lag_s: float | None = None
    client: str = ""


@dataclass(frozen=True, slots=True)
class OwnWord:
    """What a replica says of itself."""

    streams_as: str
    """The application_name by which the primary knows it."""
    behind_bytes: int | None
    """Not replayed of what the primary had before it was asked; None before it replayed any."""
    replayed_s: float | None
    """Age of the last transaction that it replayed."""

    @property
    def lag_s(self) -> float | None:
        """That age counts only while it is behind: an idle primary leaves none to replay."""
        return 0.0 if self.behind_bytes == 0 else self.replayed_s


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot."""

    name: str
    active: bool
    retained_bytes: int
    wal_status: str


@dataclass(frozen=True, slots=True)
class Replication:
    """All of it at one time."""

    replicas: tuple[Replica, ...]
    slots: tuple[Slot, ...]
    synchronous_standby_names: str


def together(
    connected: Sequence[Replica], configured: Sequence[str], words: Mapping[str, OwnWord]
) -> tuple[Replica, ...]:
    """The connected ones, under their configured names where they have one, and the absent ones."""
    left = [_caught_up(each) for each in connected]
    found = []
    for name in configured:
        word = words.get(name)
        known_as = {name} if word is None else {name, word.streams_as}
        seen = next((each for each in left if each.name in known_as), None)
        if seen is not None:
            left.remove(seen)
        found.append(_named(name, seen, word))
    return tuple(sorted((*found, *left), key=lambda each: each.name))


def _named(name: str, seen: Replica | None, word: OwnWord | None) -> Replica:
    replica = Replica(name=name, state=ABSENT) if seen is None else replace(seen, name=name)
    if word is None:
        return replica
    if seen is None:
        replica = replace(replica, lag_bytes=word.behind_bytes)
    return replace(replica, lag_s=word.lag_s)


def _caught_up(replica: Replica) -> Replica:
    """The primary forgets the time of lag when there is none."""
    if replica.lag_s is None and replica.lag_bytes == 0:
        return replace(replica, lag_s=0.0)
    return replica
