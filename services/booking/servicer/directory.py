"""DirectoryService: the school, its people, lesson types and cars. Decode, transact, encode."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from driveflow.booking.v1 import directory_pb2 as pb
from driveflow.booking.v1 import directory_pb2_grpc
from libs import audit, cache, calls, consistency, errors, idempotency, masks, outbox, pages
from libs.idempotency import SQL as SHARED
from libs.interceptors import Context
from libs.messages import required_id
from libs.orgs import Reader, rescope
from libs.pooling import Connection
from services.booking import guard
from services.booking.messages import directory as messages
from services.booking.messages.directory import Decoders
from services.booking.model import directory as model
from services.booking.model.directory import Entity, Guardian, Org
from services.booking.servicer.desk import Desk
from services.booking.servicer.hours import Hours
from services.booking.servicer.prices import Prices
from services.booking.servicer.privacy import Privacy
from services.booking.store import directory as store

EntityT = TypeVar("EntityT", bound=Entity)
MessageT = TypeVar("MessageT", bound=Message)
Listing = Callable[..., Awaitable[list[EntityT]]]


@dataclass(frozen=True, slots=True)
class Kind(Generic[EntityT, MessageT]):
    """How things of one kind are added, read and changed: alike, but for their fields."""

    name: str
    message: type[MessageT]
    encode: Callable[..., MessageT]
    decode: Callable[[Any], EntityT]
    fields: store.Columns
    changes: Decoders
    create: Callable[[Connection, uuid.UUID, EntityT], Awaitable[EntityT]]
    get: Callable[[Reader, uuid.UUID, uuid.UUID], Awaitable[EntityT | None]]
    lock: Callable[[Connection, uuid.UUID, uuid.UUID], Awaitable[EntityT | None]]
    update: Callable[[Connection, uuid.UUID, EntityT], Awaitable[EntityT]]


INSTRUCTOR = Kind(
    name=model.Instructor.KIND,
    message=pb.Instructor,
    encode=messages.instructor,
    decode=messages.new_instructor,
    fields=store.INSTRUCTOR_FIELDS,
    changes=messages.INSTRUCTOR_CHANGES,
    create=store.create_instructor,
    get=store.get_instructor,
    lock=store.lock_instructor,
    update=store.update_instructor,
)
STUDENT = Kind(
    name=model.Student.KIND,
    message=pb.Student,
    encode=messages.student,
    decode=messages.new_student,
    fields=store.STUDENT_FIELDS,
    changes=messages.STUDENT_CHANGES,
    create=store.create_student,
    get=store.get_student,
    lock=store.lock_student,
    update=store.update_student,
)
SERVICE = Kind(
    name=model.Service.KIND,
    message=pb.Service,
    encode=messages.service,
    decode=messages.new_service,
    fields=store.SERVICE_FIELDS,
    changes=messages.SERVICE_CHANGES,
    create=store.create_service,
    get=store.get_service,
    lock=store.lock_service,
    update=store.update_service,
)
VEHICLE = Kind(
    name=model.Vehicle.KIND,
    message=pb.Vehicle,
    encode=messages.vehicle,
    decode=messages.new_vehicle,
    fields=store.VEHICLE_FIELDS,
    changes=messages.VEHICLE_CHANGES,
    create=store.create_vehicle,
    get=store.get_vehicle,
    lock=store.lock_vehicle,
    update=store.update_vehicle,
)


class DirectoryServicer(Prices, Hours, Privacy, directory_pb2_grpc.DirectoryServiceServicer):
    """The directory of each school."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._orgs = desk.orgs
        self._pages = desk.pages
        self._cache = desk.cache
        self._clock = desk.clock

    # --- the school ---

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, context: Context
    ) -> pb.Organization:
        wanted = messages.new_org(model.UNSAVED, request.organization)
        wanted.check()
        wanted.check_time_zone()
        wanted.check_currency()
        async with self._orgs.write(audit.PLATFORM) as conn:
            answer = await idempotency.recall(conn, audit.PLATFORM, request, pb.Organization)
            if answer is not None:
                return answer
            await _check_zone_of_database(conn, wanted)
            org = await _founded(conn, wanted)
            answer = messages.org(org)
            await rescope(conn, audit.PLATFORM)
            await _record(conn, audit.PLATFORM, org, "create", after=org.values())
            await idempotency.remember(conn, audit.PLATFORM, request, answer)
        return answer

    async def SuspendOrganization(
        self, request: pb.SuspendOrganizationRequest, context: Context
    ) -> pb.Organization:
        return await self._set_suspended(True, request)

    async def ResumeOrganization(
        self, request: pb.ResumeOrganizationRequest, context: Context
    ) -> pb.Organization:
        return await self._set_suspended(False, request)

    async def _set_suspended(
        self, suspended: bool, request: pb.SuspendOrganizationRequest | pb.ResumeOrganizationRequest
    ) -> pb.Organization:
        org_id = calls.org()
        async with self._orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Organization)
            if answer is not None:
                return answer
            org = _found_org(await store.lock_org(conn, org_id), org_id)
            if (org.suspended_at is not None) == suspended:
                answer = messages.org(org)
                await idempotency.remember(conn, org_id, request, answer)
                return answer
            since = self._clock() if suspended else None
            org = _found_org(await store.set_org_suspended(conn, org_id, since), org_id)
            parameters = {"org_id": org_id, "active": not suspended}
            await conn.execute(SHARED.set_tenant_active, parameters)
            action = "suspend" if suspended else "resume"
            await _record(conn, org_id, org, action, after={"reason": request.reason})
            await _emit(conn, org, f"org.{action}{'ed' if suspended else 'd'}")
            await cache.invalidate(conn, org_id, Org.KIND, org_id)
            answer = messages.org(org)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def GetOrganization(
        self, request: pb.GetOrganizationRequest, context: Context
    ) -> pb.Organization:
        org_id = calls.org()
        at_least = consistency.wanted(calls.metadata())
        paths = masks.paths(request.read_mask, store.ORG_FIELDS)
        found = messages.org(await self._desk.org(org_id, at_least))
        return masks.kept(found, paths) if request.read_mask.paths else found

    async def UpdateOrganization(
        self, request: pb.UpdateOrganizationRequest, context: Context
    ) -> pb.Organization:
        org_id = calls.org()
        given = request.organization
        paths = masks.changes(request.update_mask, messages.ORG_CHANGES, given)
        changes = messages.changes(given, paths, messages.ORG_CHANGES)
        async with self._orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Organization)
            if answer is not None:
                return answer
            before = _found_org(await store.lock_org(conn, org_id), org_id)
            if not request.update_mask.paths and given.currency not in ("", before.currency):
                raise model.currency_fixed()
            after = _changed(before, given.etag, changes)
            if after.time_zone != before.time_zone:
                after.check_time_zone()
                await _check_zone_of_database(conn, after)
            after = await _keep(conn, org_id, before, after, store.update_org)
            answer = messages.org(after)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    # --- instructors ---

    async def CreateInstructor(
        self, request: pb.CreateInstructorRequest, context: Context
    ) -> pb.Instructor:
        return await self._create(INSTRUCTOR, request, request.instructor)

    async def GetInstructor(
        self, request: pb.GetInstructorRequest, context: Context
    ) -> pb.Instructor:
        return await self._get(INSTRUCTOR, request.instructor_id, request, context)

    async def ListInstructors(
        self, request: pb.ListInstructorsRequest, context: Context
    ) -> pb.ListInstructorsResponse:
        if request.HasField("active"):
            listing: Any = store.list_instructors_by_active
            found, token = await self._page(INSTRUCTOR, request, listing, active=request.active)
        else:
            found, token = await self._page(INSTRUCTOR, request, store.list_instructors)
        return pb.ListInstructorsResponse(instructors=found, next_page_token=token)

    async def UpdateInstructor(
        self, request: pb.UpdateInstructorRequest, context: Context
    ) -> pb.Instructor:
        return await self._update(INSTRUCTOR, request, request.instructor)

    # --- students and their guardians ---

    async def CreateStudent(self, request: pb.CreateStudentRequest, context: Context) -> pb.Student:
        return _not_erased(await self._create(STUDENT, request, request.student))

    async def GetStudent(self, request: pb.GetStudentRequest, context: Context) -> pb.Student:
        org_id = calls.org()
        student_id = uuid.UUID(request.student_id)
        paths = masks.paths(request.read_mask, store.STUDENT_FIELDS, tuple(store.STUDENT_FIELDS))
        student = await store.get_student(
            self._orgs.quick_reader(org_id), org_id, student_id, paths
        )
        return messages.student(_found(student, STUDENT.name, student_id), paths)

    async def ListStudents(
        self, request: pb.ListStudentsRequest, context: Context
    ) -> pb.ListStudentsResponse:
        org_id = calls.org()
        model.check_prefix(request.name_prefix)
        paths = masks.paths(request.read_mask, store.STUDENT_FIELDS, store.STUDENT_LIST_PATHS)
        limit = pages.size(request)
        name, last_id = self._pages.start(request, org_id, ["", str(model.UNSAVED)])
        rest: dict[str, Any] = {
            "after": (name, uuid.UUID(last_id)),
            "limit": limit + 1,
            "paths": paths,
        }
        reader = self._orgs.reader(org_id)
        if request.name_prefix:
            found = await store.list_students_by_prefix(reader, org_id, request.name_prefix, **rest)
        else:
            found = await store.list_students(reader, org_id, **rest)
        response = pb.ListStudentsResponse(
            students=[messages.student(student, paths) for _, student in found[:limit]]
        )
        if len(found) > limit:
            key, last = found[limit - 1]
            response.next_page_token = self._pages.token(request, org_id, [key, str(last.id)])
        return response

    async def UpdateStudent(self, request: pb.UpdateStudentRequest, context: Context) -> pb.Student:
        return _not_erased(await self._update(STUDENT, request, request.student))

    async def CreateGuardian(
        self, request: pb.CreateGuardianRequest, context: Context
    ) -> pb.Guardian:
        org_id = calls.org()
        wanted = messages.new_guardian(request.guardian)
        async with self._orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Guardian)
            if answer is not None:
                return answer
            await guard.open_org(conn, org_id)
            await _may_have_one_more(conn, org_id, wanted.student_id)
            guardian = await store.create_guardian(conn, org_id, wanted)
            await store.link_guardian(conn, org_id, guardian)
            await _record_guardian(conn, org_id, guardian, "create", after=guardian.values())
            answer = messages.guardian(guardian)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def ListGuardians(
        self, request: pb.ListGuardiansRequest, context: Context
    ) -> pb.ListGuardiansResponse:
        org_id = calls.org()
        student_id = uuid.UUID(request.student_id)
        paths = masks.paths(request.read_mask, store.GUARDIAN_FIELDS)
        async with self._orgs.read(org_id) as conn:
            _found(await store.get_student(conn, org_id, student_id, ()), STUDENT.name, student_id)
            found = await store.list_guardians(conn, org_id, student_id, model.GUARDIANS_MAX, paths)
        return pb.ListGuardiansResponse(guardians=map(masks.reader(pb.Guardian, paths), found))

    async def DeleteGuardian(
        self, request: pb.DeleteGuardianRequest, context: Context
    ) -> pb.Guardian:
        org_id = calls.org()
        guardian_id = uuid.UUID(request.guardian_id)
        async with self._orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Guardian)
            if answer is not None:
                return answer
            await guard.open_org(conn, org_id)
            guardian = await store.lock_guardian(conn, org_id, guardian_id)
            if guardian is None:
                raise errors.not_found("guardian", guardian_id)
            await store.delete_guardian(conn, org_id, guardian_id)
            await _record_guardian(conn, org_id, guardian, "delete", before=guardian.values())
            answer = messages.guardian(guardian)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    # --- lesson types ---

    async def CreateService(self, request: pb.CreateServiceRequest, context: Context) -> pb.Service:
        return await self._create(SERVICE, request, request.service)

    async def GetService(self, request: pb.GetServiceRequest, context: Context) -> pb.Service:
        return await self._get(SERVICE, request.service_id, request, context)

    async def ListServices(
        self, request: pb.ListServicesRequest, context: Context
    ) -> pb.ListServicesResponse:
        found, token = await self._page(
            SERVICE, request, store.list_services, active=_wanted(request)
        )
        return pb.ListServicesResponse(services=found, next_page_token=token)

    async def UpdateService(self, request: pb.UpdateServiceRequest, context: Context) -> pb.Service:
        return await self._update(SERVICE, request, request.service)

    # --- cars ---

    async def CreateVehicle(self, request: pb.CreateVehicleRequest, context: Context) -> pb.Vehicle:
        return await self._create(VEHICLE, request, request.vehicle)

    async def GetVehicle(self, request: pb.GetVehicleRequest, context: Context) -> pb.Vehicle:
        return await self._get(VEHICLE, request.vehicle_id, request, context)

    async def ListVehicles(
        self, request: pb.ListVehiclesRequest, context: Context
    ) -> pb.ListVehiclesResponse:
        found, token = await self._page(
            VEHICLE, request, store.list_vehicles, active=_wanted(request)
        )
        return pb.ListVehiclesResponse(vehicles=found, next_page_token=token)

    async def UpdateVehicle(self, request: pb.UpdateVehicleRequest, context: Context) -> pb.Vehicle:
        return await self._update(VEHICLE, request, request.vehicle)

    # --- what all kinds share ---

    async def _create(
        self, kind: Kind[EntityT, MessageT], request: Any, message: Message
    ) -> MessageT:
        org_id = calls.org()
        wanted = kind.decode(message)
        wanted.check()
        async with self._orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, kind.message)
            if answer is not None:
                return answer
            await guard.open_org(conn, org_id)
            made = await kind.create(conn, org_id, wanted)
            await _record(conn, org_id, made, "create", after=made.values())
            answer = kind.encode(made)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def _update(self, kind: Kind[EntityT, MessageT], request: Any, given: Any) -> MessageT:
        org_id = calls.org()
        wanted_id = required_id(given.id, f"{kind.name}.id")
        paths = masks.changes(request.update_mask, kind.changes, given)
        changes = messages.changes(given, paths, kind.changes)
        async with self._orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, kind.message)
            if answer is not None:
                return answer
            await guard.open_org(conn, org_id)
            before = _found(await kind.lock(conn, org_id, wanted_id), kind.name, wanted_id)
            after = _changed(before, given.etag, changes)
            after = await _keep(conn, org_id, before, after, kind.update)
            answer = kind.encode(after)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def _get(
        self, kind: Kind[EntityT, MessageT], text: str, request: Any, context: Context
    ) -> MessageT:
        """One, from the cache or whole from the database: the mask decides what is sent."""
        org_id = calls.org()
        wanted_id = uuid.UUID(text)
        paths = masks.paths(request.read_mask, kind.fields, tuple(kind.fields))

        async def fill() -> EntityT | None:
            return await kind.get(self._orgs.quick_reader(org_id), org_id, wanted_id)

        found = await self._cached(org_id, kind.name, wanted_id, fill, context)
        return kind.encode(_found(found, kind.name, wanted_id), paths)

    async def _page(
        self,
        kind: Kind[EntityT, MessageT],
        request: Any,
        listing: Listing[EntityT],
        **filters: object,
    ) -> tuple[list[MessageT], str]:
        """A page, newest first, and the token of the next."""
        org_id = calls.org()
        paths = masks.paths(request.read_mask, kind.fields, tuple(kind.fields))
        limit = pages.size(request)
        (before,) = self._pages.start(request, org_id, [str(store.UUID_MAX)])
        found = await listing(
            self._orgs.reader(org_id),
            org_id,
            before_id=uuid.UUID(before),
            limit=limit + 1,
            paths=paths,
            **filters,
        )
        more = len(found) > limit
        token = self._pages.token(request, org_id, [str(found[limit - 1].id)]) if more else ""
        return [kind.encode(each, paths) for each in found[:limit]], token

    async def _cached(
        self,
        org_id: uuid.UUID,
        kind: str,
        wanted_id: uuid.UUID,
        fill: Callable[[], Awaitable[EntityT | None]],
        context: Context,
    ) -> EntityT | None:
        at_least = consistency.wanted(calls.metadata())
        return await self._cache.get(org_id, kind, wanted_id, fill, at_least=at_least)


