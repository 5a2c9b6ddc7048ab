import numpy as np
import torch

from tasks.augment import crop_and_flip


def reference(x: torch.Tensor, shifts: np.ndarray, flips: np.ndarray) -> torch.Tensor:
    """One image at a time: pad, crop, flip."""
    images = []
    for image, top, left, flip in zip(x, shifts[0, :, 0], shifts[1, :, 0], flips[:, 0], strict=True):
        padded = torch.zeros(image.shape[0], image.shape[1] + 8, image.shape[2] + 8)
        padded[:, 4:-4, 4:-4] = image
        crop = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        images.append(crop.flip(2) if flip else crop)
    return torch.stack(images)


def test_crops_and_flips_as_one_image_at_a_time() -> None:
    x = torch.arange(1.0, 20 * 3 * 6 * 7 + 1).reshape(20, 3, 6, 7)
    before = x.clone()
    draws = np.random.default_rng(5)
    shifts, flips = draws.integers(0, 9, size=(2, 20, 1)), draws.integers(0, 2, size=(20, 1))
    result = crop_and_flip(x, np.random.default_rng(5))
    assert torch.equal(result, reference(x, shifts, flips))
    assert torch.equal(x, before)
    assert 0 < flips.sum() < 20


def test_depends_on_the_generator_alone() -> None:
    x = torch.arange(400.0).reshape(4, 1, 10, 10)
    first, again = (crop_and_flip(x, np.random.default_rng(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, crop_and_flip(x, np.random.default_rng(2)))
