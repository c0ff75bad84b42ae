"""Waiting between attempts: exponentially longer, and never in step with others."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass


@dataclass
class Backoff:
    """Exponential backoff with full jitter.

    Attributes:
        first_seconds: Upper end of the first wait.
        longest_seconds: Upper end of any wait.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first_seconds: float = 0.1
    longest_seconds: float = 2.0
    attempts: int = 0

    def next_wait(self) -> float:
        """Seconds to wait before the next attempt; each call counts one attempt."""
        ceiling = min(self.longest_seconds, self.first_seconds * 2.0 ** min(self.attempts, 30))
        self.attempts += 1
        return random.uniform(ceiling / 10, ceiling)

    def reset(self) -> None:
        """An attempt succeeded."""
        self.attempts = 0

    async def wait(self) -> None:
        """Sleeps for :meth:`next_wait`."""
        await asyncio.sleep(self.next_wait())
