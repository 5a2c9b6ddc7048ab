"""Augmentation of training mini-batches: a pure function of the mini-batch and a generator."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_PADDING = 4


def crop_and_flip(x: Tensor, generator: np.random.Generator) -> Tensor:
    """Shift every image by up to 4 pixels each way and mirror half of the images.

    A random crop of the image padded by 4 pixels on each side, then a horizontal flip with probability 1/2, as in
    He et al., CVPR 2016, section 4.2; the padding is 0 after normalisation, which is the mean colour.

    Parameters
    ----------
    x : Tensor
        (b, channels, height, width) normalised images, not modified.
    generator : numpy.random.Generator
        Draws 3 b integers.

    Returns
    -------
    Tensor
        Same shape, type and device.
    """
    count, _, height, width = x.shape
    shifts = torch.from_numpy(generator.integers(0, 2 * _PADDING + 1, size=(2, count, 1))).to(x.device)
    flips = torch.from_numpy(generator.integers(0, 2, size=(count, 1))).to(x.device)
    rows = shifts[0] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    columns = shifts[1] + torch.where(flips == 1, width - 1 - columns, columns)
    padded = functional.pad(x, (_PADDING,) * 4)
    images = torch.arange(count, device=x.device)[:, None, None]
    cropped = padded[images, :, rows[:, :, None], columns[:, None, :]]
    return cropped.movedim(-1, 1).contiguous()
