"""How long a person waits before anything happens: `refseg --help` and `import refseg`, in processes of their own.

python benchmarks/startup.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from refseg.evaluation.machine import this_machine

ROUNDS = 7
COMMANDS = {
    "refseg --help": ["-m", "refseg", "--help"],
    "refseg predict --help": ["-m", "refseg", "predict", "--help"],
    "import refseg": ["-c", "import refseg"],
    "python alone": ["-c", "pass"],
}


def main() -> None:
    print(f"{'command':24}{'wall s':>8}{'CPU s':>8}   median of {ROUNDS}, after one that warms up")
    for name, words in COMMANDS.items():
        rounds = [measure([sys.executable, *words]) for _ in range(ROUNDS + 1)][1:]
        wall, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:24}{wall:8.3f}{cpu:8.3f}")
    print(this_machine().sentence())


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds on the wall and of processor that a command takes."""
    before, start = os.times(), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


if __name__ == "__main__":
    main()
