"""Planning from published figures: by hand, and against published measurements."""

import os
from pathlib import Path

import numpy as np
import pytest

from hwnas.cost import importers, roofline
from hwnas.cost.score import figures
from hwnas.documents import read_json
from hwnas.errors import InputError
from hwnas.nets.spaces import make
from hwnas.spec import BlockSpec
from hwnas.store import data_dir

DATA = Path(os.environ.get("HWNAS_TEST_DATA", "no-data")) / "densenas"
DEVICE = roofline.DeviceProfile(
    name="toy",
    label="toy",
    kind="cpu",
    peak_ops_per_s={"fp32": 1e9},
    bytes_per_s=1e9,
    l2_bytes=1 << 20,
    launch_us=10.0,
    multiprocessors=1,
    support={},
    sources={},
)


def test_arithmetic_bound_by_hand() -> None:
    # 64 x 64 channels, 3x3, 16x16 pixels: 9 * 64 * 64 * 256 = 9,437,184 MACs, two operations each,
    # at 0.6 * 2.25 of 1e9 a second: 13.981 ms, and 10 us to start it.
    block = BlockSpec(kind="conv", c_in=64, c_out=64, size_in=16)
    assert roofline.block_ms(block, DEVICE) == pytest.approx(2 * 9437184 / (1e9 * 0.6 * 2.25) * 1e3 + 0.010)


def test_memory_bound_by_hand() -> None:
    # 16 channels, 1x1, 64x64: 65,536 values in, as many out, 256 weights, 4 bytes each, at 0.75 GB/s.
    fast = roofline.DeviceProfile(**{**vars(DEVICE), "peak_ops_per_s": {"fp32": 1e15}})
    block = BlockSpec(kind="conv", c_in=16, c_out=16, kernel=1, size_in=64)
    assert roofline.block_ms(block, fast) == pytest.approx(4 * (2 * 65536 + 256) / 0.75e9 * 1e3 + 0.010)


def test_batch_and_threads() -> None:
    block = BlockSpec(kind="conv", c_in=64, c_out=64, size_in=16)
    one = roofline.block_ms(block, DEVICE) - 0.010
    assert roofline.block_ms(block, DEVICE, batch=8) - 0.010 == pytest.approx(8 * one)
    assert roofline.block_ms(block, DEVICE, threads=2) - 0.010 == pytest.approx(one / 2)


def test_eager_runtimes_pay_for_batch_norm_and_activations() -> None:
    block = BlockSpec(kind="mbconv", c_in=32, c_out=32, expand=6, size_in=28)
    device = roofline.describe("titanxp")
    assert roofline.block_ms(block, device, fused=False) > 1.2 * roofline.block_ms(block, device)


def test_a_precision_that_the_device_lacks_is_refused() -> None:
    block = BlockSpec(kind="conv", c_in=3, c_out=8, size_in=8)
    with pytest.raises(InputError, match=r"TITAN Xp does not support it at .*; use one of fp32, int8"):
        roofline.block_ms(block, roofline.describe("titanxp"), precision="fp16")


def test_unknown_devices_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="a100, cpu-avx512, gtx1080ti, h100, orin-nano, t4, titanxp"):
        roofline.describe("tpu")


@pytest.mark.parametrize(
    "path", sorted((data_dir("profiles") / "devices").glob("*.json")), ids=lambda p: p.stem
)
def test_descriptions_are_whole_and_name_their_sources(path: Path) -> None:
    body = read_json(path, "device description")
    device = roofline.describe(body["name"])
    assert body["name"] == path.stem
    assert {"peak_tera_ops", "memory_gb_per_s", "l2_bytes", "launch_us"} <= set(device.sources)
    assert min(device.peak_ops_per_s.values()) > 1e11
    assert 1e10 < device.bytes_per_s < 1e13
    for part, known in device.support.items():
        assert set(known) == {"newest", "why"}, part
    if body["kind"] == "gpu":
        assert {"tensorrt", "cuda", "driver", "pytorch"} <= set(device.support)


def test_the_titan_xp_is_known_to_be_pascal() -> None:
    support = roofline.describe("titanxp").support
    assert support["tensorrt"]["newest"] == "8.6.1"
    assert support["cuda"]["newest"].startswith("12")


def test_tables_are_marked() -> None:
    table = roofline.table(roofline.describe("t4"), [BlockSpec(kind="conv", c_in=3, c_out=8, size_in=8)])
    assert table.setting.provenance == "estimated"
    assert table.setting.describe().endswith("estimated")


@pytest.mark.skipif(not DATA.is_dir(), reason="HWNAS_TEST_DATA does not name the published lists")
@pytest.mark.parametrize(
    ("space", "name"),
    [("densenas-mbv2", "lat_list_densenas_mbv2_xp32"), ("densenas-resnet", "lat_list_resv2_32")],
)
def test_estimates_rank_networks_like_the_published_titan_xp_list(space: str, name: str) -> None:
    table = importers.read(DATA / name, "densenas")
    device, rng = roofline.describe("titanxp"), np.random.default_rng(0)
    networks = [make(space).sample(rng) for _ in range(100)]
    blocks = {b for net in networks for b in net.blocks}
    guess = {b: roofline.block_ms(b, device, batch=32, fused=False) for b in blocks}
    predicted = np.array([sum(guess[b] for b in net.blocks) for net in networks])
    measured = np.array([sum(table[b].value_ms for b in net.blocks) for net in networks])
    found = figures(predicted, measured)
    assert found["kendall_tau"] > 0.85
    assert found["mape_percent"] < 35
