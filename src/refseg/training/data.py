"""The training sets of a run as one row of examples, each with its own sampling and steps; bad examples are skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from refseg import distributed
from refseg.data.augment.geometric import is_seen, swap_sides
from refseg.data.augment.steps import (
    CropAround,
    Flip,
    Rescale,
    Step,
    draw_neighbours,
    draw_phrases,
    draw_targets,
    redraws,
    uses_mirrors,
    vary,
)
from refseg.data.catalog import open_dataset
from refseg.data.dataset import PhraseDataset, ReadOptions
from refseg.data.frame_sampling import SampledClips
from refseg.data.leakage import (
    EvaluationImages,
    ExclusionReport,
    as_record,
    evaluation_images,
    exclude,
    read_genome,
)
from refseg.data.published import is_published
from refseg.data.sampling import JointOrder, Order, ShapedOrder, generator_at
from refseg.errors import InvalidInput, RefsegError, UnknownName
from refseg.structures import Example, Size
from refseg.training.recipe import epoch_length
from refseg.training.schema import DataConfig, RunConfig, SetConfig

MANY_SKIPPED = 0.01
"""The share of examples tried, of one kind of reason, that is more than a few bad files."""


FEWEST_SKIPPED = 5
"""Below this count a share says nothing."""


_WHY = {"unreadable": "cannot be read", "unseen": "show no object after the augmentation"}


_HELP = {
    "unreadable": "`refseg data doctor` or `refseg data check` looks through the files",
    "unseen": "crops that cut less, or other options of the set, keep them",
}


class Skip(str):
    """Why one example was passed over; a sentence that knows its kind and its set."""

    kind: str
    source: str

    @classmethod
    def of(cls, sentence: str, *, kind: str, source: str) -> Skip:
        """A reason of a kind, `unreadable` or `unseen`, about an example of the set `source`."""
        skip = cls(sentence)
        skip.kind, skip.source = kind, source
        return skip


class Tally:
    """Counts of what was shown and passed over on this process, by set and kind of reason."""

    def __init__(self) -> None:
        self.shown: Counter[str] = Counter()
        self.skipped: Counter[tuple[str, str]] = Counter()
        self._said: set[tuple[str, str]] = set()

    def note(self, shown: Sequence[str], skipped: Sequence[Skip]) -> None:
        """Adds the sets of the examples of a batch, and those that were passed over for it."""
        self.shown.update(shown)
        self.skipped.update((skip.source, skip.kind) for skip in skipped)

    def tried(self, source: str) -> int:
        """Examples of a set that were asked for."""
        return self.shown[source] + sum(count for (of, _), count in self.skipped.items() if of == source)

    def news(self) -> list[str]:
        """Sentences about kinds that are skipped often, or sets of which nothing is shown; each is given once."""
        sentences = []
        for (source, kind), count in sorted(self.skipped.items()):
            tried = self.tried(source)
            is_all = self.shown[source] == 0
            if (source, kind) in self._said or count < FEWEST_SKIPPED or count <= MANY_SKIPPED * tried:
                continue
            self._said.add((source, kind))
            share = "all" if is_all else f"{count / tried:.0%}"
            sentences.append(
                f"{share} of the {tried} examples of {source} tried so far were skipped: {count} {_WHY[kind]}; {_HELP[kind]}"
            )
        return sentences

    def summary(self) -> list[str]:
        """One line a set about all that was skipped, on all processes; all of them ask for it together."""
        counts, shown = self.skipped.copy(), self.shown.copy()
        for other_skipped, other_shown in distributed.gather((dict(self.skipped), dict(self.shown)))[1:]:
            counts.update(other_skipped)
            shown.update(other_shown)
        lines = []
        for source in sorted({source for source, _ in counts}):
            own = {kind: count for (of, kind), count in counts.items() if of == source}
            tried = shown[source] + sum(own.values())
            told = ", ".join(
                f"{count} that {_WHY[kind]} ({count / tried:.1%})" for kind, count in sorted(own.items())
            )
            lines.append(f"skipped of {tried} examples of {source}: {told}")
        return lines


SCENES = "scenes"


_SCENES_OPTIONS = ("motions", "twins", "sprites")  # fields of scenes that are no keys of [data]


MOST_TRIES = 50
"""Examples that are tried for one position before a run that skips gives up."""


_VARIATION, _REPLACEMENT = 2, 3  # what a generator is for, so that no two uses draw the same numbers


@dataclass(frozen=True)
class TrainingSet:
    """One data set of a run: which of its examples, which frames and phrases of each, and the steps after them."""

    examples: PhraseDataset
    sampled: SampledClips | None = None
    phrases: int | None = None
    frames: int | None = None
    targets: int | None = None  # frames that phrases are asked about
    steps: tuple[Step, ...] = ()

    def __len__(self) -> int:
        return len(self.sampled or self.examples)

    def sizes(self) -> Iterator[Size]:
        """(height, width) of every example as stored, told without opening a picture.

        Raises:
            InvalidInput: if the data set does not know them.
        """
        examples = self.examples
        if examples.is_endless:
            raise InvalidInput(
                f"{examples.name} does not know the sizes of its pictures; set data.same_shape = false"
            )
        for number in range(len(self)):
            yield examples.size(number if self.sampled is None else self.sampled.example_of(number))

    def draw(self, index: int, generator: torch.Generator) -> Example:
        """Example `index`, varied."""
        example = self.examples[index] if self.sampled is None else self.sampled.draw(index, generator)
        if self.phrases is not None:
            example = draw_phrases(example, self.phrases, generator)
        if self.frames is not None and self.sampled is None:
            example = draw_neighbours(example, self.frames, generator)
        if self.targets is not None:
            example = draw_targets(example, self.targets, generator)
        return vary(example, self.steps, generator)


class TrainingSets:
    """The sets of a run as one; `leakage` tells what was left out of them, where the recipe asks for it."""

    def __init__(
        self, sources: Sequence[TrainingSet], run: RunConfig, leakage: Leakage | None = None
    ) -> None:
        self.sources, self.run, self.leakage = tuple(sources), run, leakage

    @property
    def name(self) -> str:
        """What tables call them."""
        return " + ".join(source.examples.name for source in self.sources)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of all phrases, and those that mirroring makes of them."""
        words: dict[str, None] = {}
        for source in self.sources:
            words |= dict.fromkeys(source.examples.vocabulary)
            if uses_mirrors(source.steps):
                words |= dict.fromkeys(map(swap_sides, source.examples.vocabulary))
        return tuple(words)

    def __len__(self) -> int:
        return sum(map(len, self.sources))


