"""torch.export's file computes what the network computes, for any batch size."""

import zipfile
from pathlib import Path

import pytest
from deploy_network import images, small, weights

from hwnas.deploy import engine as engines
from hwnas.deploy import pt2
from hwnas.deploy.verify import CheckOptions, verify
from hwnas.errors import BackendUnavailable, DataFormatError


def test_exported_program_is_verified_and_any_batch(tmp_path: Path) -> None:
    spec = small()
    found = weights(spec)
    setting = pt2.Pt2().setting("cpu", "fp32", 1, 1)
    manifest = pt2.export(spec, found, setting, tmp_path)
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
        pt2.Pt2().setting("cpu", "fp16", 1, 1)


def test_nothing_but_what_torch_writes_of_the_network_is_loaded(tmp_path: Path) -> None:
    """A pickle in place of the sample inputs runs in `torch.export.load`; here it is never unpickled."""
    spec = small()
    setting = pt2.Pt2().setting("cpu", "fp32", 1, 1)
    pt2.export(spec, weights(spec), setting, tmp_path)
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
            pt2.Pt2().load(path, setting)
        assert not mark.exists()
    path.write_bytes(b"no archive")
    with pytest.raises(DataFormatError, match="not an ExportedProgram"):
        pt2.Pt2().load(path, setting)
