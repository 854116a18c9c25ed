"""Make the corpus of damaged frames: `python tests/make_corpus.py` adds a file for every installed codec that has none.

A file holds up to `KEPT` mutations of small frames, one for each way in which they were refused (the message, numbers
aside) and a few that were decoded. They reach deeper than fresh mutations do, for the price of none; `test_fuzz.py`
decodes them all. Nothing is overwritten.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import torch
from every_codec import CHAINS, ROWS, tensor_of

from spliteasy.codecs import codec
from spliteasy.codecs.damage import mutations
from spliteasy.codecs.testing import fitted
from spliteasy.errors import FrameError

FOLDER = Path(__file__).parent / "corpus"

TRIED, KEPT, DECODED = 2000, 8, 2


def corpus_of(notation: str) -> list[tuple[str, str]]:
    """Pairs of what came of a damaged frame and the frame, in base64."""
    found: dict[str, bytes] = {}
    for seed, dtype in enumerate((torch.float32, torch.bfloat16)):
        tensor = tensor_of("half zeros", (2, 2, 4, 4), dtype, seed)
        chain = fitted(codec(notation), tensor)
        if chain != codec(notation):
            return []  # frames of fitted codecs name parameters that a reader would have to hold
        for _, damaged in mutations(chain.encode(tensor), TRIED, seed):
            try:
                chain.decode(damaged)
            except FrameError as error:
                outcome = re.sub(r"[0-9.]+", "0", str(error))[:40]
            else:
                outcome = f"decoded {sum(key.startswith('decoded') for key in found)}"
                if int(outcome.split()[1]) >= DECODED:
                    continue
            found.setdefault(outcome, damaged)
    kept = sorted(found.items(), key=lambda item: (item[0].startswith(HEADER), item[0]))[:KEPT]
    return [(outcome, base64.b64encode(frame).decode()) for outcome, frame in kept]


HEADER = ("the header", "a name", "expected a frame", "plane", "the planes end", "the metadata", "expected lists")
"""How messages begin that every codec shares; those of the codec itself come first."""


def main() -> None:
    """Write what is missing."""
    FOLDER.mkdir(exist_ok=True)
    for notation in [*CHAINS, *(row.example for row in ROWS if row.kind != "broken")]:
        path = FOLDER / (re.sub(r"[^A-Za-z0-9.]+", "-", notation).strip("-") + ".json")
        if not path.exists() and (frames := corpus_of(notation)):
            path.write_text(json.dumps({"chain": notation, "frames": frames}, indent=1) + "\n")
            print(f"made: {path.name}, {len(frames)} frames")


if __name__ == "__main__":
    main()
