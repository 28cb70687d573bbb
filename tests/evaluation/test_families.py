"""Every family's own protocols on the data sets it names, with its real verbs at toy widths and random weights."""

import math

import pytest

from evaluation.miniatures import FOLDERS, opened
from refseg.evaluation.bench import PHRASES, open_predictor
from refseg.evaluation.prepare import EvaluationRequest, choose_protocols
from refseg.evaluation.run import evaluate
from refseg.evaluation.submission import Writer
from refseg.evaluation.submission_check import check_submission, expected_videos
from refseg.metrics.protocols import find_protocol
from refseg.models import catalog

NAMED = [
    (family, name)
    for family in catalog.FAMILIES
    for name in FOLDERS
    if find_protocol(catalog.family(family).protocols, name) is not None
]


@pytest.fixture(scope="module")
def predictors():
    made = {}

    def make(family):
        if family not in made:
            made[family] = open_predictor(f"{family}/debug", device="cpu")
            model = made[family].model
            # Toy vocabularies hold the words of the benchmark alone.
            model.tokenize = lambda phrases, real=model.tokenize: real([PHRASES[len(p) % 3] for p in phrases])
        return made[family]

    return make


@pytest.mark.parametrize(("family", "name"), NAMED, ids=str)
def test_a_family_is_measured_as_its_authors_did(family, name, predictors, tmp_path):
    dataset = opened(name, tmp_path)
    chosen = choose_protocols(EvaluationRequest(), dataset, family)
    result = evaluate(predictors(family), dataset, limit=3, protocols=chosen)
    scored = {one.protocol.name: one.values for one in result.scored()}
    published = find_protocol(catalog.family(family).protocols, name)
    assert set(scored) >= {published.name}
    assert scored[published.name]
    for values in scored.values():
        # Decay may be below 0, and AP is -1, where nothing is of the size.
        assert all(-1 <= value <= 1 for value in values.values() if not math.isnan(value))


def test_families_that_publish_on_these_sets_name_their_protocol():
    assert {family for family, _ in NAMED} >= {"referformer", "lgformer", "vpd"}


def test_a_real_model_writes_a_submission_that_passes(predictors, tmp_path):
    dataset = opened("ref-davis17", tmp_path)
    writer = Writer(tmp_path / "tree", dataset.name)
    chosen = choose_protocols(EvaluationRequest(), dataset, "referformer")
    evaluate(predictors("referformer"), dataset, protocols=chosen, window=2, writer=writer)
    assert check_submission(writer.finish(), dataset.name, expected_videos(dataset)).counts == {}
