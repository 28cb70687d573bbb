"""Photographs for backgrounds, from the files that come with scikit-image; none is ever downloaded.

Photographs that show something the vocabulary names (a cat, a rocket, coins, a cup) would make phrases wrong and
are not used.

The eleven shapes and the textures of the scenes world, drawn once at a large size and reduced.

The atlas: every rendering of every noun as a small premultiplied picture, from the system's colour emoji font.

Without such a font the atlas holds the shapes alone. The font's pictures are kept in the user's cache folder, under
a name made of the font file's hash, since drawing them costs seconds.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import math
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from refseg.data.scenes.nouns import ALL_NOUNS
from refseg.data.scenes.vocabulary import NOUNS, SHAPES, natural_colours
from refseg.errors import InvalidInput
from refseg.files import whole_file

TRAINING_PHOTOS: tuple[str, ...] = (
    *("brick.png", "grass.png", "moon.png", "hubble_deep_field.jpg", "retina.jpg", "page.png", "text.png"),
    "microaneurysms.png",
)


NEW_PHOTOS: tuple[str, ...] = ("gravel.png", "ihc.png")
"""Never shown in training."""


_LARGEST = 400


_PIECES: dict[str, tuple[float, float, float, float]] = {
    "retina.jpg": (0.2, 0.2, 0.8, 0.8),  # the whole is a disc before black
    "moon.png": (0.0, 0.25, 1.0, 1.0),  # above lies a crater that looks like a ball
}
"""What is used of a photograph where the rest could be meant by a phrase: left, top, right, bottom in [0, 1]."""


def read_photos(names: tuple[str, ...]) -> tuple[NDArray[np.uint8], ...]:
    """Those of the named photographs that are installed, each [H, W, 3] uint8 and at most 400 pixels wide or high."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        return ()
    folder = Path(spec.origin).parent / "data"
    return tuple(_read(folder / name) for name in names if (folder / name).is_file())


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        colour = picture.convert("RGB")
        left, top, right, bottom = _PIECES.get(path.name, (0.0, 0.0, 1.0, 1.0))
        width, height = colour.size
        colour = colour.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))
        colour.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
        return np.array(colour)


LEVELS: tuple[int, ...] = (128, 64, 32)
"""Sides in pixels at which every sprite and texture is kept."""


_DRAWN = 512


Bytes = NDArray[np.uint8]


Points = list[tuple[float, float]]


@functools.cache
def shape_alphas() -> tuple[Bytes, ...]:
    """How opaque each of the shapes is, for every level [shapes, side, side] uint8."""
    return reduced(np.stack([_drawn(_PAINTERS[name]) for name in SHAPES]))


@functools.cache
def textures() -> dict[str, tuple[Bytes, ...]]:
    """Where the second tone of a texture lies, for every level [variants, side, side] uint8."""
    y, x = np.mgrid[0:_DRAWN, 0:_DRAWN] / _DRAWN
    stripes = [(axis * 4.0 + 0.25) % 1 < 0.5 for axis in (x, y, (x + y) / 1.4, (x - y) / 1.4)]
    dots = ((x * 4) % 1 - 0.5) ** 2 + ((y * 4) % 1 - 0.5) ** 2 < 0.3**2
    checks = ((x * 4).astype(int) + (y * 4).astype(int)) % 2 == 1
    banks = {"striped": np.stack(stripes), "dotted": dots[None], "checkered": checks[None]}
    return {name: reduced((bank * 255).astype(np.uint8)) for name, bank in banks.items()}


def reduced(large: Bytes) -> tuple[Bytes, ...]:
    """Block means of [n, side, side] pictures at every level; exact on every machine."""
    return tuple(_block_means(large, large.shape[1] // side) for side in LEVELS)


def _block_means(large: Bytes, step: int) -> Bytes:
    count, side, _ = large.shape
    blocks = large.reshape(count, side // step, step, side // step, step).astype(np.uint32)
    return ((blocks.sum((2, 4)) + step * step // 2) // (step * step)).astype(np.uint8)


def _drawn(paint: Callable[[ImageDraw.ImageDraw], None]) -> Bytes:
    picture = Image.new("L", (_DRAWN, _DRAWN))
    paint(ImageDraw.Draw(picture))
    return np.array(picture)


def _polygon(points: Points) -> Callable[[ImageDraw.ImageDraw], None]:
    """Paints a polygon whose corners are given in [0, 1]."""
    corners = [(round(x * (_DRAWN - 1)), round(y * (_DRAWN - 1))) for x, y in points]
    return lambda draw: draw.polygon(corners, fill=255)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int = 255) -> None:
    box = [round(v * (_DRAWN - 1)) for v in (x - radius, y - radius, x + radius, y + radius)]
    draw.ellipse(box, fill=fill)


def _circle(draw: ImageDraw.ImageDraw) -> None:
    _disc(draw, 0.5, 0.5, 0.5)


def _ring(draw: ImageDraw.ImageDraw) -> None:
    _disc(draw, 0.5, 0.5, 0.5)
    _disc(draw, 0.5, 0.5, 0.27, fill=0)


def _crescent(draw: ImageDraw.ImageDraw) -> None:
    _disc(draw, 0.58, 0.5, 0.5)
    _disc(draw, 0.84, 0.5, 0.42, fill=0)


def _around(count: int, radii: tuple[float, ...], start: float = -90.0) -> Points:
    turns = [math.radians(start + 360.0 * k / count) for k in range(count)]
    return [
        (0.5 + radii[k % len(radii)] * math.cos(turn), 0.5 + radii[k % len(radii)] * math.sin(turn))
        for k, turn in enumerate(turns)
    ]


def _heart() -> Points:
    turns = [2 * math.pi * k / 200 for k in range(200)]
    xs = [16 * math.sin(t) ** 3 for t in turns]
    ys = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(0.5 + x / 33, 0.43 - y / 30) for x, y in zip(xs, ys, strict=True)]


def _cross() -> Points:
    a, b = 0.33, 0.67
    return [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)]


_ARROW = [(0, 0.34), (0.52, 0.34), (0.52, 0.06), (1, 0.5), (0.52, 0.94), (0.52, 0.66), (0, 0.66)]


_PAINTERS: dict[str, Callable[[ImageDraw.ImageDraw], None]] = {
    "circle": _circle,
    "square": _polygon([(0.04, 0.04), (0.96, 0.04), (0.96, 0.96), (0.04, 0.96)]),
    "triangle": _polygon([(0.5, 0.03), (1, 0.93), (0, 0.93)]),
    "star": _polygon(_around(10, (0.52, 0.21))),
    "ring": _ring,
    "cross": _polygon(_cross()),
    "heart": _polygon(_heart()),
    "diamond": _polygon([(0.5, 0), (0.86, 0.5), (0.5, 1), (0.14, 0.5)]),
    "hexagon": _polygon(_around(6, (0.5,), start=0.0)),
    "arrow": _polygon(_ARROW),
    "crescent": _crescent,
}


AUTO, NO_SPRITES = "auto", "none"


_VERSION = 1  # of the way sprites are drawn; a part of the cache's key


_BITMAP_SIZE = 109  # the only size at which Noto Color Emoji renders


_FONT_FILES = ("NotoColorEmoji.ttf", "Apple Color Emoji.ttc", "seguiemj.ttf")


_log = logging.getLogger(__name__)


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
