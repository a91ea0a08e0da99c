"""Splits: sizes by hand, disjoint, stratified, seeded; every source on tiny files; every error."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwnas.errors import DataFormatError, InputError
from hwnas.train import data, sources
from hwnas.train.data import load
from hwnas.train.splits import apportion, draw


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home"
    monkeypatch.setenv("HWNAS_HOME", str(place))
    return place


def save_npz(path: Path, per_class: tuple[int, ...] = (20, 10), **more: Any) -> Path:
    """Every image is of one colour of its own, so that images can be told apart after splitting."""
    labels = np.repeat(np.arange(len(per_class)), per_class)
    images = (
        np.zeros((len(labels), 4, 4, 3), np.uint8)
        + np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    )
    arrays: dict[str, Any] = {"images": images, "labels": labels, **more}
    np.savez(path, **arrays)
    return path


def colours(split: data.Split) -> set[int]:
    return {int(v) for v in split.images[:, 0, 0, 0]}


def test_apportion_by_largest_remainder() -> None:
    # 10 over 6:3:1 of 100 is 6, 3, 1 exactly; 7 over 50:30:20 is 3.5, 2.1, 1.4: the rest goes to 3.5.
    assert apportion([60, 30, 10], 10) == [6, 3, 1]
    assert apportion([50, 30, 20], 7) == [4, 2, 1]
    # 1 over 9:1 would leave the small class out; at least one is given, the large one gives it up...
    assert apportion([90, 10], 1) == [1, 1]
    # ...where it can: 4 over 98:2 is 4, 0; the least share lifts 0 to 1 and takes it from the 4.
    assert apportion([98, 2], 4) == [3, 1]
    # One of each class stays behind.
    assert apportion([2, 2], 4) == [1, 1]
    assert apportion([2, 2], 4, keep=0) == [2, 2]


def test_draw_keeps_proportions_and_is_seeded() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    pool = np.arange(100)
    taken, left = draw(labels, pool, 0.2, np.random.default_rng(0))
    assert np.bincount(labels[taken]).tolist() == [12, 6, 2]
    assert sorted([*taken, *left]) == pool.tolist()
    again, _ = draw(labels, pool, 0.2, np.random.default_rng(0))
    other, _ = draw(labels, pool, 0.2, np.random.default_rng(1))
    assert (again == taken).all()
    assert (other != taken).any()


def test_splits_are_disjoint_stratified_and_whole(tmp_path: Path) -> None:
    found = load(f"npz:{save_npz(tmp_path / 'a.npz', (100, 50))}")
    # 150: a fifth, 20 + 10, is test; a tenth of 120, 8 + 4, is validation; 108 are left.
    assert [len(found.train), len(found.val), len(found.test())] == [108, 12, 30]
    assert torch.bincount(found.val.labels).tolist() == [8, 4]
    assert torch.bincount(found.test().labels).tolist() == [20, 10]
    sets = [colours(split) for split in (found.train, found.val, found.test())]
    assert set.union(*sets) == set(range(150))
    assert sum(map(len, sets)) == 150


def test_seed_moves_validation_but_never_test(tmp_path: Path) -> None:
    uri = f"npz:{save_npz(tmp_path / 'a.npz', (100, 50))}"
    first, second, again = load(uri, seed=0), load(uri, seed=1), load(uri, seed=0)
    assert colours(first.val) != colours(second.val)
    assert colours(first.test()) == colours(second.test())
    assert first.fingerprint == again.fingerprint != second.fingerprint


def test_test_split_is_counted() -> None:
    found = load("digits", input_shape=(1, 8, 8))
    assert found.test_reads == 0
    found.test()
    assert found.test_reads == 1


def test_limit_keeps_test_whole(tmp_path: Path) -> None:
    uri = f"npz:{save_npz(tmp_path / 'a.npz', (100, 50))}"
    small = load(uri, limit=30)
    assert [len(small.train), len(small.val), len(small.test())] == [27, 3, 30]
    assert load(uri, limit=10_000).fingerprint == load(uri).fingerprint
    with pytest.raises(InputError, match="limit of 3 images is too small for 2 classes; at least 4"):
        load(uri, limit=3)


def test_moments_and_normalising(tmp_path: Path) -> None:
    images = np.zeros((40, 2, 2, 1), np.uint8)
    images[:, 0] = 255  # half of every image white: mean 1/2, standard deviation 1/2
    np.savez(tmp_path / "a.npz", images=images, labels=np.repeat([0, 1], 20))
    found = load(f"npz:{tmp_path / 'a.npz'}")
    assert found.mean == pytest.approx([0.5])
    assert found.std == pytest.approx([0.5])
    x = found.train.normalised(slice(1))
    assert x.dtype == torch.float32
    assert x[0, 0].tolist() == [[1.0, 1.0], [-1.0, -1.0]]


def test_constant_channel_does_not_divide_by_zero(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.full((20, 2, 2), 9, np.uint8), labels=np.repeat([0, 1], 10))
    assert not load(f"npz:{tmp_path / 'a.npz'}").train.normalised().any()


def test_digits() -> None:
    found = load("digits", input_shape=(3, 16, 16))
    assert (found.name, len(found.classes), found.mirrors) == ("digits", 10, False)
    # 1797 images: 359 test, and 144 of the 1438 left for validation.
    assert [len(found.train), len(found.val), len(found.test())] == [1294, 144, 359]
    assert found.train.images.shape[1:] == (3, 16, 16)
    assert (found.train.images[:, 0] == found.train.images[:, 2]).all()
    assert load("digits").input_shape == (3, 32, 32)
    assert found.describe() == "digits: 10 classes, 1294 train, 144 validation, 359 test images of 3x16x16"


def test_images_lie_channels_last() -> None:
    split = load("digits", input_shape=(3, 8, 8)).train
    assert split.images.is_contiguous(memory_format=torch.channels_last)


def test_npz_with_its_own_test_and_keras_names(tmp_path: Path) -> None:
    x, y = np.zeros((20, 28, 28), np.uint8), np.repeat([0, 1], 10)[:, None]
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    found = load(f"npz:{tmp_path / 'mnist.npz'}", input_shape=(3, 14, 14))
    assert [len(found.train), len(found.val), len(found.test())] == [18, 2, 6]
    assert found.classes == ("0", "1")
    assert load(f"npz:{tmp_path / 'mnist.npz'}").input_shape == (1, 28, 28)


def test_channels_first_arrays_and_class_names(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.repeat([0, 1], 10), classes=["cat", "dog"])
    found = load(f"npz:{tmp_path / 'a.npz'}")
    assert found.classes == ("cat", "dog")
    assert found.input_shape == (3, 6, 6)


def test_fit_by_hand() -> None:
    # 2x4 becomes its middle 2x2; then two by two pixels become their mean.
    image = torch.tensor([[[[9, 10, 20, 9], [9, 30, 40, 9]]]], dtype=torch.uint8)
    assert sources.fit(image, (1, 2, 2)).tolist() == [[[[10, 20], [30, 40]]]]
    assert sources.fit(image, (3, 1, 1)).tolist() == [[[[25]], [[25]], [[25]]]]
    # Luma of BT.601: 0.299 * 100 + 0.587 * 200 + 0.114 * 50 = 153.0
    colour = torch.tensor([100, 200, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    assert sources.fit(colour, (1, 1, 1)).item() == 153


def cifar(folder: Path, batches: int = 2) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i + 1}.bin" for i in range(batches)), "test_batch.bin"]:
        records = rng.integers(0, 256, (20, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(20) % 10
        records.tofile(folder / name)
    return folder


def test_cifar10_binary(tmp_path: Path) -> None:
    folder = cifar(tmp_path / "cifar-10-batches-bin")
    found = load(f"cifar10:{tmp_path}")
    assert found.classes[3] == "cat"
    assert len(found.test()) == 20
    assert len(found.train) + len(found.val) == 40
    record = np.fromfile(folder / "test_batch.bin", np.uint8)[:3073]
    assert found.test().images[0].flatten().tolist() == record[1:].tolist()


def test_cifar10_errors(tmp_path: Path) -> None:
    folder = cifar(tmp_path / "bin")
    (folder / "data_batch_1.bin").write_bytes(b"\0" * 3072)
    with pytest.raises(DataFormatError, match="3072 bytes, which is not a multiple of 3073 bytes"):
        load(f"cifar10:{folder}")
    python = tmp_path / "cifar-10-batches-py"
    python.mkdir()
    (python / "data_batch_1").write_bytes(b"\x80")
    for place in (python, tmp_path):
        with pytest.raises(DataFormatError, match=r"which is pickle.*binary version"):
            load(f"cifar10:{place}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataFormatError, match=r"holds no data_batch_\*\.bin"):
        load(f"cifar10:{tmp_path / 'empty'}")


def test_module_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_images.py").write_text(
        "import numpy as np\n"
        "def good():\n"
        "    return {'images': np.zeros((20, 5, 5), np.uint8), 'labels': np.arange(20) % 2}\n"
        "def bad():\n"
        "    return [1, 2]\n"
    )
    (tmp_path / "my_broken.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load("my_images:good").input_shape == (1, 5, 5)
    with pytest.raises(DataFormatError, match="returned a list; expected a mapping"):
        load("my_images:bad")
    with pytest.raises(InputError, match="module 'my_images' has no 'nothing'"):
        load("my_images:nothing")
    with pytest.raises(InputError, match="no module 'my_imagse'"):
        load("my_imagse:good")
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        load("my_broken:good")
    assert sys.path == before


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("digit", "unknown data source 'digit'; did you mean 'digits'"),
        ("parqet:a/b", "unknown data source 'parqet'; did you mean 'parquet'"),
        ("parquet", "names no path; write parquet:PATH"),
        ("npz:", "names no path; write npz:PATH"),
        ("digits:8x8", "has no path; write digits"),
        ("npz:/nowhere/a.npz", "/nowhere/a.npz does not exist"),
        ("folder:/nowhere", "/nowhere does not exist"),
        ("parquet:/nowhere", "/nowhere does not exist"),
        ("cifar10:/nowhere", "/nowhere does not exist"),
    ],
)
def test_wrong_uri(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(uri)


def test_a_bare_path_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="say what the path holds, for example folder:"):
        load(str(tmp_path))


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 0, 9), (3, 8, -1)])
def test_wrong_shape(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=r"cannot be converted to|which cannot become 2"):
        load("digits", input_shape=shape)


def test_wide_images_are_taken() -> None:
    assert load("digits", input_shape=(3, 8, 9)).train.images.shape[1:] == (3, 8, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((30, 4, 4, 3), np.float32)}, r"images are float32; expected uint8.*\* 255"),
        ({"images": np.zeros((30, 16), np.uint8)}, r"shape \(30, 16\)"),
        ({"images": np.zeros((30, 4, 4, 4), np.uint8)}, r"does not say where its channels are"),
        ({"labels": np.zeros(30)}, r"labels are float64 \(30,\) for 30 images"),
        ({"labels": np.zeros(29, np.int64)}, r"\(29,\) for 30 images"),
        (
            {"labels": np.repeat([-1, 1], 15)},
            r"holds 1 class; .* 15 images are left out .*row 0: it has no label",
        ),
        ({"classes": ["only one"]}, "label 1 has no class; the 1 classes are 0 to 0"),
        (
            {"classes": ["a", "b"], "labels": np.repeat([0, 2], 15)},
            "label 2 has no class; the 2 classes are 0 to 1",
        ),
        ({"classes": ["a", "b", "c"]}, "class 'c' has 0 training images; at least 3"),
        ({"test_images": np.zeros((2, 4, 4, 3), np.uint8)}, "only one of test_images and test_labels"),
    ],
)
def test_wrong_arrays(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        load(f"npz:{save_npz(tmp_path / 'a.npz', (20, 10), **change)}")


def test_test_labels_are_checked_too(tmp_path: Path) -> None:
    more: dict[str, Any] = {"test_images": np.zeros((2, 4, 4, 3), np.uint8), "test_labels": np.array([0, 7])}
    with pytest.raises(
        DataFormatError, match="7 is a class that the training images do not have; they have 0, 1"
    ):
        load(f"npz:{save_npz(tmp_path / 'a.npz', **more)}")


def test_wrong_npz(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"not a zip file")
    with pytest.raises(DataFormatError, match=r"not an .npz file of plain arrays"):
        load(f"npz:{tmp_path / 'a.npz'}")
    np.savez(tmp_path / "b.npz", pictures=np.zeros(3))
    with pytest.raises(DataFormatError, match="holds pictures, but not images and labels"):
        load(f"npz:{tmp_path / 'b.npz'}")
    np.savez(tmp_path / "c.npz", images=np.array([{}], dtype=object), labels=np.zeros(1, int))
    with pytest.raises(DataFormatError, match="Object arrays cannot be loaded"):
        load(f"npz:{tmp_path / 'c.npz'}")


def test_labels_are_names_numbers_with_gaps_or_missing(tmp_path: Path) -> None:
    names = np.array(["wolf", "dog"] * 15)
    assert load(f"npz:{save_npz(tmp_path / 'a.npz', labels=names)}").classes == ("dog", "wolf")
    numbers = np.array([10, 9, 9] * 10)  # in the order of numbers, not of their digits
    assert load(f"npz:{save_npz(tmp_path / 'b.npz', labels=numbers)}").classes == ("9", "10")
    missing = np.array([0, 1] * 14 + [-1, -1])
    found = load(f"npz:{save_npz(tmp_path / 'c.npz', labels=missing)}")
    assert len(found.train) + len(found.val) + len(found.test()) == 28
    assert found.notes[0].startswith("2 images are left out (")
    with pytest.raises(DataFormatError, match=r"2 images are left out .* leave out --strict"):
        load(f"npz:{tmp_path / 'c.npz'}", strict=True)


def test_a_label_is_never_a_size(tmp_path: Path) -> None:
    labels = np.arange(30) % 3
    labels[0] = 10**12
    with pytest.raises(DataFormatError, match="class '1000000000000' has 1 training images"):
        load(f"npz:{save_npz(tmp_path / 'a.npz', labels=labels)}")


def test_sizes_that_an_npz_claims_are_not_believed(tmp_path: Path) -> None:
    import io
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**8, 32, 32, 3)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as packed:
        packed.writestr("images.npy", header.getvalue() + bytes(300))
    with pytest.raises(DataFormatError, match=r"declares 307,200,000,000 bytes .* but it has 300"):
        load(f"npz:{tmp_path / 'a.npz'}")


def test_a_source_for_each_split(tmp_path: Path) -> None:
    """Classes are joined by name: 1 of the test file is 'a', which training calls 0."""
    first = save_npz(tmp_path / "train.npz", (20, 10), classes=["a", "b"])
    second = save_npz(tmp_path / "test.npz", (3, 4), classes=["b", "a"])
    third = save_npz(tmp_path / "val.npz", (2, 2), classes=["a", "b"])
    found = load(f"train=npz:{first};val=npz:{third};test=npz:{second}")
    assert [len(found.train), len(found.val), len(found.test())] == [30, 4, 7]
    assert torch.bincount(found.test().labels).tolist() == [4, 3]
    with pytest.raises(InputError, match="names no training images; add train=SOURCE"):
        load(f"test=npz:{second}")
    with pytest.raises(InputError, match="names test twice"):
        load(f"test=npz:{second};test=npz:{second}")
    other = save_npz(tmp_path / "other.npz", (3, 4), classes=["b", "c"])
    with pytest.raises(DataFormatError, match="c is a class that the training images do not have"):
        load(f"train=npz:{first};test=npz:{other}")


def test_images_in_two_splits_are_counted(tmp_path: Path) -> None:
    """30 images of their own colour each; the test images are colours 0, 1, 2 and one that is new."""
    test = np.zeros((4, 4, 4, 3), np.uint8) + np.array([0, 1, 2, 200], np.uint8)[:, None, None, None]
    more: dict[str, Any] = {"test_images": test, "test_labels": np.array([0, 0, 0, 1])}
    found = load(f"npz:{save_npz(tmp_path / 'a.npz', **more)}")
    assert found.shared["train_test"] + found.shared["val_test"] == 3
    assert found.shared["train_val"] == 0
    assert any("of 4 test images are training images as well" in note for note in found.notes)


def test_uneven_classes_are_said(tmp_path: Path) -> None:
    (note,) = load(f"npz:{save_npz(tmp_path / 'a.npz', (97, 6))}").notes
    assert "predicting '0' always is correct for 94.6%" in note
    assert load(f"npz:{save_npz(tmp_path / 'b.npz', (20, 10))}").notes == ()


@pytest.mark.parametrize("size", [5, 9, 31, 64])
def test_training_resizes_as_deployment_does(size: int) -> None:
    """The pixels of `sources.fit` are those that a deployed engine prepares, bit by bit."""
    from hwnas.backends import images as prepared

    photographs = np.random.default_rng(0).integers(0, 256, (3, 37, 52, 3), dtype=np.uint8)
    trained = sources.fit(torch.from_numpy(photographs).permute(0, 3, 1, 2), (3, size, size))
    zero, one = np.zeros(3, np.float32), np.full(3, 1 / 255, np.float32)
    deployed = prepared.prepare(prepared.centred(photographs, (size, size)), (size, size), zero, one)
    assert (np.rint(deployed) == trained.numpy()).all()


def bands(path: Path, channels: int, *, first: bool = False) -> str:
    """30 images of 6x9; value 10 in the first row of the first band, 20 in its first column below."""
    images = np.zeros((30, 6, 9, channels), np.uint8)
    images[:, 0, :, 0], images[:, 1:, 0, 0] = 10, 20
    np.savez(path, images=np.moveaxis(images, 3, 1) if first else images, labels=np.arange(30) % 3)
    return f"npz:{path}"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("first", [False, True])
def test_arrays_keep_their_shape_and_any_channels(channels: int, first: bool, tmp_path: Path) -> None:
    data = bands(tmp_path / "a.npz", channels, first=first)
    found = load(data)
    assert found.input_shape == (channels, 6, 9)
    assert found.train.images[0, 0, 0].tolist() == [10] * 9
    assert found.train.images[0, 0, :, 0].tolist() == [10, 20, 20, 20, 20, 20]
    # The middle in the proportions of 6x6: columns 1 to 6 of 0 to 8, without the first.
    square = load(data, input_shape=(channels, 6, 6)).train.images
    assert square[0, 0, :, 0].tolist() == [10, 0, 0, 0, 0, 0]


def test_the_input_says_where_channels_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((30, 4, 6, 4), np.uint8), labels=np.arange(30) % 2)
    with pytest.raises(DataFormatError, match=r"does not say where its channels are; .* --input CxHxW"):
        load(f"npz:{tmp_path / 'a.npz'}")
    assert load(f"npz:{tmp_path / 'a.npz'}", input_shape=(4, 4, 6)).input_shape == (4, 4, 6)


def test_bands_do_not_become_colours(tmp_path: Path) -> None:
    data = bands(tmp_path / "a.npz", 4)
    words = "the images have 4 channels, which cannot become 3; give --input 4x6x9"
    with pytest.raises(InputError, match=words):
        load(data, input_shape=(3, 6, 9))
