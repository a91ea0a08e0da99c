"""Ranges for profilers: optional, lazy, around whole calls."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

from hwnas.backends.cuda import nvtx


@pytest.fixture(autouse=True)
def looked_for_anew() -> Iterator[None]:
    nvtx._installed.cache_clear()
    yield
    nvtx._installed.cache_clear()


def test_without_the_package_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvtx, "find_spec", lambda _: None)
    with nvtx.marked("run"):
        pass
    assert "nvtx" not in sys.modules


def test_with_it_a_range_of_hwnas_is_opened_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, ...]] = []

    @contextmanager
    def annotate(message: str, domain: str) -> Iterator[None]:
        said.append(("open", message, domain))
        yield
        said.append(("close", message))

    package = ModuleType("nvtx")
    package.annotate = annotate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvtx", package)
    monkeypatch.setattr(nvtx, "find_spec", lambda _: object())
    monkeypatch.setattr(nvtx, "nvtx", package)
    with nvtx.marked("run"):
        said.append(("work",))
    assert said == [("open", "run", "hwnas"), ("work",), ("close", "run")]
