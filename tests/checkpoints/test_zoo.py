import hashlib
import io
import sys
import types

import pytest
import torch

from checkpoints import tiny
from helpers.loopback import Behaviour, serving
from refseg.checkpoints import native, zoo
from refseg.checkpoints.cards import Card, Companion
from refseg.errors import CheckpointMismatch, InvalidInput, UnknownName
from refseg.models import catalog


def bytes_of(variant="debug", seed=0):
    file = io.BytesIO()
    torch.save({"model": tiny.published(variant, seed)}, file)
    return file.getvalue()


CONTENT = bytes_of()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of its own, and the fake family alone."""
    monkeypatch.setattr(catalog, "FAMILIES", {"tiny": "checkpoints.tiny"})
    monkeypatch.setenv("REFSEG_HOME", str(tmp_path / "home"))
    for name in ("REFSEG_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tiny.TinyModel, "extra_state", lambda self: {"tokenizer.json": "words"})
    return tmp_path / "home"


def card_of(**source):
    settings = {"repository": "https://example.org", "format": "pth", **source}
    return Card(name="t", family="tiny", variant="debug", trained_on="x", licence="y", source=settings)


@pytest.fixture
def carded(monkeypatch):
    """Makes one card the only one."""

    def put(card):
        monkeypatch.setattr(zoo, "list_checkpoints", lambda: [card])
        return card

    return put


def saved(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    native.save(path, tiny.TinyModel(tiny.VARIANTS["debug"]), family="tiny", variant="debug", origin={})
    return path


def test_cards_of_all_families_are_listed_and_found():
    assert [card.name for card in zoo.list_checkpoints()] == ["tiny-debug"]
    assert zoo.find("tiny-debug").variant == "debug"


def test_an_unknown_checkpoint_suggests_the_nearest():
    for call in (zoo.find, zoo.resolve, zoo.get):
        with pytest.raises(UnknownName, match="did you mean 'tiny-debug'"):
            call("tiny-debgu")


def test_a_file_and_a_folder_lead_to_the_checkpoint(tmp_path):
    path = saved(tmp_path / "run" / "last.safetensors")
    assert zoo.resolve(str(path)) == zoo.resolve(path) == zoo.resolve(path.parent) == path
    best = saved(tmp_path / "run" / "best.safetensors")
    assert zoo.resolve(path.parent) == best
    model, header, found = zoo.load(path.parent)
    assert isinstance(model, tiny.TinyModel) and header.family == "tiny" and found == best


def test_a_name_means_the_card_even_where_a_folder_has_it(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-debug").mkdir()
    kept = saved(home / "checkpoints" / "tiny-debug.safetensors")
    assert zoo.resolve("tiny-debug") == kept
    with pytest.raises(InvalidInput, match="holds no checkpoint"):
        zoo.resolve("./tiny-debug")


def test_a_card_whose_file_is_not_here_says_how_to_fetch_it():
    with pytest.raises(InvalidInput, match="refseg models get tiny-debug"):
        zoo.resolve("tiny-debug")
    assert not zoo.is_here(zoo.find("tiny-debug"))


@pytest.mark.parametrize("ask", [zoo.get, zoo.resolve])
def test_a_card_without_a_published_file_says_so_and_what_to_do(carded, ask):
    carded(card_of(unpublished=True))
    with pytest.raises(InvalidInput, match=r"publish no weights .*refseg convert FILE --family tiny"):
        ask("t")


@pytest.mark.parametrize("ask", [zoo.get, zoo.resolve])
def test_a_card_whose_link_only_a_browser_follows_says_so_and_what_to_do(carded, ask):
    carded(card_of(by_hand=True))
    with pytest.raises(InvalidInput, match=r"only a browser follows: .*refseg convert FILE --family tiny"):
        ask("t")


@pytest.mark.parametrize("name", ["none.safetensors", "./none", "/none/m", "runs/a/best.safetensors"])
def test_a_path_that_leads_nowhere_is_told_as_a_path(name):
    with pytest.raises(InvalidInput, match="there is no checkpoint file"):
        zoo.resolve(name)


def test_foreign_weights_lead_to_convert(tmp_path):
    (tmp_path / "m.pth").write_bytes(CONTENT)
    with pytest.raises(InvalidInput, match=r"refseg convert .*m\.pth"):
        zoo.resolve(tmp_path / "m.pth")


def test_getting_a_checkpoint_downloads_converts_and_keeps_our_file_alone(carded, home):
    server = Behaviour(CONTENT)
    with serving(server) as url:
        card = carded(card_of(url=url, sha256=SHA256))
        path = zoo.get("t")
        assert zoo.get("t") == path and len(server.asked) == 1
        assert zoo.get("t", force=True) == path and len(server.asked) == 2
    model, header, _ = zoo.load("t")
    assert torch.equal(model.stages[0].weight, tiny.published()["net.conv0.weight"])
    assert header.origin == {
        "file": "t.pth",
        "sha256": SHA256,
        "checkpoint": "t",
        "repository": "https://example.org",
        "address": url,
    }
    assert zoo.is_here(card) and path == home / "checkpoints" / "t.safetensors"
    assert [p.name for p in (home / "downloads").iterdir() if not p.name.endswith(".lock")] == []


def test_a_wrong_checksum_leaves_no_checkpoint(carded, home):
    with serving(Behaviour(bytes_of(seed=1))) as url:
        carded(card_of(url=url, sha256=SHA256))
        with pytest.raises(InvalidInput, match=r"is not the file (on the card|that was expected)"):
            zoo.get("t")
    assert not (home / "checkpoints").exists()


def test_weights_of_another_variant_leave_no_checkpoint(carded, home):
    with serving(Behaviour(bytes_of("wide"))) as url:
        carded(card_of(url=url))
        with pytest.raises(CheckpointMismatch, match="--variant wide"):
            zoo.get("t")
    assert not (home / "checkpoints").exists()


def test_a_native_file_is_verified_and_kept(carded, home, tmp_path):
    content = saved(tmp_path / "n.safetensors").read_bytes()
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    with serving(Behaviour(damaged)) as url:
        carded(card_of(url=url, format="native"))
        with pytest.raises(InvalidInput, match="damaged"):
            zoo.get("t")
        assert not (home / "checkpoints" / "t.safetensors").exists()
    with serving(Behaviour(content)) as url:
        carded(card_of(url=url, format="native"))
        assert zoo.get("t", force=True).read_bytes() == content


@pytest.mark.parametrize("variable", ["REFSEG_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_fetched_and_what_is_here_works(carded, home, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    carded(card_of(url="http://127.0.0.1:9/x"))
    with pytest.raises(InvalidInput, match=f"t is not on this machine, and {variable} forbids"):
        zoo.get("t")
    kept = saved(home / "checkpoints" / "t.safetensors")
    assert zoo.get("t") == zoo.resolve("t") == kept


def test_a_card_of_the_package_needs_no_network(carded, monkeypatch, tmp_path):
    saved(tmp_path / "assets" / "t.safetensors")
    monkeypatch.setattr(zoo.resources, "files", lambda _: tmp_path)
    monkeypatch.setenv("REFSEG_OFFLINE", "1")
    card = carded(card_of(asset="t.safetensors", format="native"))
    assert zoo.get("t") == zoo.resolve("t") == tmp_path / "assets" / "t.safetensors" and zoo.is_here(card)


def test_the_cache_lies_where_the_variables_say(monkeypatch, tmp_path):
    monkeypatch.setenv("REFSEG_HOME", "~/somewhere")
    assert zoo.cache_dir() == zoo.Path.home() / "somewhere"
    monkeypatch.delenv("REFSEG_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert zoo.cache_dir() == tmp_path / "refseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert zoo.cache_dir() == zoo.Path.home() / ".cache" / "refseg"


# Google Drive and the hub are reached through their own clients, which stand-ins replace here.


def fake_gdown(monkeypatch, download):
    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))


def test_google_drive_is_reached_through_gdown(carded, monkeypatch):
    def download(*, id, output, resume, quiet):
        assert id == "abc" and resume
        zoo.Path(output).write_bytes(CONTENT)
        return output

    fake_gdown(monkeypatch, download)
    carded(card_of(drive="abc", sha256=SHA256))
    assert native.read_header(zoo.get("t")).origin["address"] == "https://drive.google.com/file/d/abc/view"


def test_a_wrong_file_from_google_drive_is_not_kept(carded, monkeypatch, home):
    fake_gdown(monkeypatch, lambda *, output, **_: zoo.Path(output).write_bytes(b"quota"))
    carded(card_of(drive="abc", sha256=SHA256))
    with pytest.raises(InvalidInput, match=r"is not the file (on the card|that was expected)"):
        zoo.get("t")
    assert not (home / "downloads" / "t.pth").exists()


@pytest.mark.parametrize("outcome", ["raises", "returns nothing"])
def test_what_google_drive_refuses_is_told_with_a_way_by_hand(carded, monkeypatch, outcome):
    def download(**_):
        if outcome == "raises":
            raise RuntimeError("Too many users\n have viewed it")

    fake_gdown(monkeypatch, download)
    carded(card_of(drive="abc"))
    with pytest.raises(
        InvalidInput, match="in a browser and run: refseg convert FILE --family tiny"
    ) as caught:
        zoo.get("t")
    assert "\n" not in str(caught.value)


def test_without_gdown_the_install_line_is_given(carded, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    carded(card_of(drive="abc"))
    with pytest.raises(InvalidInput, match=r"pip install 'refseg\[gdrive\]'"):
        zoo.get("t")


def test_a_hub_id_leads_to_its_model_file(monkeypatch, tmp_path):
    path = saved(tmp_path / "model.safetensors")
    asked = []

    def hub(repository, file, *, revision, local_files_only):
        asked.append((repository, file, revision, local_files_only))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    assert zoo.resolve("someone/their-model") == path
    zoo.resolve("someone/their-model@v2")
    monkeypatch.setenv("REFSEG_OFFLINE", "1")
    zoo.resolve("someone/their-model")
    assert asked == [
        ("someone/their-model", "model.safetensors", None, False),
        ("someone/their-model", "model.safetensors", "v2", False),
        ("someone/their-model", "model.safetensors", None, True),
    ]


def test_a_hub_id_offline_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("REFSEG_OFFLINE", "1")
    with pytest.raises(InvalidInput, match="REFSEG_OFFLINE forbids the network") as caught:
        zoo.resolve("someone/no-such-model-of-ours")
    assert "\n" not in str(caught.value)


def test_a_companion_tokenizer_comes_from_the_hub(carded, monkeypatch, tmp_path):
    (tmp_path / "tokenizer.json").write_text("its words")
    monkeypatch.undo()
    monkeypatch.setattr(catalog, "FAMILIES", {"tiny": "checkpoints.tiny"})
    monkeypatch.setenv("REFSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(tmp_path / "tokenizer.json"))
    with serving(Behaviour(CONTENT)) as url:
        card = card_of(url=url).model_copy(
            update={"companions": (Companion(hub="someone/words", file="tokenizer.json"),)}
        )
        monkeypatch.setattr(zoo, "list_checkpoints", lambda: [card])
        model, _ = native.load(zoo.get("t"))
    assert model.words == "its words"
