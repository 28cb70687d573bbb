"""`refseg evaluate` on published data sets, from the command line to tables, rows and submissions."""

import json

import pytest
from typer.testing import CliRunner

import refseg.predictor
from evaluation.miniatures import LeftModel, TwoModel, place
from refseg.checkpoints import native
from refseg.cli import app, load_verbs
from refseg.errors import InvalidInput, UnknownName
from refseg.models import catalog


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A file named like a card, whose header is read, and in the place of its model one that answers "left"."""
    path = tmp_path / "referformer-r50-refcoco.safetensors"
    model = catalog.build("referformer", "debug")
    native.save(path, model, family="referformer", variant="debug", origin={})

    def load(name, device="auto", dtype=None):
        return refseg.predictor.Predictor(TwoModel(), device=device, dtype=dtype, label=str(name))

    monkeypatch.setattr(refseg.predictor, "load", load)
    return path


def call(*words):
    load_verbs()
    done = CliRunner().invoke(app, [*map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def evaluated(checkpoint, name, folder, *words):
    return call("evaluate", checkpoint, name, "--root", place(name, folder), "--device", "cpu", *words)


def test_ours_the_published_way_and_the_authors_number_stand_side_by_side(checkpoint, tmp_path):
    lines = evaluated(checkpoint, "refcoco", tmp_path).stdout.splitlines()
    heads = next(line.split() for line in lines if line.startswith(" "))
    assert heads == ["source", "referformer-masks", "referformer-boxes", "authors"]
    rows = [line.split() for line in lines if line.startswith(("oIoU", "box P@0.5"))]
    assert [row[-1] for row in rows] == ["71.1", "85"]
    assert any(line.startswith("authors: best mask of the frame") for line in lines)


def test_the_record_holds_every_protocol(checkpoint, tmp_path):
    record = json.loads(evaluated(checkpoint, "a2d", tmp_path, "--json").stdout)
    assert set(record["protocols"]) == {"source", "a2d"}
    assert set(record["protocols"]["a2d"]["scores"]) >= {"mAP", "AP50", "oIoU", "P@0.9"}
    assert record["source"]["name"] == "a2d"
    assert record["source"]["options"]["text"] == "squeezed"


def test_more_frames_around_a_labelled_one_may_be_seen(checkpoint, tmp_path):
    own = json.loads(evaluated(checkpoint, "a2d", tmp_path, "--json").stdout)["data"]
    seven = json.loads(evaluated(checkpoint, "a2d", tmp_path, "--window", "7", "--json").stdout)["data"]
    trained_on = catalog.variant("referformer", "debug").num_frames
    assert own["frames"] == trained_on * own["examples"]
    assert seven["frames"] == 7 * own["examples"]
    with pytest.raises(InvalidInput, match="single frames"):
        evaluated(checkpoint, "a2d", tmp_path, "--window", "0")


def test_a_protocol_may_be_chosen(checkpoint, tmp_path):
    words = ["--protocol", "vlt", "--protocol", "refer", "--json"]
    record = json.loads(evaluated(checkpoint, "refcoco", tmp_path, *words).stdout)
    assert list(record["protocols"]) == ["vlt", "refer"]
    with pytest.raises(UnknownName, match="'vlt'"):
        evaluated(checkpoint, "refcoco", tmp_path, "--protocol", "vlr")


@pytest.mark.parametrize(
    ("words", "text"), [((), "raw"), (("--protocol", "source"), "raw"), (("--protocol", "vlt"), "sent")]
)
def test_phrases_are_asked_in_the_text_that_the_family_was_trained_with(words, text, checkpoint, tmp_path):
    path = tmp_path / "some.safetensors"
    native.save(path, catalog.build("lgformer", "debug"), family="lgformer", variant="debug", origin={})
    record = json.loads(evaluated(path, "refcoco", tmp_path, *words, "--json").stdout)
    assert record["source"]["options"]["text"] == text


def test_protocols_that_ask_different_texts_are_not_mixed(checkpoint, tmp_path):
    with pytest.raises(InvalidInput, match="one by one"):
        evaluated(checkpoint, "refcoco", tmp_path, "--protocol", "vlt", "--protocol", "lgformer")


def test_rows_are_kept_and_gone_on_with(checkpoint, tmp_path):
    rows = tmp_path / "rows.jsonl"
    first = json.loads(evaluated(checkpoint, "mevis", tmp_path, "--rows", rows, "--json").stdout)
    with pytest.raises(InvalidInput, match="--resume"):
        evaluated(checkpoint, "mevis", tmp_path, "--rows", rows)
    again = json.loads(evaluated(checkpoint, "mevis", tmp_path, "--rows", rows, "--resume", "--json").stdout)
    assert again["protocols"] == first["protocols"]
    with pytest.raises(InvalidInput, match="protocols"):
        evaluated(checkpoint, "mevis", tmp_path, "--rows", rows, "--resume", "--protocol", "source")
    with pytest.raises(InvalidInput, match="give both"):
        evaluated(checkpoint, "mevis", tmp_path, "--resume")


@pytest.mark.parametrize(
    ("name", "out"), [("ref-youtube-vos", "a.zip"), ("mevis", "a.zip"), ("ref-davis17", "tree")]
)
def test_a_submission_is_written_and_passes_the_check(name, out, checkpoint, tmp_path):
    path, root = tmp_path / out, place(name, tmp_path)
    done = evaluated(checkpoint, name, tmp_path, "--submission", path)
    assert f"{path} is ready" in done.stdout
    assert ("not public" in done.stdout) is (name != "ref-davis17")
    checked = call("data", "check-submission", path, "--dataset", name, "--root", root)
    assert checked.exit_code == 0
    assert "is complete" in checked.stdout


def test_a_stopped_submission_goes_on_without_a_file_of_rows(checkpoint, tmp_path, monkeypatch):
    path, root = tmp_path / "tree", place("ref-davis17", tmp_path)
    asked = []

    class Mortal(TwoModel):
        def encode_visual(self, clips):
            asked.append(1)
            if len(asked) == 2:
                raise RuntimeError("the power went")
            return super().encode_visual(clips)

    monkeypatch.setattr(
        refseg.predictor, "load", lambda *_, **__: refseg.predictor.Predictor(Mortal(), device="cpu")
    )
    with pytest.raises(RuntimeError, match="power"):
        evaluated(checkpoint, "ref-davis17", tmp_path, "--submission", path)
    done = evaluated(checkpoint, "ref-davis17", tmp_path, "--submission", path, "--resume")
    assert "1 examples from an earlier run" in done.stdout
    assert "ref-davis" in done.stdout
    assert call("data", "check-submission", path, "--dataset", "ref-davis17", "--root", root).exit_code == 0
    assert not list(tmp_path.glob("*.part"))


def test_a_submission_with_a_fault_ends_with_code_1(checkpoint, tmp_path):
    path, root = tmp_path / "tree", place("ref-davis17", tmp_path)
    evaluated(checkpoint, "ref-davis17", tmp_path, "--submission", path)
    sorted(path.rglob("*.png"))[0].unlink()
    words = ["data", "check-submission", path, "--dataset", "ref-davis17", "--root", root]
    done = call(*words)
    assert done.exit_code == 1
    assert "missing frames: 1 (anno_0/" in done.stdout
    assert json.loads(call(*words, "--json").stdout)["ready"] is False


def test_a_set_without_masks_says_what_to_do(checkpoint, tmp_path):
    with pytest.raises(InvalidInput, match="--submission"):
        evaluated(checkpoint, "mevis", tmp_path, "--split", "valid")


def test_a_missing_picture_is_one_sentence(checkpoint, tmp_path):
    for picture in (place("refcoco", tmp_path) / "images").rglob("*.jpg"):
        picture.unlink()
    with pytest.raises(InvalidInput, match="picture"):
        evaluated(checkpoint, "refcoco", tmp_path)


def test_the_control_is_measured_by_our_own_protocol(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(
        refseg.predictor, "load", lambda *_, **__: refseg.predictor.Predictor(LeftModel(), device="cpu")
    )
    record = json.loads(evaluated(checkpoint, "grefcoco", tmp_path, "--shuffle-phrases", "--json").stdout)
    assert list(record["protocols"]) == ["source"]
    with pytest.raises(InvalidInput, match="control"):
        evaluated(checkpoint, "grefcoco", tmp_path, "--shuffle-phrases", "--protocol", "gres")
