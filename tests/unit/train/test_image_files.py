"""Class folders and parquet files made in a temporary place: what is found, cached, refused."""

import io
import json
import os
import struct
from pathlib import Path
from typing import Any

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
        (folder / f"{i}.png").write_bytes(png(value, **kind))  # type: ignore[arg-type]  # options of several types


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


def test_files_of_one_size_are_taken_whole(tmp_path: Path) -> None:
    """Pillow says width first: 9 wide and 5 high."""
    for name in ("x", "y"):
        fill(tmp_path / "a" / name, size=(9, 5))
    found = load(f"folder:{tmp_path / 'a'}")
    assert found.input_shape == (3, 5, 9)
    assert not any("--input" in note for note in found.notes)
    words = r"read with 1 channel \(grey\) or 3 \(colour\), not 4; .* npz:PATH"
    with pytest.raises(InputError, match=words):
        load(f"folder:{tmp_path / 'a'}", input_shape=(4, 5, 9))


def test_turned_photographs_have_the_size_that_is_seen(tmp_path: Path) -> None:
    """Stored 9 wide and 5 high, to be turned by 90 degrees: 9 high and 5 wide."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("x", "y"):
        (tmp_path / "a" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (9, 5)).save(tmp_path / "a" / name / f"{i}.png", exif=exif)
    assert load(f"folder:{tmp_path / 'a'}").input_shape == (1, 9, 5)


def test_native_size_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MANY", 6)
    for name in ("x", "y"):
        fill(tmp_path / "a" / name, 3, size=(300, 400), mode="L")
    found = load(f"folder:{tmp_path / 'a'}")
    assert found.input_shape == (1, 224, 224)
    assert not any("are few" in note for note in found.notes)
    # 400 / 300 of 224 is 298.7.
    assert found.notes[0] == (
        "the middle square of images of 400x300 (height x width) is used; --input 1x299x224 takes them whole"
    )


@pytest.mark.parametrize(
    ("own", "size", "whole"), [(96, (400, 96), ""), (97, (64, 64), "400x97"), (300, (64, 64), "299x224")]
)
def test_few_large_images_are_made_small(own: int, size: tuple[int, int], whole: str, tmp_path: Path) -> None:
    for name in ("x", "y"):
        fill(tmp_path / "a" / name, 3, size=(own, 400), mode="L")
    found = load(f"folder:{tmp_path / 'a'}")
    assert found.input_shape == (1, *size)
    said = [note for note in found.notes if note.startswith(f"6 images of about {own} pixels are few")]
    assert len(said) == bool(whole)
    assert all(f"--input 1x{whole} takes them larger and whole" in note for note in said)
    asked = load(f"folder:{tmp_path / 'a'}", input_shape=(1, 224, 224))
    assert asked.input_shape == (1, 224, 224)
    assert not any("are few" in note for note in asked.notes)


def test_odd_modes(tmp_path: Path) -> None:
    # 16-bit grey is scaled, not clipped: 257 * 100 is 100. A rotated photograph is turned upright.
    item = images.Item("a", lambda: deep, "", "")
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
        ({"label": None}, r"no column of labels .* it has img: struct<bytes: binary, path: null>"),
        ({"label": None, "a": [0] * 20, "b": [0] * 20}, "no column of labels"),
        ({"label": [[0]] * 20, "fold": [0] * 20}, "no column of labels"),
        ({"label": [5] * 20}, r"a\.parquet, row 0: label 5 has no class; the 2 classes are 0 to 1"),
        (
            {"img": [{"bytes": b"GIF", "path": None}] * 20},
            r"no image that can be read; .*a\.parquet, row 0: it cannot be read as an image",
        ),
    ],
)
def test_wrong_parquet(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    file = parquet(tmp_path / "a.parquet", **columns)  # type: ignore[arg-type]  # columns of several types
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
    with pytest.raises(InputError, match=r"10 images of 3x2000000x2000000 need .* GiB: too much for memory"):
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


def test_one_bad_image_is_left_out_and_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "a" / name, 10)
    (tmp_path / "a" / "cat" / "x.jpg").write_bytes(b"\xff\xd8 this is no picture")
    (tmp_path / "a" / "dog" / "cut.png").write_bytes(png(size=(64, 64))[:-40])  # the header is fine
    os.mkfifo(tmp_path / "a" / "dog" / "pipe.png")
    (tmp_path / "a" / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    uri = f"folder:{tmp_path / 'a'}"
    for _ in range(2):  # decoded, then from the cache
        found = load(uri)
        assert len(found.train) + len(found.val) + len(found.test()) == 20
        assert found.notes[0].startswith("4 images are left out (")
        assert "x.jpg: it cannot be read as an image" in found.notes[0]
        assert "pipe.png: it is a pipe, a socket or a device" in found.notes[0]
        assert "gone.png: it is a broken link" in found.notes[0]
    with pytest.raises(DataFormatError, match="4 images are left out"):
        load(uri, strict=True)


def test_at_most_ten_are_named_and_too_many_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "a" / name, 20)
    for i in range(13):
        (tmp_path / "a" / "cat" / f"bad{i}.png").write_bytes(b"no")
    note = load(f"folder:{tmp_path / 'a'}").notes[0]
    assert note.startswith("13 images are left out")
    assert note.count(".png:") == 10
    assert note.endswith("; and 3 more)")
    for i in range(60):
        (tmp_path / "a" / "cat" / f"bad{i}.png").write_bytes(b"no")
    with pytest.raises(DataFormatError, match="60 of 100 images cannot be read; the first is"):
        load(f"folder:{tmp_path / 'a'}")


def test_what_lies_beside_the_images(tmp_path: Path) -> None:
    """Links are followed, all of Pillow's suffixes read; what systems put there is not counted."""
    for name in ("cat", "dog"):
        fill(tmp_path / "a" / name, 4)
    fill(tmp_path / "more", 3, 50)
    (tmp_path / "a" / "cat" / "linked").symlink_to(tmp_path / "more")
    (tmp_path / "a" / "cat" / "up").symlink_to(tmp_path / "a")  # would bring dogs in
    (tmp_path / "a" / "cat" / "9.jfif").write_bytes(png())
    fill(tmp_path / "a" / "cat" / ".ipynb_checkpoints", 5)
    fill(tmp_path / "a" / "cat" / "__MACOSX", 5)
    fill(tmp_path / "a" / "__MACOSX", 5)
    (tmp_path / "a" / "cat" / "Thumbs.db").write_text("")
    (tmp_path / "a" / "loose.png").write_bytes(png())
    found = load(f"folder:{tmp_path / 'a'}")
    assert found.classes == ("cat", "dog")
    assert sum(len(s) for s in (found.train, found.val, found.test())) == 4 + 4 + 3 + 1
    assert any("1 images in" in note and "are in no class folder" in note for note in found.notes)
    assert any("no image format's are skipped (1 .db)" in note for note in found.notes)


