"""Wide ResNet 28-10: 36,479,194 parameters for 10 classes."""

from torch import Tensor, nn
from torch.nn import functional

from ..base import Shape
from .stem import initialise

_BLOCKS_PER_GROUP = 4  # (28 - 4) / 6
_WIDTHS = (160, 320, 640)


class _Block(nn.Module):
    """Pre-activation residual block; where the shape changes, the shortcut starts after the first activation."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(fan_in)
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.shortcut = None if fan_in == fan_out else nn.Conv2d(fan_in, fan_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.norm1(x))
        straight = x if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.conv2(functional.relu(self.norm2(self.conv1(active))))
        return residual + straight


def build(shape: Shape) -> nn.Module:
    """Return the network without dropout.

    Source: S. Zagoruyko, N. Komodakis, Wide Residual Networks, BMVC 2016, table 1 with N = 4, k = 10.
    """
    layers: list[nn.Module] = [nn.Conv2d(shape.input_shape[0], 16, 3, padding=1, bias=False)]
    fan_in = 16
    for group, width in enumerate(_WIDTHS):
        for block in range(_BLOCKS_PER_GROUP):
            layers.append(_Block(fan_in, width, stride=2 if group > 0 and block == 0 else 1))
            fan_in = width
    layers += [nn.BatchNorm2d(fan_in), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(fan_in, shape.num_classes))
    initialise(network)
    return network
