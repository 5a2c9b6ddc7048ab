"""Model, data and training loop: plain PyTorch."""

from collections.abc import Collection
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """A multilayer perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (b, 10)."""
        logits: Tensor = self.layers(images)
        return logits


def load_data(partition: int, num_partitions: int, batch_size: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return a partition's training and test samples."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    mine = TensorDataset(images[partition::num_partitions], labels[partition::num_partitions])
    train, test = torch.utils.data.random_split(mine, [0.8, 0.2], torch.Generator().manual_seed(partition))
    return DataLoader(train, batch_size, shuffle=True), DataLoader(test, batch_size)


def train(model: nn.Module, batches: Collection[Any], epochs: int, learning_rate: float) -> float:
    """Train; return the mean loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    total = 0.0
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(batches))


@torch.no_grad()
def evaluate(model: nn.Module, batches: DataLoader[Any]) -> float:
    """Return the accuracy."""
    correct = [(model(images).argmax(1) == labels).float() for images, labels in batches]
    return torch.cat(correct).mean().item()