def test_a_folder_beside_the_splits_is_no_class(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / "a" / part / name, 10)
    fill(tmp_path / "a" / "unlabeled", 10)
    found = load(f"folder:{tmp_path / 'a'}")
    assert (found.classes, len(found.test())) == (("cat", "dog"), 20)
    assert any(note.startswith("unlabeled/ beside test/, train/ is no split") for note in found.notes)
    (tmp_path / "a" / "train").rename(tmp_path / "a" / "mine")
    with pytest.raises(DataFormatError, match=r"holds test/ with classes to test on, but no train/"):
        load(f"folder:{tmp_path / 'a'}")


def test_own_validation_and_test(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("val", 4), ("test", 3)):
        for name in ("cat", "dog"):
            fill(tmp_path / "a" / part / name, count)
    found = load(f"folder:{tmp_path / 'a'}")
    assert [len(found.train), len(found.val), len(found.test())] == [20, 8, 6]
    half = load(f"folder:{tmp_path / 'a'}", limit=14)  # half of 28: ten and four
    assert [len(half.train), len(half.val), len(half.test())] == [10, 4, 6]


def encoded(image: Image.Image, form: str, **how: Any) -> images.Item:
    file = io.BytesIO()
    image.save(file, form, **how)
    return images.Item("a", file.getvalue, "", "")


def test_floats_are_scaled_or_refused_and_wide_numbers_refused() -> None:
    half = Image.fromarray(np.full((4, 4), 0.4, np.float32))
    assert (images._decode(encoded(half, "TIFF"), (1, 4, 4)) == 102).all()  # 0.4 * 255
    with pytest.raises(DataFormatError, match="values run from 40 to 40"):
        images._decode(encoded(Image.fromarray(np.full((4, 4), 40, np.float32)), "TIFF"), (1, 4, 4))
    with pytest.raises(DataFormatError, match="32-bit integers"):
        images._decode(encoded(Image.fromarray(np.full((4, 4), 40, np.int32)), "TIFF"), (1, 4, 4))


def test_odd_exif_loses_no_photograph() -> None:
    """A rational with a negative part and a zero (Pillow 8965): the orientation is read all the same."""
    entries = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + struct.pack("<HHII", 0x11A, 10, 1, 38)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + b"\0\0\0\0" + struct.pack("<ii", -1, 0)
    picture = Image.fromarray(np.repeat([[0], [255]], 8, axis=1).repeat(4, axis=0).astype(np.uint8))
    upright = images._decode(encoded(picture, "PNG", exif=exif), (1, 8, 8))[:, :, 0]
    # White was below; orientation 6 turns clockwise, so it is on the left.
    assert upright[0].tolist() == [255] * 4 + [0] * 4


