"""Cases of VLT without weights: words to vectors, pictures to the canvas, logits to masks and scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from parity.case import Case, Comparison, NotBuilt
from refseg.data.collate import collate
from refseg.encoders.tokenizers.english import tokens_of, words_of
from refseg.encoders.word_vectors import PhraseVectors, write_table
from refseg.metrics import protocols
from refseg.metrics.scores import Pixels, overlap_scores
from refseg.models.vlt import config as settings
from refseg.models.vlt.loss import masks_at_cells
from refseg.models.vlt.model import Vlt, finish_scores
from refseg.structures import Example, Output


def run(case: Case) -> None:
    """Runs a case by the arrays it holds."""
    if "in/vectors" in case.arrays:
        return run_text(case)
    if "in/logits" in case.arrays:
        return run_post(case)
    raise NotBuilt(f"a VLT case with the arrays {sorted(case.arrays)}")


def run_text(case: Case) -> None:
    """Phrases to matrices of word vectors, through a table read from a file."""
    told = case.manifest["inputs"]
    if "tokens" in case.manifest:
        for phrase, expected in zip(told["expressions"], case.manifest["tokens"], strict=True):
            assert [list(tokens_of(word)) for word in words_of(phrase)] == expected, phrase
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as name:
        folder = Path(name)
        patch.setenv("REFSEG_HOME", name)
        np.savez(folder / "case.npz", words=np.array(told["words"]), vectors=case.arrays["in/vectors"])
        write_table(folder / "case.npz")
        reader = PhraseVectors("case", dim=case.config["embed_dim"], max_words=case.config["word_len"])
        words = reader(told["expressions"])
    Comparison(case, {"out/words": words.values}).check()
    lengths = [min(len(words_of(phrase)), case.config["word_len"]) for phrase in told["expressions"]]
    assert words.valid.sum(1).tolist() == lengths


def run_post(case: Case) -> None:
    """The letterbox, the training target, the way back from given logits, and the published scores."""
    told, limits = case.config, case.manifest["tolerance"]
    model = _model(told)
    references = [(image.permute(2, 0, 1)[None], mask > 0) for image, mask in _references(case)]
    placements = []
    for number, (frames, mask) in enumerate(references):
        batch = collate([Example(str(number), frames, ("it",), mask[None, None])], model.config.frame)
        pixels = batch.clips.pixels[0, 0].permute(1, 2, 0)
        target = masks_at_cells(batch.targets.masks, told["input_size"] // told["seg_out_stride"])
        computed = {
            f"out/input_{number}": pixels[::4, ::4],
            f"out/input_rowprofile_{number}": pixels.mean((1, 2)),
            f"out/input_colprofile_{number}": pixels.mean((0, 2)),
            f"out/train_mask_{number}": target[0, 0, :, :, None],
        }
        for name, value in computed.items():
            _close(case, name, value, atol=limits["input_atol"])
        placements.append(batch.placements[0])
    counts = told["sentences_per_reference"]
    owners = [number for number, count in enumerate(counts) for _ in range(count)]
    logits = case.tensor("in/logits").permute(0, 3, 1, 2)[:, None]  # [P, 1, 1, h, w]
    where = [placements[owner] for owner in owners]
    masks = model.finish(Output(logits), where)
    rows = []
    for number, (owner, mask) in enumerate(zip(owners, masks, strict=True)):
        scores = finish_scores(logits[number, 0], where[number], "source")[0]
        _close(case, f"out/prob_{number}", scores[::5, ::5], atol=limits["atol"], rtol=limits["rtol"])
        expected = np.unpackbits(case.arrays[f"out/binary_{number}"], count=mask[0].numel())
        different = int((mask[0].numpy().flatten() != expected.astype(bool)).sum())
        assert different <= limits["binary_max_different_pixels"], f"{different} pixels of mask {number}"
        rows.append(_pixels(mask, references[owner][1][None]))
    ious = [protocols.VLT.iou(row.intersection, row.union) for row in rows]
    scores = overlap_scores(rows, protocols.VLT)
    _close(case, "out/ious", ious, atol=limits["atol"], rtol=limits["rtol"])
    _close(case, "out/mean_iou", scores["mIoU"], atol=limits["atol"], rtol=limits["rtol"])
    precision = [value for name, value in scores.items() if name.startswith("P@")]
    _close(case, "out/precision", precision, atol=limits["atol"], rtol=limits["rtol"])


def _model(told: dict) -> Vlt:
    """A model of the case's sizes; its weights play no part."""
    with torch.device("meta"):
        return Vlt(
            dataclasses.replace(
                settings.VARIANTS["debug"],
                frame=dataclasses.replace(settings.LETTERBOX, size=told["input_size"]),
                stride=told["seg_out_stride"],
                threshold=told["segment_thresh"],
            )
        )


def _references(case: Case):
    images, masks = (dict(case.numbered(f"in/{kind}_")) for kind in ("image", "mask"))
    return [(images[number], masks[number]) for number in sorted(images)]


def _pixels(answer, target):
    counts = (answer & target).sum(), answer.sum(), target.sum()
    return Pixels(*(int(count) for count in counts))


def _close(case: Case, name: str, value, *, atol: float, rtol: float = 0.0) -> None:
    expected = case.arrays[name]
    np.testing.assert_allclose(
        np.asarray(value).reshape(expected.shape), expected, atol=atol, rtol=rtol, err_msg=f"{case.id} {name}"
    )
