import pytest

from refseg.models import catalog


@pytest.fixture(autouse=True)
def _tiny_family(monkeypatch):
    monkeypatch.setitem(catalog.FAMILIES, "tiny", "checkpoints.tiny")
