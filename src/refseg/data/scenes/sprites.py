"""The atlas: every rendering of every noun as a small premultiplied picture, from the system's colour emoji font.

Without such a font the atlas holds the shapes alone. The font's pictures are kept in the user's cache folder, under
a name made of the font file's hash, since drawing them costs seconds.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from refseg.data.scenes.colours import natural_colours
from refseg.data.scenes.nouns import ALL_NOUNS
from refseg.data.scenes.photos import NEW_PHOTOS, TRAINING_PHOTOS, read_photos
from refseg.data.scenes.shapes import LEVELS, reduced, shape_alphas
from refseg.data.scenes.words import NOUNS, SHAPES
from refseg.errors import InvalidInput
from refseg.files import whole_file

AUTO, NO_SPRITES = "auto", "none"
_VERSION = 1  # of the way sprites are drawn; a part of the cache's key
_BITMAP_SIZE = 109  # the only size at which Noto Color Emoji renders
_FONT_FILES = ("NotoColorEmoji.ttf", "Apple Color Emoji.ttc", "seguiemj.ttf")
_log = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sprite:
    """One rendering."""

    noun: int
    is_new: bool  # never shown in training
    natural: frozenset[int]  # colours that it shows untinted
    mean: tuple[float, float, float]  # of its opaque pixels


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """All sprites, shapes first, and the photographs for backgrounds."""

    sprites: tuple[Sprite, ...]
    pictures: tuple[Bytes, ...]  # for every level [S, side, side, 4], premultiplied; shapes are white
    luminance: tuple[Bytes, ...]  # for every level [S, side, side], stretched to the full range
    photos: tuple[Bytes, ...]
    new_photos: tuple[Bytes, ...]
    of_noun: tuple[tuple[int, ...], ...]  # sprites that training shows
    new_of_noun: tuple[tuple[int, ...], ...]  # the others
    hash: str  # of all pixels above

    @property
    def has_sprites(self) -> bool:
        """Whether more than shapes is here."""
        return len(self.sprites) > len(SHAPES)


@functools.cache
def load_atlas(source: str = AUTO) -> Atlas:
    """The atlas of this machine ("auto"), of shapes alone ("none"), or of a file that `write_atlas` wrote.

    "auto" without a colour emoji font gives the shapes, and says so once.

    Raises:
        InvalidInput: the file is missing or is not an atlas.
    """
    if source == NO_SPRITES:
        return _assemble(_no_pictures(), (), ())
    if source != AUTO:
        return _read_atlas(Path(source))
    font = find_font()
    if font is None:
        _log.warning(
            "No colour emoji font was found: scenes show shapes only (Debian and Ubuntu: apt install fonts-noto-color-emoji)."
        )
    pictures = _no_pictures() if font is None else _cached_pictures(font)
    return _assemble(pictures, read_photos(TRAINING_PHOTOS), read_photos(NEW_PHOTOS))


def sprites_hash(source: str = AUTO) -> str:
    """Names everything that scenes are drawn with: seed, index and this hash make a scene."""
    return load_atlas(source).hash


def find_font() -> Path | None:
    """A colour emoji font in the folders where systems keep fonts."""
    for folder in _font_folders():
        for name in _FONT_FILES:
            found = sorted(folder.rglob(name)) if folder.is_dir() else []
            if found:
                return found[0]
    return None


def _font_folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "darwin":
        return [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home / "AppData/Local"))
        return [local / "Microsoft/Windows/Fonts", Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    shared = [Path(p) / "fonts" for p in os.environ.get("XDG_DATA_DIRS", "").split(":") if p]
    return [
        home / ".local/share/fonts",
        home / ".fonts",
        *shared,
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
    ]


def write_atlas(path: Path, source: str = AUTO) -> None:
    """Stores an atlas with its photographs as one file, for a machine that has no font."""
    atlas = load_atlas(source)
    photos = {f"photo_{i}": photo for i, photo in enumerate(atlas.photos)}
    new_photos = {f"new_photo_{i}": photo for i, photo in enumerate(atlas.new_photos)}
    _write_arrays(path, {"pictures": atlas.pictures[0][len(SHAPES) :], **photos, **new_photos})


def _read_atlas(path: Path) -> Atlas:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            photos, new = ([arrays[k] for k in arrays if k.startswith(p)] for p in ("photo_", "new_photo_"))
            return _assemble(arrays["pictures"], tuple(photos), tuple(new))
    except FileNotFoundError:
        raise InvalidInput(
            f"{path} is missing; expected a file written by refseg.data.scenes.sprites.write_atlas."
        ) from None
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise InvalidInput(
            f"{path} is not an atlas of sprites ({error}); write it anew with write_atlas."
        ) from None


def cache_folder() -> Path:
    """Where the user's machine keeps what can be made again."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library/Caches/refseg"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData/Local")) / "refseg/cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "refseg"


