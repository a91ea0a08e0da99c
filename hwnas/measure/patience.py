"""Waiting for the machine to be itself: patience is counted in seconds, not in repeats.

A slow spell lasts 10 to 30 seconds, so repeating a session a few times within a second repeats the
spell. `Patience` waits for the seconds in which the sentinel says that the machine is slow, up to a
limit that all measurements of one job share.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hwnas.protocols import Emit

STEP_S = (0.25, 2.0)  # first and longest pause between two looks
# The default of --patience, in seconds: twice the longest spell that was recorded.
PATIENCE_S = 60.0


class Patience:
    """Seconds that may be waited, shared by everything that it is handed to.

    Args:
        seconds: in all; 0 never waits.
        emit: told that and why it waits.
        clock: gives seconds.
        sleep: waits.
    """

    def __init__(
        self,
        seconds: float = PATIENCE_S,
        *,
        emit: Emit | None = None,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.left_s, self.waited_s = float(seconds), 0.0
        self._emit, self._clock, self._sleep = emit, clock, sleep
        self._lender: Patience | None = None

    @property
    def spent(self) -> bool:
        """Whether there is none left."""
        return self.left_s <= 0.0

    def lend(self, share: float) -> Patience:
        """Part of what is left, for something that must not use it all; what it waits is counted here too."""
        part = Patience(share * max(self.left_s, 0.0), emit=self._emit, clock=self._clock, sleep=self._sleep)
        part._lender = self
        return part

    def pause(self, seconds: float) -> None:
        """Wait some seconds, as far as there are any."""
        begun, step_s = self._clock(), max(0.0, min(seconds, self.left_s))
        self._sleep(step_s)
        self._took(max(self._clock() - begun, step_s))

    def until_calm(self, slowdown: Callable[[], float], gate: float, *, ends_s: float = float("inf")) -> bool:
        """Look, and wait while the machine is slow.

        Args:
            slowdown: looks at the sentinel; how many times its best level it takes now.
            gate: slower by more than this share is slow.
            ends_s: time by the clock after which it no longer waits.

        Returns:
            Whether the machine is undisturbed now.
        """
        step_s, longest_s = STEP_S
        while True:
            begun = self._clock()
            times = slowdown()
            if times <= 1.0 + gate:
                return True
            if self.spent or self._clock() >= ends_s:
                return False
            self._say(times - 1.0)
            pause_s = min(step_s, self.left_s)
            self._sleep(pause_s)
            self._took(max(self._clock() - begun, pause_s))
            step_s = min(2.0 * step_s, longest_s)

    def _took(self, seconds: float) -> None:
        self.left_s -= seconds
        self.waited_s += seconds
        if self._lender is not None:
            self._lender._took(seconds)

    def _say(self, slower: float) -> None:
        if self._emit is None:
            return
        note = f"the machine is {slower:.0%} slower than its best; up to {max(self.left_s, 0.0):.0f} s more"
        done, total = round(self.waited_s), round(self.waited_s + max(self.left_s, 0.0))
        task = "waiting for a quiet machine"
        self._emit("progress", {"task": task, "done": done, "total": total, "note": note})
