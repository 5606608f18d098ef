"""Two schools: to each, what is the other's is as if it were not there.

Walks every RPC that the contracts declare; one without a recipe fails the test.
"""

from __future__ import annotations

import grpc
import psycopg
import pytest
from google.protobuf.descriptor import MethodDescriptor
from psycopg import sql

from libs import access, consistency
from tests.tenancy import recipes_events
from tests.tenancy.schools import Kit, Member, Pair, Recipe, leaked, secrets_in, told

pytestmark = pytest.mark.asyncio(loop_scope="module")


def recipes(kit: Kit, method: MethodDescriptor) -> list[Recipe]:
    """What is asked of a method by a stranger."""
    assert kit.recipes.get(method.name), f"no recipe for {method.full_name}"
    return [*kit.recipes[method.name], *kit.strange.get(method.name, ())]


async def settled(kit: Kit, pair: Pair) -> None:
    """Wait until all events of the asking school are told to whoever asks for them."""
    with psycopg.connect(kit.running.database.admin_dsn) as admin:
        query = sql.SQL('SELECT count(*) FROM {}."Outbox" WHERE "orgId" = %s')
        row = admin.execute(query.format(sql.Identifier(kit.schema)), [pair.mine.org_id]).fetchone()
    assert row is not None
    method = kit.method("Subscribe")
    requests = kit.recipes["Subscribe"][0](pair.mine.ids, pair.mine.ids)
    for _ in range(100):
        answer = await kit.ask(kit.token(pair.mine.org_id), method, requests)
        if len(answer.responses) > row[0]:
            return
    raise AssertionError("events are still held back")


async def ask_everything(kit: Kit, pair: Pair) -> None:
    """Every RPC of schools, once with another's ids and once with ids that nobody has."""
    token, own = kit.token(pair.mine.org_id), pair.mine.ids
    secrets = secrets_in(kit.rows(pair.theirs.org_id)) - secrets_in(kit.rows(pair.mine.org_id))
    assert str(pair.theirs.org_id) in secrets
    await settled(kit, pair)

    # What makes something is asked last, since others list it; its events are told some time.
    def order(method: MethodDescriptor) -> tuple[bool, bool]:
        return method.name in kit.makes, not is_of_events(method)

    for method in sorted(kit.of_schools, key=order):
        for recipe in recipes(kit, method):
            answers = []
            for ids in (pair.theirs.ids, pair.theirs.ids.absent()):
                answer = await kit.ask(token, method, recipe(ids, own))
                assert leaked(answer, secrets, ids) == set(), method.full_name
                answers.append(told(answer, ids, made=method.name in kit.makes))
            assert answers[0] == answers[1], method.full_name


def is_of_events(method: MethodDescriptor) -> bool:
    return method.containing_service.full_name == recipes_events.SERVICE


def reads(method: MethodDescriptor) -> bool:
    options = method.GetOptions()
    return bool(options.idempotency_level == options.NO_SIDE_EFFECTS)


async def recall_everything(kit: Kit, pair: Pair) -> None:
    """The other school reads what is its own, so that caches have it."""
    for method in kit.of_schools:
        if reads(method):
            for recipe in kit.recipes[method.name]:
                requests = recipe(pair.theirs.ids, pair.theirs.ids)
                await kit.ask(kit.token(pair.theirs.org_id), method, requests, responses_max=1)


async def test_to_their_own_school_the_same_calls_answer(kit: Kit, pair: Pair) -> None:
    """So that no recipe is refused for another reason than whose the ids are."""
    ids, token = pair.theirs.ids, kit.token(pair.theirs.org_id)
    for method in kit.of_schools:
        for recipe in kit.recipes[method.name]:
            answer = await kit.ask(token, method, recipe(ids, ids), responses_max=1)
            assert answer.refusal is None, (method.full_name, answer.refusal)


async def test_every_rpc_answers_for_anothers_ids_as_for_ids_that_do_not_exist(
    kit: Kit, pair: Pair
) -> None:
    await recall_everything(kit, pair)
    before = kit.rows(pair.theirs.org_id)
    await ask_everything(kit, pair)
    assert kit.rows(pair.theirs.org_id) == before


