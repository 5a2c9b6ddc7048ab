"""Fashion-MNIST: 28x28 greyscale images of clothes, 10 classes, 60,000 + 10,000."""

from pathlib import Path

from .base import Task
from .idx import find_idx, read_idx
from .sources import Arrays, Samples
from .vision import find, image_task

_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_STEMS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def read(root: Path, download: bool) -> Task:
    """Read `<root>/FashionMNIST/raw/*-ubyte` or `*-ubyte.gz`, or `<root>/fashion_mnist.npz`.

    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747.
    """
    # Reading the files directly avoids importing torchvision, which takes seconds in every worker process.
    raw = [find_idx(root / "FashionMNIST" / "raw", stem) for stem in _STEMS]
    files = [path for path in raw if path is not None]
    if len(files) == len(_STEMS):
        arrays = Arrays(_samples(files[0], files[1]), _samples(files[2], files[3]), _CLASSES)
    else:
        arrays = find("fashion_mnist", "FashionMNIST", root, download)
    return image_task("fashion_mnist", arrays, mean=(0.2860,), std=(0.3530,))


def _samples(images: Path, labels: Path) -> Samples:
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if len(x) != len(y) or not len(y) or y.max() >= len(_CLASSES):
        raise ValueError(f"task.root: {labels} must contain a label in 0..9 for each of the {len(x)} images")
    return Samples(x.unsqueeze(-1), y.long())
