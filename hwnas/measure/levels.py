"""What the sentinel of a device took over time, kept beyond one command.

Slow spells last 10 to 30 seconds and lengthen CPU time as well as wall time, so a command that begins
within one sees nothing wrong: all its looks at the sentinel agree. Only what the device was seen to do
before tells that it is slow now. Every look is therefore one line of a small file in the user's data
folder, ``levels/KEY.jsonl``, with the time at which it was taken; the key is a hash of the sentinel and
of the setting, as levels of two runtimes do not compare.

Several processes may write: a line is one `write` to a file opened for appending. A file longer than
`MOST_BYTES` loses its older half. A line that cannot be read is passed over: this is a memory of the
machine's state, not a measurement that anybody is shown.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas import store
from hwnas.errors import InputError
from hwnas.locks import Lock
from hwnas.protocols import Engine
from hwnas.records import Setting, to_json

MOST_BYTES = 1 << 18  # about 6,000 looks: an hour of measuring, or weeks of short commands
DAYS = 2  # older levels may be of another host under the same name (a virtual machine that moved)
BEST_SHARE = 0.05  # share of the looks that the best known level leaves below it
FEW = 20  # looks without which a best level is not known
# A state is the best look of a minute: so long a measurement waits, or its sessions are spread.
STATE_S = 60.0
# What is believed of the states before any was seen counts as so many of them.
PRIOR_STATES = 3.0
PRIOR_SD = 0.005  # tables of other processes and hours are 0.2 % apart in the median, 1 % at most


@dataclass(frozen=True)
class SentinelLook:
    """One look: unix time in seconds, and the sentinel's floor in milliseconds."""

    at_s: float
    ms: float


RECENT = 9  # looks whose median is the level of a device that settles as it warms


def warms(engine: Engine) -> bool:
    """Whether an engine's device settles at a lower clock as it warms (`protocols.Engine`)."""
    return bool(getattr(engine, "warms", False))


def level_ms(looks: Sequence[float], *, of_now: bool) -> float:
    """The level that a look is compared with: the best of all looks, or the usual one of now."""
    return float(np.median(looks[-RECENT:]) if of_now else np.percentile(looks, 10))


def state_sd(looks: Sequence[SentinelLook], best_ms: float, prior_sd: float = PRIOR_SD) -> float:
    """Root mean square of log(state / best) over time, with `PRIOR_STATES` states that are `prior_sd` off."""
    states: dict[int, float] = {}
    for look in looks:
        at = int(look.at_s // STATE_S)
        states[at] = min(look.ms, states.get(at, look.ms))
    squares = np.log(np.array([*states.values()]) / best_ms) ** 2
    total = PRIOR_STATES * prior_sd**2 + float(squares.sum())
    return float(np.sqrt(total / (PRIOR_STATES + len(states))))


class SentinelHistory:
    """The looks at one sentinel on this device.

    Args:
        sentinel: hash of the sentinel's graph (`sentinel.identity`).
        setting: the conditions under which it runs.
        folder: where the files are; ``levels`` in the user's data folder if None.
        now: gives unix seconds.
    """

    def __init__(
        self,
        sentinel: str,
        setting: Setting,
        *,
        folder: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        body = json.dumps([sentinel, to_json(setting)], sort_keys=True)
        key = hashlib.sha256(body.encode()).hexdigest()[:16]
        self.path = (folder or store.home() / "levels") / f"{key}.jsonl"
        self.now = now

    def add(self, ms: float) -> None:
        """Note a look. A data folder that cannot be written to is no reason to stop measuring."""
        line = json.dumps({"at_s": round(self.now(), 3), "ms": float(f"{ms:.5g}")}) + "\n"
        with suppress(OSError, InputError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._shorten()
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
            handle = os.open(self.path, flags, 0o644)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)

    def _shorten(self) -> None:
        if not self.path.is_file() or self.path.stat().st_size < MOST_BYTES:
            return
        lock = Lock(self.path)  # another process that shortens it meanwhile: next time
        try:
            raw = self.path.read_bytes()
            half = raw[len(raw) // 2 :]
            store.write_bytes(self.path, half[half.find(b"\n") + 1 :])
        finally:
            lock.release()

    def recent(self, seconds: float = DAYS * 86400.0) -> list[SentinelLook]:
        """Looks of the last `seconds`, oldest first."""
        now, found = self.now(), []
        try:
            if self.path.stat().st_size > 2 * MOST_BYTES or self.path.is_symlink():
                return []
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        for line in text.splitlines():
            with suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError):
                body = json.loads(line)
                level = SentinelLook(float(body["at_s"]), float(body["ms"]))
                if now - seconds <= level.at_s <= now + 60.0 and 0.0 < level.ms < 1e6:
                    found.append(level)
        return sorted(found, key=lambda level: level.at_s)

    def best_ms(self) -> float | None:
        """The level of the idle machine, as far as it was seen; None before `FEW` looks.

        A low quantile, not the minimum: one lucky look (a clock boosted after a pause) is not the
        state in which the machine can be met.
        """
        looks = self.recent()
        if len(looks) < FEW:
            return None
        return float(np.quantile([level.ms for level in looks], BEST_SHARE))

    def state_sd(self, prior_sd: float = PRIOR_SD) -> float:
        """How far from its best state the device was met; see `state_sd`. The prior if no best is known."""
        best = self.best_ms()
        return prior_sd if best is None else state_sd(self.recent(), best, prior_sd)

    def slow_share(self, seconds: float, gate: float) -> tuple[float, float] | None:
        """Share of the time seen in the last `seconds` in which the machine was slow.

        Looks come in bursts, so each counts for the time until the next, five seconds at most.

        Args:
            seconds: how far back.
            gate: slower than the best by more than this share is slow.

        Returns:
            The share, and the seconds that were seen; None where no best level is known, or
            nothing was seen.
        """
        best, looks = self.best_ms(), self.recent(seconds)
        if best is None or not looks:
            return None
        ends = [level.at_s for level in looks[1:]] + [self.now()]
        spans = np.clip([end - level.at_s for level, end in zip(looks, ends)], 0.0, 5.0)
        slow = np.array([level.ms > (1.0 + gate) * best for level in looks])
        seen = float(spans.sum())
        return (float(spans[slow].sum()) / seen, seen) if seen > 0 else None
