"""Two schools: to each, what is the other's is as if it were not there.

Walks every RPC that the contracts declare; one without a recipe fails the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from psycopg import sql

from libs import access, consistency
from tests.tenancy import reading, recipes_events
from tests.tenancy.schools import Ids, Kit, Member, Pair, Recipe, leaked, secrets_in, told
from tests.waiting import eventually
from tests.walking import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")


def recipes(kit: Kit, method: MethodDescriptor) -> list[Recipe]:
    """What is asked of a method by a stranger."""
    assert kit.recipes.get(method.name), f"no recipe for {method.full_name}"
    return [*kit.recipes[method.name], *kit.strange.get(method.name, ())]


async def ask_everything(kit: Kit, pair: Pair) -> None:
    """Every RPC of schools, once with another's ids and once with ids that nobody has."""
    stranger = Stranger(kit, pair.mine, secrets(kit, pair))
    await stranger.hears_all_events()
    for method in sorted(kit.of_schools, key=partial(order, kit)):
        for recipe in recipes(kit, method):
            of_theirs = await stranger.is_told(method, recipe, pair.theirs.ids)
            of_nobodys = await stranger.is_told(method, recipe, pair.theirs.ids.absent())
            assert of_theirs == of_nobodys, method.full_name


def secrets(kit: Kit, pair: Pair) -> frozenset[str]:
    """Every id of a school that the asking one has nothing to do with."""
    of_others = secrets_in(kit.rows(pair.mine.org_id, of_others=True))
    found = of_others - secrets_in(kit.rows(pair.mine.org_id))
    assert str(pair.theirs.org_id) in found
    return found


def order(kit: Kit, method: MethodDescriptor) -> tuple[bool, bool]:
    """What makes something is asked last, since others list it; its events are told some time."""
    is_of_events = method.containing_service.full_name == recipes_events.SERVICE
    return method.name in kit.makes, not is_of_events


@dataclass(frozen=True)
class Stranger:
    """The school that asks about another's things."""

    kit: Kit
    member: Member
    secrets: frozenset[str]

    async def is_told(self, method: MethodDescriptor, recipe: Recipe, ids: Ids) -> object:
        """What the answer says, which no secret is part of."""
        requests = recipe(ids, self.member.ids)
        answer = await self._ask(method, requests)
        assert leaked(answer, self.secrets, ids) == set(), method.full_name
        if answer.refusal is None and has_request_id(requests[0]):
            # Which finds his own answer, not that of another who used the id.
            assert await self._ask(method, requests) == answer, method.full_name
        return told(answer, ids, made=method.name in self.kit.makes)

    async def hears_all_events(self) -> None:
        """Wait until all events of his are told to whoever asks for them."""
        count = len(self.kit.rows(self.member.org_id)["Outbox"].splitlines())
        requests = self.kit.recipes["Subscribe"][0](self.member.ids, self.member.ids)

        async def heard() -> int:
            answer = await self._ask(self.kit.method("Subscribe"), requests)
            return len(answer.responses)

        # The last response says that there are no more.
        await eventually(heard, lambda responses: responses == count + 1)

    async def _ask(self, method: MethodDescriptor, requests: Sequence[Message]) -> Answer:
        return await self.kit.ask(self.kit.token(self.member.org_id), method, requests)


def has_request_id(request: Any) -> bool:
    return bool(getattr(request, "request_id", ""))


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


# --- what a read mask means to each of them ---


async def test_a_read_mask_brings_the_field_that_it_names_and_no_other(
    kit: Kit, standing: Pair
) -> None:
    empty = set()
    for method in reading.masked(kit):
        whole = await reading.resources(kit, standing.theirs, method, "*")
        if not whole:
            empty.add(method.name)
        for path in reading.paths(method):
            got = await reading.resources(kit, standing.theirs, method, path)
            wanted = [reading.only(each, path) for each in whole]
            assert got == wanted, (method.full_name, path)
    assert empty == reading.EMPTY


async def test_a_read_mask_with_an_unknown_path_is_refused(kit: Kit, standing: Pair) -> None:
    for method in reading.masked(kit):
        for path in ("nonsense", "id.nonsense", "org_id.id", ""):
            answer = await reading.ask(kit, standing.theirs, method, path)
            assert answer.refusal is not None, (method.full_name, path)
            assert answer.code == grpc.StatusCode.INVALID_ARGUMENT
            assert answer.refusal.reason == "READ_MASK_INVALID", method.full_name


async def test_a_page_token_goes_on_under_the_mask_that_it_was_given_for(
    kit: Kit, standing: Pair
) -> None:
    ids, token, asked = standing.theirs.ids, kit.token(standing.theirs.org_id), 0
    for method in reading.masked(kit):
        for recipe in kit.recipes.get(method.name, ()):
            request: Any = recipe(ids, ids)[0]
            if not getattr(request, "page_token", ""):
                continue
            request.read_mask.paths.append("*")
            answer = await kit.ask(token, method, [request])
            assert answer.refusal is not None, method.full_name
            assert answer.refusal.reason == "PAGE_TOKEN_INVALID", method.full_name
            asked += 1
    assert asked > 0


async def test_a_column_that_no_one_asked_for_is_not_read(kit: Kit, standing: Pair) -> None:
    """All that the service may read meanwhile is what these lists are filtered and sorted by."""
    with reading.denied(kit) as methods:
        for method in methods:
            first = reading.paths(method)[0]
            answer = await reading.ask(kit, standing.theirs, method, first)
            assert answer.refusal is None, (method.full_name, answer.refusal)
            answer = await reading.ask(kit, standing.theirs, method, "*")
            assert answer.refusal is not None, method.full_name
            assert answer.refusal.reason == "INTERNAL", method.full_name
