"""Data: shapes, ranges, the same again for the same seed, and errors that say where something was looked for."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spliteasy.data import cifar10, cifar100, digits, image_folder, loader, patches, photos
from spliteasy.errors import DataError


def test_digits_are_float_images_with_int_labels() -> None:
    train, test = digits()
    assert (len(train), len(test)) == (1438, 359)
    for part in (train, test):
        images, labels = part.tensors
        assert images.dtype == torch.float32 and images.shape == (len(part), 1, 8, 8)
        assert images.min() == 0 and images.max() == 1
        assert labels.dtype == torch.int64 and set(labels.tolist()) == set(range(10))


def test_digits_are_divided_without_overlap_and_by_seed_alone() -> None:
    def rows(part: torch.utils.data.TensorDataset) -> list[bytes]:
        return [image.numpy().tobytes() for image in part.tensors[0]]

    torch.manual_seed(1)
    train, test = digits(0.5, seed=3)
    torch.manual_seed(2)
    again, _ = digits(0.5, seed=3)
    other, _ = digits(0.5, seed=4)
    assert rows(train) == rows(again) != rows(other)
    assert not set(rows(train)) & set(rows(test))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, 1e-9, float("nan")])
def test_a_division_that_leaves_nothing_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="test_fraction"):
        digits(test_fraction=fraction)


def test_photos_are_normalised_pictures_and_the_same_again() -> None:
    before = torch.random.get_rng_state()
    pictures = photos(batch=3, size=65, seed=1)
    assert pictures.dtype == torch.float32 and pictures.shape == (3, 3, 65, 65) and pictures.is_contiguous()
    assert torch.equal(pictures, photos(batch=3, size=65, seed=1))
    assert not torch.equal(pictures, photos(batch=3, size=65, seed=2))
    assert not torch.equal(pictures[0], pictures[2])  # two crops of one photograph
    pixels = pictures * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pixels += torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6 and pixels.std() > 0.1
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("arguments", [{"batch": 0}, {"size": 0}, {"batch": 1.5}, {"size": -3}])
def test_photos_of_nothing_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="1 or more"):
        photos(**arguments)


def write_cifar(root: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images a file in the format of CIFAR's Python version, with torchvision told their checksums."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    label_key = "labels" if kind.__name__ == "CIFAR10" else "fine_labels"
    classes = 10 if kind.__name__ == "CIFAR10" else 100

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    for part in ("train_list", "test_list"):
        entries = []
        for name, _ in getattr(kind, part):
            pixels = np.arange(10 * 3072, dtype=np.int64).reshape(10, 3072) % 256
            entries.append([name, write(name, {"data": pixels.astype(np.uint8), label_key: list(range(10))})])
        monkeypatch.setattr(kind, part, entries)
    names = [f"class {number}" for number in range(classes)]
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": write(kind.meta["filename"], {kind.meta["key"]: names})})


@pytest.mark.parametrize(("kind", "load"), [("CIFAR10", cifar10), ("CIFAR100", cifar100)])
def test_cifar_is_read_where_it_lies(kind: str, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    write_cifar(tmp_path, getattr(torchvision.datasets, kind), monkeypatch)
    train, test = load(tmp_path)
    assert (len(train), len(test)) == (50 if kind == "CIFAR10" else 10, 10)
    images, labels = next(iter(loader(train, batch=4, seed=0, shuffle=False)))
    assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32
    assert labels.tolist() == [0, 1, 2, 3] and labels.dtype == torch.int64
    assert -3 < images.min() < 0 < images.max() < 3


@pytest.mark.parametrize(("load", "folder"), [(cifar10, "cifar-10-batches-py"), (cifar100, "cifar-100-python")])
def test_absent_cifar_says_where_it_was_looked_for_and_how_to_get_it(load: Any, folder: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere" / folder) in str(caught.value) and "download=True" in str(caught.value)


def write_images(folder: Path, classes: tuple[str, ...], each: int = 5) -> None:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            Image.new("RGB" if index % 2 else "L", (40, 30 + index), 40 * number).save(folder / name / f"{index}.png")


def test_image_folder_with_its_own_division(tmp_path: Path) -> None:
    write_images(tmp_path / "train", ("cat", "dog"), each=3)
    write_images(tmp_path / "val", ("cat", "dog"), each=2)
    train, test = image_folder(tmp_path, size=32)
    assert (len(train), len(test)) == (6, 4)  # type: ignore[arg-type]
    image, label = train[5]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32 and label == 1
    assert image[0, 0, 0].item() == pytest.approx((40 / 255 - 0.485) / 0.229)


def test_image_folder_of_classes_is_divided(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"))
    train, test = image_folder(tmp_path, size=16, test_fraction=0.3)
    again, _ = image_folder(tmp_path, size=16, test_fraction=0.3)
    assert (len(train), len(test)) == (7, 3)  # type: ignore[arg-type]
    assert [label for _, label in train] == [label for _, label in again]  # type: ignore[attr-defined]


def test_image_folders_that_cannot_be_used_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"CLASS/IMAGE\.jpg"):
        image_folder(tmp_path / "nowhere")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="cat"):
        image_folder(tmp_path / "empty")
    write_images(tmp_path / "half" / "train", ("cat",))
    with pytest.raises(DataError, match="test"):
        image_folder(tmp_path / "half")
    write_images(tmp_path / "uneven" / "train", ("cat", "dog"))
    write_images(tmp_path / "uneven" / "test", ("cat",))
    with pytest.raises(DataError, match="dog"):
        image_folder(tmp_path / "uneven")


def test_a_loader_depends_on_its_seed_and_on_nothing_else() -> None:
    train, _ = digits()

    def two_epochs(seed: int, global_seed: int) -> list[list[int]]:
        torch.manual_seed(global_seed)
        before = torch.random.get_rng_state()
        batches = loader(train, batch=100, seed=seed)
        epochs = [torch.cat([labels for _, labels in batches]).tolist() for _ in range(2)]
        assert torch.equal(before, torch.random.get_rng_state())
        return epochs

    first, second = two_epochs(seed=5, global_seed=1)
    assert first != second
    assert [first, second] == two_epochs(seed=5, global_seed=2)
    assert first != two_epochs(seed=6, global_seed=1)[0]


def test_a_loader_keeps_order_and_drops_the_rest_when_told() -> None:
    train, _ = digits()
    batches = list(loader(train, batch=1000, seed=0, shuffle=False, drop_last=True))
    assert len(batches) == 1 and torch.equal(batches[0][1], train.tensors[1][:1000])
    assert [len(labels) for _, labels in loader(train, batch=1000, seed=0)] == [1000, 438]


@pytest.mark.parametrize("batch", [0, -1, 2.0, None])
def test_a_batch_of_nothing_is_refused(batch: Any) -> None:
    with pytest.raises(DataError, match="batch must be a whole number of 1 or more"):
        loader(digits()[0], batch=batch, seed=0)


def test_digits_in_another_size_and_in_colour() -> None:
    train, test = digits(size=32, channels=3)
    assert train.tensors[0].shape[1:] == test.tensors[0].shape[1:] == (3, 32, 32)
    assert torch.equal(train.tensors[0][:, 0], train.tensors[0][:, 2])
    assert torch.equal(train.tensors[1], digits()[0].tensors[1]) and train.tensors[0].min() >= 0
    with pytest.raises(DataError, match="size"):
        digits(size=0)


def test_patches_share_no_pixel_between_training_validation_and_test(monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.datasets

    height, width = 427, 640
    numbers = np.arange(2 * height * width).reshape(2, height, width)  # every pixel is its own number, in base 256
    pictures = np.stack([numbers // 65536, numbers // 256 % 256, numbers % 256], axis=-1).astype(np.uint8)
    monkeypatch.setattr(sklearn.datasets, "load_sample_images", lambda: type("Bunch", (), {"images": list(pictures)}))
    parts = patches(size=20)  # tile 26 less twice a shift of 3: not resized
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    seen = []
    for part in parts:
        images, labels = part.tensors
        digits_of = ((images * deviation + mean) * 255).round().long()  # (N, 3, 20, 20)
        pixels = digits_of[:, 0] * 65536 + digits_of[:, 1] * 256 + digits_of[:, 2]
        photograph, place = pixels // (height * width), pixels % (height * width)
        cell = place // width // (height // 4) * 4 + place % width // (width // 4)
        assert torch.equal(photograph * 16 + cell, labels.view(-1, 1, 1).expand_as(pixels)), "its class is where it is"
        assert len(labels.unique()) == 32
        seen.append(set(pixels.flatten().tolist()))
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_patches_depend_on_their_seed_alone() -> None:
    before = torch.random.get_rng_state()
    one, again, other = (patches(cells=2, crops=1, seed=seed)[0].tensors for seed in (0, 0, 1))
    assert torch.equal(one[0], again[0]) and not torch.equal(one[0], other[0]) and one[0].shape[1:] == (3, 32, 32)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("arguments", [{"cells": 0}, {"shift": 13}, {"shift": -1}, {"cells": 9}, {"crops": 0}])
def test_patches_that_do_not_fit_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(DataError):
        patches(**arguments)
