"""What the paper measured, as far as its text and tables say it in numbers or words.

Palanisamy, Khimani, Moti, Chatzopoulos: *SplitEasy: A Practical Approach for Training ML models on Mobile Devices*,
HotMobile '21, doi 10.1145/3446382.3448362, arXiv 2011.04232. Seconds are per image, on an iPhone XR with TensorFlow.js
in React Native and WebGL, against a server with PyTorch. Figures 4a and 4c are quoted by their order only: their text
gives no values, and none were read off the pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from spliteasy.device import TRAINING_MACS

__all__ = [
    "FIGURE_4A_ORDER",
    "FIGURE_4B_SPREAD",
    "FIGURE_4C_ORDER",
    "MACS",
    "REFERENCE",
    "SERVER_MACS_A_SECOND",
    "TABLE_1",
    "TABLE_2",
    "PaperRow",
]

REFERENCE = "SplitEasy (Palanisamy, Khimani, Moti, Chatzopoulos, HotMobile '21, arXiv 2011.04232)"


@dataclass(frozen=True)
class PaperRow:
    """A row of Table 1: parameters in millions, epochs to converge with 10, 100 and 1000 images, seconds an image of
    the double and single split (overall and communication alone) and without a split, on the phone (None: NA, it could
    not be trained there) and on the server."""

    params_millions: float
    epochs: dict[int, int]
    overall_double: float
    overall_single: float
    communication_double: float
    communication_single: float
    phone: float | None
    server: float


def _row(params: float, epochs: tuple[int, int, int], *seconds: float | None) -> PaperRow:
    return PaperRow(params, dict(zip((10, 100, 1000), epochs, strict=True)), *seconds)  # type: ignore[arg-type]


TABLE_1: dict[str, PaperRow] = {
    "ResNet50": _row(27, (440, 30, 14), 2.55, 1.74, 1.60, 1.07, 9.6, 0.02),
    "ResNet152": _row(61, (370, 24, 7), 2.72, 1.95, 1.93, 1.03, None, 0.05),
    "DenseNet121": _row(8, (489, 38, 16), 2.59, 1.72, 1.88, 0.99, 11.5, 0.04),
    "DenseNet201": _row(20, (465, 35, 14), 2.67, 1.82, 1.87, 0.93, None, 0.08),
    "InceptionV3": _row(22.5, (493, 40, 23), 2.61, 2.1, 1.63, 1.21, None, 0.03),
    "InceptionResNetV2": _row(54, (445, 48, 27), 2.38, 2.3, 1.60, 1.19, None, 0.17),
}
"""Table 1 by network."""

TABLE_2: tuple[tuple[str, str, tuple[int, int, int]], ...] = (
    ("conv", "conv2d_1a", (149, 149, 32)),
    ("conv", "conv2d_2a", (147, 147, 32)),
    ("conv", "conv2d_2b", (147, 147, 64)),
    ("maxpool", "maxpool_3a", (73, 73, 64)),
    ("conv", "conv2d_3b", (73, 73, 80)),
    ("conv", "conv2d_4a", (71, 71, 192)),
    ("maxpool", "maxpool_5a", (35, 35, 192)),
)
"""Table 2: the first seven layers of InceptionResNetV2 at 299 × 299: kind, timm's name of it, height · width · filters
of its output."""

FIGURE_4A_ORDER = ("first conv", "first maxpool", "second maxpool")
"""Figure 4a: the cuts from the longest to the shortest time, which follows the size of what is sent."""

FIGURE_4B_SPREAD = 0.6
"""Figure 4b: seconds between the network and input that took least and the one that took most, about."""

FIGURE_4C_ORDER = ("lan", "aws", "ngrok")
"""Figure 4c: the places of the server from the fastest to the slowest."""

MACS: dict[str, int] = {
    "ResNet50": 4_089_184_256, "DenseNet121": 2_834_161_664, "ResNet152": 11_513_626_624,
    "DenseNet201": 4_291_365_888, "InceptionV3": 5_713_216_096, "InceptionResNetV2": 13_155_794_016,
}  # fmt: skip
"""Multiply-accumulates of a forward pass on one image (224², Inception 299²), as `spliteasy.find_cuts` counts them."""

SERVER_MACS_A_SECOND: float = math.prod(
    TRAINING_MACS * macs / TABLE_1[title].server for title, macs in MACS.items()
) ** (1 / len(MACS))
"""Multiply-accumulates a second of the paper's server in training: 353·10⁹, the geometric mean over the server column
of Table 1, which lies between 161·10⁹ (DenseNet201) and 691·10⁹ (ResNet152)."""
