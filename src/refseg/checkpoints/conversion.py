"""Foreign weights to our own file: read, rename, build, load strictly, save with their origin."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from refseg.checkpoints import native
from refseg.checkpoints.readers import read
from refseg.errors import CheckpointMismatch, InvalidInput, UnknownName
from refseg.models import catalog
from refseg.models.base import ReferringModel, StateDict
from refseg.models.renaming import Report

TOKENIZER = "tokenizer.json"
WORDS = "words"  # texts whose words' vectors a checkpoint is to carry, for families that read word vectors
_START_SEED = 0  # of the weights that a file of a part alone does not give


@dataclass(frozen=True)
class Conversion:
    """What came of a foreign file."""

    path: Path
    header: native.Header
    report: Report


def convert(
    source: Path,
    out: Path,
    *,
    family: str,
    variant: str,
    tokenizer: Path | None = None,
    words: Path | None = None,
    part: str | None = None,
    onto: Path | None = None,
    dtype: torch.dtype | None = None,
    origin: Mapping[str, str] | None = None,
) -> Conversion:
    """Writes the weights of `source` to `out` as our own file, with all that prediction needs.

    Args:
        words: a text whose words' vectors the file is to carry, for families that read word vectors.
        part: the part of the model that `source` alone gives, such as a backbone; the rest begins with fresh weights, so
            that the file is a start for training.
        onto: a file of ours of the same variant that gives the rest instead, such as an earlier part.
        origin: is put into the header beside the source's name and sha256.

    Raises:
        InvalidInput: if the source cannot be read, is ours already, or the tokenizer is not at hand.
        UnknownName: if the family or the variant does not exist.
        CheckpointMismatch: if a name or shape is left on either side; the message names the variants that would fit.
    """
    catalog.variant(family, variant)  # a mistake in a name is told before a big file is read
    if onto is not None and part is None:
        raise InvalidInput("--onto gives the rest of a model whose --part comes from a file; name the part")
    if part is not None and part not in catalog.family(family).starts:
        raise UnknownName(f"part of {family} that a file may give alone", part, catalog.family(family).starts)
    _refuse_native(source)
    state = read(source)
    if part is None:
        model, report = _loaded(state, family, variant, source.name)
    else:
        model, report = _started(state, _start(family, variant, onto), family, part)
    _give_tokenizer(model, tokenizer)
    _give_words(model, words)
    told = {"file": source.name, "sha256": file_sha256(source), **(origin or {})}
    told |= {} if part is None else {"part": _parts_told(part, onto)}
    header = native.save(out, model, family=family, variant=variant, origin=told, dtype=dtype)
    return Conversion(out, header, report)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def variants_that_fit(state: StateDict) -> Iterator[tuple[str, str]]:
    """The family and variant of every model whose names and shapes are those of a published `state`."""
    for family in catalog.FAMILIES:
        for variant, config in catalog.family(family).variants.items():
            try:
                converted, report = catalog.family(family).convert(state, config)
            except CheckpointMismatch:
                continue
            with torch.device("meta"):
                wanted = catalog.build(family, config).state_dict()
            if native.difference(wanted, converted, source="", left=report.left) is None:
                yield family, variant


def _loaded(state: StateDict, family: str, variant: str, source: str) -> tuple[ReferringModel, Report]:
    config = catalog.variant(family, variant)
    try:
        converted, report = catalog.family(family).convert(state, config)
        model = native.blank(family, config)
        native.load_strictly(model, converted, source=source, left=report.left)
    except CheckpointMismatch as error:
        fitting = list(variants_that_fit(state))
        if not fitting:
            raise
        words = " or ".join(f"--family {other} --variant {name}" for other, name in fitting)
        raise CheckpointMismatch(
            f"{source} is not {family} {variant}; by its names and shapes it fits {words}",
            missing=error.missing,
            unexpected=error.unexpected,
        ) from error
    return model, report


def _start(family: str, variant: str, onto: Path | None) -> ReferringModel:
    """The model that a part is put into: a fresh one, or that of a file of ours."""
    config = catalog.variant(family, variant)
    if onto is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_START_SEED)
            return catalog.build(family, config)
    model, header = native.load(onto)
    if (header.family, header.variant) != (family, variant):
        raise InvalidInput(
            f"{onto} is {header.family} {header.variant}, and the part is for {family} {variant}; give a file of the same"
        )
    return model


def _parts_told(part: str, onto: Path | None) -> str:
    if onto is None:
        return f"{part}; all else is untrained"
    earlier = native.read_header(onto).origin
    return f"{part}; all else from {onto.name} ({earlier.get('part', 'a whole checkpoint')})"


def _started(
    state: StateDict, model: ReferringModel, family: str, part: str
) -> tuple[ReferringModel, Report]:
    """The model with its `part` from a file."""
    converted, report = catalog.family(family).starts[part](state, model.config)
    native.load_strictly(model, {**model.state_dict(), **converted}, source=f"the {part}", left=report.left)
    return model, report


def _give_words(model: ReferringModel, words: Path | None) -> None:
    if words is None:
        return
    try:
        text = words.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the words {words} cannot be read: {error}") from error
    before = model.extra_state()
    model.load_extra_state({WORDS: text})
    if model.extra_state() == before:
        raise InvalidInput(
            f"{words} brings no word vectors: the file is empty, or this family reads none; leave out --words"
        )


def _refuse_native(source: Path) -> None:
    try:
        header = native.read_header(source)
    except InvalidInput:
        return  # not ours: the very thing to convert
    raise InvalidInput(
        f"{source} is a refseg checkpoint already ({header.family} {header.variant}); use it as it is"
    )


def _give_tokenizer(model: ReferringModel, tokenizer: Path | None) -> None:
    if tokenizer is not None:
        try:
            packed = tokenizer.read_bytes()
            text = (gzip.decompress(packed) if tokenizer.suffix == ".gz" else packed).decode("utf-8")
            model.load_extra_state({TOKENIZER: text})
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise InvalidInput(f"the tokenizer {tokenizer} cannot be read: {error}") from error
        if not model.extra_state():
            raise InvalidInput("this family has no tokenizer file; leave out --tokenizer")
    if type(model).extra_state is not ReferringModel.extra_state and not model.extra_state():
        try:
            model.tokenize(["a phrase"])
        except InvalidInput as error:
            raise InvalidInput(f"{error}; or give the file itself: --tokenizer FILE") from error
