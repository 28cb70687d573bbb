from models.contract import Contract


class TestScout(Contract):
    family_name = "scout"
    phrases = ("the red circle", "star on the left", "both small squares")
    # The naming head learns from its own objective; the gains of time start at zero and open what lies behind them.
    without_gradient = (r"^naming\.",)
