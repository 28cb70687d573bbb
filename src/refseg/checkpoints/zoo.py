"""Checkpoints by name: what there is, where it lies on this machine, and how to get it."""

from __future__ import annotations

import os
import re
import shutil
from importlib import resources
from pathlib import Path

import torch

from refseg.checkpoints import native
from refseg.checkpoints.cards import Card, read_cards
from refseg.checkpoints.conversion import TOKENIZER, convert, file_sha256
from refseg.download import Unreachable, download, shown
from refseg.errors import InvalidInput, UnknownName
from refseg.models import catalog
from refseg.models.base import ReferringModel

_IN_FOLDERS = ("model.safetensors", "best.safetensors", "last.safetensors")  # the first that is there
_FOREIGN = (".pth", ".pt", ".pkl", ".bin", ".ckpt", ".h5")
_OFFLINE = ("REFSEG_OFFLINE", "HF_HUB_OFFLINE")
_HUB_ID = r"[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?"


def list_checkpoints() -> list[Card]:
    """The cards of all families, in the order of the families."""
    return [card for name in catalog.FAMILIES for card in read_cards(catalog.family(name).cards, name)]


def find(name: str) -> Card:
    """The card called `name`.

    Raises:
        UnknownName: if there is none; the nearest names are suggested.
    """
    cards = {card.name: card for card in list_checkpoints()}
    if name not in cards:
        raise UnknownName("checkpoint", name, cards)
    return cards[name]


def load(
    name_or_path: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None
) -> tuple[ReferringModel, native.Header, Path]:
    """A model, its header and its file, from a card's name, a file, a folder or a hub id; see `resolve` and `native.load`."""
    path = resolve(name_or_path)
    return *native.load(path, device=device, dtype=dtype), path


def resolve(name_or_path: str | Path) -> Path:
    """The checkpoint file that is meant: a file, the one in a folder, that of a card, or that of a hub id (owner/name).

    Nothing but a hub id is ever downloaded here.

    Raises:
        InvalidInput: if the file is foreign, the folder has none, or the card's file is not on this machine.
        UnknownName: if nothing carries that name.
    """
    text, path = str(name_or_path), Path(name_or_path).expanduser()
    if re.fullmatch(r"[\w+-]+", text):  # a name; a folder of that name is ./name
        cards = {card.name: card for card in list_checkpoints()}
        if text in cards:
            return _on_this_machine(cards[text])
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _native(path)
    if isinstance(name_or_path, Path) or path.suffix or text.startswith((".", "~", os.sep)):
        raise InvalidInput(
            f"there is no checkpoint file {path}; `refseg models` lists those to fetch by name, and `refseg convert` makes one "
            "of published weights (the start of a published recipe too: its first lines say of which)"
        )
    if re.fullmatch(_HUB_ID, text):
        return _from_hub(text)
    raise UnknownName("checkpoint", text, (card.name for card in list_checkpoints()))


def get(name: str, *, force: bool = False) -> Path:
    """The file of a card, downloaded and converted if it is not on this machine yet; `force` fetches it again.

    Raises:
        UnknownName: if there is no such card.
        InvalidInput: if it cannot be fetched, or is not the file the card names.
        CheckpointMismatch: if what was fetched does not fit the card's variant.
    """
    card = find(name)
    if card.source.asset is not None:
        return _asset(card)
    kept = cache_dir() / "checkpoints" / f"{card.name}.safetensors"
    if kept.is_file() and not force:
        native.read_header(kept)
        return kept
    _refuse_unpublished(card)
    _refuse_offline(f"{card.name} is not on this machine")
    fetched = _fetch(card, cache_dir() / "downloads" / _file_name(card))
    _bring_over(card, fetched, kept)
    if card.source.hub is None:
        fetched.unlink()  # all that is in it is in our own file now
    return kept


def _bring_over(card: Card, fetched: Path, kept: Path) -> None:
    if card.source.format == "native":
        native.verify(fetched)
        with native.written_whole(kept) as part:
            shutil.copyfile(fetched, part)
        return
    texts = {companion.file: _hub_file(companion.hub, companion.file) for companion in card.companions}
    convert(
        fetched,
        kept,
        family=card.family,
        variant=card.variant,
        tokenizer=texts.get(TOKENIZER),
        companion=next((path for file, path in texts.items() if file != TOKENIZER), None),
        origin={
            "checkpoint": card.name,
            "repository": card.source.repository,
            "address": card.source.address,
        },
    )


def is_here(card: Card) -> bool:
    """Whether the card's file is on this machine."""
    try:
        return _on_this_machine(card).is_file()
    except InvalidInput:
        return False


