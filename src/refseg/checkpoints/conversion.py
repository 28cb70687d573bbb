"""Foreign weights to our own file: read, rename, build, load strictly, save with their origin."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from refseg.checkpoints import native
from refseg.checkpoints.readers import read, read_folder
from refseg.errors import CheckpointMismatch, InvalidInput, UnknownName
from refseg.models import catalog
from refseg.models.base import ModelConfig, ReferringModel, StateDict
from refseg.models.family import CompanionWeights, Family
from refseg.models.renaming import ConversionReport

TOKENIZER = "tokenizer.json"
WORDS = "words"  # texts whose words' vectors a checkpoint is to carry, for families that read word vectors
_START_SEED = 0  # of the weights that a file of a part alone does not give


@dataclass(frozen=True)
class Conversion:
    """What came of a foreign file."""

    path: Path
    header: native.Header
    report: ConversionReport


def convert(
    source: Path,
    out: Path,
    *,
    family: str,
    variant: str,
    tokenizer: Path | None = None,
    companion: Path | None = None,
    words: Path | None = None,
    part: str | None = None,
    onto: Path | None = None,
    dtype: torch.dtype | None = None,
    config: ModelConfig | None = None,
    origin: Mapping[str, str] | None = None,
) -> Conversion:
    """Writes the weights of `source` to `out` as our own file, with all that prediction needs.

    Values go from file to file one tensor at a time; no model is filled with them.

    Args:
        source: a weight file, or a folder of them as diffusers keeps a model.
        companion: the file of weights that `source` leaves out; None looks in the Hugging Face cache.
        words: a text whose words' vectors the file is to carry, for families that read word vectors.
        part: the part of the model that `source` alone gives, such as a backbone; the rest begins with fresh weights, so
            that the file is a start for training.
        onto: a file of ours of the same variant that gives the rest instead, such as an earlier part.
        config: the variant's configuration where the file's differs from it in what its weights cannot tell.
        origin: is put into the header beside the source's name and sha256.

    Raises:
        InvalidInput: if the source cannot be read, is ours already, or the tokenizer or a companion is not at hand.
        UnknownName: if the family or the variant does not exist.
        CheckpointMismatch: if a name or shape is left on either side; the message names the variants that would fit.
    """
    own = catalog.variant(family, variant)  # a mistake in a name is told before a big file is read
    if onto is not None and part is None:
        raise InvalidInput("--onto gives the rest of a model whose --part comes from a file; name the part")
    found = catalog.family(family)
    if part is not None and part not in found.starts:
        raise UnknownName(f"part of {family} that a file may give alone", part, found.starts)
    if not source.is_dir():
        _refuse_native(source)
    state = read_folder(source) if source.is_dir() else read(source)
    model, tensors, report = _weights(
        state, variant, Beside(found, source.name, config or own, companion, part), onto
    )
    _give_tokenizer(model, tokenizer or _beside_parts(source))
    _give_words(model, words)
    told = {"file": source.name, **_sha256_of(source), **(origin or {})}
    told |= {} if part is None else {"part": _parts_told(part, onto)}
    header = native.save_tensors(
        out, tensors, model, family=family, variant=variant, origin=told, dtype=dtype, are_files=True
    )
    return Conversion(out, header, report)


@dataclass(frozen=True)
class Beside:
    """What stands beside the tensors of a source."""

    family: Family
    name: str  # of the source
    config: ModelConfig
    companion: Path | None
    part: str | None = None  # what it gives of the model, where that is not all


def _weights(
    state: StateDict, variant: str, beside: Beside, onto: Path | None
) -> tuple[ReferringModel, StateDict, ConversionReport]:
    """A model, which may have no values, and all its tensors."""
    family = beside.family
    if beside.part is None or (onto is None and family.first_values is not None):
        with torch.device("meta"):
            model = catalog.build(family.name, beside.config)
        return model, *_fitted(state, model, variant, beside)
    model = _start(family.name, variant, beside.config, onto)
    converted, report = family.starts[beside.part](state, model.config)
    tensors = {**model.state_dict(), **converted}
    wrong = native.difference(model.state_dict(), tensors, source=f"the {beside.part}", left=report.left)
    if wrong is not None:
        raise wrong
    return model, tensors, report


def _sha256_of(source: Path) -> dict[str, str]:
    return {} if source.is_dir() else {"sha256": file_sha256(source)}


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
                if report.left:
                    continue
                with torch.device("meta"):
                    wanted = catalog.build(family, config).state_dict()
            except (CheckpointMismatch, InvalidInput):
                continue  # the latter where an extra that the family is built on is not installed
            wanted = {
                name: like
                for name, like in wanted.items()
                if name in converted or not _is_beside(name, family)
            }
            if native.difference(wanted, converted, source="") is None:
                yield family, variant


def _is_beside(name: str, family: str) -> bool:
    """Whether a weight is one that published files of the family leave to a companion."""
    return any(re.search(weights.pattern, name) for weights in catalog.family(family).companions)


def _fitted(
    state: StateDict, model: ReferringModel, variant: str, beside: Beside
) -> tuple[StateDict, ConversionReport]:
    """The tensors of `model`, every name and every shape, and where they come from."""
    family = beside.family
    try:
        rules = family.convert if beside.part is None else family.starts[beside.part]
        converted, report = rules(state, model.config)
        if beside.part is not None:
            _begin_anew(converted, report, model.config, family)
        for weights in family.companions:
            _add_companion(converted, report, model, weights, beside)
        wrong = native.difference(model.state_dict(), converted, source=beside.name, left=report.left)
        if wrong is not None:
            raise wrong
    except CheckpointMismatch as error:
        fitting = list(variants_that_fit(state))
        if not fitting:
            raise
        words = " or ".join(f"--family {other} --variant {name}" for other, name in fitting)
        raise CheckpointMismatch(
            f"{beside.name} is not {family.name} {variant}; by its names and shapes it fits {words}",
            missing=error.missing,
            unexpected=error.unexpected,
        ) from error
    return converted, report


def _begin_anew(converted: StateDict, report: ConversionReport, config: ModelConfig, family: Family) -> None:
    """First values for what the family learns from nothing and the file lacks; the same ones every time."""
    assert family.first_values is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_START_SEED)
        values = family.first_values(config)
    report.fresh = [name for name in values if name not in converted]
    converted |= {name: values[name] for name in report.fresh}


def _add_companion(
    converted: StateDict,
    report: ConversionReport,
    model: ReferringModel,
    weights: CompanionWeights,
    beside: Beside,
) -> None:
    absent = {
        name for name in model.state_dict() if name not in converted and re.search(weights.pattern, name)
    }
    if not absent:
        return
    path = beside.companion or _cached(weights)
    if path is None:
        raise InvalidInput(
            f"{beside.name} lacks {weights.title}, and the Hugging Face cache has none; run `hf download {weights.hub} "
            f"{weights.files[0]}` once, or give the file itself: --companion FILE"
        )
    found, more = beside.family.convert(read(path), model.config)
    if not absent & set(found):
        raise InvalidInput(
            f"{path} is not {weights.title}; give the file {weights.files[0]} of {weights.hub}"
        )
    converted |= {name: tensor for name, tensor in found.items() if name in absent}
    report.renamed |= {old: new for old, new in more.renamed.items() if new in absent}


def _cached(weights: CompanionWeights) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in weights.files:
        found = try_to_load_from_cache(weights.hub, file)
        if isinstance(found, str):
            return Path(found)
    return None


def _start(family: str, variant: str, config: ModelConfig, onto: Path | None) -> ReferringModel:
    """The model that a part is put into: a fresh one, or that of a file of ours."""
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


def _beside_parts(source: Path) -> Path | None:
    """The tokenizer of a folder of diffusers, where it has one."""
    names = ("tokenizer.json", "merges.txt") if source.is_dir() else ()
    return next((path for name in names if (path := source / "tokenizer" / name).is_file()), None)


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
