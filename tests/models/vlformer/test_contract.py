"""VLFormer keeps the contract of every family."""

from models.contract import Contract


class TestVLFormer(Contract):
    family_name = "vlformer"
    phrases = ("a dog", "the left cat", "a person in red, running")
    reads_padding = "padding of the canvas is image to every part, as the published weights were trained"
