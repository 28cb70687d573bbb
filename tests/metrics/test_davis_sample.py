"""A real video with two published results: our J and F are those of the published tool."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg.metrics import contour

SAMPLE = Path(__file__).parents[2].parent / "shared" / "data" / "davis_car_shadow"
pytestmark = pytest.mark.skipif(
    not SAMPLE.is_dir(),
    reason=f"the real sample {SAMPLE} is absent: J and F were NOT checked on a real video",
)
# The published numbers are float64 of another order of additions.
CLOSE = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(scope="module")
def told():
    return json.loads((SAMPLE / "expected.json").read_text())


def maps(folder, told):
    return np.stack([np.array(Image.open(folder / f"{name}.png")) for name in told["frames"]])


@pytest.fixture(scope="module")
def target(told):
    return maps(SAMPLE / "train" / "Annotations" / "car-shadow", told) == 1


def test_the_targets_are_read_as_published(target, told):
    assert target.sum((1, 2)).tolist() == told["gt_areas"]


@pytest.mark.parametrize(
    ("key", "frames"), [("osvos_all_frames", slice(None)), ("osvos_without_first_and_last", slice(1, -1))]
)
def test_a_published_result_scores_as_published(key, frames, target, told):
    answer = maps(SAMPLE / "predictions" / "osvos" / "car-shadow", told) == 1
    ours, theirs, expected = answer[frames], target[frames], told[key]
    region = np.array([contour.region_similarity(*pair) for pair in zip(ours, theirs, strict=True)])
    edges = contour.contour_accuracies(ours, theirs)
    for letter, series in (("J", region), ("F", edges)):
        np.testing.assert_allclose(series, expected[letter], **CLOSE)
        got = contour.statistics(series)
        np.testing.assert_allclose(
            [got.mean, got.recall, got.decay], expected[f"{letter}_mean_recall_decay"], **CLOSE
        )


def test_the_best_of_twenty_proposals_is_found(target, told):
    answer = maps(SAMPLE / "predictions" / "rvos" / "car-shadow", told)
    expected = told["rvos_best_proposal"]
    got = contour.unsupervised(answer, target.astype(np.uint8))
    assert got.mean == pytest.approx(expected["J&F"], abs=1e-12)
    np.testing.assert_allclose(got.region[0], expected["J"], **CLOSE)
    np.testing.assert_allclose(got.contour[0], expected["F"], **CLOSE)
