"""Handwritten digits, 8x8 greyscale: scikit-learn's bundled copy, without a download."""

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch

from .base import Scaling, Split, Task


def read(root: Path, download: bool) -> Task:
    """Return 1,442 training and 355 test images: every fifth image of a class is a test image.

    `root` and `download` are ignored. Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits,
    UCI 1998 (its test part, 1,797 images of 13 writers, as in scikit-learn).
    """
    # Reading the file directly avoids importing scikit-learn, which takes seconds in every worker process.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",", dtype=np.uint8)
    labels = table[:, -1].astype(np.int64)
    held_out = np.zeros(len(table), dtype=bool)
    for digit in range(10):
        held_out[np.flatnonzero(labels == digit)[4::5]] = True
    pixels = torch.from_numpy(table[:, :-1].reshape(-1, 8, 8, 1))
    y, test = torch.from_numpy(labels), torch.from_numpy(held_out)
    scaling = Scaling.fit(pixels[~test], low=0, high=16)
    return Task(
        name="digits",
        train=Split(pixels[~test], y[~test], scaling),
        test=Split(pixels[test], y[test], scaling),
        class_names=tuple("0123456789"),
        default_model="mlp",
    )
