"""VGG-16 with batch normalisation in its CIFAR variant: 14,728,266 parameters for 10 classes."""

from torch import nn

from ..base import Shape
from .stem import initialise


def build(shape: Shape) -> nn.Module:
    """Return torchvision's thirteen convolutions with one linear layer on top, without dropout.

    Source: K. Simonyan, A. Zisserman, Very Deep Convolutional Networks, ICLR 2015, configuration D.
    """
    # torchvision takes seconds to import and is not needed for the small models.
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers(cfgs["D"], batch_norm=True)
    features[0] = nn.Conv2d(shape.input_shape[0], 64, 3, padding=1)
    classifier = nn.Linear(512, shape.num_classes)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    network = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)
    initialise(network)
    return network
