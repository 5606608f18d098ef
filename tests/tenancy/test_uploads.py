"""Within a school an upload belongs to the subject that began it."""

from __future__ import annotations

import uuid

from tests.serving import Tracking
from tests.tenancy import recipes_tracking


async def test_an_upload_of_another_subject_of_the_school_is_not_there(
    tracking: Tracking,
) -> None:
    kit = recipes_tracking.kit(tracking)
    school = await recipes_tracking.furnished(tracking, uuid.uuid4())
    requests = kit.recipes["GetUploadStatus"][0](school.ids, school.ids)
    token = kit.token(school.org_id, subject="gateway-2")
    answer = await kit.ask(token, kit.method("GetUploadStatus"), requests)
    assert answer.refusal is not None
    assert answer.refusal.reason == "UPLOAD_NOT_FOUND"
