"""The page about training names every key of a recipe and no other."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from refseg.data.augment.steps import STEPS
from refseg.models import catalog
from refseg.training.recipe import FREE_KEYS, run_from_values, to_toml
from refseg.training.schema import ClipsConfig, RunConfig

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


def keys_of_page(title):
    _, _, rest = PAGE.partition(f"**{title}**")
    table = rest.strip().split("\n\n")[0]
    firsts = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {key for first in firsts for key in re.findall(r"`(\w+)`", first)}


def test_every_key_of_a_recipe_is_on_the_page_and_no_other():
    fields = RunConfig.model_fields
    sections = {"data", "optimizer", "adapters", "schedule", "run"}
    assert keys_of_page("Top") == set(fields) - sections - {"model", "loss"}
    for name in sections:
        assert keys_of_page(f"[{name}]") == set(fields[name].annotation.model_fields), name


def test_every_key_of_clips_is_on_the_page_and_no_other():
    _, _, rest = PAGE.partition("**[data.clips]**")
    table = next(part for part in rest.split("\n\n") if part.startswith("| key"))
    assert set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == set(ClipsConfig.model_fields)


def test_the_keys_that_may_differ_on_resuming_are_on_the_page():
    _, _, rest = PAGE.partition("What changes nothing that is computed may differ:")
    assert set(re.findall(r"`([\w.]+)`", rest.split("\n\n")[0])) == FREE_KEYS


def test_the_sweep_on_the_page_runs_and_its_results_are_read(tmp_path):
    _, _, rest = PAGE.partition("### Several runs in a row")
    sweep, results = re.findall(r"```bash\n(.*?)```", rest, flags=re.DOTALL)[:2]
    sweep = sweep.replace("refseg train", f"{sys.executable} -m refseg train").replace(
        "decay in 1.0 0.8", "decay in 0.8"
    )
    (tmp_path / "my.toml").write_text(
        'family = "scout"\nvariant = "debug"\n[data]\nname = "scenes"\nphrases = 1\n[optimizer]\nlr = 1\n'
        '[run]\nsteps = 1\nbatch_size = 1\nevaluate_examples = 1\nfinal_protocols = "none"\n'
    )
    source = str(Path(__file__).parents[2] / "src")
    environment = os.environ | {
        "PYTHONPATH": source,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for script in (sweep, results):
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} == {"lr1e-3-decay0.8", "lr3e-4-decay0.8"}
    assert all(re.search(r"  mIoU \d\.\d{3} at step 1  loss \d+\.\d{3}$", line) for line in lines)


BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[tomllib.loads(block)["family"] for block in BLOCKS])
def test_every_whole_recipe_on_the_page_is_one(block):
    values = tomllib.loads(block)
    run = run_from_values(values, source="docs/training.md")
    assert run.family in catalog.FAMILIES
    assert run.variant in catalog.family(run.family).variants
    assert run_from_values(tomllib.loads(to_toml(run)), source="written") == run


def test_the_page_shows_a_recipe_of_every_published_family():
    assert {tomllib.loads(block)["family"] for block in BLOCKS} == set(catalog.FAMILIES) - {"scout"}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)) >= {kind.step for kind in STEPS}
