"""`refseg data get`: fetched, resumed, checked and put in its place, or told in words."""

import hashlib
import io
import json
import pickle
import zipfile
from dataclasses import replace
from urllib.parse import urlparse

import pytest
from typer.testing import CliRunner

from helpers.loopback import Behaviour, serving
from refseg import download
from refseg.cli import app, load_verbs
from refseg.data import download as dataset_download
from refseg.data import published
from refseg.data.catalog import open_dataset
from refseg.data.published import OFFERS, PUBLISHED, ByHand, Direct, Offer
from refseg.errors import InvalidInput, UnknownName

load_verbs()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE", 0)
    monkeypatch.setattr(download, "_CHUNK", 500)


def refer_zip(**more):
    """The zip of a RefCOCO with one reference, as REFER published it."""
    picture = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 40, "width": 60}
    polygon = [5, 5, 30, 5, 30, 30, 5, 30]
    annotation = {
        "id": 3,
        "image_id": 9,
        "category_id": 1,
        "iscrowd": 0,
        "area": 625.0,
        "bbox": [5, 5, 25, 25],
    }
    instances = {
        "images": [picture],
        "annotations": [annotation | {"segmentation": [polygon]}],
        "categories": [{"id": 1, "name": "person"}],
    }
    sentence = {"sent_id": 0, "raw": "Left man", "sent": "left man", "tokens": ["left", "man"]}
    ref = {
        "ref_id": 1,
        "ann_id": 3,
        "image_id": 9,
        "category_id": 1,
        "split": "train",
        "file_name": "x_3.jpg",
    }
    refs = pickle.dumps([ref | {"sent_ids": [0], "sentences": [sentence]}], protocol=2)
    files = {
        "refcoco/instances.json": json.dumps(instances).encode(),
        "refcoco/refs(unc).p": refs,
        "refcoco/refs(google).p": refs,
    } | more
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


CONTENT = refer_zip()


@pytest.fixture
def served(monkeypatch):
    """An offer of RefCOCO whose archive a server on the loopback serves, as the test asks."""

    def serve(behaviour, **changes):
        server = serving(behaviour)
        url = server.__enter__()
        servers.append(server)
        part = replace(OFFERS["refcoco"].annotations[0], url=url, **changes)
        monkeypatch.setitem(
            published.OFFERS, "refcoco", Offer("refcoco", (part,), OFFERS["refcoco"].pictures)
        )
        return part

    servers = []
    yield serve
    for server in servers:
        server.__exit__(None, None, None)


