"""How many scenes one core draws in a second.

    python benchmarks/scenes.py [--scenes 300] [--sprites auto|none|FILE]

Times are of the processor, not of the clock, so that other work on the machine disturbs them less.
"""

from __future__ import annotations

import argparse
import time

from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.data.scenes.sprites import AUTO, load_atlas

CASES: tuple[tuple[str, dict[str, object], float], ...] = (
    ("pictures, 128 pixels, no phrases", {"phrases": 0}, 1.0),
    ("pictures, 128 pixels, 6 phrases", {"phrases": 6}, 1.0),
    ("pictures, 160 pixels, 6 phrases", {"phrases": 6, "size": 160}, 1.0),
    ("pictures, 320 pixels, 6 phrases", {"phrases": 6, "size": 320}, 0.4),
    ("pictures, 128 pixels, 6 phrases of loc", {"phrases": 6, "registers": {"loc": 1.0}}, 1.0),
    ("pictures, 128 pixels, 6 phrases of app", {"phrases": 6, "registers": {"app": 1.0}}, 1.0),
    ("pictures, 128 pixels, 6 phrases of rel", {"phrases": 6, "registers": {"rel": 1.0}}, 1.0),
    ("clips of 6 frames, 128 pixels, 3 phrases", {"frames": 6}, 0.4),
)


def main() -> None:
    """Prints one line for every case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=300, help="scenes of the quick cases")
    parser.add_argument("--sprites", default=AUTO, help='"auto", "none", or the path of an atlas file')
    options = parser.parse_args()
    started = time.perf_counter()
    atlas = load_atlas(options.sprites)
    print(
        f"{len(atlas.sprites)} sprites, {len(atlas.photos)} photographs: {time.perf_counter() - started:.2f} s to load"
    )
    for title, fields, share in CASES:
        count = max(int(options.scenes * share), 1)
        scenes = Scenes(ScenesSpec(sprites=options.sprites, **fields))  # type: ignore[arg-type]
        _ = scenes[0]
        started = time.process_time()
        for index in range(1, count + 1):
            _ = scenes[index]
        spent = time.process_time() - started
        print(f"{title:44} {count / spent:7.0f} a second")


if __name__ == "__main__":
    main()
