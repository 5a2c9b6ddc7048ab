from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from clients.data import TensorData, as_indexed

X, Y = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])


class Own:
    def __len__(self) -> int:
        return 6

    def batch(self, indices: torch.Tensor, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return X[indices], Y[indices]


@pytest.mark.parametrize(
    "data",
    [(X, Y), [X.numpy(), Y.numpy()], TensorDataset(X, Y), list(zip(X, Y.tolist(), strict=True)), Own()],
    ids=["tensors", "ndarrays", "dataset", "list of pairs", "own class"],
)
def test_what_a_user_may_return(data: Any) -> None:
    indexed = as_indexed(data)
    x, y = indexed.batch(torch.tensor([4, 0, 4]), np.random.default_rng(0))
    assert len(indexed) == 6
    assert x.tolist() == [[8, 9], [0, 1], [8, 9]]
    assert y.tolist() == [0, 0, 0]


@pytest.mark.parametrize("data", [None, 3, iter([]), DataLoader(TensorDataset(X, Y))])
def test_what_is_refused(data: Any) -> None:
    with pytest.raises(TypeError, match=r"load_data must return \(inputs, labels\), a torch dataset or an object"):
        as_indexed(data)


def test_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="inputs and labels must have the same length; got 6 and 5"):
        TensorData(X, Y[:5])
