"""From the words of a command line to pieces of work: which are inputs, which are phrases, what the outputs are called."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from refseg.errors import InvalidInput

_LONGEST_STEM = 60
_LONGEST_PHRASE = 40


@dataclass(frozen=True)
class Job:
    """One picture or clip to answer phrases about."""

    name: str  # what its outputs' names begin with; unique in a run
    title: str  # as the user wrote it
    paths: tuple[Path, ...]  # one picture, video, animation or folder of frames; or the frames of a clip
    is_clip: bool


def split_arguments(arguments: Sequence[str], phrases: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Inputs and phrases out of the positional arguments; with phrases given by option, all arguments are inputs.

    Inputs come first and exist as files or folders; from the first that does not exist on, all are phrases.

    Raises:
        InvalidInput: if an argument looks like a file and does not exist, an input follows a phrase, or either is missing.
    """
    inputs = _leading_inputs(arguments)
    rest = list(arguments[len(inputs) :])
    for word in rest:
        if phrases or looks_like_file(word):
            raise InvalidInput(_why_no_input(word, rest, bool(phrases)))
    asked = list(dict.fromkeys([*phrases, *rest]))
    if not inputs:
        raise InvalidInput(
            f"no input was given: {arguments[0]!r} is no file or folder; give a picture, video or folder before the phrases"
            if arguments
            else "no input was given; give a picture, video or folder, then phrases"
        )
    if not asked:
        raise InvalidInput(
            f"no phrase was given (every argument is a file or folder that exists); give one such as 'the left dog', or "
            f"write --phrase {arguments[-1]!r} for a phrase that is also a file's name"
        )
    return inputs, asked


def check_is_no_input(checkpoint: str, arguments: Sequence[str]) -> None:
    """Refuses a picture or video in the place of the checkpoint, which comes first.

    Raises:
        InvalidInput: if the checkpoint is a file with a picture's or video's suffix.
    """
    from refseg.media.images import IMAGE_SUFFIXES
    from refseg.media.video import VIDEO_SUFFIXES

    if _exists(checkpoint) and Path(checkpoint).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        words = " ".join(shlex.quote(word) for word in (checkpoint, *arguments[:2]))
        raise InvalidInput(
            f"{checkpoint!r} is a picture or video in the place of the checkpoint, which comes first, as in: "
            f"refseg predict scout {words}"
        )


def _leading_inputs(arguments: Sequence[str]) -> list[Path]:
    inputs: list[Path] = []
    for word in arguments:
        if not word.strip() or not _exists(word):
            break
        inputs.append(Path(word))
    return inputs


def _exists(word: str) -> bool:
    try:
        return Path(word).exists()
    except (OSError, ValueError):  # too long for a name, or with characters that no name has
        return False


def _why_no_input(word: str, rest: Sequence[str], has_option: bool) -> str:
    if _exists(word):
        return f"{word!r} is a file or folder and comes after the phrase {rest[0]!r}; give all inputs before the phrases"
    if "://" in word:
        return f"{word!r} is a web address; download it first, and give the file"
    hint = (
        "with --phrase all other arguments are inputs"
        if has_option
        else "if it is a phrase, give it with --phrase"
    )
    return f"there is no file or folder {word!r}; {hint}"


def looks_like_file(word: str) -> bool:
    """Whether a word is more likely a file's name than a phrase: a picture's or video's suffix, or a path without spaces."""
    from refseg.media.images import IMAGE_SUFFIXES
    from refseg.media.video import VIDEO_SUFFIXES

    suffix = Path(word).suffix.lower()
    return suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES or (any(s in word for s in "/\\") and " " not in word)


def read_phrases(path: Path) -> list[str]:
    """The phrases of a text file, one a line; empty lines are passed over.

    Raises:
        InvalidInput: if the file cannot be read or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"the phrases in {path} cannot be read ({error}); give a UTF-8 text, one phrase a line"
        ) from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise InvalidInput(f"{path} holds no phrase; write one a line")
    return found


def make_jobs(inputs: Sequence[Path], *, as_clip: bool) -> list[Job]:
    """The pictures and clips that inputs stand for.

    A video is a clip. A folder is every picture and video in it or, with `as_clip`, one clip of its pictures. With `as_clip`
    an animation is a clip, and several pictures together are one.

    Raises:
        InvalidInput: if a folder holds neither pictures nor videos.
    """
    from refseg.media.video import VIDEO_SUFFIXES

    found: list[tuple[str, tuple[Path, ...], bool]] = []
    loose = [p for p in inputs if p.is_file() and p.suffix.lower() not in VIDEO_SUFFIXES]
    for path in dict.fromkeys(inputs):
        if path.is_dir() and not as_clip:
            found += [(str(p), (p,), p.suffix.lower() in VIDEO_SUFFIXES) for p in _media_of(path)]
        elif not as_clip or path not in loose:
            found.append((str(path), (path,), as_clip or path.suffix.lower() in VIDEO_SUFFIXES))
        elif path == loose[0]:
            found.append((str(path), tuple(loose), True))
    names = unique_names(_stem(paths[0]) for _, paths, _ in found)
    return [Job(name, *entry) for name, entry in zip(names, found, strict=True)]


def _media_of(folder: Path) -> list[Path]:
    from refseg.media.images import IMAGE_SUFFIXES
    from refseg.media.video import VIDEO_SUFFIXES, natural_key

    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    found = [
        p
        for p in folder.iterdir()
        if p.suffix.lower() in known and not p.name.startswith(".") and p.is_file()
    ]
    if not found:
        raise InvalidInput(f"folder {folder} holds no pictures and no videos")
    return sorted(found, key=lambda p: natural_key(p.name))


def _stem(path: Path) -> str:
    whole = path.resolve()
    return slug(
        whole.name if path.is_dir() else whole.stem, longest=_LONGEST_STEM, fallback="input", keeps_case=True
    )


def phrase_slugs(phrases: Sequence[str]) -> list[str]:
    """A part of a file's name for each phrase, unique among them."""
    return unique_names(
        slug(phrase, longest=_LONGEST_PHRASE, fallback=f"phrase-{number}")
        for number, phrase in enumerate(phrases, start=1)
    )


def slug(text: str, *, longest: int, fallback: str, keeps_case: bool = False) -> str:
    """`text` in letters that every file system takes: a-z, 0-9, dash, underscore; `fallback` where nothing is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    cleaned = re.sub(r"[^A-Za-z0-9_]+", "-", plain if keeps_case else plain.lower())
    return cleaned[:longest].strip("-") or fallback


def unique_names(names: Iterable[str]) -> list[str]:
    """Names made different, also where case does not count, by a number at their end."""
    taken: set[str] = set()
    unique = []
    for name in names:
        number, candidate = 1, name
        while candidate.lower() in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.lower())
        unique.append(candidate)
    return unique
