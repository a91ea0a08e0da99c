"""Class folders and parquet files made in a temporary place: what is found, cached, refused."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hwnas.errors import DataFormatError, InputError
from hwnas.train import files, images
from hwnas.train.data import load


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home"
    monkeypatch.setenv("HWNAS_HOME", str(place))
    return place


def png(value: int = 0, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, value if mode != "RGB" else (value, value, value)).save(file, "PNG")
    return file.getvalue()


def fill(folder: Path, count: int = 5, value: int = 0, **kind: object) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i}.png").write_bytes(png(value, **kind))  # type: ignore[arg-type]


def test_class_folders(tmp_path: Path) -> None:
    place = tmp_path / "pets"
    fill(place / "cat", 10, 10)
    fill(place / "dog", 10, 200)
    (place / "cat" / "notes.txt").write_text("not an image")
    (place / ".hidden").mkdir()
    found = load(f"folder:{place}")
    assert (found.name, found.classes, found.input_shape) == ("pets", ("cat", "dog"), (3, 6, 6))
    assert [len(found.train), len(found.val), len(found.test())] == [14, 2, 4]
    for split in (found.train, found.val, found.test()):
        assert (split.images[split.labels == 0] == 10).all()
        assert (split.images[split.labels == 1] == 200).all()


@pytest.mark.parametrize("held", ["test", "val"])
def test_split_folders(tmp_path: Path, held: str) -> None:
    for part, count in (("train", 10), (held, 3)):
        for name in ("cat", "dog"):
            fill(tmp_path / "pets" / part / name, count)
    found = load(f"folder:{tmp_path / 'pets'}")
    assert [len(found.train), len(found.val), len(found.test())] == [18, 2, 6]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        fill(tmp_path / "vehicles" / name, 5)
    assert load(f"folder:{tmp_path / 'vehicles'}").classes == ("bus", "train")


def test_sizes_and_modes_are_brought_together(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "x", 5, 100, size=(40, 20))
    fill(tmp_path / "a" / "y", 5, 100, size=(20, 30), mode="L")
    found = load(f"folder:{tmp_path / 'a'}")
    assert found.input_shape == (3, 20, 20)
    assert (found.train.images == 100).all()
    assert load(f"folder:{tmp_path / 'a'}", input_shape=(1, 8, 8)).train.images.shape[1:] == (1, 8, 8)


def test_native_size_is_capped(tmp_path: Path) -> None:
    for name in ("x", "y"):
        fill(tmp_path / "a" / name, 3, size=(300, 400), mode="L")
    assert load(f"folder:{tmp_path / 'a'}").input_shape == (1, 224, 224)


def test_odd_modes(tmp_path: Path) -> None:
    # 16-bit grey is scaled, not clipped: 257 * 100 is 100. A rotated photograph is turned upright.
    item = images.Item("a", lambda: deep, 0, "")
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 257 * 100, np.uint16)).save(file, "PNG")
    deep = file.getvalue()
    assert (images._decode(item, (1, 4, 4)) == 100).all()
    picture = Image.fromarray(np.array([[0, 0], [255, 255]], np.uint8))  # white below
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    picture.save(file, "PNG", exif=exif)
    deep = file.getvalue()
    assert images._decode(item, (1, 2, 2))[:, :, 0].tolist() == [[255, 255], [0, 0]]
    palette = Image.new("P", (2, 2))
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=b"\0\1")
    deep = file.getvalue()
    assert images._decode(item, (3, 2, 2)).shape == (2, 2, 3)


def test_folder_errors(tmp_path: Path) -> None:
    place = tmp_path / "pets"
    place.mkdir()
    with pytest.raises(DataFormatError, match=r"holds no class folders; expected .*CLASS/IMAGE"):
        load(f"folder:{place}")
    fill(place / "cat", 5)
    (place / "dog").mkdir()
    with pytest.raises(DataFormatError, match=r"class folder .*dog holds no images"):
        load(f"folder:{place}")
    (place / "dog" / "7.jpg").write_bytes(b"\xff\xd8 this is no picture")
    with pytest.raises(DataFormatError, match=r"dog/7\.jpg cannot be read as an image"):
        load(f"folder:{place}")
    (place / "dog" / "7.jpg").write_bytes(png(size=(64, 64))[:-40])  # cut short: the header is fine
    with pytest.raises(DataFormatError, match=r"dog/7\.jpg cannot be read as an image"):
        load(f"folder:{place}", input_shape=(3, 8, 8))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        load(f"folder:{tmp_path / 'file'}")


def test_test_class_unknown_in_training(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "train" / "cat")
    fill(tmp_path / "a" / "train" / "dog")
    fill(tmp_path / "a" / "test" / "horse")
    with pytest.raises(DataFormatError, match="horse is a class that the training images do not have"):
        load(f"folder:{tmp_path / 'a'}")


def test_decoding_is_kept_and_a_damaged_copy_made_again(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "a" / "x", 5, 1)
    fill(tmp_path / "a" / "y", 5, 2)
    uri = f"folder:{tmp_path / 'a'}"
    first = load(uri)
    (kept,) = (home / "cache").glob("*.safetensors")
    decode = images._decode_all
    monkeypatch.setattr(images, "_decode_all", None)  # decoding again would fail
    assert load(uri).fingerprint == first.fingerprint
    monkeypatch.setattr(images, "_decode_all", decode)
    kept.write_bytes(kept.read_bytes()[:-3])
    assert load(uri).fingerprint == first.fingerprint
    (tmp_path / "a" / "y" / "0.png").write_bytes(png(3))  # other content is another entry
    assert load(uri).fingerprint != first.fingerprint
    assert len(list((home / "cache").glob("*.safetensors"))) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocked").write_text("a file where the folder should be")
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "blocked"))
    for name in ("x", "y"):
        fill(tmp_path / "a" / name)
    assert len(load(f"folder:{tmp_path / 'a'}").train) == 6


def parquet(
    path: Path, rows: int = 20, names: tuple[str, ...] | None = ("cat", "dog"), **columns: object
) -> Path:
    """The layout of the public hub: a struct of bytes and path, integer labels, names in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = [i % 2 for i in range(rows)]
    body = {
        "img": [{"bytes": png(100 * label), "path": None} for label in labels],
        "label": labels,
        **columns,
    }
    table = pa.table({k: v for k, v in body.items() if v is not None})
    if names:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def test_parquet_folder_finds_train_and_test_by_name(tmp_path: Path) -> None:
    parquet(tmp_path / "data" / "train-00000-of-00002.parquet")
    parquet(tmp_path / "data" / "train-00001-of-00002.parquet")
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", 6)
    found = load(f"parquet:{tmp_path / 'data'}")
    assert [len(found.train), len(found.val), len(found.test())] == [36, 4, 6]
    assert (found.classes, found.input_shape) == (("cat", "dog"), (3, 6, 6))
    assert (found.test().images[found.test().labels == 1] == 100).all()


