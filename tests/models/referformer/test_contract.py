"""ReferFormer keeps the contract of every family, with a backbone for frames and with one for clips."""

import re

import pytest
import torch

from models.contract import Contract
from refseg.models import catalog

PADDING = "backbone and pyramid see padded cells as zeros, as the published weights were trained to"


class TestReferFormer(Contract):
    family_name = "referformer"
    phrases = ("a dog", "the left cat", "a person in red, running")
    reads_padding = PADDING


class TestReferFormerOfPictures(TestReferFormer):
    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        return catalog.build("referformer", "debug-swin").eval()


class TestReferFormerOfDrawnClips(TestReferFormer):
    """The small variant, whose tower reads the words of its world."""

    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        config = catalog.variant("referformer", "video-swin-mini").for_words(
            re.findall(r"\w+", " ".join(self.phrases))
        )
        return catalog.build("referformer", config).eval()


class TestReferFormerOfClips(TestReferFormer):
    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        return catalog.build("referformer", "debug-video").eval()
