"""Result cards: where a checkpoint comes from, what it was trained on, and how well it does, as `checkpoints.toml` says."""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from refseg.errors import InvalidInput


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Where the weights are: exactly one of `url`, `drive`, `hub` and `asset`, or `by_hand`, or `unpublished`."""

    repository: str  # the page of the authors' code, where the link stands; or "this repository"
    format: Literal["pth", "pkl", "h5", "safetensors", "native"]
    url: str | None = None
    drive: str | None = None  # the id of a file on Google Drive
    hub: str | None = None  # owner/name on the Hugging Face hub
    asset: str | None = None  # a file that the package carries
    file: str | None = None  # its name in the hub repository
    by_hand: bool = False  # behind a link on the repository's page that only a browser follows
    unpublished: bool = False  # the authors print numbers and give no file
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None  # None where the authors name none
    bytes: int | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        places = sum(place is not None for place in (self.url, self.drive, self.hub, self.asset))
        if places + self.by_hand + self.unpublished != 1:
            raise ValueError("give exactly one of url, drive, hub and asset")
        if self.hub is not None and self.file is None:
            raise ValueError("a hub source names its file")
        return self

    @property
    def address(self) -> str:
        """The place in words that a person can open or look for."""
        if self.drive is not None:
            return f"https://drive.google.com/file/d/{self.drive}/view"
        if self.hub is not None:
            return f"https://huggingface.co/{self.hub}/blob/main/{self.file}"
        if self.by_hand:
            return f"a link on {self.repository}"
        if self.unpublished:
            return f"no published file ({self.repository})"
        return self.url or f"refseg/assets/{self.asset}"


class Companion(_Strict):
    """A file on the Hugging Face hub that the weights need beside them, such as a tokenizer."""

    hub: str
    file: str


class Result(_Strict):
    """One number, and the ruler it was taken with."""

    dataset: str
    split: str
    metric: str
    value: float  # percent, where the metric is a share
    protocol: str


class Published(Result):
    """A number of the authors."""

    where: str  # it is printed


class Measured(Result):
    """A number of ours, written by `refseg evaluate`."""

    version: str
    date: datetime.date
    machine: str


class Card(_Strict):
    """The data sheet of one checkpoint."""

    name: str
    family: str
    variant: str
    trained_on: str
    licence: str
    source: Source
    note: str = ""
    companions: tuple[Companion, ...] = ()
    published: tuple[Published, ...] = ()
    measured: tuple[Measured, ...] = ()


def read_cards(path: Path, family: str) -> tuple[Card, ...]:
    """The cards in a family's `checkpoints.toml`.

    Raises:
        InvalidInput: if the file is absent or a card is not as it must be; the card and the field are named.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"the cards of {family} cannot be read from {path}: {error}") from error
    unknown = sorted(set(tables) - {"checkpoint"})
    if unknown:
        raise InvalidInput(f"{path} has {', '.join(unknown)}; cards are [[checkpoint]] tables")
    return tuple(_card(table, family, path) for table in tables.get("checkpoint", []))


def _card(table: dict[str, object], family: str, path: Path) -> Card:
    try:
        return Card.model_validate({"family": family, **table})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise InvalidInput(
            f"card {table.get('name', '?')} in {path}: {where}: {first['msg'].removeprefix('Value error, ')}"
        ) from error
