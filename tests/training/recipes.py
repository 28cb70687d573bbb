"""A published recipe taken three real steps: its own plumbing, a model of toy width, made pictures.

    from training.recipes import packaged, take_three_steps

    @pytest.mark.parametrize("name", packaged("vlt"))
    def test_a_published_recipe_trains(name, tmp_path):
        take_three_steps(name, tmp_path)

What a trial changes of the recipe: the variant is "debug"; published sets are read from their miniatures (the parity cases
of the readers) with the recipe's options, other files are made pictures or clips; batches hold two examples; pixel numbers of augmentation steps are divided by `shrink`; precision is float32 (in float16 the first steps may be skipped); the
initial checkpoint is left out; and nothing is measured. All else is the recipe's: the order of steps, sampling, optimizer,
rules, schedule, loss, epochs.
"""

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from refseg.data.published import ALIASES
from refseg.models import catalog
from refseg.training.data import open_training_data
from refseg.training.initial_weights import initial_model
from refseg.training.loop import train
from refseg.training.lora import attach, base_name
from refseg.training.optimizer import parameter_groups
from refseg.training.recipe import packaged_recipes, read_recipe, run_from_values
from refseg.training.state import seed_all

CASES = Path(__file__).parents[1] / "parity" / "cases" / "datasets"
MINIATURES = {
    "refcoco": "refcoco",
    "refcoco+": "refcoco_plus_python2_pickle",
    "refcocog-umd": "refcocog",
    "refcocog-google": "refcocog",
    "refclef-unc": "refclef",
    "refclef-berkeley": "refclef",
    "grefcoco": "grefcoco",
    "ref-youtube-vos": "ref_youtube_vos",
    "ref-davis17": "ref_davis17",
    "a2d": "a2d_sentences",
    "mevis": "mevis",
}
"""Published data sets in miniature, in their real forms; some of their phrases are too long for toy models."""

PIXELS = ("short", "longest", "least", "most")  # keys of steps that are sizes in pixels
STEPS = 3


OWN = "/fine-tune"
"""How the names of recipes for pictures of one's own end, which are no published experiments."""


def packaged(family):
    """The names of a family's recipes, without that for pictures of one's own."""
    names = [name for name in packaged_recipes() if name.split("/")[0] == family and not name.endswith(OWN)]
    assert names, f"refseg/recipes/{family} holds no recipe"
    return names


@dataclass(frozen=True)
class Trial:
    """What three steps of a recipe left."""

    losses: tuple[float, ...]
    rates: tuple[float, ...]
    folder: Path


def take_three_steps(name, folder, *, overrides=None, model=None, shrink=8, frames=8, unmoved=()):
    """Trains the packaged recipe `name` for three steps and asserts that losses are finite and differ, and that every
    trained parameter moved and no frozen one did.

    Args:
        folder: an empty folder for the made data and the run.
        overrides: dotted keys that differ further, such as {"run.precision": "bfloat16"}.
        model: what replaces the recipe's [model] section, where its fields do not fit the debug variant.
        shrink: by which pixel numbers of augmentation steps are divided.
        frames: of a made clip, for sets with `sample`.
        unmoved: patterns of trained parameters that an ordinary step leaves alone, with reason (see the contract test).
    """
    run = run_from_values(
        _small(name, folder, overrides or {}, model, shrink=shrink, frames=frames), source=name
    )
    before, trained = _first_weights(run)
    last = train(run, folder / "run", device=torch.device("cpu"), is_quiet=True)
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    trial = Trial(tuple(line["loss"] for line in lines), tuple(line["lr"] for line in lines), folder / "run")
    assert len(trial.losses) == STEPS
    assert all(math.isfinite(loss) for loss in trial.losses), trial.losses
    assert len(set(trial.losses)) == STEPS, f"the loss stands still: {trial.losses}"
    _weights_have_moved(before, load_file(last), trained, unmoved)
    return trial


