"""The schema of a recipe: its sections, their keys and defaults, and which values fit together."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from refseg.data.augment.steps import Step
from refseg.data.frame_sampling import Sampling
from refseg.errors import UnknownName
from refseg.metrics.protocols import PROTOCOLS

_EPOCHS = re.compile(r"(\d+(?:\.\d+)?) epochs?")


def _length(value: Any, least: int) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    if isinstance(value, str) and (told := _EPOCHS.fullmatch(value)) and float(told[1]) > 0:
        return value
    raise ValueError(f'a number of steps from {least} on, or a text such as "12 epochs", was expected')


def _drop(value: Any) -> int | float | str:
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    try:
        return _length(value, 0)
    except ValueError:
        raise ValueError(
            'a part of the run in [0, 1] such as 0.75, a number of steps, or a text such as "8 epochs" was expected'
        ) from None


Length = Annotated[int | str, PlainValidator(lambda value: _length(value, 1))]
"""A number of steps, or of epochs as text."""


LengthOrNone = Annotated[int | str, PlainValidator(lambda value: _length(value, 0))]
"""A length, or 0 for none."""


Drop = Annotated[int | float | str, PlainValidator(_drop)]
"""A length, or a part of the run as a float."""


Positive = Annotated[int, Field(ge=1)]


Count = Annotated[int, Field(ge=0)]


Share = Annotated[float, Field(ge=0, le=1)]


def _compiled(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression ({error})") from error
    return pattern


DEFAULT_SCORE = "mIoU"


Pattern = Annotated[str, AfterValidator(_compiled)]


Change = bool | int | float | str | list[int] | list[float] | list[str] | dict[str, Any]


class Section(BaseModel):
    """Read strictly: a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SetConfig(Section):
    """One data set, and how its examples are varied before those of all sets are varied alike."""

    name: str  # "scenes", the name of a data set, or the path of a phrase file in the open form
    split: str = "train"  # "" = every line of a file
    root: str | None = None  # the folder that holds the data set; absent: the set's own rule
    options: dict[str, Change] = {}  # further options of the set's reader
    coco_ids: str | None = (
        None  # image_data.json of Visual Genome, where the pictures of a phrase file are its own
    )
    share: Positive | None = (
        None  # of several sets: examples of this one in a round; absent everywhere: all in a row
    )
    phrases: Count | None = None  # phrases of one example, drawn anew each time; absent: all it has, scenes 3
    sample: Annotated[Sampling, Field(discriminator="rule")] | None = (
        None  # which frames of a video make an example
    )
    augment: tuple[Step, ...] = ()  # steps in order


class ClipsConfig(Section):
    """Batches of clips among those of pictures, both drawn from scenes."""

    every: Positive  # one batch in so many is one of clips
    frames: Annotated[int, Field(ge=2)]
    targets: Positive | None = None  # frames of a clip that phrases are asked about, drawn anew; absent: all
    phrases: Count = 2  # of every clip
    registers: dict[str, Annotated[float, Field(ge=0)]] = {}  # share of each kind of phrase
    batch_size: Positive | None = (
        None  # clips of one batch on one process; absent: run.batch_size, which it may not exceed
    )

    @model_validator(mode="after")
    def _targets_are_frames(self) -> ClipsConfig:
        if self.targets is not None and self.targets > self.frames:
            raise ValueError(f"targets {self.targets} is more than frames {self.frames}")
        return self


class DataConfig(SetConfig):
    """What is learnt from, how an example is varied, and who prepares it."""

    sets: tuple[SetConfig, ...] = ()  # several sets together, in place of `name`
    registers: dict[str, Annotated[float, Field(ge=0)]] = {}  # scenes: share of each kind of phrase
    size: Positive | None = None  # scenes: side of the picture in pixels; absent: the family's canvas
    frames: Positive = (
        1  # frames of an example, neighbours in time, where `sample` does not say; 1 = an image
    )
    clips: ClipsConfig | None = None  # scenes: batches of clips among those of pictures
    flip: Share = 0.0  # probability of mirroring, with left and right exchanged in the phrase
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None  # random resize
    crop: Share = 0.0  # probability of a random crop that keeps every object whole
    frame: dict[str, Change] = {}  # fields of the family's frame placement that differ in training
    same_shape: bool = False  # a batch holds wide pictures or tall ones, which saves padding
    exclude_images_of: tuple[
        str, ...
    ] = ()  # "name:split+split": no training example shows one of their images
    skip_bad: bool = (
        False  # an example that cannot be read gives way to another, and is counted; else the run stops
    )
    skip_unseen: bool = False  # so does one in which no object is to be seen after the augmentation
    workers: Count = 0  # processes that prepare batches; 0 = the training process itself
    evaluate_name: str | None = None  # where it is measured; absent: `name`
    evaluate_split: str = "val"  # "" = every line of a file
    evaluate_root: str | None = None  # absent: `root`

    @model_validator(mode="after")
    def _clips_are_drawn(self) -> DataConfig:
        if self.clips is not None and (self.name != "scenes" or self.frames != 1):
            raise ValueError('clips stand beside the pictures of name = "scenes" with frames = 1')
        return self

    @model_validator(mode="after")
    def _one_or_several(self) -> DataConfig:
        if bool(self.name) == bool(self.sets):
            raise ValueError("give either name, for one data set, or sets, for several")
        if self.sets:
            own = [key for key in ("options", "coco_ids", "share", "phrases", "sample") if getattr(self, key)]
            if own:
                raise ValueError(f"{', '.join(own)} belong to each of the sets; write them there")
            if len({one.share is None for one in self.sets}) > 1:
                raise ValueError("give a share to every one of the sets, or to none")
            if self.same_shape and self.sets[0].share is not None:
                raise ValueError("same_shape deals all sets as one; leave out their shares")
            if any(one.name == "scenes" for one in self.sets):
                raise ValueError("scenes are drawn without end and stand alone; write them to a folder first")
        return self

    @property
    def each(self) -> tuple[SetConfig, ...]:
        """The sets that are learnt from, one or several; those without a root have that of [data]."""
        if not self.sets:
            return (self,)
        return tuple(one if one.root else one.model_copy(update={"root": self.root}) for one in self.sets)


