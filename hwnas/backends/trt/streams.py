"""Several calls of a TensorRT engine at once: throughput, as of a server with a thread for each stream."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from hwnas.backends.cuda.clock import LEAST_MS
from hwnas.backends.cuda.driver import CudaDriver, Owned
from hwnas.backends.trt.timer import Timer
from hwnas.backends.trt.ways import Way, Ways
from hwnas.protocols import StreamTimes


def in_streams(ways: Ways, timer: Timer, driver: CudaDriver, streams: int, seconds: float) -> StreamTimes:
    """Keep `streams` calls in flight for so long; see `TrtEngine.in_streams`."""
    with Owned(driver) as owned:
        known = timer.ready()
        busy: list[Way] = []
        try:
            for _ in range(streams):
                stream = owned.stream()
                images, scores = (owned.alloc(n) for n in ways.room())
                way = ways.beside(images, scores, stream)
                busy.append(way)
                timer.upload(way)
                ways.call(way)  # makes its graph
                driver.synchronize(stream)
            events = [(owned.event(), owned.event()) for _ in busy]
            found = _kept_busy(
                ways, busy, events, timer.each(known), seconds, driver=driver, empty_ms=known.clock.empty_ms
            )
            for way in busy:
                timer.check_scores(way, known.scale)
        finally:
            for way in busy:
                driver.synchronize(way.stream)
                ways.drop_graph(way)
                way.context = None
    return found


def _kept_busy(
    ways: Ways,
    busy: Sequence[Way],
    events: Sequence[tuple[int, int]],
    each: int,
    seconds: float,
    *,
    driver: CudaDriver,
    empty_ms: float,
) -> StreamTimes:
    """Bursts of `each` calls on all streams in turn, until the time is over."""
    wall_ms: list[float] = []

    def queue(at: int) -> None:
        way, (start, end) = busy[at], events[at]
        driver.record(start, way.stream)
        for _ in range(each):
            ways.call(way)
        driver.record(end, way.stream)

    def done(at: int) -> None:
        driver.synchronize(busy[at].stream)
        start, end = events[at]
        wall_ms.append(max(driver.elapsed_ms(start, end) - empty_ms, LEAST_MS) / each)

    begun = time.perf_counter()
    for at in range(len(busy)):
        queue(at)
    while time.perf_counter() - begun < seconds:
        for at in range(len(busy)):
            done(at)
            queue(at)
    for at in range(len(busy)):
        done(at)
    took_s = time.perf_counter() - begun
    images = len(wall_ms) * each * ways.full.size
    return StreamTimes(len(busy), images / took_s, np.array(wall_ms))
