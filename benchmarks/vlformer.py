"""What a clip of 5 frames costs VLFormer at a canvas of 360 pixels' short side, as its authors' code takes frames of 360x640.

python benchmarks/vlformer.py

`refseg bench` places frames as the published configuration does, with a short side of 480: 1.8 times the pixels. Weights are
random: they cost what trained ones cost.
"""

from __future__ import annotations

import resource
import time
from dataclasses import replace

import torch

from refseg.evaluation.bench import open_predictor

REPEATS = 3


def main() -> None:
    """Prints the best of a few rounds, after one that warms up."""
    predictor = open_predictor("vlformer/resnet50", device="cpu")
    model = predictor.model
    model.config = replace(model.config, frame=replace(model.config.frame, size=360))
    frames = torch.randint(0, 256, (5, 3, 360, 640), dtype=torch.uint8)
    costs = []
    for _ in range(REPEATS + 1):
        start = time.process_time()
        predictor(frames, ["the person on the left"])
        costs.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"5 frames 360x640, canvas {predictor.encode(frames).placement.canvas}, one phrase, float32: "
        f"{min(costs[1:]):.2f} CPU s, peak {peak:.2f} GB, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
