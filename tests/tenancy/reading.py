"""What a service is asked through read masks, method by method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message
from psycopg import sql

from libs import access
from tests import walking
from tests.tenancy.schools import Kit, Member
from tests.walking import Answer

EMPTY = {"ListParkedEvents"}
"""What the platform beside a furnished school has none of."""
LEFT_OUT = {("ListPayouts", "items")}
"""Fields that a list does not give, which it says."""
# By service: tables, and of each the columns that its lists are filtered and sorted by.
LEFT: Mapping[str, Mapping[str, str]] = {
    "tracking": {"DrivingEvent": "orgId tripId ts kind"},
    "booking": {
        "Lesson": "orgId id bookingId studentId instructorId",
        "BookingTransition": "orgId id bookingId fromStatus",
        "AuditLog": "orgId id createdAt entityType entityId actorUserId",
        "instructor_stats_of_org": "orgId instructorId refreshedAt",
        "WaitlistEntry": "orgId id status",
        "StudentGuardian": "orgId studentId guardianId",
        "Guardian": "",
        "RateCard": "orgId id",
        "RateCardItem": "",
        "InstructorAvailability": "",
        "AvailabilityException": "orgId id instructorId date startMinute",
    },
    "payments": {
        "Payment": "orgId id createdAt status bookingId stripePaymentIntentId",
        "Refund": "orgId id paymentId",
        "Dispute": "orgId id paymentId",
        "Payout": "orgId id createdAt instructorId stripeTransferId",
        "PayoutItem": "",
        "LedgerEntry": "orgId id account",
        "ReconciliationRun": "orgId id",
        "Discrepancy": "orgId id runId kind resolvedAt",
        "WebhookEvent": "id provider state",
        "OutboxOfOrg": "orgId id xactId topic processedAt",
        "ParkedEvent": "producer consumer xactId eventId",
    },
}
METHODS: Mapping[str, str] = {
    "tracking": "ListDrivingEvents",
    "booking": "GetLesson ListLessons ListBookingTransitions ListAuditEntries GetInstructorStats"
    " ListInstructorStats ListWaitlist ListGuardians ListRateCards GetAvailability"
    " ListAvailabilityExceptions",
    "payments": "GetPayment ListPayments LookupPayment ListRefunds ListDisputes GetPayout"
    " ListPayouts LookupPayout ListLedgerEntries GetReconciliationRun ListDiscrepancies"
    " ListWebhookEvents ListEvents ListParkedEvents",
}


def masked(kit: Kit) -> list[MethodDescriptor]:
    return [each for each in kit.methods if "read_mask" in each.input_type.fields_by_name]


def resource(method: MethodDescriptor) -> tuple[Descriptor, str]:
    """What a method tells of, and the field of its response with those; empty if it is one."""
    if not method.name.startswith(("List", "BatchGet")):
        return method.output_type, ""
    (field,) = (each for each in method.output_type.fields if each.is_repeated)
    assert field.message_type is not None
    return field.message_type, field.name


def paths(method: MethodDescriptor) -> list[str]:
    names = [field.name for field in resource(method)[0].fields]
    return [name for name in names if (method.name, name) not in LEFT_OUT]


async def ask(kit: Kit, member: Member, method: MethodDescriptor, path: str) -> Answer:
    """With the first recipe, or for the platform with what is valid."""
    request: Any = walking.valid(method)
    if method.name in kit.recipes:
        request = kit.recipes[method.name][0](member.ids, member.ids)[0]
    request.read_mask.paths[:] = [path]
    of_platform = access.rule(method).platform
    return await kit.ask(kit.token(None if of_platform else member.org_id), method, [request])


async def resources(kit: Kit, member: Member, method: MethodDescriptor, path: str) -> list[Message]:
    answer = await ask(kit, member, method, path)
    assert answer.refusal is None, (method.full_name, path, answer.refusal)
    (response,) = answer.responses
    name = resource(method)[1]
    return list(getattr(response, name)) if name else [response]


def only(message: Message, path: str) -> Message:
    """The message with one field of its."""
    kept = type(message)()
    kept.CopyFrom(message)
    for field, _ in message.ListFields():
        if field.name != path:
            kept.ClearField(field.name)
    return kept


@contextmanager
def denied(kit: Kit) -> Iterator[list[MethodDescriptor]]:
    """The methods whose tables the service may not read, but for the columns above."""
    role = sql.Identifier(kit.schema)
    with psycopg.connect(kit.running.database.admin_dsn, autocommit=True) as admin:
        try:
            for table, columns in LEFT[kit.schema].items():
                name = sql.Identifier(kit.schema, table)
                admin.execute(sql.SQL("REVOKE SELECT ON {} FROM {}").format(name, role))
                if columns:
                    some = sql.SQL(", ").join(map(sql.Identifier, columns.split()))
                    admin.execute(sql.SQL("GRANT SELECT ({}) ON {} TO {}").format(some, name, role))
            yield [kit.method(name) for name in METHODS[kit.schema].split()]
        finally:
            for table in LEFT[kit.schema]:
                name = sql.Identifier(kit.schema, table)
                # Of the whole table, and with it of each column by itself.
                admin.execute(sql.SQL("REVOKE SELECT ON {} FROM {}").format(name, role))
                admin.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(name, role))
