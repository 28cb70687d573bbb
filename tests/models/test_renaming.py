import pytest
import torch

from refseg.errors import CheckpointMismatch
from refseg.models.renaming import Alias, Drop, Merge, Rename, apply

ONE, TWO = torch.ones(2), torch.full((2,), 2.0)


def test_every_name_is_renamed_dropped_or_reported_as_left():
    state = {"net.a.weight": ONE, "net.a.num_batches_tracked": TWO, "odd": TWO}
    rules = [Drop(r".*num_batches_tracked", "a counter"), Rename(r"net\.(.*)", r"body.\1")]
    converted, report = apply(state, rules)
    assert list(converted) == ["body.a.weight"]
    assert report.dropped == {"net.a.num_batches_tracked": "a counter"}
    assert report.left == ["odd"]
    assert report.summary() == "1 renamed, 0 merged, 1 dropped on purpose, 1 left over"


def test_the_first_rule_that_matches_decides():
    converted, _ = apply({"a": ONE}, [Rename("a", "first"), Rename("a", "second")])
    assert list(converted) == ["first"]


def test_merged_parts_become_one_tensor_and_are_not_left_over():
    rule = Merge(r"(.*)\.q", (r"\1.k", r"\1.v"), r"\1.qkv", torch.cat)
    converted, report = apply({"x.v": TWO, "x.q": ONE, "x.k": TWO}, [rule, Drop(".*", "never reached")])
    assert converted["x.qkv"].tolist() == [1, 1, 2, 2, 2, 2]
    assert report.merged == {"x.qkv": ("x.q", "x.k", "x.v")}
    assert not report.dropped


def test_a_merge_with_a_part_missing_is_refused():
    with pytest.raises(CheckpointMismatch, match=r"x\.k"):
        apply({"x.q": ONE}, [Merge(r"(.*)\.q", (r"\1.k",), r"\1.qk", torch.cat)])


def test_an_alias_is_dropped_when_equal_and_refused_when_not():
    rules = [Alias("second", "first"), Rename("first", "first")]
    converted, _ = apply({"first": ONE, "second": ONE.clone()}, rules)
    assert list(converted) == ["first"]
    with pytest.raises(CheckpointMismatch, match="their values differ"):
        apply({"first": ONE, "second": TWO}, rules)


def test_two_tensors_never_become_one_name():
    with pytest.raises(CheckpointMismatch, match="two tensors"):
        apply({"a": ONE, "b": TWO}, [Rename("[ab]", "same")])
