"""What the frames of a clip tell each other; a clip of one frame passes unchanged."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .attention import SelfAttention

TIME_FREQUENCIES = (1.0, 2.0, 4.0, 8.0)  # half-cycles over the clip


class TimeMixing(nn.Module):
    """Every cell sees the same place in all frames, and every coarsest cell the whole clip.

    What the frames tell is scaled by a gain per channel that starts at zero, so that a model trained on images reads a
    clip frame by frame until it is trained on clips.
    """

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.time = nn.Linear(2 * len(TIME_FREQUENCIES) + 1, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.same_place = SelfAttention(dim, head_dim)
        self.whole_clip = SelfAttention(dim, head_dim)
        self.gains = nn.Parameter(torch.zeros(2, dim))

    def forward(self, tokens: Tensor, valid: Tensor, num_coarse: int) -> Tensor:
        """Tokens [P, T, A, D] of which the last `num_coarse` are the coarsest cells, valid [P, T, A]; same shape out."""
        num_frames = tokens.shape[1]
        if num_frames == 1:
            return tokens
        when = self.time(_time_codes(num_frames, tokens))[:, None]  # [T, 1, D]
        lines = (self.norms[0](tokens) + when).transpose(1, 2).flatten(0, 1)  # [P*A, T, D]
        told = self.same_place(lines, None).unflatten(0, (len(tokens), -1)).transpose(1, 2)
        tokens = tokens + self.gains[0] * told
        coarse = self.norms[1](tokens[:, :, -num_coarse:]) + when
        told = self.whole_clip(coarse.flatten(1, 2), valid[:, :, -num_coarse:].flatten(1, 2))
        told = self.gains[1] * told.unflatten(1, (num_frames, num_coarse))
        return torch.cat((tokens[:, :, :-num_coarse], tokens[:, :, -num_coarse:] + told), dim=2)


def _time_codes(num_frames: int, like: Tensor) -> Tensor:
    """Codes [T, C] of the moments of a clip, 0 being its first frame and 1 its last."""
    moments = torch.linspace(0, 1, num_frames, device=like.device)[:, None]
    angles = moments * (math.pi * moments.new_tensor(TIME_FREQUENCIES))
    return torch.cat((2 * moments - 1, angles.sin(), angles.cos()), dim=-1).to(like.dtype)
