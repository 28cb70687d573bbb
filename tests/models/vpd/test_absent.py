"""Without diffusers, the message says what to type; nothing else of refseg needs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.models.vpd import unet


@pytest.fixture
def fails(monkeypatch):
    """Makes imports of diffusers and torchvision fail as told; None is a module that is not there."""

    def set_up(**errors):
        real_import, real_find = unet.import_module, unet.find_spec

        def import_module(name, *rest):
            error = errors.get(name.split(".")[0], ...)
            if error is ...:
                return real_import(name, *rest)
            raise error or ModuleNotFoundError(f"No module named '{name}'")

        def find(name, *rest):
            known = errors.get(name, ...)
            return real_find(name, *rest) if known is ... else (None if known is None else object())

        monkeypatch.setattr(unet, "import_module", import_module)
        monkeypatch.setattr(unet, "find_spec", find)

    return set_up


def told():
    with pytest.raises(InvalidInput) as caught, torch.device("meta"):
        catalog.build("vpd", "debug")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_diffusers_is_told_with_what_to_type(fails):
    fails(diffusers=None)
    assert told().endswith("type: pip install 'refseg[vpd]'")


def test_a_broken_torchvision_is_the_one_to_blame(fails):
    broken = RuntimeError("operator torchvision::nms does not exist")
    fails(diffusers=RuntimeError("Failed to import diffusers"), torchvision=broken)
    message = told()
    assert "torchvision::nms" in message
    assert message.endswith("type: pip uninstall -y torchvision")


def test_another_failure_is_told_with_its_reason(fails):
    fails(diffusers=ImportError("cannot import name 'x'"), torchvision=None)
    message = told()
    assert "cannot import name 'x'" in message and "--upgrade" in message


def test_lists_of_models_do_not_import_diffusers():
    code = (
        "import sys; from refseg.checkpoints.zoo import list_checkpoints; cards = list_checkpoints(); "
        "assert any(card.family == 'vpd' for card in cards); sys.exit('diffusers' in sys.modules)"
    )
    source = Path(unet.__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
