"""A recipe is read strictly: what is not known is named, with the nearest known key."""

import tomllib

import pytest

from refseg.errors import InvalidInput, UnknownName
from refseg.models import catalog
from refseg.training.recipe import differences, find_recipe, packaged_recipes, read_recipe, to_toml

RECIPE = """
family = "scout"
variant = "debug"
[data]
name = "scenes"
registers = {loc = 1, app = 0.5}
scale = [0.5, 1]
[optimizer]
lr = 1e-3
[schedule]
kind = "step"
drops = [0.5, 0.75]
[run]
steps = 10
batch_size = 2
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_is_read_with_its_defaults(recipe):
    run = read_recipe(recipe)
    assert (run.name, run.run.steps, run.optimizer.lr, run.schedule.drops) == ("mine", 10, 1e-3, (0.5, 0.75))
    assert run.data.registers == {"loc": 1.0, "app": 0.5}
    assert run.data.scale == (0.5, 1.0)


def test_the_resolved_run_reads_back_as_the_same_run(recipe, tmp_path):
    run = read_recipe(
        recipe, ["model.threshold=0.4", 'init="a \\"quoted\\" name"', "init_allow=['^head\\.']"]
    )
    (tmp_path / "run.toml").write_text(to_toml(run))
    assert read_recipe(tmp_path / "run.toml") == run


def test_overrides_are_laid_over_the_file(recipe):
    run = read_recipe(recipe, ["run.steps=7", "data.split=val", "run.ema=0.5", "name = other"])
    assert (run.run.steps, run.data.split, run.run.ema, run.name) == (7, "val", 0.5, "other")


def test_overrides_reach_lists_and_their_entries(recipe):
    run = read_recipe(
        recipe,
        [
            "optimizer.rules=[{pattern='^text', lr_scale=0.5}, {pattern='^stem'}]",
            "optimizer.rules.1.lr_scale=0.25",
            "optimizer.freeze=['^fusions']",
            "schedule.drops.0=0.25",
        ],
    )
    assert [(rule.pattern, rule.lr_scale) for rule in run.optimizer.rules] == [
        ("^text", 0.5),
        ("^stem", 0.25),
    ]
    assert run.optimizer.freeze == ("^fusions",)
    assert run.schedule.drops == (0.25, 0.75)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "optimizer.freezing=['x']",
            r"unknown key 'freezing' in section \[optimizer\]; did you mean 'freeze'",
        ),
        ("adapters.pattern=['x']", r"unknown key 'pattern' in section \[adapters\]; did you mean 'patterns'"),
        ("run.patence=3", "did you mean 'patience'"),
        ("optimizer.freeze=[^text]", "is not TOML .*texts inside brackets stand in quotes"),
        ("optimizer.freeze=['(']", r"optimizer.freeze\[0\]: is no regular expression"),
        ("schedule.drops.2=0.5", "'2' is no entry of the list, which has 2, numbered from 0"),
        ("schedule.drops.x=0.5", "'x' is no entry of the list"),
        ("optimizer.rules=[{pat='x'}]", "unknown key 'pat' in"),
        ("optimizer.layer_decay=0.0", "optimizer.layer_decay"),
        ("run.stpes=3", r"unknown key 'stpes' in section \[run\]; did you mean 'steps'"),
        ("familly=vlt", "unknown key 'familly' in the top section; did you mean 'family'"),
        ("optimizer.zzz=1", r"unknown key 'zzz' in section \[optimizer\]; known: kind, lr, betas"),
        ("run.steps=abc", "run.steps: .* not 'abc'"),
        ("run.steps=1.5", "run.steps: .* not 1.5"),
        ("run.steps=0", "run.steps: .* not 0"),
        ("run.channels_last=1", "run.channels_last: .* not 1"),
        ("optimizer.lr=-1.0", "optimizer.lr: .* not -1.0"),
        ("run.ema=1.0", "run.ema"),
        ("run.precision=float8", "run.precision: .* not 'float8'"),
        ("schedule.kind=linear", "schedule.kind"),
        ("schedule.warmup_steps=11", "warmup_steps 11 is longer than run.steps 10"),
        ("init_allow=['head']", "there is no init"),
        ("init_new_words=true", "there is no init"),
        ("run=3", "run: .* not 3"),
        ("steps", "'steps' is no override"),
        ("=3", "'=3' is no override"),
        ("run..steps=3", "is no override"),
        ("family.x=3", "'family' is a value, not a section"),
    ],
)
def test_a_wrong_key_or_value_is_named(recipe, override, said):
    with pytest.raises(InvalidInput, match=said):
        read_recipe(recipe, [override])


def test_an_empty_init_means_from_scratch(recipe):
    assert read_recipe(recipe, ["init=some"]).init == "some"
    assert read_recipe(recipe, ["init="]).init is None


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text('family = "scout"\nvariant = "debug"\n[data]\n[run]\nsteps = 3\n')
    with pytest.raises(
        InvalidInput, match=r"data.name is missing; optimizer is missing; run.batch_size is missing"
    ):
        read_recipe(path)


def test_text_that_is_no_toml_is_told_with_its_place(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("family = scout\n")
    with pytest.raises(InvalidInput, match=r"broken.toml is not TOML: .*line 1"):
        read_recipe(path)


def test_a_missing_recipe_suggests_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'scout/scenes'"):
        find_recipe("scout/scene")
    with pytest.raises(InvalidInput, match=r"no/such.toml does not exist"):
        find_recipe("no/such.toml")


def test_a_recipe_is_found_by_name_and_by_path(recipe):
    assert find_recipe("scout/scenes") == packaged_recipes()["scout/scenes"]
    assert find_recipe(str(recipe)) == recipe


def test_keys_that_change_nothing_computed_may_differ(recipe):
    run = read_recipe(recipe)
    assert differences(run, read_recipe(recipe, ["data.workers=3", "run.log_every=1", "name=x"])) == []
    assert differences(run, read_recipe(recipe, ["data.registers={loc = 1.0}", "model.threshold=0.1"])) == [
        "data.registers.app",
        "model.threshold",
    ]


@pytest.mark.parametrize("name", packaged_recipes())
def test_a_packaged_recipe_is_short_and_names_what_exists(name):
    path = packaged_recipes()[name]
    run = read_recipe(path)
    assert len(path.read_text().splitlines()) < 40
    assert run.objective in ("phrases", *catalog.family(run.family).objectives)
    assert run.variant in catalog.family(run.family).variants
    assert name.split("/")[0] == run.family
    assert not set(tomllib.loads(path.read_text())) & {"base", "extends", "inherit"}


def test_a_key_without_its_section_is_told_where_it_belongs():
    with pytest.raises(InvalidInput, match=r"did you mean 'run\.steps'"):
        read_recipe(find_recipe("scout/scenes"), ["steps=3"])
