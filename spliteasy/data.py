"""Data to train and measure on: what ships with scikit-learn, and what torchvision can read or fetch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from spliteasy.errors import DataError

__all__ = ["cifar10", "cifar100", "digits", "image_folder", "loader", "patches", "photos"]

# Per channel (red, green, blue), of pixels in [0, 1], over the training images.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_CIFAR100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def digits(
    test_fraction: float = 0.2, seed: int = 0, *, size: int = 8, channels: int = 1
) -> tuple[TensorDataset, TensorDataset]:
    """Scikit-learn's 1797 handwritten digits, shuffled by `seed` and divided into training and test data.

    Each item is a float32 image (channels, size, size) in [0, 1] and an int64 label 0 to 9. Another `size` than their
    own 8 is bilinear interpolation; every channel holds the same grey, for networks that were made for colour.

    Raises:
        DataError: when `test_fraction` leaves one of the two empty, or for a size or channels below 1.
    """
    from sklearn.datasets import load_digits

    _at_least_one("size", size)
    _at_least_one("channels", channels)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels / 16).to(torch.float32).reshape(-1, 1, 8, 8)  # stored as 0 to 16
    if size != 8:
        images = interpolate(images, size=(size, size), mode="bilinear", antialias=size < 8)
    images = images.repeat(1, channels, 1, 1)
    targets = torch.from_numpy(labels).to(torch.int64)
    train, test = _divide(len(images), test_fraction, seed)
    return TensorDataset(images[train], targets[train]), TensorDataset(images[test], targets[test])


def patches(
    size: int = 32, *, cells: int = 4, tile: int = 26, shift: int = 3, crops: int = 8, seed: int = 0
) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Which photograph, and where in it: patches of the two photographs that ship with scikit-learn.

    Each photograph is divided into `cells` × `cells` cells; the class of a patch is its photograph and its cell,
    so 32 classes for 4 × 4 cells. Harder than digits, since much of a photograph looks like its neighbour,
    and in need of no download.

    **No pixel is shared** by training, validation and test data: each cell is a lattice of tiles of `tile` × `tile`
    pixels that do not overlap, and a tile goes to one of the three (60, 20 and 20 % of each cell's tiles, chosen by
    `seed`). A patch is `tile - 2 * shift` pixels wide and lies anywhere inside its tile: `crops` patches at random
    places for a training tile, one at the centre and, so that a class is judged by more than a few patches, the four
    corners for a validation or test tile. (Neighbouring tiles still share their light and blur, as in any photograph.)
    Patches are resized to `size` (bilinear) and normalised with ImageNet's mean and deviation.

    Returns:
        Training, validation and test data; each item is a float32 image (3, size, size) and an int64 label.

    Raises:
        DataError: for numbers that leave no patch, or fewer than five tiles to a cell.
    """
    from sklearn.datasets import load_sample_images

    for what, value in (("size", size), ("cells", cells), ("tile", tile), ("crops", crops)):
        _at_least_one(what, value)
    width = tile - 2 * shift
    if type(shift) is not int or shift < 0 or width < 1:
        raise DataError(f"shift must be a whole number from 0 to less than half of tile, found {shift!r} for {tile}.")
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    random = np.random.default_rng(seed)
    corners = [(0, 0), (0, 2 * shift), (2 * shift, 0), (2 * shift, 2 * shift)] if shift else []
    parts: tuple[list[tuple[Tensor, int]], ...] = ([], [], [])
    for number, photograph in enumerate(photographs):
        height, breadth = (side // cells for side in photograph.shape[1:])
        rows, columns = height // tile, breadth // tile
        if rows * columns < 5:
            raise DataError(
                f"Expected at least five tiles of {tile} pixels in each cell, found {rows} × {columns} in cells of "
                f"{height} × {breadth}. Make tiles smaller, or cells fewer."
            )
        held_out = max(1, round(0.2 * rows * columns))
        for cell in range(cells * cells):
            top, left = cell // cells * height, cell % cells * breadth
            for place, index in enumerate(random.permutation(rows * columns)):
                part = 1 if place < held_out else 2 if place < 2 * held_out else 0
                shifts = [(shift, shift), *corners] if part else random.integers(0, 2 * shift + 1, (crops, 2)).tolist()
                for down, right in shifts:
                    y, x = top + index // columns * tile + down, left + index % columns * tile + right
                    parts[part].append((photograph[:, y : y + width, x : x + width], number * cells * cells + cell))
    train, validation, test = (_as_images(part, size) for part in parts)
    return train, validation, test


def photos(batch: int = 8, size: int = 224, seed: int = 0) -> Tensor:
    """Real photographs to measure codecs on: random crops of the two that ship with scikit-learn (a temple, a flower).

    The crops are square, from half to the whole of the shorter side, mirrored half of the time, resized with
    antialiasing and normalised with ImageNet's mean and deviation. The same arguments give the same pictures.

    Returns:
        float32 of shape (batch, 3, size, size).

    Raises:
        DataError: for a batch or size below 1.
    """
    from sklearn.datasets import load_sample_images

    _at_least_one("batch", batch)
    _at_least_one("size", size)
    pictures = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]  # (3, H, W)
    random = np.random.default_rng(seed)
    crops = []
    for index in range(batch):
        picture = pictures[index % len(pictures)]
        height, width = picture.shape[1:]
        side = int(random.uniform(0.5, 1.0) * min(height, width))
        top, left = int(random.integers(height - side + 1)), int(random.integers(width - side + 1))
        crop = picture[:, top : top + side, left : left + side].to(torch.float32) / 255
        crop = crop.flip(2) if random.random() < 0.5 else crop
        crops.append(interpolate(crop[None], size=(size, size), mode="bilinear", antialias=True))
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in _IMAGENET)
    return (torch.cat(crops).clamp(0, 1) - mean) / deviation


