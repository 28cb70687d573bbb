"""LGFormer keeps the contract of every family."""

from models.contract import Contract


class TestLGFormer(Contract):
    family_name = "lgformer"
    phrases = ("a dog", "the left cat", "person in red, running")