@dataclass(frozen=True)
class Leakage:
    """The pictures that results are measured on, and the training records that showed one and were left out."""

    held: tuple[EvaluationImages, ...]
    fallen: tuple[ExclusionReport, ...]

    def record(self) -> dict[str, Any]:
        """What is stored beside the run."""
        return as_record(self.fallen, self.held)


@dataclass(frozen=True)
class SampledExample:
    """An example of a run, and why others that stood at its position were passed over."""

    example: Example
    skipped: tuple[Skip, ...] = ()
    source: str = ""  # the set that the example is of


class ExamplesByPosition:
    """The varied example at every position of a run: a function of the seed and the position alone."""

    def __init__(self, sources: TrainingSets) -> None:
        run = sources.run
        self.sources, self.run = sources, run
        # Kept, because a worker that prepares batches is no process of the run and would count itself alone.
        self.world_size = distributed.world_size()
        self.names = [source.examples.name for source in sources.sources]
        is_endless = run.data.name == SCENES
        counts = [len(source) for source in sources.sources]
        epoch = epoch_length(None if is_endless else sum(counts), run, self.world_size)
        shares = [each.share for each in run.data.each]
        self.endless = Order(None, run.seed) if is_endless else None
        self.shaped = _order_by_shape(sources, run) if run.data.same_shape and not is_endless else None
        self.order = JointOrder(
            counts, run.seed, shares=[s for s in shares if s is not None] if shares[0] else None, epoch=epoch
        )

    def __getitem__(self, position: int) -> SampledExample:
        """The example at `position`, or another in its place where the recipe lets bad ones be skipped.

        Raises:
            InvalidInput: if an example cannot be used and may not be skipped, or too many in a row cannot.
        """
        data, seed = self.run.data, self.run.seed
        skipped: list[Skip] = []
        for attempt in range(MOST_TRIES):
            which, index = self._at(position, attempt)
            key, name = (position,) if attempt == 0 else (position, attempt), self.names[which]
            try:
                example = self.sources.sources[which].draw(index, generator_at(seed, _VARIATION, *key))
            except RefsegError as error:
                if not data.skip_bad:
                    raise
                skipped.append(Skip.of(str(error), kind="unreadable", source=name))
                continue
            if is_seen(example) or not data.skip_unseen:
                return SampledExample(example, tuple(skipped), name)
            sentence = f"{example.name}: no object is to be seen after the augmentation"
            skipped.append(Skip.of(sentence, kind="unseen", source=name))
        raise InvalidInput(
            f"{MOST_TRIES} examples in a row cannot be learnt from; the last one: {skipped[-1]}"
        )

    def _at(self, position: int, attempt: int) -> tuple[int, int]:
        if attempt == 0 and self.shaped is not None:
            return self.order.place(self.shaped[position])
        if attempt == 0:
            return (
                self.order[position]
                if self.endless is None
                else (int(is_of_clips(position, self.run, self.world_size)), self.endless[position])
            )
        generator = generator_at(self.run.seed, _REPLACEMENT, position, attempt)
        return self.order.place(int(torch.randint(len(self.order), (), generator=generator)))