def cifar10(root: str | Path, download: bool = False) -> tuple[Dataset[Any], Dataset[Any]]:
    """CIFAR-10 through torchvision: 50000 training and 10000 test images, 10 classes.

    Each item is a float32 image (3, 32, 32), normalised by channel, and its label. There is no augmentation, since that
    would draw random numbers.

    Arguments:
        root: the folder that holds, or with `download` will hold, `cifar-10-batches-py`.
        download: fetch it (163 MB) when it is not there.

    Raises:
        DataError: when it is not there, or could not be fetched.
    """
    return _cifar("CIFAR10", "cifar-10-batches-py", Path(root), download, _CIFAR10)


def cifar100(root: str | Path, download: bool = False) -> tuple[Dataset[Any], Dataset[Any]]:
    """CIFAR-100 through torchvision: as `cifar10`, with 100 classes, in the folder `cifar-100-python` (161 MB)."""
    return _cifar("CIFAR100", "cifar-100-python", Path(root), download, _CIFAR100)


def image_folder(
    path: str | Path, size: int = 224, test_fraction: float = 0.2, seed: int = 0
) -> tuple[Dataset[Any], Dataset[Any]]:
    """Images of your own in one folder a class, as training and test data.

    Either `path/train/CLASS/*.jpg` and `path/test/CLASS/*.jpg` (or `val` for `test`), or `path/CLASS/*.jpg`, which is
    then divided by `test_fraction` and `seed`. Images are resized and cropped at the centre to (3, size, size) and
    normalised with ImageNet's mean and deviation; each comes with the number of its class, in alphabetical order.

    Raises:
        DataError: when the folder, its classes or their images are missing, or training and test classes differ.
    """
    from torchvision import transforms

    _at_least_one("size", size)
    path = Path(path)
    prepare = transforms.Compose(
        [
            transforms.Resize(round(size * 256 / 224)),  # the usual margin of ImageNet's evaluation
            transforms.CenterCrop(size),
            transforms.Lambda(_as_rgb_tensor),
            transforms.Normalize(*_IMAGENET),
        ]
    )
    test_path = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    if (path / "train").is_dir() and test_path is not None:
        train, test = _classes_of(path / "train", prepare), _classes_of(test_path, prepare)
        if train.classes != test.classes:
            differing = sorted(set(train.classes) ^ set(test.classes))
            raise DataError(
                f"Expected the same classes in {path / 'train'} and {test_path}; found only in one: "
                f"{', '.join(differing)}. Labels count the folders, so both need all of them."
            )
        return train, test
    if (path / "train").is_dir() or test_path is not None:
        raise DataError(
            f"Expected both {path / 'train'} and {path / 'test'} (or val), found one of them. Add the other, or point "
            "at the folder that holds the classes to have it divided."
        )
    whole = _classes_of(path, prepare)
    first, second = _divide(len(whole), test_fraction, seed)
    return Subset(whole, first.tolist()), Subset(whole, second.tolist())


