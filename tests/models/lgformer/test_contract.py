"""LGFormer keeps the contract of every family."""

import pytest
import torch

from models.contract import Contract
from refseg.framing import FrameSpec
from refseg.models import catalog


class TestLGFormer(Contract):
    family_name = "lgformer"
    phrases = ("a dog", "the left cat", "person in red, running")


class TestInProportion(Contract):
    """As the published demo places pictures: canvases of odd sizes, which differ within a batch."""

    family_name = "lgformer"
    phrases = ("a dog", "the left cat", "person in red, running")
    reads_padding = "nothing tells padding from picture: the published weights saw one size per batch"

    @pytest.fixture
    def model(self, family):
        torch.manual_seed(0)
        frame = FrameSpec(fit="shortest", size=49)
        return catalog.build("lgformer", "debug", frame=frame, enlarges_nearest=True).eval()
