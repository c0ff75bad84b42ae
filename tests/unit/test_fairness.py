from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.fairness import FairPlaces, Lines


def test_of_equal_sessions_the_one_longest_not_served_is_next() -> None:
    lines: Lines[int] = Lines()
    for item, session in enumerate("aaabbc"):
        lines.put(session, item)
    taken = []
    while (session := lines.next_session({})) is not None:
        taken.append(lines.take(session))
    assert taken == [0, 3, 5, 1, 4, 2]
    assert len(lines) == 0


def test_the_session_that_holds_least_is_next() -> None:
    lines: Lines[int] = Lines()
    lines.put("a", 1)
    lines.put("b", 2)
    assert lines.next_session({"a": 2, "b": 1}) == "b"
    assert lines.next_session({"b": 1}) == "a"


def test_what_is_put_back_is_first_in_its_line() -> None:
    lines: Lines[int] = Lines()
    lines.put("a", 1)
    lines.put_back("a", 0)
    assert [lines.take("a"), lines.take("a")] == [0, 1]
    assert not lines.remove("a", 0)


@settings(deadline=None)
@given(
    count=st.integers(1, 4),
    frames=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30),
)
def test_places_are_neither_lost_nor_made(count: int, frames: list[tuple[str, bool]]) -> None:
    held: Counter[str] = Counter()
    most = 0

    async def one(places: FairPlaces, session: str) -> None:
        nonlocal most
        await places.take(session)
        held[session] += 1
        most = max(most, held.total())
        try:
            await asyncio.sleep(0)
        finally:
            held[session] -= 1
            places.leave(session)

    async def everything() -> None:
        places = FairPlaces(count)
        tasks = [asyncio.create_task(one(places, session)) for session, _ in frames]
        await asyncio.sleep(0)
        for task, (_, cut) in zip(tasks, frames, strict=True):
            if cut:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(1):  # all places are there again
            for _ in range(count):
                await places.take("z")

    asyncio.run(everything())
    assert most <= count
