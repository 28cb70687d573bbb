"""Miniatures of published data sets in a folder of the test's own, and a model whose answers are known."""

import shutil
from pathlib import Path

import torch

from helpers.seeing import SeeingModel
from refseg.data.catalog import open_dataset
from refseg.models.base import Candidates
from refseg.predictor import Predictor

CASES = Path(__file__).parents[1] / "parity" / "cases" / "datasets"
FOLDERS = {
    "refcoco": ("refcoco", "val"),
    "refcocog-umd": ("refcocog", "val"),
    "refclef-unc": ("refclef", "val"),
    "grefcoco": ("grefcoco", "val"),
    "ref-youtube-vos": ("ref_youtube_vos", "train"),
    "ref-davis17": ("ref_davis17", "valid"),
    "a2d": ("a2d_sentences", "test"),
    "jhmdb": ("jhmdb_sentences", "test"),
    "mevis": ("mevis", "valid_u"),
}


def place(name, folder):
    """The root of a copy of a miniature."""
    root = folder / FOLDERS[name][0]
    if not root.exists():
        shutil.copytree(CASES / FOLDERS[name][0], root)
    return root


def opened(name, folder, split=None):
    return open_dataset(name, split=split or FOLDERS[name][1], root=place(name, folder))


class LeftModel(SeeingModel):
    """Answers any phrase with the left half."""

    def tokenize(self, phrases):
        return super().tokenize(["left"] * len(phrases))


class TwoModel(LeftModel):
    """Offers the left half with a low score and everything with a high one, each with a box."""

    def candidates(self, output, placements):
        rows = []
        for (left,), placement in zip(self._masks(output, placements), placements, strict=True):
            both = torch.stack([left[None], torch.ones_like(left)[None]])
            height, width = placement.source
            boxes = torch.tensor([[0.0, 0.0, width / 2, height], [0.0, 0.0, width, height]])
            rows.append(Candidates(torch.tensor([0.2, 0.9]), both, boxes))
        return rows

    def _masks(self, output, placements):
        return [[masks[0]] for masks in self.finish(output, placements)]


def predictor(model=LeftModel):
    return Predictor(model(), device="cpu")
