"""The rules of alerts."""

from __future__ import annotations

from driveflow.monitor.v1 import alerts_pb2 as pb
from libs import audit, calls, errors, idempotency, masks, pages
from libs.errors import Aborted
from libs.interceptors import Context
from services.monitor.messages import rules as messages
from services.monitor.model.rules import check_thresholds
from services.monitor.servicer.desk import Desk
from services.monitor.store import rules as store

FIELDS = masks.fields(pb.AlertRule.DESCRIPTOR)


class Rules:
    """ListAlertRules, UpdateAlertRule."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ListAlertRules(
        self, request: pb.ListAlertRulesRequest, context: Context
    ) -> pb.ListAlertRulesResponse:
        paths = masks.paths(request.read_mask, FIELDS, tuple(FIELDS))
        limit = pages.size(request)
        (after,) = self._desk.pages.start(request, audit.PLATFORM, [""])
        async with self._desk.read() as conn:
            rules = await store.list_rules(conn, after, limit + 1)
        response = pb.ListAlertRulesResponse(
            alert_rules=[masks.kept(messages.rule(rule), paths) for rule in rules[:limit]]
        )
        if len(rules) > limit:
            token = self._desk.pages.token(request, audit.PLATFORM, [rules[limit - 1].name])
            response.next_page_token = token
        return response

    async def UpdateAlertRule(
        self, request: pb.UpdateAlertRuleRequest, context: Context
    ) -> pb.AlertRule:
        given = request.alert_rule
        paths = masks.changes(request.update_mask, messages.MUTABLE, given)
        async with self._desk.write() as conn:
            answer = await idempotency.recall(conn, audit.PLATFORM, request, pb.AlertRule)
            if answer is not None:
                return answer
            before = await store.lock_rule(conn, given.name)
            if before is None:
                raise errors.not_found("alert_rule", given.name)
            if given.etag not in ("", str(before.version)):
                raise Aborted(
                    "ETAG_MISMATCH", "Someone else changed it: read it again and decide anew."
                )
            wanted = messages.changed(before, given, paths)
            check_thresholds(wanted.thresholds)
            after = await store.update_rule(conn, wanted, calls.caller().subject)
            await audit.record(
                conn,
                audit.PLATFORM,
                "alert_rule",
                given.name,
                "update",
                before=messages.audited(before, paths),
                after=messages.audited(after, paths),
            )
            answer = messages.rule(after)
            await idempotency.remember(conn, audit.PLATFORM, request, answer)
        return answer