async def _founded(conn: Connection, wanted: Org) -> Org:
    """The school, made under its own id; the transaction stays scoped to it."""
    org_id = await store.new_org_id(conn)
    await rescope(conn, org_id)
    org = await store.create_org(conn, replace(wanted, id=org_id))
    await conn.execute(SHARED.add_tenant, {"org_id": org_id})
    await _record(conn, org_id, org, "create", after=org.values())
    await _emit(conn, org, "org.created")
    return org


async def _check_zone_of_database(conn: Connection, org: Org) -> None:
    if not await store.time_zone_known(conn, org.time_zone):
        raise model.time_zone_unknown()


async def _may_have_one_more(conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID) -> None:
    """Locks the student: two guardians at once are counted one after the other."""
    student = _found(await store.lock_student(conn, org_id, student_id), "student", student_id)
    student.check_changeable()
    there = await store.list_guardians(conn, org_id, student_id, model.GUARDIANS_MAX, ("id",))
    if len(there) == model.GUARDIANS_MAX:
        raise model.too_many_guardians()


def _changed(before: EntityT, etag: str, changes: dict[str, Any]) -> EntityT:
    """What a change would make of it; raises when it must not be made."""
    before.check_changeable()
    before.check_etag(etag)
    after = replace(before, **changes)
    after.check()
    return after


