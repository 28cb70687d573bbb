"""Half precision at full width: what is rounded must not move masks."""

import dataclasses
from pathlib import Path

import pytest
import torch

from parity import referformer as road
from parity.case import Case

FULL = Path(__file__).parents[3].parent / "shared" / "parity" / "referformer"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full-r50-3f", "full-video-swin-t-clip"])
def test_masks_in_bfloat16_are_those_of_float32(name):
    if not (FULL / name).is_dir():
        pytest.skip(f"the full-width case {name} is absent: half precision was NOT checked")
    case = Case("referformer", name, FULL / name)
    model, _ = road.load(case, case.filled())
    model.config = dataclasses.replace(model.config, detail="candidates")
    clips, _ = road.clips_of(case)
    outputs = []
    for is_half in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
            text = model.encode_text(road.tokens_of(case))
            outputs.append(model.segment(model.encode_visual(clips), text))
    (exact,), (half,) = (model.choose(output)[0].tolist() for output in outputs)
    assert exact == half
    one, other = (output.mask_logits[0, exact] > 0 for output in outputs)
    assert ((one & other).sum() / (one | other).sum()).item() >= 0.99
