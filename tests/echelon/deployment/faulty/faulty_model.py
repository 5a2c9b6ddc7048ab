"""Four samples and a linear model."""

import torch
from torch import nn


def load_data(rank, num_workers):
    return torch.eye(4), torch.arange(4) % 2


def build_model():
    torch.manual_seed(0)
    return nn.Linear(4, 2)