class RuleConfig(Section):
    """How parameters whose name `pattern` finds are trained; goes before the family's own rules."""

    pattern: Pattern
    lr_scale: Annotated[float, Field(ge=0)] = 1.0  # times optimizer.lr
    weight_decay: Annotated[float, Field(ge=0)] | None = None  # absent: optimizer.weight_decay
    trained: bool = True


class OptimizerConfig(Section):
    """How weights move, and what happens to gradients before it."""

    kind: Literal["adamw", "adam", "keras_adam"] = "adamw"  # adam: the decay is a part of the gradient
    lr: Annotated[float, Field(gt=0)]
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8  # keras_adam adds it before the correction of the second moment
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    decay_vectors: bool = False  # whether biases and the scales of norms decay too
    rules: tuple[RuleConfig, ...] = ()  # before those of the family
    freeze: tuple[Pattern, ...] = ()  # regular expressions of weights that stay as they are; before the rules
    layer_decay: Annotated[float, Field(gt=0, le=1)] = (
        1.0  # each layer of an encoder learns by this factor slower than the next one; 1 = alike
    )
    clip_norm: Annotated[float, Field(ge=0)] = 0.0  # largest norm of the whole gradient; 0 = no clipping
    accumulate: Positive = 1  # batches whose gradients make one step


class AdaptersConfig(Section):
    """Low-rank changes of weights that stay frozen themselves: W + alpha / rank * up @ down."""

    patterns: tuple[Pattern, ...] = ()  # regular expressions of the weights that get one; none = no adapters
    rank: Positive = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = (
        0.0  # share of a layer's inputs that adapters do not see, drawn anew
    )
    train_too: tuple[
        Pattern, ...
    ] = ()  # regular expressions of weights that learn as a whole beside the adapters

    @model_validator(mode="after")
    def _has_patterns(self) -> AdaptersConfig:
        given = self.model_fields_set - {"patterns"}
        if not self.patterns and any(getattr(self, key) != _default_of(self, key) for key in given):
            raise ValueError(
                "patterns names the weights that get an adapter; give some, or leave the section out"
            )
        return self


def _default_of(section: Section, key: str) -> Any:
    return type(section).model_fields[key].default


class ScheduleConfig(Section):
    """The learning rate over the run, as a share of `optimizer.lr`."""

    kind: Literal["constant", "step", "poly", "cosine"] = "cosine"
    warmup_steps: LengthOrNone = 0  # linear rise to the full rate
    warmup_factor: Share | None = None  # where the rise begins; absent: one part of `warmup_steps`
    final_ratio: Share = 0.0  # poly and cosine: the share that is left at the end
    power: Annotated[float, Field(gt=0)] = 0.9  # poly
    drops: tuple[
        Drop, ...
    ] = ()  # step: when the rate is multiplied by drop_ratio: epochs, steps or parts of the run
    drop_ratio: Share = 0.1  # step