def is_of_clips(position: int, run: RunConfig, world_size: int) -> bool:
    """Whether the batch that holds `position` is one of clips; every process and every example of it agrees."""
    clips = run.data.clips
    batch = position // (run.run.batch_size * world_size)
    return clips is not None and batch % clips.every == clips.every - 1


def _order_by_shape(sources: TrainingSets, run: RunConfig) -> ShapedOrder:
    kinds = [int(width > height) for source in sources.sources for height, width in source.sizes()]
    order = ShapedOrder(kinds, run.seed, group=run.run.batch_size * distributed.world_size())
    if order.epoch == 0:
        raise InvalidInput(
            f"of {len(kinds)} examples, neither the wide nor the tall ones fill a batch; lower run.batch_size, or set "
            "data.same_shape = false"
        )
    return order


def open_training_data(run: RunConfig, side: int) -> TrainingSets:
    """The sets that the recipe's [data] section names; `side` is the canvas of the family."""
    data = run.data
    if data.name != SCENES:
        opened, leakage = _without_leakage(
            [open_set(each, with_outlines=redraws(steps_of(each, data))) for each in data.each], data
        )
        pairs = zip(opened, data.each, strict=True)
        return TrainingSets(
            [build_training_set(examples, own, data) for examples, own in pairs], run, leakage
        )
    if data.exclude_images_of:
        raise InvalidInput("data.exclude_images_of is for stored data sets; scenes show no picture of any")
    steps = run.run.steps
    assert isinstance(steps, int), "scenes have no epochs; in_steps has refused them"
    needed = steps * run.optimizer.accumulate * run.run.batch_size * distributed.world_size()
    pictures = _open_scenes(data, data.split, count=needed, seed=run.seed, side=side)
    if data.clips is None:
        return as_training_sets(pictures, run)
    moving = data.clips
    asked = data.model_copy(
        update={"frames": moving.frames, "phrases": moving.phrases, "registers": moving.registers}
    )
    clips = build_training_set(
        _open_scenes(asked, data.split, count=needed, seed=run.seed, side=side), data, data
    )
    return TrainingSets(
        [build_training_set(pictures, data, data), replace(clips, targets=moving.targets)], run
    )


def _without_leakage(
    opened: list[PhraseDataset], data: DataConfig
) -> tuple[list[PhraseDataset], Leakage | None]:
    if not data.exclude_images_of:
        return opened, None
    root = data.evaluate_root or next((own.root for own in data.each if own.root is not None), None)
    held = evaluation_images(data.exclude_images_of, None if root is None else Path(root))
    kept, fallen = [], []
    for examples, own in zip(opened, data.each, strict=True):
        genome = None if own.coco_ids is None else read_genome(Path(own.coco_ids))
        rest, fell = exclude(examples, held, split=own.split, genome=genome)
        if len(rest) == 0:
            raise InvalidInput(f"nothing is left to learn from: {fell}")
        kept.append(rest)
        fallen.append(fell)
    return kept, Leakage(tuple(held), tuple(fallen))


