"""A dataset out of examples that a test made."""

from refseg.data.dataset import Annotation, PhraseDataset
from refseg.data.frame_sampling import pick_frames


class ListedExamples(PhraseDataset):
    """Examples in memory, in their order."""

    def __init__(self, examples, name="listed"):
        self.examples, self.name = list(examples), name

    def __len__(self):
        return len(self.examples)

    def annotation(self, index):
        known = self.examples[index]
        count = len(known.phrases)
        return Annotation(
            name=known.name,
            paths=(),
            frames=known.frame_names or tuple(str(number) for number in range(len(known.frames))),
            size=tuple(known.frames.shape[-2:]),
            phrases=known.phrases,
            ids=known.ids or ("",) * count,
            objects=known.objects or ("",) * count,
            no_target=(False,) * count,
            labels=(-1,) * count,
            target_frames=None if known.target_frames is None else tuple(known.target_frames.tolist()),
            registers=known.registers,
        )

    def example(self, index, frames=None):
        example = self.examples[index]
        return example if frames is None else pick_frames(example, frames)