async def _keep(
    conn: Connection,
    org_id: uuid.UUID,
    before: EntityT,
    after: EntityT,
    update: Callable[[Connection, uuid.UUID, EntityT], Awaitable[EntityT]],
) -> EntityT:
    """Write a change and note what it changed; one that changes nothing leaves no trace."""
    if after == before:
        return before
    after = await update(conn, org_id, after)
    old, new = before.values(), after.values()
    names = [name for name in old if old[name] != new[name]]
    await _record(
        conn,
        org_id,
        after,
        "update",
        before={name: old[name] for name in names},
        after={name: new[name] for name in names},
    )
    if before.KIND != model.Student.KIND:
        await cache.invalidate(conn, org_id, before.KIND, before.id)
    return after


async def _record(
    conn: Connection, org_id: uuid.UUID, entity: Entity, action: str, **values: Any
) -> None:
    await audit.record(conn, org_id, entity.KIND, entity.id, action, **values)


async def _record_guardian(
    conn: Connection, org_id: uuid.UUID, guardian: Guardian, action: str, **values: Any
) -> None:
    await audit.record(conn, org_id, "guardian", guardian.id, action, **values)


async def _emit(conn: Connection, org: Org, kind: str) -> None:
    payload = {"org_id": str(org.id)}
    await outbox.emit(conn, org.id, Org.KIND, org.id, org.version, kind, payload)


def _found(row: EntityT | None, kind: str, wanted_id: uuid.UUID) -> EntityT:
    if row is None:
        raise errors.not_found(kind, wanted_id)
    return row


def _found_org(org: Org | None, org_id: uuid.UUID) -> Org:
    if org is None:
        raise model.org_not_found(org_id)
    return org


def _not_erased(student: pb.Student) -> pb.Student:
    """What a repeated call answers for a student who was erased since."""
    if student.HasField("erase_time"):
        raise model.student_erased()
    return student


def _wanted(request: Any) -> bool | None:
    return request.active if request.HasField("active") else None