def refseg(*arguments):
    result = CliRunner().invoke(app, ["data", "get", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_annotations_are_fetched_and_can_be_read_at_once(served, tmp_path):
    served(Behaviour(CONTENT))
    result = refseg("refcoco", "--root", tmp_path)
    assert result.exit_code == 0
    assert hashlib.sha256(CONTENT).hexdigest() in result.stdout
    assert "Apache-2.0" in result.stdout
    assert "add --pictures" in result.stdout
    found = open_dataset("refcoco", split="train", root=tmp_path)
    assert found.annotation(0).phrases == ("left man",)
    receipt = json.loads((tmp_path / "refcoco/.refseg-source.json").read_text())
    assert receipt["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert not list((tmp_path / ".downloads").glob("*.zip"))


def test_what_is_there_is_not_fetched_again(served, tmp_path):
    behaviour = Behaviour(CONTENT)
    served(behaviour)
    refseg("refcoco", "--root", tmp_path)
    asked = len(behaviour.asked)
    result = refseg("refcoco", "--root", tmp_path)
    assert "is there already" in result.stdout
    assert len(behaviour.asked) == asked


def test_a_broken_connection_is_taken_up_where_it_stopped(served, tmp_path):
    behaviour = Behaviour(CONTENT, breaks_after=[700, 200])
    served(behaviour)
    assert refseg("refcoco", "--root", tmp_path).exit_code == 0
    assert behaviour.asked == [None, "bytes=700-", "bytes=900-"]


def test_a_checksum_that_differs_keeps_nothing(served, tmp_path):
    served(Behaviour(CONTENT), sha256="0" * 64)
    with pytest.raises(InvalidInput, match="is not the file that was expected"):
        refseg("refcoco", "--root", tmp_path)
    assert not (tmp_path / "refcoco").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (refer_zip(**{"refcoco/../../escaped": b"out"}), "would write outside its folder"),
        (refer_zip(**{"/escaped": b"out"}), "would write outside its folder"),
        (b"<html>gone</html>", "is no .zip or .tar archive"),
        (CONTENT[:-40], "is no .zip or .tar archive|damaged"),
    ],
)
def test_a_hostile_or_damaged_archive_leaves_no_data_set(served, tmp_path, content, said):
    served(Behaviour(content))
    with pytest.raises(InvalidInput, match=said):
        refseg("refcoco", "--root", tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".downloads"]


def test_an_archive_of_something_else_is_told_by_what_it_lacks(served, tmp_path):
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("refcoco/readme.txt", b"hello")
    served(Behaviour(other.getvalue()))
    with pytest.raises(InvalidInput, match=r"lacks instances.json; nothing was kept of it"):
        refseg("refcoco", "--root", tmp_path)
    assert not (tmp_path / "refcoco").exists()


def test_a_web_page_in_place_of_the_file_is_told(served, tmp_path):
    served(Behaviour(b"<html>", content_type="text/html"))
    with pytest.raises(InvalidInput, match="answered with a web page"):
        refseg("refcoco", "--root", tmp_path)


def test_a_folder_with_other_files_is_not_replaced_without_force(served, tmp_path):
    served(Behaviour(CONTENT))
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "refcoco/notes.txt").write_text("mine")
    with pytest.raises(
        InvalidInput, match=r"holds other files and lacks instances.json; move it away, or give --force"
    ):
        refseg("refcoco", "--root", tmp_path)
    assert (tmp_path / "refcoco/notes.txt").read_text() == "mine"
    assert refseg("refcoco", "--root", tmp_path, "--force").exit_code == 0
    assert not (tmp_path / "refcoco/notes.txt").exists()


def test_an_archive_that_found_no_room_is_not_fetched_again(served, tmp_path, monkeypatch):
    behaviour = Behaviour(CONTENT)
    served(behaviour)
    unpack = dataset_download.unpack

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_download, "unpack", full)
    with pytest.raises(OSError, match="No space left"):
        refseg("refcoco", "--root", tmp_path)
    monkeypatch.setattr(dataset_download, "unpack", unpack)
    assert refseg("refcoco", "--root", tmp_path).exit_code == 0
    assert len(behaviour.asked) == 1
    assert not list((tmp_path / ".downloads").glob("*.zip"))


def test_a_damaged_archive_is_fetched_again(served, tmp_path):
    behaviour = Behaviour(CONTENT[:-40])
    served(behaviour)
    with pytest.raises(InvalidInput):
        refseg("refcoco", "--root", tmp_path)
    behaviour.content, behaviour.etag = CONTENT, '"two"'
    assert refseg("refcoco", "--root", tmp_path).exit_code == 0


def test_an_archive_fetched_by_hand_is_unpacked_without_a_server(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_download, "download", lambda *_, **__: pytest.fail("the network was asked"))
    (tmp_path / "refcoco.zip").write_bytes(CONTENT)
    result = refseg("refcoco", "--root", tmp_path / "data", "--archive", tmp_path / "refcoco.zip")
    assert result.exit_code == 0
    assert (tmp_path / "data/refcoco/instances.json").is_file()
    assert (tmp_path / "refcoco.zip").read_bytes() == CONTENT


