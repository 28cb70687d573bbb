"""VPD keeps the contract of every family."""

from models.contract import Contract


class TestVPD(Contract):
    family_name = "vpd"
    phrases = ("a dog", "the left cat", "a person in red")
    handles_clips = True
