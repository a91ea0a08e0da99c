"""The device descriptions and the backend agree about what serves which GPU."""

import json
from typing import Any

import pytest

from hwnas.backends.cuda.gpus import parse_capability, serves
from hwnas.store import data_dir

GPUS = [
    body
    for path in sorted((data_dir("profiles") / "devices").glob("*.json"))
    if (body := json.loads(path.read_text()))["kind"] == "gpu"
]


def test_the_target_is_among_them() -> None:
    assert "titanxp" in {body["name"] for body in GPUS}


@pytest.mark.parametrize("body", GPUS, ids=lambda body: body["name"])
def test_descriptions_and_backend_agree(body: dict[str, Any]) -> None:
    support = serves(parse_capability(body["compute_capability"]))
    newest = body["support"]["tensorrt"]["newest"]
    assert support.refuses(newest if newest[0].isdigit() else "11.4") is None
    later = {"trt8": "10.13.0"}.get(support.extra)
    if later:
        assert newest.startswith("8.6")
        assert "needs compute capability" in str(support.refuses(later))
    fast = {name for name in body["peak_tera_ops"] if name in ("fp16", "int8", "bf16")}
    assert fast == set(support.precisions)
