"""ResNet-50 in its CIFAR variant: 23,520,842 parameters for 10 classes."""

from torch import nn

from ..base import Shape
from .stem import cifar_form


def build(shape: Shape) -> nn.Module:
    """Return torchvision's network with the stem for small images.

    Source: K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016.
    """
    # torchvision takes seconds to import and is not needed for the small models.
    from torchvision.models import resnet50

    return cifar_form(resnet50(num_classes=shape.num_classes), shape.input_shape[0])
