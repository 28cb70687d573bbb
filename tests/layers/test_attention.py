"""Attention against torch's own."""

import torch

from refseg.layers.attention import Attention


def test_it_computes_what_torch_computes():
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3).eval(), torch.nn.MultiheadAttention(12, 3, batch_first=True).eval()
    ours.load_state_dict(theirs.state_dict())
    query, key, value = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[1, 4:] = False
    expected, _ = theirs(query, key, value, key_padding_mask=~valid)
    torch.testing.assert_close(ours(query, key, value, valid), expected)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    attention, tokens = Attention(8, 2, dropout=0.5), torch.randn(1, 6, 8)
    assert not torch.equal(attention(tokens, tokens, tokens), attention(tokens, tokens, tokens))
    attention.eval()
    assert torch.equal(attention(tokens, tokens, tokens), attention(tokens, tokens, tokens))


def test_few_keys_are_read_without_projecting_the_queries():
    torch.manual_seed(0)
    ours, theirs = Attention(24, 3).eval(), torch.nn.MultiheadAttention(24, 3, batch_first=True).eval()
    torch.nn.init.normal_(theirs.in_proj_bias)
    torch.nn.init.normal_(theirs.out_proj.bias)
    ours.load_state_dict(theirs.state_dict())
    query, key, value = torch.randn(2, 9, 24), torch.randn(2, 4, 24), torch.randn(2, 4, 24)
    valid = torch.ones(2, 4, dtype=torch.bool)
    valid[1, 2:] = False
    expected, _ = theirs(query, key, value, key_padding_mask=~valid)
    assert ours._folds(query, key)
    torch.testing.assert_close(ours(query, key, value, valid), expected)