def test_parquet_file_alone_is_split(tmp_path: Path) -> None:
    file = parquet(tmp_path / "my_test.parquet", 20, None)
    found = load(f"parquet:{file}")
    assert [len(found.train), len(found.val), len(found.test())] == [14, 2, 4]
    assert found.classes == ("0", "1")


def test_parquet_plain_bytes(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", img=None, image=[png()] * 20)
    assert load(f"parquet:{file}").input_shape == (3, 6, 6)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"img": None}, r"no column of encoded images .* it has label: int64"),
        ({"label": None}, r"no column of integer labels .* it has img: struct<bytes: binary, path: null>"),
        ({"label": None, "a": [0] * 20, "b": [0] * 20}, "no column of integer labels"),
        ({"label": [None, *[0] * 19]}, "column 'label' has 1 empty rows"),
        ({"label": [5] * 20}, "labels run from 5 to 5, but the 2 classes are 0 to 1"),
        ({"img": [{"bytes": b"GIF", "path": None}] * 20}, r"a\.parquet, row 0 cannot be read as an image"),
    ],
)
def test_wrong_parquet(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    file = parquet(tmp_path / "a.parquet", **columns)  # type: ignore[arg-type]
    with pytest.raises(DataFormatError, match=message):
        load(f"parquet:{file}")


def test_parquet_errors(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataFormatError, match="not a readable parquet file"):
        load(f"parquet:{tmp_path / 'a.parquet'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataFormatError, match=r"holds no .parquet file"):
        load(f"parquet:{tmp_path / 'empty'}")
    parquet(tmp_path / "only" / "test.parquet")
    with pytest.raises(DataFormatError, match="holds only test images, none to train on"):
        load(f"parquet:{tmp_path / 'only'}")


def test_too_large_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x", "y"):
        fill(tmp_path / "a" / name)
    with pytest.raises(InputError, match=r"10 images of 3x2000000x2000000 need .* GiB are free"):
        load(f"folder:{tmp_path / 'a'}", input_shape=(3, 2_000_000, 2_000_000))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("cifar10_train.parquet", "train"),
        ("test-00000-of-00001.parquet", "test"),
        ("plain_text/validation/0000.parquet", "val"),
        ("contest.parquet", ""),
        ("train/part_testing.parquet", "test"),  # the nearest word counts
    ],
)
def test_role(path: str, expected: str) -> None:
    assert files.role(Path(path)) == expected


def test_real_cifar_file() -> None:
    """10,000 images, 1000 a class: 2000 are test, 800 of the rest validation, each class alike."""
    if "HWNAS_TEST_DATA" not in os.environ:
        pytest.skip("HWNAS_TEST_DATA does not name the folder with cifar10_test.parquet")
    file = Path(os.environ["HWNAS_TEST_DATA"]) / "cifar10_test.parquet"
    found = load(f"parquet:{file}")
    assert (found.input_shape, found.classes[0], found.classes[9]) == ((3, 32, 32), "airplane", "truck")
    counts = [torch.bincount(s.labels).tolist() for s in (found.train, found.val, found.test())]
    assert counts == [[720] * 10, [80] * 10, [200] * 10]
    assert found.mean == pytest.approx((0.49, 0.48, 0.45), abs=0.01)
