"""VGG-11 and DenseNet-121 at a quarter of their width, for images of 32 × 32: a study trains many of them.

The layers are torchvision's own, in its own order and under its own names; only the numbers of channels are a quarter,
and VGG's classifier is one hidden layer, since at 32 × 32 its last pooling leaves one position.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import DenseNet, vgg11_bn

__all__ = ["densenet121_quarter", "vgg11_quarter"]


class _VGG(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for layer in vgg11_bn().features:
            if isinstance(layer, nn.Conv2d):
                convolution = nn.Conv2d(before, layer.out_channels // 4, kernel_size=3, padding=1)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
                nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
                layers.append(convolution)
                before = layer.out_channels // 4
            elif isinstance(layer, nn.BatchNorm2d):
                layers.append(nn.BatchNorm2d(before))
            else:
                layers.append(layer)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(before, before), nn.ReLU(), nn.Linear(before, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 32, 32) → (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def vgg11_quarter(num_classes: int = 10) -> nn.Module:
    """VGG-11 with batch norm and 16 to 128 channels: (B, 3, 32, 32) → (B, num_classes), 0.6 million parameters."""
    return _VGG(num_classes)


def densenet121_quarter(num_classes: int = 10) -> nn.Module:
    """DenseNet-121 with growth 8: (B, 3, 32, 32) → (B, num_classes), 0.5 million parameters."""
    return DenseNet(growth_rate=8, block_config=(6, 12, 24, 16), num_init_features=16, num_classes=num_classes)
