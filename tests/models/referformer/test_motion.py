"""Motion in drawn clips: the two recipes that docs/motion.md compares, and what only a clip can tell."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from refseg.data.collate import collate
from refseg.models import catalog
from refseg.structures import Example
from refseg.training.data import ExamplesByPosition, open_training_data
from refseg.training.loop import train
from refseg.training.recipe import differences, packaged_recipes, read_recipe
from training.recipes import STEPS, _first_weights, _weights_have_moved

NAMES = ("scenes-clips", "scenes-frames")
LONE_CELL = (
    r"^backbone\.layers\.3\..*bias_table$",
)  # of a single small frame, the last map is one cell: no offset


def recipe(name, **changes):
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    return read_recipe(packaged_recipes()[f"referformer/{name}"], overrides)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_three_steps(name, tmp_path):
    batch = {"scenes-clips": 2, "scenes-frames": 6}[name]
    run = recipe(name, run__steps=STEPS, run__batch_size=batch, run__log_every=1, schedule__warmup_steps=1)
    before, trained = _first_weights(run)
    last = train(run, tmp_path, device=torch.device("cpu"), is_quiet=True)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(losses) == len(set(losses)) == STEPS
    assert all(map(math.isfinite, losses))
    _weights_have_moved(before, load_file(last), trained, LONE_CELL if name == "scenes-frames" else ())


def test_the_recipes_differ_in_what_the_model_is_shown_alone():
    clips, frames = map(recipe, NAMES)
    changed = {".".join(key.split(".")[:2]) for key in differences(clips, frames)}
    assert changed == {"data.sample", "run.batch_size"}
    assert clips.data.frames == frames.data.frames > 1
    assert clips.run.batch_size * clips.data.frames == frames.run.batch_size * frames.data.sample.frames


def test_the_control_sees_single_frames_of_clips_and_phrases_about_their_motion():
    run = recipe("scenes-frames", run__steps=2, schedule__warmup_steps=0)
    positions = ExamplesByPosition(open_training_data(run, 64))
    for number in range(6):
        example = positions[number].example
        assert len(example.frames) == 1
        assert example.masks.shape[:2] == (2, 1)
        assert all("left" in phrase or "right" in phrase for phrase in example.phrases)


def test_the_small_variant_hears_in_which_order_the_frames_come():
    """Its backbone mixes frames, so a clip played backwards is another clip; the control sees the same frames."""
    torch.manual_seed(0)
    config = catalog.variant("referformer", "video-swin-mini").for_words(("going", "left"))
    model = catalog.build("referformer", config).eval()
    frames = torch.randint(
        0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    with torch.no_grad():
        forwards, backwards, *alone = (
            model(collate([Example("x", part, ("going left",))], config.frame))
            for part in (frames, frames.flip(0), *frames.split(1))
        )
    again = backwards.mask_logits.flip(2)  # in the order of the frames
    assert not torch.allclose(forwards.mask_logits, again, atol=1e-3)
    middle = alone[1].mask_logits
    assert not torch.allclose(forwards.mask_logits[:, :, 1:2], middle, atol=1e-3)
