"""What every change asks first: whether the school may change anything at all."""

from __future__ import annotations

import uuid

from libs.pooling import Connection
from services.booking.model.directory import Org, org_not_found
from services.booking.store import directory as store


async def open_org(conn: Connection, org_id: uuid.UUID) -> Org:
    """The school, in the transaction of the change.

    Raises NotFound when there is none, FailedPrecondition when it is suspended.
    """
    org = await store.get_org(conn, org_id)
    if org is None:
        raise org_not_found(org_id)
    org.check_changeable()
    return org
