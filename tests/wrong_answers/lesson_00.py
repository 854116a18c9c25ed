"""Wrong answers to the exercises of notebook 00."""

from __future__ import annotations

from typing import Any

import spliteasy as se
from wrong_answers import Made

WRONG: dict[str, list[Any]] = {
    "00.1": [
        64 * 64 * 4 * 4,  # values
        32 * 64 * 4 * 4 * 4,  # the table's batch
        64 * 4 * 4 * 4,  # one picture
        0.262144,  # megabytes
        2 * 64 * 64 * 4 * 4 * 4,  # up and down
        64 * 32 * 8 * 8 * 4,  # relu2
    ],
    "00.2": ["activations", "outputs", "input_gradients", "labels"],
    "00.3": [
        "int8 | zstd(1)",
        Made(lambda: se.Codecs()),
        Made(lambda: se.Codecs(forward="int8 | zstd(1)")),
        Made(lambda: se.Codecs(backward="int8 | zstd(1)")),
        Made(lambda: se.Codecs(activations="int8 | zstd(1)")),
        Made(lambda: se.Codecs(activations="fp16", output_gradients="fp16")),
        Made(lambda: se.Codecs(activations="zstd(1)", output_gradients="zstd(1)")),
        Made(lambda: se.Codecs(activations="pca(8)", output_gradients="pca(8)")),
    ],
}
