"""VGG-11 for images of 32 × 32."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import vgg11_bn

__all__ = ["VGG11", "vgg11_for_small_images"]


class VGG11(nn.Module):
    """torchvision's VGG-11 with batch normalization, and one linear layer behind its eight convolutions.

    At 32 × 32 the last pooling leaves one position, for which the three layers of ImageNet's classifier (120 of 129
    million parameters) are no use. 9.2 million parameters for ten classes. Simonyan and Zisserman (2015, arXiv
    1409.1556).
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = vgg11_bn(num_classes=1).features
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 32, 32) → (B, num_classes) logits."""
        logits: Tensor = self.classifier(self.flatten(self.features(x)))
        return logits


def vgg11_for_small_images(num_classes: int = 10) -> nn.Module:
    """A `VGG11`, for `spliteasy.load_model("spliteasy.reproduce.vgg:vgg11_for_small_images")`."""
    return VGG11(num_classes)
