"""What VLT costs: one phrase on one picture against the machine's rate of matrix products, and further phrases.

python benchmarks/vlt.py

Weights are random: they cost what trained ones cost. The published network takes 142.6 GFLOP for a picture and a phrase
(two for a multiply-add, as it is written); the bars are 60 % of the machine's rate over that, and half a full run for a
phrase about an encoded picture.
"""

from __future__ import annotations

import torch

from refseg.evaluation.bench import Setting, measure, report

GFLOP = 142.6


def main() -> None:
    alone = measure(Setting("vlt/refcoco", 480, 640, frames=1, phrases=1, repeat=5))
    many = measure(Setting("vlt/refcoco", 480, 640, frames=1, phrases=8, repeat=3))
    print(report([alone, many]))
    # CPU-seconds add up over threads, so they are held against the rate of one of them.
    rate = alone.matrix_rates["float32"] / 1e9 / torch.get_num_threads()
    whole, further = alone.stages["whole"].cpu_seconds, alone.further_phrase.cpu_seconds
    print(
        f"\n{GFLOP:.1f} GFLOP in {whole:.2f} CPU s: {GFLOP / whole / rate:.0%} of the matrix product's rate "
        f"(bar: 60 %)\na further phrase costs {further / alone.first_phrase.cpu_seconds:.0%} of a full run (bar: under 50 %)"
    )


if __name__ == "__main__":
    main()