def cache_dir() -> Path:
    """Where fetched checkpoints are kept: REFSEG_HOME, else refseg in the user's cache folder."""
    home = os.environ.get("REFSEG_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refseg"


def _in_folder(folder: Path) -> Path:
    for name in _IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise InvalidInput(f"the folder {folder} holds no checkpoint: none of {', '.join(_IN_FOLDERS)} is in it")


def _native(path: Path) -> Path:
    if path.suffix.lower() in _FOREIGN:
        raise InvalidInput(
            f"{path} is not a refseg checkpoint; bring it over with: refseg convert {path} --family F --variant V"
        )
    return path


def _on_this_machine(card: Card) -> Path:
    if card.source.asset is not None:
        return _asset(card)
    kept = cache_dir() / "checkpoints" / f"{card.name}.safetensors"
    if not kept.is_file():
        _refuse_unpublished(card)
        raise InvalidInput(
            f"{card.name} is not on this machine yet; fetch it with: refseg models get {card.name}"
        )
    return kept


def _asset(card: Card) -> Path:
    path = Path(str(resources.files("refseg"))) / "assets" / str(card.source.asset)
    if not path.is_file():
        raise InvalidInput(
            f"the file of {card.name} is missing from the package ({path}); install refseg again"
        )
    return path


def _refuse_unpublished(card: Card) -> None:
    if card.source.by_hand:
        raise InvalidInput(
            f"{card.name} lies behind a link that only a browser follows: download the file from {card.source.repository} and "
            f"run: refseg convert FILE --family {card.family} --variant {card.variant}; the result is a checkpoint to name "
            "by its path"
        )
    if card.source.unpublished:
        raise InvalidInput(
            f"the authors of {card.name} publish no weights ({card.source.repository}), only numbers; train it (`refseg train "
            f"--list` names the recipes), or bring over a file of yours: refseg convert FILE --family {card.family} "
            f"--variant {card.variant}"
        )


def _refuse_offline(what: str) -> None:
    name = _offline()
    if name is not None:
        raise InvalidInput(f"{what}, and {name} forbids the network; unset it to fetch")


def _offline() -> str | None:
    """The variable that forbids the network, if one does."""
    return next(
        (name for name in _OFFLINE if os.environ.get(name, "").lower() in ("1", "true", "yes", "on")), None
    )


def _file_name(card: Card) -> str:
    return f"{card.name}.{'safetensors' if card.source.format == 'native' else card.source.format}"


def _fetch(card: Card, target: Path) -> Path:
    source = card.source
    if source.hub is not None:
        return _hub_file(source.hub, str(source.file))
    if source.drive is not None:
        return _from_drive(card, target)
    try:
        with shown(card.name) as progress:
            download(str(source.url), target, sha256=source.sha256, progress=progress)
    except Unreachable as error:
        raise InvalidInput(
            f"{error}; or download it elsewhere and run: refseg convert FILE --family {card.family} --variant {card.variant}"
        ) from error
    return target


def _from_drive(card: Card, target: Path) -> Path:
    """A file of Google Drive, whose questions before big files gdown knows how to answer."""
    try:
        import gdown
    except ImportError as error:
        raise InvalidInput(
            f"{card.name} lies on Google Drive, which needs gdown: pip install 'refseg[gdrive]'; or download "
            f"{card.source.address} in a browser and run: refseg convert FILE --family {card.family} --variant {card.variant}"
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    reason = "no file came"
    try:
        gdown.download(id=card.source.drive, output=str(target), resume=True, quiet=not os.isatty(2))
    except Exception as error:  # gdown passes on whatever its HTTP library raises
        reason = " ".join(str(error).split())[:300]
    if not target.is_file():
        raise InvalidInput(
            f"{card.name} cannot be fetched from Google Drive: {reason}; download {card.source.address} in a browser and "
            f"run: refseg convert FILE --family {card.family} --variant {card.variant}"
        )
    if card.source.sha256 is not None and (found := file_sha256(target)) != card.source.sha256:
        target.unlink()
        raise InvalidInput(
            f"what Google Drive sent is not the file on the card of {card.name}: its sha256 is {found}, the card says "
            f"{card.source.sha256}; nothing was kept"
        )
    return target


def _from_hub(hub_id: str) -> Path:
    repository, _, revision = hub_id.partition("@")
    return _hub_file(repository, "model.safetensors", revision or None)


def _hub_file(repository: str, file: str, revision: str | None = None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    forbidden = _offline()
    try:
        found = hf_hub_download(repository, file, revision=revision, local_files_only=forbidden is not None)
        return Path(found)
    except LocalEntryNotFoundError as error:
        why = (
            f"{forbidden} forbids the network"
            if forbidden
            else "the hub cannot be reached from here; check the network, or name a file"
        )
        raise InvalidInput(
            f"{repository} is no file or known checkpoint here, not in the Hugging Face cache, and {why}"
        ) from error
    except GatedRepoError as error:
        raise InvalidInput(
            f"{repository} asks for its terms to be accepted: do so on https://huggingface.co/{repository}, then: hf auth login"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise InvalidInput(
            f"{repository} is no file or known checkpoint here, and the Hugging Face hub has no such repository"
        ) from error
    except EntryNotFoundError as error:
        raise InvalidInput(f"the hub repository {repository} has no file {file}") from error
    except Exception as error:  # of whichever HTTP library the hub's client is built on
        raise InvalidInput(f"{repository} cannot be fetched from the Hugging Face hub: {error}") from error