@pytest.mark.usefixtures("forgetful")
async def test_row_level_security_alone_keeps_the_schools_apart(kit: Kit, pair: Pair) -> None:
    before = kit.rows(pair.theirs.org_id)
    await ask_everything(kit, pair)
    assert kit.rows(pair.theirs.org_id) == before


@pytest.mark.usefixtures("forgetful")
async def test_a_statement_without_its_filter_would_leak_to_a_role_that_passes_row_security(
    kit: Kit, standing: Pair
) -> None:
    """The two tests above mean something: this is what they keep out."""
    statement, parameters = kit.leaky
    with psycopg.connect(kit.running.database.admin_dsn) as admin:
        # The connection's role as the service's would be, had it BYPASSRLS.
        admin.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(kit.schema)))
        rows = admin.execute(statement, {**parameters, "org_id": standing.mine.org_id}).fetchall()
    assert standing.theirs.org_id in {row[-1] for row in rows}


async def test_a_school_has_one_of_everything(kit: Kit, standing: Pair) -> None:
    """So that what must not change is there."""
    there = kit.rows(standing.theirs.org_id)
    assert {table for table, text in there.items() if not text} == kit.empty


async def test_platform_rpcs_refuse_a_schools_token_whatever_its_scopes(
    kit: Kit, standing: Pair
) -> None:
    token = kit.token(standing.mine.org_id)
    for method in kit.of_platform:
        answer = await kit.ask(token, method)
        assert answer.refusal is not None
        assert answer.refusal.reason == "ORG_REFUSED", method.full_name


async def test_school_rpcs_refuse_a_token_without_a_school_whatever_its_scopes(
    kit: Kit, standing: Pair
) -> None:
    token, ids = kit.token(None), standing.theirs.ids
    for method in kit.of_schools:
        answer = await kit.ask(token, method, kit.recipes[method.name][0](ids, ids))
        assert answer.refusal is not None
        assert answer.refusal.reason == "ORG_REQUIRED", method.full_name


async def test_no_rpc_takes_a_token_of_the_nil_school(kit: Kit) -> None:
    token = kit.token(access.NIL_ORG)
    for method in kit.methods:
        answer = await kit.ask(token, method)
        assert answer.refusal is not None
        assert answer.refusal.reason == "TOKEN_INVALID", method.full_name


async def test_the_school_of_a_call_is_the_tokens_whatever_its_metadata_say(
    kit: Kit, standing: Pair
) -> None:
    their_id, ids = str(standing.theirs.org_id), standing.theirs.ids
    claims = (("org_id", their_id), ("driveflow-org", their_id))
    method = kit.method(kit.get)
    requests = kit.recipes[kit.get][0](ids, ids)
    answer = await kit.ask(kit.token(standing.mine.org_id), method, requests, metadata=claims)
    assert answer.code == grpc.StatusCode.NOT_FOUND


async def test_anothers_consistency_token_shows_nothing_of_what_he_wrote(
    kit: Kit, standing: Pair
) -> None:
    """It is a place in the log of the database, the same for all; the later, the fresher."""
    token, own = kit.token(standing.mine.org_id), standing.mine.ids
    metadata = ((consistency.KEY, await written(kit, standing.theirs)),)
    for method in kit.of_schools:
        if not reads(method):
            continue
        recipe = kit.recipes[method.name][0]
        for ids in (standing.theirs.ids, own):
            plain = await kit.ask(token, method, recipe(ids, own))
            fresh = await kit.ask(token, method, recipe(ids, own), metadata=metadata)
            assert told(fresh, ids, made=True) == told(plain, ids, made=True), method.full_name


async def written(kit: Kit, by: Member) -> str:
    """The consistency token of a write of a school."""
    call = kit.write(kit.running.connect(kit.token(by.org_id)))
    await call
    metadata = dict(await call.trailing_metadata())
    return str(metadata[consistency.KEY])
