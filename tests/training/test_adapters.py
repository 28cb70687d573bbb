"""Adapters begin as nothing, alone learn, and their sum with the weight is what a checkpoint holds."""

import copy
import json
import re

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from refseg.checkpoints import native
from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.training.loop import train
from refseg.training.lora import LowRank, as_stored, attach, base_name, counts, is_adapter
from refseg.training.lora_file import merge, read_adapter_header
from refseg.training.optimizer import build_optimizer
from refseg.training.recipe import packaged_recipes, read_recipe, run_from_values
from refseg.training.schema import AdaptersConfig, OptimizerConfig, RuleConfig
from refseg.training.state import AveragedModel
from training.recipes import made_data

WORDS = ("left", "right", "red", "box", "thing", "on", "the")
CASES = {
    "scout": (r"text\.layers.*attention", r"^stages\.\d\.blocks\.0\.first"),
    "referformer": (r"self_attention", r"attention\.self\.(query|value)", r"^backbone\.stages\.2\..*conv2"),
    "lgformer": (r"attn\.qkv", r"^backbone\.fusions\.\d\.query", r"query_decoder.*attention", r"text_layers"),
    "vlformer": (r"in_proj_weight", r"^decoder\.layers\.\d\.linear1", r"^pixel_decoder\.mask_features"),
    "vlt": (r"attention\.(query|value)$", r"^fusion\.\w+\.conv"),
    "vpd": (r"^unet\..*attn\d\.to_(q|v)", r"^unet\..*proj_in"),
}


def debug_model(family):
    torch.manual_seed(0)
    return catalog.build(family, catalog.variant(family, "debug").for_words(WORDS))


def with_adapters(family, **settings):
    model = debug_model(family).train()
    attach(model, AdaptersConfig(patterns=CASES[family], rank=2, **settings))
    return model