def test_an_archive_of_another_name_is_refused(tmp_path):
    (tmp_path / "mine.zip").write_bytes(CONTENT)
    with pytest.raises(InvalidInput, match=r"mine.zip is no archive of refcoco; known: refcoco.zip"):
        refseg("refcoco", "--root", tmp_path, "--archive", tmp_path / "mine.zip")


@pytest.mark.parametrize("folder", ["images/mscoco/images/train2014", "images/train2014", "train2014"])
def test_pictures_that_are_there_in_any_known_place_are_not_fetched(served, tmp_path, folder, monkeypatch):
    served(Behaviour(CONTENT))
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "COCO_train2014_000000000009.jpg").write_bytes(b"x")
    result = refseg("refcoco", "--root", tmp_path, "--pictures")
    assert f"{tmp_path / folder} is there already" in result.stdout


def test_pictures_are_counted(served, tmp_path, monkeypatch):
    few = io.BytesIO()
    with zipfile.ZipFile(few, "w") as archive:
        archive.writestr("train2014/1.jpg", b"x")
    with serving(Behaviour(few.getvalue())) as url:
        pictures = replace(published.COCO, url=url)
        monkeypatch.setitem(published.OFFERS, "refcoco", Offer("refcoco", (), (pictures,)))
        with pytest.raises(InvalidInput, match=r"holds 1 files, and 82783 belong to it"):
            refseg("refcoco", "--root", tmp_path, "--pictures")
    assert not (tmp_path / "train2014").exists()


@pytest.mark.parametrize("name", ["ref-youtube-vos", "ref-davis17", "a2d", "jhmdb", "mevis", "grefcoco"])
def test_what_a_person_must_fetch_is_told_with_page_file_and_place(name, tmp_path):
    result = refseg(name, "--root", tmp_path / "data")
    assert result.exit_code == 1
    for part in OFFERS[name].annotations:
        assert part.page in result.stdout
        assert part.file in result.stdout
        assert str(tmp_path / "data" / part.place) in result.stdout
    told = json.loads(refseg(name, "--root", tmp_path / "data", "--json").stdout)
    assert {part["state"] for part in told["parts"]} == {"by hand"}
    assert not (tmp_path / "data").exists()


def test_every_published_data_set_has_an_offer_below_its_own_folder():
    assert set(OFFERS) == set(PUBLISHED)
    for name, offer in OFFERS.items():
        folder = PUBLISHED[name].folder
        for part in offer.annotations:
            place = part.folder if isinstance(part, Direct) else part.place
            assert place.split("/")[0] == folder
        for part in offer.pictures:
            place = part.folder if isinstance(part, Direct) else part.place.rstrip("/")
            assert place in PUBLISHED[name].image_folders


def test_only_what_a_licence_lets_anybody_copy_is_fetched():
    direct = [p for o in OFFERS.values() for p in (*o.annotations, *o.pictures) if isinstance(p, Direct)]
    assert all("Apache-2.0" in part.licence or part is published.COCO for part in direct)
    assert {urlparse(part.url).hostname for part in direct} == {"web.archive.org", "images.cocodataset.org"}
    by_hand = [p for o in OFFERS.values() for p in (*o.annotations, *o.pictures) if isinstance(p, ByHand)]
    assert all(part.page and part.file and part.place and part.why for part in by_hand)


def test_an_unknown_name_suggests_the_nearest(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'refcoco'"):
        refseg("refcocoo", "--root", tmp_path)


def test_an_address_that_does_not_answer_leads_to_an_archive_fetched_elsewhere(monkeypatch, tmp_path):
    part = replace(OFFERS["refcoco"].annotations[0], url="http://127.0.0.1:9/refcoco.zip")
    monkeypatch.setitem(published.OFFERS, "refcoco", Offer("refcoco", (part,), OFFERS["refcoco"].pictures))
    with pytest.raises(InvalidInput, match=r"cannot be fetched: .*give it: --archive FILE"):
        refseg("refcoco", "--root", tmp_path)
