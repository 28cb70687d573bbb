"""Examples that a run passes over: why, of which set, and how many of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from refseg import distributed

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