def as_training_sets(examples: PhraseDataset | TrainingSets, run: RunConfig) -> TrainingSets:
    """One data set as the sources of a run."""
    return (
        examples
        if isinstance(examples, TrainingSets)
        else TrainingSets([build_training_set(examples, run.data, run.data)], run)
    )


def build_training_set(examples: PhraseDataset, own: SetConfig, data: DataConfig) -> TrainingSet:
    """A data set with the sampling and the steps that a recipe gives it; scenes are drawn as they are asked for."""
    is_drawn = own.name == SCENES
    return TrainingSet(
        examples,
        sampled=None if own.sample is None else SampledClips(examples, own.sample),
        phrases=None if is_drawn else own.phrases,
        frames=None if is_drawn else data.frames,
        steps=steps_of(own, data),
    )


def steps_of(own: SetConfig, data: DataConfig) -> tuple[Step, ...]:
    """The steps of one set: its own, the short forms flip, scale and crop, then those of all sets."""
    short: list[Step] = []
    if data.flip:
        short.append(Flip(probability=data.flip))
    if data.scale is not None:
        short.append(Rescale(low=data.scale[0], high=data.scale[1]))
    if data.crop:
        short.append(CropAround(probability=data.crop))
    common = () if own is data else data.augment
    return (*own.augment, *short, *common)


def open_evaluation_data(run: RunConfig, side: int) -> PhraseDataset | None:
    """The set that a run is measured on, or None where the recipe asks for no measurement."""
    data, told = run.data, run.run.evaluate_examples
    if told == 0:
        return None
    count = None if told == "all" else int(told)
    name = data.evaluate_name or data.name
    if not name:
        raise InvalidInput(
            "data.evaluate_name is missing: of several sets, a run is measured on one of its own"
        )
    if name != SCENES:
        own = data.each[0]
        root = data.evaluate_root or own.root
        return open_set(own, name=name, split=data.evaluate_split, root=root, count=count, is_measured=True)
    if count is None:
        raise InvalidInput('run.evaluate_examples is "all", and scenes have no end; give a number')
    return _open_scenes(data, data.evaluate_split, count=count, seed=0, side=side)


def open_set(
    own: SetConfig,
    *,
    name: str | None = None,
    split: str | None = None,
    root: str | None = None,
    count: int | None = None,
    is_measured: bool = False,
    with_outlines: bool = False,
) -> PhraseDataset:
    """The stored set of a recipe, or another one with its options; what is measured holds all phrases of a picture."""
    name, split, root = name or own.name, own.split if split is None else split, root or own.root
    options = {key: value for key, value in own.options.items() if not (is_measured and key == "item")}
    if with_outlines and is_published(name):  # phrase files bring theirs unasked
        options = {"outlines": True} | options
    for key in ("registers", "size"):
        if getattr(own, key, None):
            raise InvalidInput(f"data.{key} is for scenes; the data set {name} takes none")
    return open_dataset(
        name,
        split=split or None,
        count=count,
        root=None if root is None else Path(root),
        options=ReadOptions.of(options) if options else None,
    )


def _open_scenes(data: DataConfig, split: str, *, count: int, seed: int, side: int) -> PhraseDataset:
    for key in data.options:
        if key not in _SCENES_OPTIONS:
            raise UnknownName("data.options of scenes", key, _SCENES_OPTIONS)
    fields: dict[str, Any] = {"size": data.size or side, "frames": data.frames, "seed": seed} | data.options
    if data.registers:
        fields["registers"] = data.registers
    if data.phrases is not None:
        fields["phrases"] = data.phrases
    return open_dataset(SCENES, split=split, count=count, scenes=fields)


def format_data_title(run: RunConfig) -> str:
    """The data of a run with its splits."""
    return " + ".join(f"{one.name}, {one.split}" for one in run.data.each)
