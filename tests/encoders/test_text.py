"""The text tower against the hub's own implementation."""

import dataclasses

import pytest
import torch

from refseg.encoders.text import TextSpec, TextTower
from refseg.structures import TextTokens

SPEC = TextSpec(vocabulary=60, width=16, num_layers=2, num_heads=4, hidden_dim=24, num_positions=20)


def tokens():
    ids = torch.tensor([[0, 7, 8, 9, 2], [0, 11, 2, 1, 1]])
    return TextTokens(ids, ids != SPEC.pad_id)


@pytest.fixture(scope="module")
def theirs():
    transformers = pytest.importorskip("transformers")
    config = transformers.RobertaConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=20,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    torch.manual_seed(0)
    return transformers.RobertaModel(config).eval()


def ours(theirs):
    tower = TextTower(SPEC)
    names = {
        name: value
        for name, value in theirs.state_dict().items()
        if not name.endswith(("_ids", "token_type_ids"))
    }
    tower.load_state_dict(names, strict=True)
    return tower


def test_names_and_numbers_are_those_of_the_hub(theirs):
    ids = tokens()
    told = ours(theirs).eval()(ids)
    expected = theirs(input_ids=ids.values, attention_mask=ids.valid.long())
    torch.testing.assert_close(
        told.tokens[ids.valid], expected.last_hidden_state[ids.valid], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(told.pooled, expected.pooler_output, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_hub(theirs):
    ids, tower = tokens(), ours(theirs).eval()
    tower(ids).pooled.square().sum().backward()
    theirs.zero_grad()
    theirs(input_ids=ids.values, attention_mask=ids.valid.long()).pooler_output.square().sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in tower.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-6, msg=name)


def test_padding_changes_no_feature():
    torch.manual_seed(0)
    tower = TextTower(SPEC).eval()
    short = torch.tensor([[0, 11, 2]])
    alone = tower(TextTokens(short, torch.ones_like(short, dtype=torch.bool)))
    torch.testing.assert_close(tower(tokens()).tokens[1, :3], alone.tokens[0], rtol=1e-4, atol=1e-5)


def test_dropout_is_active_in_training():
    tower = TextTower(dataclasses.replace(SPEC, dropout=0.5)).train()
    assert not torch.equal(tower(tokens()).pooled, tower(tokens()).pooled)


BERT = dataclasses.replace(
    SPEC, tower="bert", num_token_types=2, norm_eps=1e-12, pad_id=0, tokenizer="bert-base-uncased"
)


@pytest.fixture(scope="module")
def their_bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=20,
    )
    torch.manual_seed(0)
    return transformers.BertModel(config, add_pooling_layer=False).eval()


def test_bert_has_the_names_and_numbers_of_the_hub_even_on_padding(their_bert):
    tower = TextTower(BERT).eval()
    tower.load_state_dict(
        {name: value for name, value in their_bert.state_dict().items() if not name.endswith("_ids")},
        strict=True,
    )
    ids = torch.tensor([[5, 7, 0, 9, 2], [5, 11, 2, 0, 0]])  # id 0 as a word counts as a place
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    told = tower(TextTokens(ids, valid))
    expected = their_bert(input_ids=ids, attention_mask=valid.long()).last_hidden_state
    torch.testing.assert_close(told.tokens, expected, rtol=1e-4, atol=1e-5)
    assert told.pooled is None
