"""VLT keeps the contract of every family."""

from models.contract import Contract


class TestVlt(Contract):
    family_name = "vlt"
    phrases = ("a dog", "the left cat", "a person in red, running")
    reads_padding = (
        "convolutions and transformer see the grey canvas, as the published weights were trained to"
    )
