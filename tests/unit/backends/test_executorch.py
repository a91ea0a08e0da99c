"""What is special to ExecuTorch: one pool of threads for all engines of a process."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from hwnas.backends.executorch import ExecuTorch
from hwnas.errors import InputError
from hwnas.nets import onnx
from hwnas.spec import BlockSpec

MODEL = onnx.chain([BlockSpec(kind="basic", c_in=4, c_out=4, size_in=8)])


def test_other_precisions_are_refused() -> None:
    with pytest.raises(InputError, match="runs fp32; use fp32"):
        ExecuTorch().setting("cpu", "int8", 1, 1)


@pytest.mark.skipif(find_spec("executorch") is None, reason="executorch is not installed")
def test_the_pool_changes_only_while_no_engine_is_open() -> None:
    backend = ExecuTorch()
    one, two = (backend.setting("cpu", "fp32", 1, threads) for threads in (1, 2))
    engine = backend.build(MODEL, one)
    with pytest.raises(InputError, match="close that engine first"):
        backend.build(MODEL, two)
    engine.close()
    other = backend.build(MODEL, two)
    assert other.setting.threads == 2
    other.close()
