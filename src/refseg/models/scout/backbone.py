"""The convolutional backbone, and how words enter at the end of each of its stages.

Padding is set to zero after every stage, which is what a convolution sees beyond the edge of a picture: a padded
picture is read as if the canvas ended with its content.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from refseg.models.scout.attention import attend
from refseg.models.scout.position import CODE_DIM, Places, blank_padding


def conv_norm(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch norm; the size shrinks by `stride` alone."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm(channels_in, channels_out, stride=stride)
        self.second = conv_norm(channels_out, channels_out)
        keeps_shape = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if keeps_shape else conv_norm(channels_in, channels_out, 1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [N, C, h, w] to [N, C', h', w']."""
        inner = self.second(functional.relu(self.first(maps), inplace=True))
        return functional.relu(inner + self.shortcut(maps), inplace=True)


class Stage(nn.Module):
    """Residual blocks, the first of which halves the size."""

    def __init__(self, channels_in: int, channels_out: int, num_blocks: int) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * num_blocks
        self.blocks = nn.ModuleList(
            ResidualBlock(before, after, 2 if index == 0 else 1)
            for index, (before, after) in enumerate(pairwise(widths))
        )

    def forward(self, maps: Tensor, valid: Tensor) -> Tensor:
        """Maps [N, C, 2h, 2w] and valid [N, 1, h, w] to [N, C', h, w]."""
        for block in self.blocks:
            maps = block(maps)
        return blank_padding(maps, valid)


class WordFusion(nn.Module):
    """Every cell looks at the words and adds what they mean to it.

    A cell asks with what it shows and where it lies; what the words answer is multiplied with the cell's own view
    before it is added, so a word can mean something at one place and nothing at another. After LAVT (Yang et al. 2022,
    section 3.2), with positions added to the question.
    """

    def __init__(self, channels: int, dim: int, *, text_dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.cells = nn.Linear(channels, 2 * dim)
        self.rows = nn.Linear(CODE_DIM, dim, bias=False)
        self.columns = nn.Linear(CODE_DIM, dim, bias=False)
        self.words = nn.Linear(text_dim, 2 * dim)
        self.out = nn.Linear(dim, channels)

    def forward(self, maps: Tensor, where: Places, words: Tensor, words_valid: Tensor) -> Tensor:
        """Maps [N, C, h, w], words [N, L, D] with words_valid [N, L], to maps [N, C, h, w]."""
        size = maps.shape[-2:]
        seen = self.cells(maps.permute(0, 2, 3, 1))  # [N, h, w, 2*dim]
        questions, views = seen.flatten(1, 2).chunk(2, dim=-1)
        keys, values = self.words(words).chunk(2, dim=-1)

        def places_ask(laid_keys: Tensor) -> Tensor:
            rows = self.rows(where.rows) @ laid_keys.transpose(1, 2)  # [N, h, heads*L]
            columns = self.columns(where.columns) @ laid_keys.transpose(1, 2)
            return (rows[:, :, None] + columns[:, None]).flatten(1, 2)

        answers = attend(questions, keys, values, words_valid, head_dim=self.head_dim, bias=places_ask)
        added = self.out(answers * functional.relu(views)).unflatten(1, size)
        return maps + blank_padding(added.permute(0, 3, 1, 2), where.valid)