def stir(model):
    """Gives adapters values as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


@pytest.mark.parametrize("family", CASES)
def test_weights_are_what_they_were_at_first(family):
    plain, model = debug_model(family), with_adapters(family)
    before = dict(plain.named_parameters())
    merged = as_stored(model).state_dict()
    assert set(merged) == set(plain.state_dict())
    for name, weight in before.items():
        assert torch.equal(merged[name], weight), name


@pytest.mark.parametrize("family", CASES)
def test_a_layer_reads_the_sum_and_the_checkpoint_holds_it(family):
    model = with_adapters(family)
    stir(model)
    plain = debug_model(family)
    plain.load_state_dict(as_stored(model).state_dict())
    for name, weight in plain.named_parameters():
        owner, _, last = name.rpartition(".")
        read = getattr(model.get_submodule(owner), last)
        torch.testing.assert_close(read, weight, atol=0, rtol=0)
    changed = [
        n for n, w in debug_model(family).named_parameters() if not torch.equal(w, plain.get_parameter(n))
    ]
    assert len(changed) == counts(model)["adapters"] > 0


@pytest.mark.parametrize("family", CASES)
def test_only_adapters_and_what_is_named_are_trained(family):
    model = with_adapters(family)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if is_adapter(name)}
    expected = 0
    for name, weight in debug_model(family).named_parameters():
        owner = name.rpartition(".")[0]
        if weight.ndim > 1 and any(re.search(p, name) or re.search(p, owner) for p in CASES[family]):
            expected += 2 * (weight.shape[0] + weight[0].numel())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_parts_that_are_trained_too_are_whole():
    model = with_adapters("lgformer", train_too=(r"^query_decoder\.head", "norm"))
    trained = {name for name, p in model.named_parameters() if p.requires_grad and not is_adapter(name)}
    named = {name for name, _ in model.named_parameters() if re.search(r"^query_decoder\.head|norm", name)}
    assert trained == named
    assert any(name.startswith("query_decoder.head") for name in trained)


def test_the_rank_is_that_of_the_change():
    torch.manual_seed(0)
    adapter = LowRank(torch.zeros(7, 3, 3, 3), AdaptersConfig(patterns=("x",), rank=4, alpha=8.0))
    nn.init.normal_(adapter.up)
    change = adapter.change()
    assert change.shape == (7, 27)
    assert torch.linalg.matrix_rank(change) == 4
    # By hand: alpha / rank = 2 times one row and one column.
    adapter.up.data.zero_()
    adapter.up.data[2, 1] = 3.0
    torch.testing.assert_close(adapter.change()[2], 6 * adapter.down[1])
    assert adapter(torch.zeros(7, 3, 3, 3)).shape == (7, 3, 3, 3)


def test_dropout_hides_inputs_in_training_alone():
    torch.manual_seed(0)
    adapter = LowRank(torch.zeros(5, 400), AdaptersConfig(patterns=("x",), rank=2, dropout=0.25))
    nn.init.normal_(adapter.up)
    weight = torch.zeros(5, 400)
    hidden = (adapter(weight) == 0).all(0).float().mean()
    assert 0.15 < hidden < 0.35
    shown = adapter(weight)[:, (adapter(weight) != 0).all(0)]
    assert shown.shape[1] > 0
    torch.testing.assert_close(adapter.eval()(weight), adapter.change())


def test_the_sum_is_not_rounded_by_half_precision():
    adapter = LowRank(torch.ones(8, 8), AdaptersConfig(patterns=("x",), rank=8))
    nn.init.normal_(adapter.up)
    with torch.autocast("cpu", torch.bfloat16):
        rough = adapter(torch.ones(8, 8))
    torch.testing.assert_close(rough, adapter(torch.ones(8, 8)), atol=0, rtol=0)


def test_an_average_follows_the_adapters():
    model = with_adapters("scout")
    average = AveragedModel(model, 0.5)
    stir(model)
    average.update(model, 100)
    ups = {n: p for n, p in average.model.named_parameters() if n.endswith(".up")}
    for name, up in ups.items():
        torch.testing.assert_close(up, model.get_parameter(name) / 2)
    plain = debug_model("scout")
    originals = [n for n in average.model.state_dict() if n.endswith(".original")]
    for name in originals:
        assert torch.equal(average.model.state_dict()[name], plain.get_parameter(base_name(name)))


def test_a_copy_stands_alone():
    model = with_adapters("scout")
    other = copy.deepcopy(model)
    stir(model)
    name = next(n for n, _ in other.named_parameters() if n.endswith(".up"))
    assert not other.get_parameter(name).any()
    assert model.get_parameter(name).any()


def test_names_without_adapters():
    assert base_name("a.b.parametrizations.weight.original") == "a.b.weight"
    assert base_name("a.b.parametrizations.in_proj_weight.0.up") == "a.b.in_proj_weight"
    assert base_name("a.b.weight") == "a.b.weight"
    assert is_adapter("a.parametrizations.weight.0.down")
    assert not is_adapter("a.parametrizations.weight.original")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patterns": ("attention", "zzz")}, "adapters.patterns: 'zzz' finds no weight of a linear layer"),
        ({"patterns": (r"norms",)}, "'norms' finds no weight of a linear layer"),
        ({"patterns": ("attention",), "train_too": ("zzz",)}, "adapters.train_too: 'zzz' finds no weight"),
    ],
)
def test_a_pattern_that_finds_nothing_is_a_mistake(settings, said):
    with pytest.raises(InvalidInput, match=said):
        attach(debug_model("scout").train(), AdaptersConfig(**settings))


def test_a_part_that_is_computed_without_gradient_is_refused():
    with pytest.raises(
        InvalidInput, match=r"text_tower\.\S+, which lies in a part that this model never trains"
    ):
        attach(debug_model("vpd").train(), AdaptersConfig(patterns=("text_tower",)))
    adapter = LowRank(torch.ones(2, 2), AdaptersConfig(patterns=("x",)))
    with torch.no_grad(), pytest.raises(InvalidInput, match="computes without gradient"):
        adapter(torch.ones(2, 2))


def test_an_adapter_obeys_the_recipes_rules_and_not_the_familys():
    model = with_adapters("referformer")
    family = catalog.family("referformer")
    settings = OptimizerConfig(lr=1.0, rules=(RuleConfig(pattern="self_attention", lr_scale=0.25),))
    optimizer = build_optimizer(model, family.param_rules, settings)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: scale[id(p)] for name, p in model.named_parameters() if is_adapter(name)}
    assert {s for n, s in named.items() if "self_attention" in n} == {0.25}
    assert {s for n, s in named.items() if "self_attention" not in n} == {
        1.0
    }  # the family slows its backbone
    assert len(scale) == len(named)


RECIPE = """
family = "scout"
variant = "debug"
seed = 5
[adapters]
patterns = ['attention', '^fusions', '^stages\\.[01]']
rank = 2
train_too = ['^decoder\\.(box|existence)']
[data]
name = "made.jsonl"
split = "train"
evaluate_split = "train"
[optimizer]
lr = 1e-2
[run]
steps = 4
batch_size = 2
evaluate_every = 2
evaluate_examples = 2
save_every = 2
log_every = 1
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint that knows the words of the made pictures."""
    folder = tmp_path_factory.mktemp("base")
    native.save(folder / "base.safetensors", debug_model("scout"), family="scout", variant="debug", origin={})
    return folder / "base.safetensors"


def run_of(folder, base, *overrides):
    made = folder / "made" / "made.jsonl"
    if not made.exists():
        made_data(folder / "made")
    (folder / "recipe.toml").write_text(RECIPE)
    return read_recipe(folder / "recipe.toml", [f"init={base}", f"data.name={made}", *overrides])


def test_a_run_leaves_a_whole_checkpoint_and_its_adapters_and_both_agree(tmp_path, base):
    run = run_of(tmp_path, base)
    last = train(run, tmp_path / "run", device=torch.device("cpu"), is_quiet=True)
    before, after = load_file(base), load_file(last)
    assert set(before) == set(after)
    trained = r"^(fusions|stages\.[01]|decoder\.(box|existence))|attention"
    for name, weight in before.items():
        is_moved = not torch.equal(weight, after[name])
        is_named = (re.search(trained, name) and weight.ndim > 1) or re.search(
            run.adapters.train_too[0], name
        )
        assert is_moved == bool(is_named), name  # batch norms stay, weights and statistics
    small = tmp_path / "run" / "adapters.safetensors"
    assert small.stat().st_size < last.stat().st_size
    header = merge(small, tmp_path / "merged.safetensors")
    assert header.origin["adapters"] == "adapters.safetensors"
    assert header.sha256 == native.read_header(last).sha256
    model, _ = native.load(tmp_path / "merged.safetensors")
    assert model.tokenize(["the red box"]).values.shape[0] == 1


def test_adapters_are_laid_over_their_own_checkpoint_only(tmp_path, base):
    run = run_of(tmp_path, base, "run.evaluate_examples=0", "run.steps=1")
    train(run, tmp_path / "run", device=torch.device("cpu"), is_quiet=True)
    small = tmp_path / "run" / "adapters.safetensors"
    assert read_adapter_header(small).base["name"] == str(base)
    torch.manual_seed(9)
    other = catalog.build("scout", catalog.variant("scout", "debug").for_words(WORDS))
    native.save(tmp_path / "other.safetensors", other, family="scout", variant="debug", origin={})
    with pytest.raises(InvalidInput, match=r"were trained on .*name the right checkpoint with --base"):
        merge(small, tmp_path / "merged.safetensors", base=str(tmp_path / "other.safetensors"))
    with pytest.raises(InvalidInput, match=r"holds adapters alone; .*refseg merge"):
        native.load(small)
    with pytest.raises(InvalidInput, match="holds no adapters"):
        merge(base, tmp_path / "merged.safetensors")
    with pytest.raises(InvalidInput, match="there is no file of adapters"):
        merge(tmp_path / "absent.safetensors", tmp_path / "merged.safetensors")


def test_a_run_that_stopped_goes_on_exactly(tmp_path, base):
    whole = train(
        run_of(tmp_path, base, "run.ema=0.5"), tmp_path / "whole", device=torch.device("cpu"), is_quiet=True
    )
    run = run_of(tmp_path, base, "run.ema=0.5")
    _train_until(run, tmp_path / "parts", 2)
    last = train(run, tmp_path / "parts", device=torch.device("cpu"), is_quiet=True)
    one, other = load_file(whole), load_file(last)
    assert all(torch.equal(one[name], other[name]) for name in one)
    small = [load_file(tmp_path / part / "adapters.safetensors") for part in ("whole", "parts")]
    assert all(torch.equal(small[0][name], small[1][name]) for name in small[0])
    headers = [read_adapter_header(tmp_path / part / "adapters.safetensors") for part in ("whole", "parts")]
    assert headers[0].base == headers[1].base != {}


def _train_until(run, folder, step):
    """Stops a run as Ctrl-C does, after a step."""
    import signal

    from refseg.training import loop
    from refseg.training.signals import Interrupted

    one_step = loop._one_step

    def stopping(training, *rest):
        result = one_step(training, *rest)
        if training.step == step:
            signal.raise_signal(signal.SIGINT)
        return result

    loop._one_step = stopping
    try:
        with pytest.raises(Interrupted):
            train(run, folder, device=torch.device("cpu"), is_quiet=True)
    finally:
        loop._one_step = one_step


def test_weights_that_begin_fresh_must_be_trained(tmp_path, base):
    run = run_of(tmp_path, base, "init_without=['^decoder\\.kernel']")
    with pytest.raises(
        InvalidInput, match=r"would stay frozen at random values, such as decoder\.kernel\.0\.weight"
    ):
        train(run, tmp_path / "run", device=torch.device("cpu"), is_quiet=True)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["init="], "there is no init"),
        (["adapters.patterns=[]"], "patterns names the weights that get an adapter"),
        (["adapters.patterns=['(']"], r"adapters.patterns\[0\]: is no regular expression"),
        (["adapters.rnak=3"], r"unknown key 'rnak' in section \[adapters\]; did you mean 'rank'"),
        (["adapters.rank=0"], "adapters.rank"),
        (["run.sharding=full"], "adapters leave little to share out"),
        (["optimizer.freeze=['^text']"], "adapters freeze all that adapters.train_too does not name"),
    ],
)
def test_a_wrong_section_is_told(tmp_path, base, overrides, said):
    with pytest.raises(InvalidInput, match=said):
        run_of(tmp_path, base, *overrides)


def test_runs_without_adapters_leave_no_file_of_them(tmp_path):
    values = read_recipe(packaged_recipes()["scout/scenes"]).model_dump(mode="json", exclude_none=True)
    assert values["adapters"]["patterns"] == []
    run = run_from_values(values | {"variant": "debug"}, source="scout/scenes")
    assert run.adapters == AdaptersConfig()


def test_the_verb_merges_and_refuses_to_overwrite(tmp_path, base, monkeypatch, capsys):
    from refseg.cli import main

    run = run_of(tmp_path, base, "run.evaluate_examples=0", "run.steps=1")
    last = train(run, tmp_path / "run", device=torch.device("cpu"), is_quiet=True)
    small, out = str(tmp_path / "run" / "adapters.safetensors"), tmp_path / "mine.safetensors"

    def merge_command(*further):
        monkeypatch.setattr("sys.argv", ["refseg", "merge", small, "-o", str(out), *further])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, capsys.readouterr()

    code, told = merge_command("--json")
    assert code == 0
    assert json.loads(told.out)["sha256"] == native.read_header(last).sha256
    code, told = merge_command()
    assert code == 2
    assert "is there already; replace it with --force" in told.err
    assert merge_command("--force")[0] == 0
    assert merge_command("--force", "--dtype", "float8")[0] == 2
