"""Lists as Stripe pages them, and expansion of ids."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from libs.local.stripe_fake.errors import Json, Refusal, missing, refused
from libs.local.stripe_fake.params import Params
from libs.local.stripe_fake.state import State

PAGE, LARGEST_PAGE = 10, 100


def limit_of(params: Params) -> int:
    """How many objects a page holds."""
    limit = params.number("limit") or PAGE
    if limit > LARGEST_PAGE:
        raise Refusal(f"Invalid limit: at most {LARGEST_PAGE}", param="limit")
    return limit


def listed(
    state: State,
    params: Params,
    kind: str,
    fields: tuple[str, ...] = (),
    ids: list[str] | None = None,
    keep: Callable[[Json], bool] = lambda _thing: True,
) -> Json:
    """One page of a kind, newest first, by the filters that `fields` names and `created`."""
    limit, bounds = limit_of(params), params.created()
    wanted = {field: params.text(field) for field in fields if field in params}
    after, before = _cursor(state, params, kind, "starting_after"), params.text("ending_before")
    things = (
        thing
        for thing in state[kind].newest(wanted, after, ids)
        if _within(thing["created"], bounds) and keep(thing)
    )
    if _cursor(state, params, kind, "ending_before"):
        newer = [*iter(lambda: next(things, {"id": before}), state[kind].by_id[before or ""])]
        return page(kind, newer[-limit:], more=len(newer) > limit)
    found = list(islice(things, limit + 1))
    return page(kind, found[:limit], more=len(found) > limit)


def page(kind: str, data: list[Json], more: bool) -> Json:
    """A list object."""
    return {"object": "list", "url": f"/v1/{kind}s", "has_more": more, "data": data}


def expanded(state: State, thing: Json, paths: list[str]) -> Json:
    """The object with the objects in place of the ids at these dotted paths; the rest is shared."""
    for path in paths:
        thing = _expand(state, thing, path.split("."), path)
    return thing


def _expand(state: State, thing: Json, steps: list[str], path: str) -> Json:
    value, rest = thing.get(steps[0]), steps[1:]
    if steps[0] == "data" and isinstance(value, list):
        return thing | {"data": [_expand(state, row, rest, path) for row in value]}
    found = state.find(value) if isinstance(value, str) else value
    if steps[0] not in thing or (value is not None and not isinstance(found, dict)):
        raise refused(f"This property cannot be expanded ({path}).", param="expand")
    return thing | {steps[0]: _expand(state, found, rest, path) if found and rest else found}


def _cursor(state: State, params: Params, kind: str, name: str) -> str | None:
    id = params.text(name)  # noqa: A001
    if id is not None and id not in state[kind].by_id:
        raise missing(kind, id, name, status=400)
    return id


def _within(created: int, bounds: dict[str, int]) -> bool:
    return (
        bounds.get("gte", created) <= created <= bounds.get("lte", created)
        and created > bounds.get("gt", created - 1)
        and created < bounds.get("lt", created + 1)
    )
