"""torch.export's file computes what the network computes, for any batch size."""

import zipfile
from pathlib import Path

import pytest
from deploy_network import images, small, weights

from hwnas.backends.pt2_format import Pt2
from hwnas.deploy import engine as engines
from hwnas.deploy.verify import CheckOptions, verify
from hwnas.errors import BackendUnavailable, DataFormatError


def test_exported_program_is_verified_and_any_batch(tmp_path: Path) -> None:
    spec = small()
    found = weights(spec)
    torch = Pt2(spec)
    setting = torch.setting("cpu", "fp32", 1, 1)
    manifest = engines.export(spec, found, torch, setting, tmp_path, file_format="pt2")
    assert manifest.dynamic_batch
    assert manifest.onnx_sha256 is None
    path = tmp_path / "engine.pt2"
    assert manifest.engine == "engine.pt2"
    checked = verify(path, weights=found, images=images(spec, 9), options=CheckOptions(timed=False))
    assert checked.report.passed
    engine = engines.load(path)
    assert engine.run(images(spec, 3)).shape == (3, 10)
    assert engine.time(2).wall_ms.shape == (2,)
    engine.close()


def test_what_it_cannot_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="writes fp32, not fp16"):
        Pt2(small()).setting("cpu", "fp16", 1, 1)


def test_nothing_but_what_torch_writes_of_the_network_is_loaded(tmp_path: Path) -> None:
    """A pickle in place of the sample inputs runs in `torch.export.load`; here it is never unpickled."""
    spec = small()
    torch = Pt2(spec)
    setting = torch.setting("cpu", "fp32", 1, 1)
    engines.export(spec, weights(spec), torch, setting, tmp_path, file_format="pt2")
    path, mark = tmp_path / "engine.pt2", tmp_path / "ran"
    assert str(Path.cwd()).encode() not in path.read_bytes()  # no file names of this machine
    payload = b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    parts = {i.filename: zipfile.ZipFile(path).read(i) for i in zipfile.ZipFile(path).infolist()}
    sample = next(name for name in parts if name.endswith("sample_inputs/model.pt"))
    for name, data in (
        (sample, payload),  # shorter than the part it replaces
        (sample, payload.ljust(len(parts[sample]), b" ")),
        ("archive/data/extra", b"x"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in {**parts, name: data}.items():
                archive.writestr(member, content)
        with pytest.raises(DataFormatError, match=r"export it again|not those of the network"):
            torch.load(path, setting)
        assert not mark.exists()
    path.write_bytes(b"no archive")
    with pytest.raises(DataFormatError, match="not an ExportedProgram"):
        torch.load(path, setting)