def loader(
    dataset: Dataset[Any], batch: int, seed: int, shuffle: bool = True, drop_last: bool = False
) -> DataLoader[Any]:
    """Batches of `dataset` in an order that `seed` alone decides; torch's global generator is not touched.

    Every epoch has another order, and two loaders with the same arguments go through the same ones.

    Arguments:
        dataset: anything with items and a length.
        batch: items in a batch.
        seed: of the order.
        shuffle: False keeps the order of the dataset.
        drop_last: leave out a last batch that is not full.

    Raises:
        DataError: for a batch below 1.
    """
    _at_least_one("batch", batch)
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_size=batch, shuffle=shuffle, drop_last=drop_last, generator=generator)


def _as_images(patches: list[tuple[Tensor, int]], size: int) -> TensorDataset:
    """Patches of uint8 (3, w, w) with their labels, resized and normalised."""
    images = torch.stack([patch for patch, _ in patches]).to(torch.float32) / 255
    if images.shape[-1] != size:
        images = interpolate(images, size=(size, size), mode="bilinear", antialias=size < images.shape[-1])
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in _IMAGENET)
    return TensorDataset((images - mean) / deviation, torch.tensor([label for _, label in patches]))


def _cifar(
    kind: str,
    folder: str,
    root: Path,
    download: bool,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
) -> tuple[Dataset[Any], Dataset[Any]]:
    from torchvision import datasets, transforms

    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*statistics)])
    try:
        train, test = (
            getattr(datasets, kind)(str(root), train=part, transform=prepare, download=download)
            for part in (True, False)
        )
    except (OSError, RuntimeError) as problem:
        advice = (
            "It could not be fetched; check the connection, or put the unpacked folder there by hand."
            if download
            else f"Pass download=True to fetch it, or give the folder that holds {folder}."
        )
        found = f"none that is whole ({str(problem).rstrip('.')})"
        raise DataError(f"Expected {kind} in {root / folder}, found {found}. {advice}") from problem
    return train, test


def _classes_of(folder: Path, prepare: Callable[[Any], Tensor]) -> Any:
    """torchvision's ImageFolder over `folder`."""
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(str(folder), transform=prepare)
    except (OSError, RuntimeError) as problem:
        raise DataError(
            f"Expected one folder of images for each class in {folder}: {problem}. Arrange them as CLASS/IMAGE.jpg, or "
            "under train/CLASS and test/CLASS."
        ) from problem


def _as_rgb_tensor(image: Any) -> Tensor:
    """A PIL image as float32 (3, H, W) in [0, 1]."""
    pixels = np.array(image.convert("RGB"), dtype=np.uint8)  # (H, W, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32) / 255


def _divide(count: int, test_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Shuffled numbers of the training and of the test items."""
    tests = round(count * test_fraction) if 0 < test_fraction < 1 else 0
    if not 0 < tests < count:
        raise DataError(
            f"test_fraction must leave something on both sides of {count} items, found {test_fraction!r}. Try 0.2."
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[tests:], order[:tests]


def _at_least_one(what: str, value: int) -> None:
    if type(value) is not int or value < 1:
        raise DataError(f"{what} must be a whole number of 1 or more, found {value!r}.")
