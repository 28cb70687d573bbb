"""How much memory a video of one minute and one of ten take at 360p: python benchmarks/streaming.py [CHECKPOINT] [FPS].

CHECKPOINT is the shipped one by default. Each video is drawn, then answered by the command line in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from refseg.media.video_write import video_writer

HEIGHT, WIDTH, SIDE = 360, 640, 80
PROGRAM = """
import sys
from refseg.cli import main
from refseg.evaluation.bench import peak_bytes
try:
    main()
finally:
    print(peak_bytes(), file=sys.stderr)
"""


def draw(path: Path, seconds: int, rate: int) -> None:
    """A red square that crosses the picture again and again."""
    shade = np.linspace(40, 120, WIDTH, dtype=np.uint8)
    with video_writer(path, Fraction(rate)) as writer:
        for number in range(seconds * rate):
            picture = np.broadcast_to(shade[None, :, None], (HEIGHT, WIDTH, 3)).copy()
            left = 3 * number % (WIDTH - SIDE)
            picture[140 : 140 + SIDE, left : left + SIDE] = (220, 30, 40)
            writer.add(picture, Fraction(number, rate))


def peak(checkpoint: str, video: Path) -> int:
    """The most memory in bytes that `refseg predict` held."""
    words = [checkpoint, str(video), "the red square", "--out", str(video.with_suffix("")), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "predict", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stderr.splitlines()[-1])


def main() -> None:
    checkpoint, rate = [*sys.argv[1:], *("scout", "5")[len(sys.argv) - 1 :]][:2]
    with tempfile.TemporaryDirectory() as folder:
        peaks = []
        for minutes in (1, 10):
            video = Path(folder) / f"{minutes}.mp4"
            draw(video, 60 * minutes, int(rate))
            peaks.append(peak(checkpoint, video))
            print(f"{minutes} min, {60 * minutes * int(rate)} frames: {peaks[-1] / 1e6:.0f} MB at the peak")
        print(f"{checkpoint}: {peaks[1] / peaks[0]:.3f} times")


if __name__ == "__main__":
    main()
