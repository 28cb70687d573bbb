"""What published implementations compute is computed here: every case found, by the real road.

A case of family F is run by `parity/F.py`, which has one function, `run(case)`. It raises NotBuilt where the case needs
a part that does not exist yet. Nothing here knows a family.
"""

import importlib
import importlib.util
from pathlib import Path

import pytest

from parity.case import Case, NotBuilt, find_cases

HERE = Path(__file__).parent
COMMITTED = HERE / "cases"
DEFAULT_ROOT = HERE.parents[1].parent / "shared" / "parity"


def pytest_generate_tests(metafunc):
    roots = [Path(root) for root in metafunc.config.getoption("--parity-root") or [DEFAULT_ROOT]]
    cases = {case.id: case for case in find_cases(COMMITTED)}
    for number, root in enumerate(roots, start=1):
        for case in find_cases(root) if root.is_dir() else []:
            earlier = cases.get(case.id)
            if earlier is not None and _fingerprint(earlier) != _fingerprint(case):
                cases[f"{case.id}, before root {number}"] = earlier  # a root's own case keeps the plain name
            cases[case.id] = case
    parameters = [_parameter(name, case) for name, case in cases.items()]
    metafunc.parametrize("case", parameters + [_absent(root) for root in roots if not root.is_dir()])


def test_parity(case):
    if importlib.util.find_spec(f"parity.{case.family}") is None:
        pytest.skip(f"not built yet: {case.family}")
    try:
        importlib.import_module(f"parity.{case.family}").run(case)
    except NotBuilt as reason:
        pytest.skip(f"not built yet: {reason}")


def _parameter(name: str, case: Case):
    return pytest.param(case, id=name, marks=[pytest.mark.slow] if case.is_wide else [])


def _absent(root: Path):
    mark = pytest.mark.skip(
        reason=f"the parity cases of {root} are absent: full-width cases were NOT checked"
    )
    return pytest.param(None, id=f"absent:{root}", marks=[mark])


def _fingerprint(case: Case) -> tuple[bytes, ...]:
    files = (
        [case.path]
        if case.path.is_file()
        else sorted(path for path in case.path.rglob("*") if path.is_file())
    )
    return tuple(path.read_bytes() for path in files)
