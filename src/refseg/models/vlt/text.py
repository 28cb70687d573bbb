"""The phrase: word vectors through a recurrent network, and their mixture by attention over time.

Source: section 3.2 of the published program. The reset gate multiplies the state before the recurrent product, which
torch's own GRU does after it; weights of one do not fit the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.models.vlt.backbone import dense


class Gru(nn.Module):
    """A gated recurrent unit in the layout of Keras: three gates (update, reset, candidate) side by side, one bias."""

    def __init__(self, features: int, units: int, *, dropout: float) -> None:
        super().__init__()
        self.units = units
        self.dropout = dropout
        self.kernel = nn.Parameter(torch.empty(features, 3 * units))
        self.recurrent_kernel = nn.Parameter(torch.empty(units, 3 * units))
        self.bias = nn.Parameter(torch.zeros(3 * units))
        nn.init.xavier_uniform_(self.kernel)
        nn.init.orthogonal_(self.recurrent_kernel)

    def forward(self, words: Tensor, *, backward: bool = False) -> Tensor:
        """States [N, L, U] after each word of [N, L, E]; with `backward`, read from the last word, kept in word order."""
        told = self._dropped(words) @ self.kernel + self.bias  # [N, L, 3U]
        state = told.new_zeros(len(told), self.units)
        states = []
        for step in told.flip(1).unbind(1) if backward else told.unbind(1):
            state = self._step(step, state)
            states.append(state)
        return torch.stack(states[::-1] if backward else states, dim=1)

    def _step(self, told: Tensor, state: Tensor) -> Tensor:
        units = self.units
        gates = torch.sigmoid(told[:, : 2 * units] + state @ self.recurrent_kernel[:, : 2 * units])
        update, reset = gates.chunk(2, dim=-1)
        candidate = torch.tanh(told[:, 2 * units :] + (reset * state) @ self.recurrent_kernel[:, 2 * units :])
        return candidate + update * (state - candidate)

    def _dropped(self, words: Tensor) -> Tensor:
        """Published behaviour: one mask per phrase and direction, the same for every word."""
        if not self.training or self.dropout == 0:
            return words
        mask = functional.dropout(torch.ones_like(words[:, :1]), self.dropout)
        return words * mask


class PhraseEncoder(nn.Module):
    """States of every word, and the phrase as their mixture, feature by feature."""

    def __init__(
        self, word_dim: int, units: int, *, is_bidirectional: bool, input_dropout: float, dropout: float
    ) -> None:
        super().__init__()
        self.forward_gru = Gru(word_dim, units, dropout=input_dropout)
        self.backward_gru = Gru(word_dim, units, dropout=input_dropout) if is_bidirectional else None
        self.attention = dense(units, units)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Word vectors [N, L, E] to states [N, L, U] and each word's share [N, L, U] in the phrase.

        Published behaviour: vectors of zeros after the last word are words too.
        """
        states = self.forward_gru(words)
        if self.backward_gru is not None:
            states = states + self.backward_gru(words, backward=True)
        return states, self.shares(states)

    def shares(self, states: Tensor) -> Tensor:
        """Each word's share [N, L, U] in the phrase, feature by feature, of states [N, L, U]."""
        return self.dropout(torch.tanh(self.attention(states))).softmax(dim=1)