class RunSection(Section):
    """How long, in which precision, and what is told and kept on the way."""

    steps: Length
    batch_size: Positive  # examples of one batch on one process
    epoch_ends: Literal["run_on", "drop", "fill"] = "run_on"  # what becomes of the last examples of an epoch
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of autocast; weights stay float32
    channels_last: bool = False
    compile: bool = False  # torch.compile of the model's verbs
    checkpoint_activations: bool = (
        False  # blocks compute again in the backward pass what they would have kept
    )
    sharding: Literal["none", "full"] = (
        "none"  # several processes: each holds all weights, or a part of all (FSDP)
    )
    sync_batch_norm: bool = False  # several processes: batch norms see the examples of all of them
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the averaged weights; 0 = none
    weights: Literal["float32", "bfloat16", "float16"] = "float32"  # in which checkpoints are stored
    evaluate_every: LengthOrNone = 0  # 0 = only at the end
    evaluate_examples: Count | Literal["all"] = 100  # 0 = never evaluate
    best_by: str = (
        DEFAULT_SCORE  # the score by which the best checkpoint is chosen; of an objective, its loss or a term
    )
    keep_best: Positive = 1  # best checkpoints that are kept
    patience: Count = 0  # measurements without a gain after which the run ends; 0 = it never ends early
    min_gain: Annotated[float, Field(ge=0)] = 0.0  # what best_by must rise by to count as a gain
    final_protocols: Literal["ours", "all", "none"] | tuple[str, ...] = (
        "ours"  # what the model card is measured by; all: the published ones too; or their names
    )
    final_examples: Positive | Literal["all"] | None = None  # of that; absent: as evaluate_examples
    save_every: Length = 500
    log_every: Positive = 20  # steps
    tensorboard: bool = False  # whether the log is written for TensorBoard too

    @model_validator(mode="after")
    def _measures_what_it_counts(self) -> RunSection:
        if self.min_gain and not self.patience:
            raise ValueError("min_gain is what patience waits for; give patience too")
        if self.patience and not self.evaluate_every:
            raise ValueError(
                "patience counts measurements, and evaluate_every = 0 measures at the end only; give it a length"
            )
        if (self.patience or self.keep_best > 1) and self.evaluate_examples == 0:
            raise ValueError(
                "patience and keep_best go by measurements, and evaluate_examples = 0 makes none"
            )
        return self

    @model_validator(mode="after")
    def _protocols_exist(self) -> RunSection:
        for name in () if isinstance(self.final_protocols, str) else self.final_protocols:
            if name not in PROTOCOLS:
                raise ValueError(str(UnknownName("protocol", name, PROTOCOLS)))
        return self


class RunConfig(Section):
    """A training run; the file beside its checkpoints holds every key and can be given back to `refseg train`."""

    name: str = ""  # names the output folder; absent: the recipe file's name
    family: str
    variant: str
    objective: str = "phrases"
    init: str | None = None  # checkpoint that gives the first weights; absent: from scratch
    init_allow: tuple[
        Pattern, ...
    ] = ()  # regular expressions of weights that may be left out of `init` or fit nothing
    init_without: tuple[
        Pattern, ...
    ] = ()  # regular expressions of weights that start fresh though `init` has them
    init_new_words: bool = False  # whether words of the data that `init` does not know are learnt
    seed: Count = 0
    model: dict[str, Change] = Field(
        default_factory=dict
    )  # fields of the variant's configuration that differ
    loss: dict[str, Change] = Field(
        default_factory=dict
    )  # fields of the family's loss configuration that differ
    data: DataConfig
    optimizer: OptimizerConfig
    adapters: AdaptersConfig = AdaptersConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    run: RunSection

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if self.init_allow and self.init is None:
            raise ValueError("init_allow says which weights of init may be left out, and there is no init")
        if self.init_without and self.init is None:
            raise ValueError("init_without says which weights of init are not taken, and there is no init")
        if self.init_new_words and self.init is None:
            raise ValueError("init_new_words adds words to those that init knows, and there is no init")
        self._adapters_fit()
        if self.data.same_shape and self.run.epoch_ends != "run_on":
            raise ValueError("data.same_shape leaves out what fills no batch; leave out run.epoch_ends")
        clips = self.data.clips
        if clips is not None and (clips.batch_size or 0) > self.run.batch_size:
            raise ValueError(
                f"data.clips.batch_size {clips.batch_size} is more than run.batch_size {self.run.batch_size}"
            )
        warm, steps = self.schedule.warmup_steps, self.run.steps
        if isinstance(warm, int) and isinstance(steps, int) and warm > steps:
            raise ValueError(f"schedule.warmup_steps {warm} is longer than run.steps {steps}")
        return self

    def _adapters_fit(self) -> None:
        if self.adapters.patterns and self.init is None:
            raise ValueError("adapters change the weights of a checkpoint a little, and there is no init")
        if self.adapters.patterns and self.run.sharding != "none":
            raise ValueError("adapters leave little to share out among processes; leave out run.sharding")
        if self.adapters.patterns and self.optimizer.freeze:
            raise ValueError(
                "adapters freeze all that adapters.train_too does not name; leave out optimizer.freeze"
            )


SECTIONS: dict[str, type] = {
    "": RunConfig,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "adapters": AdaptersConfig,
    "schedule": ScheduleConfig,
    "run": RunSection,
}


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
