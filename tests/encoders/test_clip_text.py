"""CLIP's text tower against the hub's own implementation."""

import pytest
import torch

from refseg.encoders.clip_text import CLIP_BASE_TEXT, CLIP_LARGE_TEXT, ClipTextSpec, ClipTextTower

SPEC = ClipTextSpec(vocabulary=60, width=16, num_layers=2, num_heads=4, hidden_dim=24, num_positions=20)
IDS = torch.tensor([[58, 7, 8, 9, 59], [58, 11, 59, 59, 59]])
VALID = torch.tensor([[True] * 5, [True, True, True, False, False]])


@pytest.fixture(scope="module")
def theirs():
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=20,
        bos_token_id=58,
        eos_token_id=59,
        pad_token_id=59,
    )
    torch.manual_seed(0)
    model = transformers.CLIPTextModel(config).eval()
    for parameter in model.parameters():  # away from zeros and ones, so that every part shows
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def ours(theirs):
    tower = ClipTextTower(SPEC)
    state = {
        name.removeprefix("text_model."): value
        for name, value in theirs.state_dict().items()
        if not name.endswith("position_ids")
    }
    tower.load_state_dict(state, strict=True)
    return tower.eval()


@pytest.mark.parametrize("valid", [None, VALID])
def test_names_and_numbers_are_those_of_the_hub_at_every_position(theirs, valid):
    told = ours(theirs)(IDS, valid)
    mask = None if valid is None else valid.long()
    expected = theirs(input_ids=IDS, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(told, expected, rtol=1e-4, atol=1e-5)


def test_padding_features_depend_on_whether_padding_is_looked_at(theirs):
    tower = ours(theirs)
    assert not torch.allclose(tower(IDS, VALID)[1, 4], tower(IDS)[1, 4])
    torch.testing.assert_close(tower(IDS, VALID)[1, :3], tower(IDS)[1, :3], rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_hub(theirs):
    tower = ours(theirs)
    tower(IDS).square().sum().backward()
    theirs.zero_grad()
    theirs(input_ids=IDS).last_hidden_state.square().sum().backward()
    expected = {name.removeprefix("text_model."): value for name, value in theirs.named_parameters()}
    for name, parameter in tower.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(("spec", "count"), [(CLIP_BASE_TEXT, 63_165_952), (CLIP_LARGE_TEXT, 123_060_480)])
def test_published_towers_have_their_published_number_of_parameters(spec, count):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in ClipTextTower(spec).parameters()) == count
