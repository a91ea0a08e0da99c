"""torch.export's file computes what the network computes, for any batch size."""

from pathlib import Path

import pytest
from deploy_network import images, small, weights

from hwnas.deploy import engine as engines
from hwnas.deploy import pt2
from hwnas.deploy.verify import VerifyOptions, verify
from hwnas.errors import BackendUnavailable, DataFormatError


def test_exported_program_is_verified_and_any_batch(tmp_path: Path) -> None:
    spec = small()
    found = weights(spec)
    setting = pt2.Pt2().setting("cpu", "fp32", 1, 1)
    manifest = pt2.export(spec, found, setting, tmp_path)
    path = tmp_path / "engine.pt2"
    assert manifest.engine == "engine.pt2"
    checked = verify(path, weights=found, images=images(spec, 5), options=VerifyOptions(timed=False))
    assert checked.report.passed
    engine = engines.load(path)
    assert engine.run(images(spec, 3)).shape == (3, 10)
    assert engine.time(2).wall_ms.shape == (2,)
    engine.close()


def test_what_it_cannot_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="writes fp32, not fp16"):
        pt2.Pt2().setting("cpu", "fp16", 1, 1)
    (tmp_path / "engine.pt2").write_bytes(b"no archive")
    with pytest.raises(DataFormatError, match="no ExportedProgram"):
        pt2.Pt2().load(tmp_path / "engine.pt2", pt2.Pt2().setting("cpu", "fp32", 1, 1))
