"""Conversion of ImageNet networks to their CIFAR variants."""

from typing import Any

from torch import nn


def cifar_form(resnet: Any, channels: int) -> nn.Module:
    """Replace the 7x7 stride-2 stem and its pooling by one 3x3 convolution, to preserve the size of 32x32 images.

    Parameters
    ----------
    resnet : torchvision.models.ResNet
        Modified in place and returned.
    channels : int
        Channels of the input images.
    """
    resnet.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    initialise(resnet.conv1)
    resnet.maxpool = nn.Identity()
    network: nn.Module = resnet
    return network


def initialise(network: nn.Module) -> None:
    """Draw every convolution's weights from N(0, 2 / fan-out), its biases 0 (He et al., ICCV 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
