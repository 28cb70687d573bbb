"""What a prediction costs, for the settings that the documentation quotes; run it on a quiet machine.

python benchmarks/predict.py [CHECKPOINT] [--only TEXT]

CHECKPOINT is the shipped one by default; TEXT picks settings by checkpoint, frames and type, such as "vlformer/resnet50 1x". The other families are measured with random weights: they cost what trained ones cost.
"""

from __future__ import annotations

import argparse

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
            Setting(referformer, 480, 640, frames=1, phrases=1, dtype=dtype),
            *(Setting(name, 360, 640, frames=5, phrases=1, dtype=dtype, repeat=1) for name in clips),
            *(Setting(name, 360, 640, frames=5, phrases=4, dtype=dtype, repeat=1) for name in clips),
            Setting("lgformer/base-window12", 480, 480, frames=1, phrases=1, dtype=dtype),
            *(Setting("vlformer/resnet50", 480, 640, 1, count, dtype, repeat=1) for count in (1, 4, 16)),
            Setting("vlformer/resnet50", 360, 640, frames=5, phrases=1, dtype=dtype, repeat=1),
        )
    ]


def title(setting: Setting) -> str:
    """What a setting is picked by, such as "vlformer/resnet50 5x360x640 1 float32"."""
    place = f"{setting.frames}x{setting.height}x{setting.width}"
    return f"{setting.checkpoint} {place} {setting.phrases} {setting.dtype}"


def main() -> None:
    """Measures and prints, one setting after the other."""
    parser = argparse.ArgumentParser(description="What a prediction costs.")
    parser.add_argument("checkpoint", nargs="?", default="scout")
    parser.add_argument("--only", default="", metavar="TEXT", help="settings whose title holds this")
    asked = parser.parse_args()
    for setting in settings(asked.checkpoint):
        if asked.only in title(setting):
            print(report([measure(setting)]), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
