"""What the methods of both services work with."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from libs.cache import Cache
from libs.consistency import Token
from libs.orgs import Orgs
from libs.pages import Pages
from services.booking.model.directory import Org, org_not_found
from services.booking.slot_tokens import SlotTokens
from services.booking.store import directory as store


@dataclass(frozen=True, slots=True)
class Desk:
    """One per process."""

    orgs: Orgs
    pages: Pages
    cache: Cache
    slot_tokens: SlotTokens
    clock: Callable[[], datetime]

    async def org(self, org_id: uuid.UUID, at_least: Token | None = None) -> Org:
        """The school, maybe from the cache: for reads. Raises NotFound when there is none."""

        async def fill() -> Org | None:
            return await store.get_org(self.orgs.quick_reader(org_id), org_id)

        org = await self.cache.get(org_id, Org.KIND, org_id, fill, at_least=at_least)
        if org is None:
            raise org_not_found(org_id)
        return org

    async def zone(self, org_id: uuid.UUID) -> str:
        """The name of the school's time zone, maybe from the cache."""
        return (await self.org(org_id)).time_zone
