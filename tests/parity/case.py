"""One parity case: what a published implementation computed, read from a folder or a manifest file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.fill import fill

WIDE = 10_000_000  # weights from which a case counts as slow


class NotBuilt(Exception):
    """The case needs a part that refseg does not have; the message names it."""


@dataclass(frozen=True)
class Case:
    """A case of one family; `path` is its folder, or its manifest where it has no arrays."""

    family: str
    name: str
    path: Path

    @property
    def id(self) -> str:
        return f"{self.family}/{self.name}"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        if self.path.is_file():
            return json.loads(self.path.read_text())
        file = self.path / "manifest.json"
        return json.loads(file.read_text()) if file.exists() else {}

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest.get("config", {})

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        file = self.path / "case.npz"
        if not file.exists():
            return {}
        with np.load(file) as arrays:
            return dict(arrays)

    @property
    def is_wide(self) -> bool:
        names = self.manifest.get("state_dict", {}).values()
        return self.path.is_dir() and sum(math.prod(entry["shape"]) for entry in names) > WIDE

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def numbered(self, prefix: str) -> Iterator[tuple[int, Tensor]]:
        """The arrays `prefix0`, `prefix1`, ... with their numbers, in order."""
        numbers = sorted(
            int(name.removeprefix(prefix))
            for name in self.arrays
            if re.fullmatch(re.escape(prefix) + r"\d+", name)
        )
        return ((number, self.tensor(f"{prefix}{number}")) for number in numbers)

    def filled(self) -> dict[str, Tensor]:
        """The published file: every name of the manifest with its fixed values; whole numbers are zeros."""
        aliases = self.config.get("aliases", {})
        names = self.manifest["state_dict"]
        once = {name: entry for name, entry in names.items() if name not in aliases}
        values = {
            name: torch.from_numpy(np.asarray(value))
            for name, value in fill(once, self.config.get("fill_scale")).items()
        }
        return {name: _value(values, aliases.get(name, name), entry) for name, entry in names.items()}

    def shapes(self) -> dict[str, Tensor]:
        """The published file's names and shapes, without memory for its values."""
        return {
            name: torch.zeros((), dtype=getattr(torch, entry["dtype"])).expand(entry["shape"])
            for name, entry in self.manifest["state_dict"].items()
        }


def _value(values: Mapping[str, Tensor], name: str, entry: Mapping[str, Any]) -> Tensor:
    if name in values:
        return values[name]
    return torch.zeros(entry["shape"], dtype=getattr(torch, entry["dtype"]))


class Comparison:
    """Computed values beside a case's arrays; only `out/...` must agree, `mid/...` tell where a difference begins."""

    def __init__(self, case: Case, computed: Mapping[str, Any]) -> None:
        self.case = case
        self.computed = computed  # full names to arrays, in the order of computation

    def check(self) -> None:
        """Fails with the first output that differs, and the first intermediate that does."""
        wanted = [name for name in self.case.arrays if name.startswith("out/")]
        assert wanted, f"{self.case.id} holds no outputs"
        absent = [name for name in wanted if name not in self.computed]
        assert not absent, f"{self.case.id}: nothing was computed for {absent}"
        wrong = [f"{name}: {why}" for name in wanted if (why := self._difference(name))]
        assert not wrong, f"{self.case.id}: {'; '.join(wrong)}. {self._first_intermediate()}"

    def _first_intermediate(self) -> str:
        for name in self.computed:
            if name.startswith("mid/") and name in self.case.arrays and (why := self._difference(name)):
                return f"The first intermediate that differs is {name}: {why}"
        return "No recorded intermediate differs"

    def _difference(self, name: str) -> str | None:
        expected = self.case.arrays[name]
        given = self.computed[name]
        got = np.asarray(given.detach().numpy() if isinstance(given, Tensor) else given)
        got = got[self._kept(name)] if got.shape != expected.shape else got
        if got.shape != expected.shape:
            return f"shape {got.shape}, expected {expected.shape}"
        limits = self.case.manifest["tolerance"]
        got, expected = got.astype(np.float64), expected.astype(np.float64)
        if np.allclose(got, expected, rtol=limits["rtol"], atol=limits["atol"], equal_nan=True):
            return None
        apart = np.abs(got - expected)
        return f"differs by up to {np.nanmax(apart):.3g} (largest value {np.nanmax(np.abs(expected)):.3g})"

    def _kept(self, name: str) -> tuple[slice, ...]:
        """The part of an array that the case stores; the manifest says it as in `channels [:, ::20] only`."""
        text = self.case.manifest.get("outputs", {}).get("slices", {}).get(name, "")
        found = re.search(r"\[([\d:, ]+)\]", text)
        return tuple(_slice(part) for part in found.group(1).split(",")) if found else ()


def _slice(text: str) -> slice:
    return slice(*(int(part) if part.strip() else None for part in text.strip().split(":")))


Runner = Callable[[Case], None]


def find_cases(root: Path) -> list[Case]:
    """Every case below a root: folders with a manifest or an expected.json, and manifests without arrays."""
    cases = []
    for family in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(family.iterdir()):
            if path.is_dir() and any((path / name).exists() for name in ("manifest.json", "expected.json")):
                cases.append(Case(family.name, path.name, path))
            elif path.match("manifest-*.json"):
                cases.append(Case(family.name, path.stem, path))
    return cases
