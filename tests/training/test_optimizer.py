"""Rules decide which weights learn how fast; the schedule is one number a step."""

import itertools
import math

import pytest
import torch
from torch import nn

from refseg.errors import InvalidInput
from refseg.models.family import ParamRule
from refseg.training.optimizer import build_optimizer, parameter_groups, schedule_ratio, set_learning_rate
from refseg.training.schema import OptimizerConfig, RuleConfig, ScheduleConfig

SETTINGS = OptimizerConfig(lr=0.1, weight_decay=0.3)


def model():
    return nn.ModuleDict({"body": nn.Linear(2, 3), "norm": nn.LayerNorm(3), "head": nn.Linear(3, 1)})


def by_name(groups, network):
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_vectors_do_not_decay_unless_the_recipe_says_so():
    network = model()
    groups = by_name(parameter_groups(network, (), SETTINGS), network)
    assert groups["body.weight"] == (0.1, 0.3)
    assert groups["body.bias"] == groups["norm.weight"] == (0.1, 0.0)
    everywhere = parameter_groups(network, (), OptimizerConfig(lr=0.1, weight_decay=0.3, decay_vectors=True))
    assert set(by_name(everywhere, network).values()) == {(0.1, 0.3)}


def test_the_first_matching_rule_decides():
    network = model()
    rules = (ParamRule("head.weight", lr_scale=0.5), ParamRule("head", lr_scale=0.25, weight_decay=0.7))
    groups = by_name(parameter_groups(network, rules, SETTINGS), network)
    assert groups["head.weight"] == (0.05, 0.3)
    assert groups["head.bias"] == (0.025, 0.7)


def test_frozen_parameters_have_no_gradient_and_no_group():
    network = model()
    groups = by_name(parameter_groups(network, (ParamRule("^body", trained=False),), SETTINGS), network)
    assert not any(name.startswith("body") for name in groups)
    assert [p.requires_grad for p in network["body"].parameters()] == [False, False]
    assert network["head"].weight.requires_grad


def test_a_rule_that_matches_nothing_is_a_mistake():
    with pytest.raises(InvalidInput, match="'tail' matches no parameter"):
        parameter_groups(model(), (ParamRule("tail"),), SETTINGS)


def test_a_model_that_is_all_frozen_is_refused():
    with pytest.raises(InvalidInput, match="no parameter is left to train"):
        parameter_groups(model(), (ParamRule("", trained=False),), SETTINGS)


def test_a_group_keeps_its_scale_when_the_rate_moves():
    network = model()
    optimizer = build_optimizer(network, (ParamRule("head", lr_scale=0.5),), SETTINGS)
    set_learning_rate(optimizer, 0.02)
    assert {rate for rate, _ in by_name(optimizer.param_groups, network).values()} == {0.02, 0.01}


def test_the_first_update_moves_every_weight_by_the_learning_rate():
    network = nn.Linear(2, 1, bias=False)
    before = network.weight.detach().clone()
    optimizer = build_optimizer(network, (), OptimizerConfig(lr=0.1, weight_decay=0.0))
    network(torch.tensor([[1.0, -2.0]])).sum().backward()
    optimizer.step()
    # Adam divides the first gradient by its own size, so that only its sign is left.
    torch.testing.assert_close(before - network.weight.detach(), torch.tensor([[0.1, -0.1]]))


def ratios(total, **settings):
    return [schedule_ratio(step, total, ScheduleConfig(**settings)) for step in range(total)]


