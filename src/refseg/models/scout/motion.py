"""How cells move through a clip, once per clip and before any word; a clip of one frame passes unchanged.

Cells of stride 8 are compared with those around their place in the frames before and after (a local cost volume, as
optical flow networks use it), and with their own place in the first and the last frame. What a cell concludes is then
handed along the likeliest matches to the frames beside it, twice, so that the first and the last frame know what the
middle saw. The result is added to the first stage, where every later look of cells at words finds it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.models.scout.decoder import double

NEIGHBOURS = (-2, -1, 1, 2)  # frames that a cell is matched with
MATCH_DIM = 32
ROUNDS = 2
FIRST_SHARPNESS = 8.0  # of matches, before training


class MotionBlock(nn.Module):
    """What neighbouring frames tell each cell, added to the first stage.

    The last map starts at zero: before it is trained on clips, a model reads a clip frame by frame.
    """

    def __init__(self, channels: int, dim: int, reach: int) -> None:
        super().__init__()
        self.reach = reach  # cells of stride 8 that a thing may travel between matched frames
        self.match = nn.Linear(channels, MATCH_DIM)
        self.view = nn.Linear(channels, MATCH_DIM)
        costs = len(NEIGHBOURS) * (2 * reach + 1) ** 2
        self.start = nn.Linear(5 * MATCH_DIM + costs, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(ROUNDS + 1))
        self.spread = nn.ModuleList(
            nn.Conv2d(dim, dim, 3, padding=dilation, dilation=dilation)
            for dilation in (1, 2, 1)[: ROUNDS + 1]
        )
        self.hand_on = nn.ModuleList(nn.Linear(3 * dim, dim) for _ in range(ROUNDS))
        self.sharpness = nn.Parameter(torch.tensor(FIRST_SHARPNESS))
        self.out = nn.Linear(dim, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, maps: Tensor, num_frames: int) -> tuple[Tensor, Tensor | None]:
        """First-stage maps [B*T, C, 2h, 2w] to the same with motion, and what each cell concludes [B*T, h*w, D].

        The second is None for clips of one frame, whose maps are returned as they are.
        """
        if num_frames == 1:
            return maps, None
        cells = functional.avg_pool2d(maps, 2).permute(0, 2, 3, 1)  # [B*T, h, w, C]
        size = (cells.shape[1], cells.shape[2])
        cells = cells.flatten(1, 2).unflatten(0, (-1, num_frames))  # [B, T, A, C]
        keys = functional.normalize(self.match(cells).float(), dim=-1).to(cells.dtype)
        likeness = {step: keys @ beside(keys, step).transpose(-1, -2) for step in NEIGHBOURS}
        told = self._conclude(cells, likeness, size)
        added = double(self.out(told).unflatten(1, size)).permute(0, 3, 1, 2)
        return maps + added.to(maps.dtype), told

    def _conclude(self, cells: Tensor, likeness: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """What cells [B, T, A, C] see of motion, [B*T, A, D]."""
        places, is_inside = window(size, self.reach, cells.device)
        views = self.view(cells)
        ends = (views[:, :1].expand_as(views), views[:, -1:].expand_as(views))
        seen = [views, beside(views, -1), beside(views, 1), *ends]
        seen += [_costs(matrix, places, is_inside) for matrix in likeness.values()]
        told = self._spread(0, self.start(torch.cat(seen, dim=-1)), size)
        near = (
            torch.zeros(likeness[1].shape[-2:], device=cells.device).scatter_add(1, places, is_inside.float())
            > 0
        )
        weights = [
            (self.sharpness * likeness[step]).masked_fill(~near, float("-inf")).softmax(-1).to(cells.dtype)
            for step in (-1, 1)
        ]
        for index, hand_on in enumerate(self.hand_on):
            handed = [
                weight @ beside(told, step).to(weight.dtype)
                for weight, step in zip(weights, (-1, 1), strict=True)
            ]
            told = self._spread(index + 1, told + hand_on(torch.cat((told, *handed), dim=-1)), size)
        return told.flatten(0, 1)

    def _spread(self, index: int, told: Tensor, size: tuple[int, int]) -> Tensor:
        """Cells [B, T, A, D] after a look at the cells around them."""
        grid = functional.relu(self.norms[index](told)).flatten(0, 1).unflatten(1, size).permute(0, 3, 1, 2)
        return told + self.spread[index](grid).permute(0, 2, 3, 1).flatten(1, 2).view(told.shape)


class MotionCue(nn.Module):
    """Which cells move as the phrase says; a clip trained model's shortest way from words to motion.

    The sentence asks one question, and every cell answers with what it concluded of motion. The answer is added to the
    first stage along one direction, which starts at zero.
    """

    def __init__(self, motion_dim: int, text_dim: int, channels: int) -> None:
        super().__init__()
        self.ask = nn.Sequential(
            nn.Linear(text_dim, text_dim), nn.GELU(), nn.Linear(text_dim, motion_dim + 1)
        )
        self.norm = nn.LayerNorm(motion_dim)
        self.gain = nn.Parameter(torch.zeros(channels))

    def forward(self, concluded: Tensor, sentence: Tensor) -> Tensor:
        """Logits [P, T, h, w] of what cells concluded [P, T, D, h, w] for sentences [P, D']."""
        question = self.ask(sentence)
        cells = self.norm(concluded.permute(0, 1, 3, 4, 2))
        scale = question.shape[-1] ** -0.5
        return (cells * question[:, None, None, None, :-1] * scale).sum(-1) + question[
            :, None, None, None, -1
        ]

    def mark(self, maps: Tensor, logits: Tensor) -> Tensor:
        """First-stage maps [P*T, C, 2h, 2w] with the cells marked that answer the sentence."""
        marks = logits.flatten(0, 1).sigmoid()[:, None].repeat_interleave(2, -2).repeat_interleave(2, -1)
        return maps + (marks * self.gain[:, None, None]).to(maps.dtype)


def beside(frames: Tensor, step: int) -> Tensor:
    """For each frame of [B, T, ...] the one `step` later (earlier, if negative); zeros where there is none."""
    num_frames = frames.shape[1]
    missing = frames.new_zeros(frames.shape[0], min(abs(step), num_frames), *frames.shape[2:])
    if step > 0:
        return torch.cat((frames[:, step:], missing), dim=1)
    return torch.cat((missing, frames[:, : max(num_frames + step, 0)]), dim=1)


def window(size: tuple[int, int], reach: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The cells within `reach` of each cell, and which of them lie in the picture; both [A, (2*reach+1)^2]."""
    height, width = size
    offsets = torch.arange(-reach, reach + 1, device=device)
    rows = torch.arange(height, device=device)[:, None] + offsets  # [h, W]
    columns = torch.arange(width, device=device)[:, None] + offsets
    inside_rows, inside_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    places = rows[:, None, :, None] * width + columns[None, :, None, :]  # [h, w, W, W]
    is_inside = inside_rows[:, None, :, None] & inside_columns[None, :, None, :]
    return places.flatten(2).flatten(0, 1), is_inside.flatten(2).flatten(0, 1)


def _costs(likeness: Tensor, places: Tensor, is_inside: Tensor) -> Tensor:
    """Of the likeness of all cells [B, T, A, A], that to the cells of each window; zero beyond the picture."""
    index = places.expand(*likeness.shape[:2], -1, -1)
    return likeness.gather(-1, index) * is_inside
