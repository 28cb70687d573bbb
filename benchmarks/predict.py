"""What a prediction costs, for the settings that the documentation quotes; run it on a quiet machine.

python benchmarks/predict.py [CHECKPOINT]

CHECKPOINT is the shipped one by default. The other families are measured with random weights: they cost what trained ones cost.
"""

from __future__ import annotations

import sys

from refseg.evaluation.bench import Setting, measure, report


def settings(checkpoint: str) -> list[Setting]:
    """Pictures and clips; each in float32 and bfloat16."""
    referformer = "referformer/resnet50"
    clips = ("referformer/resnet50", "referformer/video-swin-t")
    return [
        setting
        for dtype in ("float32", "bfloat16")
        for setting in (
            Setting(checkpoint, 480, 640, frames=1, phrases=1, dtype=dtype, repeat=10),
            Setting(checkpoint, 480, 640, frames=1, phrases=8, dtype=dtype, repeat=10),
            Setting("lgformer/base-window12", 480, 480, frames=1, phrases=1, dtype=dtype),
            Setting(referformer, 480, 640, frames=1, phrases=1, dtype=dtype),
            *(Setting(name, 360, 640, frames=5, phrases=1, dtype=dtype) for name in clips),
            *(Setting(name, 360, 640, frames=5, phrases=4, dtype=dtype) for name in clips),
            Setting("lgformer/base-window12", 480, 480, frames=1, phrases=1, dtype=dtype),
            *(Setting("vlformer/resnet50", 480, 640, 1, count, dtype) for count in (1, 4, 16)),
            Setting("vlformer/resnet50", 360, 640, frames=5, phrases=1, dtype=dtype),
        )
    ]


def main() -> None:
    checkpoint = sys.argv[1] if len(sys.argv) > 1 else "scout"
    print(report([measure(setting) for setting in settings(checkpoint)]))


if __name__ == "__main__":
    main()
