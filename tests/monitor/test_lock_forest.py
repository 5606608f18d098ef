"""The tree of who waits for whom, whatever pg_blocking_pids says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.model.sessions import BLOCKERS_MAX, CONFLICTS, Lock, Node, Wait, forest

PIDS = st.integers(0, 12)
WAITS = st.dictionaries(PIDS.filter(bool), st.lists(PIDS, max_size=15), max_size=12).map(
    lambda found: [Wait(pid, blockers) for pid, blockers in found.items()]
)
LOCKS = st.lists(
    st.builds(
        Lock,
        pid=PIDS,
        granted=st.booleans(),
        mode=st.sampled_from(sorted(CONFLICTS)),
        object=st.sampled_from("ab"),
        kind=st.just("transaction"),
        relation=st.none(),
        waited_s=st.floats(0, 100),
    ),
    max_size=30,
)


def held(pid: int, object_: str = "a", mode: str = "ExclusiveLock") -> Lock:
    return Lock(pid, True, mode, object_, "transaction", None, None)


def wanted(pid: int, object_: str = "a", waited_s: float = 1.0, mode: str = "ShareLock") -> Lock:
    return Lock(pid, False, mode, object_, "transaction", None, waited_s)


def shape(nodes: list[Node]) -> list[object]:
    return [(node.pid, shape(node.blocks)) if node.blocks else node.pid for node in nodes]


def edges(nodes: list[Node]) -> list[tuple[int, int]]:
    return [
        edge
        for node in nodes
        for edge in [*((node.pid, child.pid) for child in node.blocks), *edges(node.blocks)]
    ]


def test_one_that_waits_for_several_is_below_each_and_its_own_below_the_first() -> None:
    waits = [Wait(3, [1, 2, 1]), Wait(4, [3])]
    locks = [held(1), held(2), wanted(3), held(3, "b"), wanted(4, "b")]
    assert shape(forest(waits, locks)) == [(1, [(3, [4])]), (2, [3])]


def test_those_ahead_in_the_queue_are_left_out_where_somebody_holds_what_is_wanted() -> None:
    waits = [Wait(2, [1]), Wait(3, [1, 2]), Wait(4, [1, 2, 3])]
    locks = [held(1), wanted(2, waited_s=3), wanted(3, waited_s=2), wanted(4, waited_s=1)]
    assert shape(forest(waits, locks)) == [(1, [2, 3, 4])]


def test_a_prepared_transaction_is_a_root_and_the_longest_wait_comes_first() -> None:
    waits = [Wait(2, [1]), Wait(3, [0])]
    locks = [held(1), wanted(2, waited_s=1), held(0, "b"), wanted(3, "b", waited_s=9)]
    assert shape(forest(waits, locks)) == [(0, [3]), (1, [2])]


def test_a_circle_begins_with_the_one_that_has_waited_longest_and_ends() -> None:
    waits = [Wait(1, [2]), Wait(2, [1]), Wait(3, [1])]
    locks = [wanted(1, waited_s=1), wanted(2, waited_s=5), wanted(3, waited_s=2)]
    assert shape(forest(waits, locks)) == [(2, [(1, [2, 3])])]


@given(WAITS, LOCKS)
def test_whatever_waits_for_somebody_is_below_him_once_and_no_tree_is_endless(
    waits: list[Wait], locks: list[Lock]
) -> None:
    found = forest(waits, locks)
    drawn = edges(found)
    assert len(drawn) == len(set(drawn))
    blockers = {wait.pid: set(wait.blockers) - {wait.pid} for wait in waits}
    assert all(above in blockers[below] for above, below in drawn)
    assert {below for _, below in drawn} == {pid for pid, above in blockers.items() if above}
    below_how_many = [sum(below == pid for _, below in drawn) for pid in blockers]
    assert max(below_how_many, default=0) <= BLOCKERS_MAX
    waiting = {below for _, below in drawn}
    roots = [node.pid for node in found]
    assert len(roots) == len(set(roots))
    assert {above for above, _ in drawn} - waiting <= set(roots)


@pytest.mark.parametrize("mode", CONFLICTS)
def test_conflicts_go_both_ways(mode: str) -> None:
    assert all(mode in CONFLICTS[other] for other in CONFLICTS[mode])