def test_warm_up_rises_in_equal_parts_to_the_full_rate():
    assert ratios(8, kind="constant", warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_cosine_falls_from_one_over_the_middle_to_the_final_share():
    falling = ratios(100, kind="cosine", final_ratio=0.1)
    assert falling[0] == 1
    assert falling[50] == pytest.approx(0.55)
    assert falling[25] == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert falling[99] == pytest.approx(0.1, abs=1e-3)


def test_poly_falls_as_a_power_of_what_is_left():
    assert ratios(4, kind="poly", power=2.0) == pytest.approx([1, 9 / 16, 4 / 16, 1 / 16])


def test_step_drops_after_the_named_parts():
    assert ratios(4, kind="step", drops=(0.5, 0.75), drop_ratio=0.1) == pytest.approx([1, 1, 0.1, 0.01])


def test_warm_up_and_decay_meet_without_a_jump():
    rising = ratios(20, kind="cosine", warmup_steps=5)
    assert rising[4] == 1
    assert rising[5] == 1
    assert rising[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert all(a > b for a, b in itertools.pairwise(rising[5:]))


def test_drops_may_be_steps_and_parts_of_the_run():
    assert ratios(6, kind="step", drops=(2, 0.5)) == pytest.approx([1, 1, 0.1, 0.01, 0.01, 0.01])


def test_warm_up_may_begin_at_a_factor():
    assert ratios(4, kind="constant", warmup_steps=2, warmup_factor=0.5) == pytest.approx([0.5, 0.75, 1, 1])
    assert ratios(3, kind="constant", warmup_steps=2, warmup_factor=1.0) == [1, 1, 1]


def test_rules_of_the_recipe_go_before_those_of_the_family():
    network = model()
    settings = OptimizerConfig(lr=0.1, weight_decay=0.3, rules=(RuleConfig(pattern="head", lr_scale=0.01),))
    groups = by_name(parameter_groups(network, (ParamRule("head", lr_scale=0.5),), settings), network)
    assert groups["head.weight"][0] == pytest.approx(0.001)
    with pytest.raises(InvalidInput, match="'tail' matches no parameter"):
        parameter_groups(network, (), OptimizerConfig(lr=0.1, rules=(RuleConfig(pattern="tail"),)))


def moves(kind, gradients, **settings):
    """Where a weight of 2 lies after each of the gradients."""
    weight = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
    network = nn.Module()
    network.weight = weight
    optimizer = build_optimizer(network, (), OptimizerConfig(kind=kind, lr=0.1, **settings))
    places = []
    for gradient in gradients:
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        places.append(weight.item())
    return places


def test_the_decay_of_adam_is_a_part_of_the_gradient_and_that_of_adamw_is_not():
    # A gradient of -0.6 and a decay of 0.3 on a weight of 2 cancel out in Adam.
    assert moves("adam", [-0.6], weight_decay=0.3) == pytest.approx([2.0], abs=1e-6)
    assert moves("adamw", [-0.6], weight_decay=0.3) == pytest.approx([2 * (1 - 0.03) + 0.1])


def test_adam_of_keras_takes_the_published_first_step():
    # 0.744 of the learning rate, because the first step takes the corrections of the second.
    assert moves("keras_adam", [5.0], eps=1e-7, weight_decay=0.0) == pytest.approx(
        [2 - 0.1 * 0.7441], abs=1e-5
    )


def test_adam_of_keras_adds_epsilon_to_the_uncorrected_moment():
    # By hand: m = 0.1 g, v = 0.001 g^2, rate = 0.1 * sqrt(1 - 0.999^2) / (1 - 0.9^2).
    g, eps = 1e-6, 1e-7
    rate = 0.1 * math.sqrt(1 - 0.999**2) / (1 - 0.9**2)
    expected = 2 - rate * 0.1 * g / (math.sqrt(0.001) * g + eps)
    assert moves("keras_adam", [g], eps=eps, weight_decay=0.0) == pytest.approx([expected], abs=1e-9)


def test_adam_of_keras_goes_on_from_its_saved_state():
    straight = moves("keras_adam", [1.0, -2.0, 0.5], weight_decay=0.1)
    weight = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
    network = nn.Module()
    network.weight = weight
    settings = OptimizerConfig(kind="keras_adam", lr=0.1, weight_decay=0.1)
    optimizer = build_optimizer(network, (), settings)
    for gradient in (1.0, -2.0):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    other = build_optimizer(network, (), settings)
    other.load_state_dict(optimizer.state_dict())
    weight.grad = torch.full_like(weight, 0.5)
    other.step()
    assert weight.item() == straight[-1]
