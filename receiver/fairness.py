"""Places for frames, shared between sessions as evenly as their frames allow."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Lines(Generic[Item]):
    """What waits, a line for each session."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[tuple[str, Item]]:
        """A snapshot, so that what is visited may be removed."""
        return iter([(session, item) for session, line in self._lines.items() for item in line])

    def put(self, session: str, item: Item) -> None:
        """To the end of the session's line."""
        self._lines.setdefault(session, deque()).append(item)

    def put_back(self, session: str, item: Item) -> None:
        """To the head of the session's line."""
        self._lines.setdefault(session, deque()).appendleft(item)

    def remove(self, session: str, item: Item) -> bool:
        """Leaves the line; false if the item is in it no more."""
        line = self._lines.get(session, deque())
        if item not in line:
            return False
        line.remove(item)
        self._close_if_empty(session)
        return True

    def next_session(self, held: Mapping[str, int]) -> str | None:
        """The session in line that holds the fewest places; of equals, the one longest not served.

        Arguments:
            held: Places that each session holds; sessions left out hold none.
        """
        return min(self._lines, key=lambda session: held.get(session, 0), default=None)

    def take(self, session: str) -> Item:
        """The head of the session's line; the session's turn is over."""
        item = self._lines[session].popleft()
        self._lines.move_to_end(session)
        self._close_if_empty(session)
        return item

    def _close_if_empty(self, session: str) -> None:
        if not self._lines[session]:
            del self._lines[session]


class FairPlaces:
    """A semaphore whose places go to the sessions that hold the fewest.

    Arguments:
        count: The number of places.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._held: Counter[str] = Counter()
        self._waiting: Lines[asyncio.Event] = Lines()

    async def take(self, session: str) -> None:
        """Takes a place for the session, once there is one."""
        if self._free:  # then nobody waits
            self._free -= 1
            self._held[session] += 1
            return
        granted = asyncio.Event()
        self._waiting.put(session, granted)
        try:
            await granted.wait()
        except asyncio.CancelledError:
            if not self._waiting.remove(session, granted):  # granted meanwhile
                self.leave(session)
            raise

    def leave(self, session: str) -> None:
        """Gives one of the session's places back."""
        self._held[session] -= 1
        if not self._held[session]:
            del self._held[session]
        following = self._waiting.next_session(self._held)
        if following is None:
            self._free += 1
        else:
            self._held[following] += 1
            self._waiting.take(following).set()