def _cached_pictures(font: Path) -> Bytes:
    key = hashlib.sha256(font.read_bytes() + f"{_VERSION} {_code_points()}".encode()).hexdigest()[:16]
    path = cache_folder() / f"scenes-sprites-{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays["pictures"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        pictures = _draw_pictures(font)
    try:
        _write_arrays(path, {"pictures": pictures})
    except OSError as error:  # a read-only home: the sprites are drawn anew each time
        _log.info("The sprites could not be kept in %s: %s", path, error)
    return pictures


def _write_arrays(path: Path, arrays: dict[str, Bytes]) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def _code_points() -> list[tuple[int, int, bool]]:
    """(noun, code point, is new) of every rendering, in the order of the atlas."""
    rows = []
    for noun, entry in enumerate(ALL_NOUNS):
        first_new = len(entry.renderings) - entry.num_new
        rows += [(noun, code, place >= first_new) for place, code in enumerate(entry.renderings)]
    return rows


def _no_pictures() -> Bytes:
    return np.zeros((0, LEVELS[0], LEVELS[0], 4), np.uint8)


def _draw_pictures(font: Path) -> Bytes:
    try:
        face = ImageFont.truetype(str(font), _BITMAP_SIZE)
    except OSError as error:
        raise InvalidInput(
            f"the colour emoji font {font} cannot be read ({error}); remove or replace it."
        ) from None
    return np.stack([_draw_sprite(face, code) for _, code, _ in _code_points()])


def _draw_sprite(face: ImageFont.FreeTypeFont, code: int) -> Bytes:
    """One glyph, cropped to what is opaque, centred in a square, premultiplied."""
    picture = Image.new("RGBA", (_BITMAP_SIZE * 2, _BITMAP_SIZE * 2))
    ImageDraw.Draw(picture).text((20, 20), chr(code), font=face, embedded_color=True)
    box = picture.getchannel("A").point(lambda a: 255 if a > 30 else 0).getbbox()
    glyph = np.array(picture.crop(box or (0, 0, 1, 1)))
    side = max(glyph.shape[:2])
    top, left = (side - glyph.shape[0]) // 2, (side - glyph.shape[1]) // 2
    square = np.zeros((side, side, 4), np.uint8)
    square[top : top + glyph.shape[0], left : left + glyph.shape[1]] = glyph
    square[..., :3] = (square[..., :3].astype(np.uint32) * square[..., 3:] + 127) // 255
    scaled = [
        Image.fromarray(square[..., c]).resize((LEVELS[0], LEVELS[0]), Image.Resampling.BILINEAR)
        for c in range(4)
    ]
    return np.stack([np.array(channel) for channel in scaled], axis=-1)


def _assemble(drawn: Bytes, photos: tuple[Bytes, ...], new_photos: tuple[Bytes, ...]) -> Atlas:
    if drawn.shape[1:] != (LEVELS[0], LEVELS[0], 4) or len(drawn) not in (0, len(_code_points())):
        raise ValueError(f"sprites of shape {drawn.shape}")
    shapes = [np.repeat(alpha[..., None], 4, -1) for alpha in shape_alphas()]
    smaller = [reduced(drawn[..., channel]) for channel in range(4)]
    pictures = tuple(
        np.concatenate([shape, np.stack([channel[level] for channel in smaller], -1)])
        for level, shape in enumerate(shapes)
    )
    sprites = [Sprite(NOUNS.index(name), False, frozenset(), (255, 255, 255)) for name in SHAPES]
    for (noun, _, is_new), picture in zip(_code_points(), drawn, strict=False):
        sprites.append(Sprite(noun, is_new, natural_colours(picture), _mean_colour(picture)))
    by_noun = [[i for i, s in enumerate(sprites) if s.noun == noun] for noun in range(len(NOUNS))]
    digest = hashlib.sha256()
    for array in (*pictures, *photos, *new_photos):
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return Atlas(
        sprites=tuple(sprites),
        pictures=pictures,
        luminance=tuple(np.stack([_luminance(p) for p in level]) for level in pictures),
        photos=photos,
        new_photos=new_photos,
        of_noun=tuple(tuple(i for i in row if not sprites[i].is_new) for row in by_noun),
        new_of_noun=tuple(tuple(i for i in row if sprites[i].is_new) for row in by_noun),
        hash=digest.hexdigest(),
    )


def _mean_colour(picture: Bytes) -> tuple[float, float, float]:
    red, green, blue = picture[picture[..., 3] > 200][:, :3].mean(0).tolist()
    return red, green, blue


def _luminance(picture: Bytes) -> Bytes:
    """How light each pixel is, from 0 (the darkest twentieth of the opaque ones) to 255 (the lightest)."""
    red, green, blue, alpha = (picture[..., channel].astype(np.int64) for channel in range(4))
    light = (77 * red + 150 * green + 29 * blue) * 255 // (256 * np.maximum(alpha, 1))
    low, high = np.percentile(light[picture[..., 3] > 127], (5, 95))
    return np.clip((light - low) / max(high - low, 40.0) * 255, 0, 255).astype(np.uint8)
