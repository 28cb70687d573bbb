"""ReferFormer keeps the contract of every family."""

from models.contract import Contract


class TestReferFormer(Contract):
    family_name = "referformer"
    phrases = ("a dog", "the left cat", "a person in red, running")
    reads_padding = "backbone and pyramid see padded cells as zeros, as the published weights were trained to"
