"""Reading lessons."""

from __future__ import annotations

import uuid

from driveflow.booking.v1 import booking_pb2 as pb
from libs import calls, errors, masks, pages
from libs.interceptors import Context
from libs.messages import optional_id
from libs.orgs import Reader
from services.booking.servicer.desk import Desk
from services.booking.store import lessons as store
from services.booking.store.lessons import Filter

LAST_ID = str(uuid.UUID(int=2**128 - 1))


class Lessons:
    """GetLesson, ListLessons."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def GetLesson(self, request: pb.GetLessonRequest, context: Context) -> pb.Lesson:
        org_id = calls.org()
        lesson_id = uuid.UUID(request.lesson_id)
        paths = masks.paths(request.read_mask, store.PATHS)
        row = await store.get_lesson(self._desk.orgs.reader(org_id), org_id, lesson_id, paths)
        if row is None:
            raise errors.not_found("lesson", lesson_id)
        return masks.reader(pb.Lesson, paths)(row)

    async def ListLessons(
        self, request: pb.ListLessonsRequest, context: Context
    ) -> pb.ListLessonsResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.PATHS)
        limit = pages.size(request)
        (before_id,) = self._desk.pages.start(request, org_id, [LAST_ID])
        wanted = Filter(
            before_id=uuid.UUID(before_id),
            booking_id=optional_id(request.booking_id),
            student_id=optional_id(request.student_id),
            instructor_id=optional_id(request.instructor_id),
        )
        found = await _list(self._desk.orgs.reader(org_id), org_id, wanted, limit + 1, paths)
        response = pb.ListLessonsResponse(
            lessons=map(masks.reader(pb.Lesson, paths), found[:limit])
        )
        if len(found) > limit:
            last = str(found[limit - 1][-1])
            response.next_page_token = self._desk.pages.token(request, org_id, [last])
        return response


async def _list(
    conn: Reader, org_id: uuid.UUID, wanted: Filter, limit: int, paths: tuple[str, ...]
) -> list[masks.Row]:
    """By the statement whose index serves the narrowest of the filters."""
    if wanted.booking_id is not None:
        return await store.list_lessons_of_booking(conn, org_id, wanted, limit, paths)
    if wanted.student_id is not None:
        return await store.list_lessons_of_student(conn, org_id, wanted, limit, paths)
    if wanted.instructor_id is not None:
        return await store.list_lessons_of_instructor(conn, org_id, wanted, limit, paths)
    return await store.list_lessons(conn, org_id, wanted, limit, paths)