def test_every_suffix_that_pillow_opens_is_an_image() -> None:
    """But for those that other programs decode, or that hold no picture."""
    Image.init()
    opened = {end for end, name in Image.registered_extensions().items() if name in {*Image.OPEN, "MPO"}}
    left = opened - images.suffixes()
    assert {".jfif", ".jpe", ".mpo", ".tif", ".webp", ".ppm", ".tga", ".jp2", ".avif"} <= images.suffixes()
    assert (
        left
        == {
            *(
                ".bufr",
                ".eps",
                ".ps",
                ".fpx",
                ".grib",
                ".h5",
                ".hdf",
                ".mic",
                ".mpg",
                ".mpeg",
                ".emf",
                ".wmf",
            ),
            *(".pdf",),
        }
        & opened
    )


def test_damaged_exif_is_no_warning(tmp_path: Path, home: Path, recwarn: pytest.WarningsRecorder) -> None:
    picture = Image.new("RGB", (9, 9))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x05\0\0\0\x01\0\0"
    for name in ("a", "b"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            picture.save(tmp_path / "pets" / name / f"{number}.jpg", exif=exif)
    load(f"folder:{tmp_path / 'pets'}")
    assert not [w for w in recwarn if "PIL" in w.filename]


def test_a_photograph_is_prepared_as_an_engine_does_it(tmp_path: Path) -> None:
    from hwnas.backends import images as prepared

    pixels = np.random.default_rng(0).integers(0, 256, (41, 60, 3), dtype=np.uint8)  # an odd margin
    trained = images._decode(encoded(Image.fromarray(pixels), "PNG"), (3, 16, 16))
    assert (trained == prepared.resize(prepared.centred(pixels[None], (16, 16)), (16, 16))[0]).all()


def test_a_cache_with_other_pixels_is_made_again(tmp_path: Path, home: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    for value, name in enumerate(("x", "y")):
        fill(tmp_path / "a" / name, 5, value)
    first = load(f"folder:{tmp_path / 'a'}")
    (kept,) = (home / "cache").glob("*.safetensors")
    with safe_open(kept, "pt") as file:
        about, pixels = file.metadata(), file.get_tensor("images")
    pixels[0] += 9
    save_file({"images": pixels}, kept, metadata=about)
    assert load(f"folder:{tmp_path / 'a'}").fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["dog", "cat"] * 10),
        pa.array(["dog", "cat"] * 10).dictionary_encode(),
        pa.array(["dog", "cat"] * 10, pa.large_string()),
    ],
)
def test_texts_and_categories_are_labels(tmp_path: Path, labels: object) -> None:
    file = parquet(tmp_path / "a.parquet", names=None, label=labels, fold=[i % 5 for i in range(20)])
    assert load(f"parquet:{file}").classes == ("cat", "dog")


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    """As pandas writes a column of numbers with gaps: floats and NaN."""
    labels = [float(i % 2) for i in range(18)] + [float("nan"), None]
    found = load(f"parquet:{parquet(tmp_path / 'a.parquet', names=None, label=labels)}")
    assert found.classes == ("0", "1")
    assert found.notes[0].startswith("2 images are left out (")


def test_several_files_are_joined_by_class_names(tmp_path: Path) -> None:
    parquet(tmp_path / "d" / "train-0.parquet", names=("cat", "dog"))  # dog is 1: 100
    parquet(tmp_path / "d" / "train-1.parquet", names=("dog", "cat"))  # dog is 0: 0
    found = load(f"parquet:{tmp_path / 'd'}", input_shape=(1, 6, 6))
    assert found.classes == ("cat", "dog")
    everything = torch.cat([s.images[s.labels == 1, 0, 0, 0] for s in (found.train, found.val, found.test())])
    assert torch.bincount(everything.int()).nonzero().flatten().tolist() == [0, 100]
    parquet(tmp_path / "d" / "train-2.parquet", names=None)
    with pytest.raises(DataFormatError, match="some files name their classes and others have numbers alone"):
        load(f"parquet:{tmp_path / 'd'}")


def test_parquet_in_batches_keeps_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of one or a few rows, as a column of several GiB is read."""
    file = parquet(tmp_path / "a.parquet", 20)
    whole = load(f"parquet:{file}").fingerprint
    monkeypatch.setattr(files, "_BATCH_BYTES", 200)
    assert load(f"parquet:{file}").fingerprint == whole