def _small(name, folder, overrides, model, *, shrink, frames):
    values = read_recipe(packaged_recipes()[name]).model_dump(mode="json", exclude_none=True)
    values |= {"variant": "debug", "init_allow": [], "init_without": [], "init_new_words": False}
    values.pop("init", None)
    values["model"] = values["model"] if model is None else model
    data = values["data"]
    for number, one in enumerate(data["sets"] or [data]):
        clips = "sample" in one or data["frames"] > 1
        made = made_data(folder / f"made{number}", frames=frames if clips else 1)
        one |= {"name": str(made), "split": "train", "options": {}, "root": None}
        one["augment"] = _shrunk(one["augment"], shrink)
    if data["sets"]:
        data["augment"] = _shrunk(data["augment"], shrink)
    data |= {"exclude_images_of": [], "workers": 0}
    values["run"] |= {"steps": STEPS, "batch_size": 2, "log_every": 1, "evaluate_examples": 0}
    values["run"] |= {"precision": "float32", "weights": "float32", "ema": 0.0}
    values["schedule"]["warmup_steps"] = min(STEPS, 10 if values["schedule"]["warmup_steps"] else 0)
    for key, value in overrides.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[last] = value
    return values


def on_miniatures(name, folder, **changes):
    """The packaged recipe `name` with its published sets read from their miniatures below `folder`."""
    values = read_recipe(packaged_recipes()[name]).model_dump(mode="json", exclude_none=True)
    values["data"] |= {"exclude_images_of": [], **changes}
    for one in values["data"]["sets"] or [values["data"]]:
        known = ALIASES.get(one["name"], one["name"])
        place = folder / known
        if not place.exists():
            shutil.copytree(CASES / MINIATURES[known], place)  # readers write their index beside the files
        one["root"] = str(place)
    return run_from_values(values, source=name)


def _shrunk(steps, shrink):
    """Steps with pixel numbers divided, but never below 16."""
    small = []
    for step in steps:
        fewer = dict(step)
        for key in PIXELS:
            value = step.get(key)
            if isinstance(value, list):
                fewer[key] = [max(16, number // shrink) for number in value]
            elif isinstance(value, int):
                fewer[key] = max(16, value // shrink)
        if step["step"] == "choice":
            fewer["options"] = [_shrunk(option, shrink) for option in step["options"]]
        small.append(fewer)
    return small


def _first_weights(run):
    """The weights that the run begins with, and the names of those that its rules train."""
    side = catalog.variant(run.family, run.variant).frame.size
    seed_all(run.seed)
    model, _ = initial_model(run, open_training_data(run, side).vocabulary)
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if run.adapters.patterns:
        attach(model.train(), run.adapters)
    parameter_groups(model, catalog.family(run.family).param_rules, run.optimizer)
    trained = {}
    for name, parameter in model.named_parameters():  # a weight whose adapter learns moves
        trained[base_name(name)] = trained.get(base_name(name), False) or parameter.requires_grad
    return before, trained


def _weights_have_moved(before, after, trained, unmoved):
    moved = {name: not torch.equal(before[name], after[name]) for name in trained if name in after}
    left = [name for name, is_trained in trained.items() if is_trained and not moved.get(name, True)]
    left = [name for name in left if not any(re.search(pattern, name) for pattern in unmoved)]
    assert not left, f"trained, but unmoved after {STEPS} steps: {left}"
    wrong = [name for name, is_trained in trained.items() if not is_trained and moved.get(name, False)]
    assert not wrong, f"frozen, but moved: {wrong}"


def made_data(folder, *, count=6, frames=1, height=60, width=80):
    """A phrase file about coloured boxes on noise: pictures, or clips in which the box wanders; two phrases each."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(3)
    lines = []
    for number in range(count):
        top, left = 8 + 3 * number, 6 + (number % 2) * width // 2
        names, masks = [], []
        for time in range(frames):
            pixels = generator.integers(0, 90, (height, width, 3), dtype=np.uint8)
            start = left + 2 * time
            pixels[top : top + 24, start : start + 22] = (230, 40 + 30 * number, 60)
            names.append(f"{number}-{time}.png")
            Image.fromarray(pixels).save(folder / names[-1])
            right, bottom = start + 22, top + 24
            masks.append([[start, top, right, top, right, bottom, start, bottom]])
        side = "right" if number % 2 else "left"
        for phrase in (f"the {side} box", f"the red thing on the {side}"):
            line = {"phrase": phrase, "split": "train"}
            line |= {"image": names[0], "mask": masks[0]} if frames == 1 else {"frames": names, "mask": masks}
            lines.append(json.dumps(line))
    (folder / "made.jsonl").write_text("\n".join(lines))
    return folder / "made.jsonl"
