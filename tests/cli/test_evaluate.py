"""`refseg evaluate` on a person's own file, with no code."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import refseg.predictor
from helpers.seeing import SeeingModel
from refseg.checkpoints import native
from refseg.cli import app, load_verbs
from refseg.errors import InvalidInput, UnknownName
from refseg.models import catalog

LEFT = [[0, 0, 4, 0, 4, 6, 0, 6]]


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A file whose header is read, and in the place of its model one whose answers are known."""
    path = tmp_path / "some.safetensors"
    native.save(path, catalog.build("scout", "debug"), family="scout", variant="debug", origin={})

    def load(name, device="auto", dtype=None):
        return refseg.predictor.Predictor(SeeingModel(), device=device, dtype=dtype, label=str(name))

    monkeypatch.setattr(refseg.predictor, "load", load)
    return path


@pytest.fixture
def data(tmp_path):
    Image.fromarray(np.zeros((6, 8, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((6, 8, 3), 80, dtype=np.uint8)).save(tmp_path / "b.png")
    lines = [
        {"image": "a.png", "phrase": "left", "mask": LEFT, "register": "loc", "split": "train"},
        {"image": "b.png", "phrase": "right", "mask": LEFT, "register": "loc", "split": "val"},
        {"image": "b.png", "phrase": "everything", "mask": LEFT, "register": "odd", "split": "val"},
        {"image": "b.png", "phrase": "nothing", "no_target": True, "register": "none", "split": "val"},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def refseg_evaluate(*words):
    load_verbs()
    done = CliRunner().invoke(app, ["evaluate", *map(str, words), "--device", "cpu"], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def scores_of(*words):
    return json.loads(refseg_evaluate(*words, "--json").stdout)["scores"]


def test_scores_are_those_of_the_known_answers(checkpoint, data):
    scores = scores_of(checkpoint, data)
    assert scores["loc"]["mIoU"] == 0.5  # left is right, right is wrong
    assert scores["odd"]["mIoU"] == 0.5  # half of everything
    assert scores["none"]["refused"] == 1.0
    assert scores["all"]["oIoU"] == pytest.approx((24 + 0 + 24) / (24 + 48 + 48))


def test_a_split_is_evaluated_alone(checkpoint, data):
    assert scores_of(checkpoint, data, "--split", "val")["loc"]["mIoU"] == 0.0
    with pytest.raises(UnknownName, match="'vla'"):
        refseg_evaluate(checkpoint, data, "--split", "vla")


def test_the_control_asks_the_other_picture(checkpoint, data):
    shuffled = scores_of(checkpoint, data, "--shuffle-phrases")
    assert shuffled["loc"]["mIoU"] == 0.5  # "right" asked of a.png, "left" of b.png
    assert "none" not in shuffled


def test_the_table_is_printed_and_the_record_written(checkpoint, data, tmp_path):
    out = tmp_path / "results" / "mine.json"
    done = refseg_evaluate(checkpoint, data, "--out", out)
    assert done.stdout.splitlines()[0].split()[:3] == ["register", "phrases", "mIoU"]
    record = json.loads(out.read_text())
    assert record["checkpoint"]["family"] == "scout"
    assert record["checkpoint"]["sha256"] == native.read_header(checkpoint).sha256
    assert record["source"]["name"] == "mine.jsonl"
    assert record["machine"]["refseg"] == refseg.__version__
    assert [path.name for path in out.parent.iterdir()] == ["mine.json"]


def test_an_earlier_result_is_kept_unless_forced(checkpoint, data, tmp_path):
    out = tmp_path / "mine.json"
    out.write_text("precious")
    with pytest.raises(InvalidInput, match="--force"):
        refseg_evaluate(checkpoint, data, "--out", out)
    assert out.read_text() == "precious"
    refseg_evaluate(checkpoint, data, "--out", out, "--force")
    assert json.loads(out.read_text())["protocol"]


def test_scenes_need_no_file(checkpoint, monkeypatch):
    monkeypatch.setattr(
        SeeingModel,
        "tokenize",
        lambda self, phrases, real=SeeingModel.tokenize: real(self, ["left"] * len(phrases)),
    )
    words = ["--count", "3", "--size", "32", "--phrases", "2", "--sprites", "none"]
    record = json.loads(refseg_evaluate(checkpoint, "scenes", *words, "--json").stdout)
    assert record["data"]["examples"] == 3
    assert record["source"]["split"] == "val"
    assert record["source"]["sprites"] == "none"


def test_a_line_without_a_mask_is_told_with_its_number(checkpoint, data):
    with data.open("a") as file:
        file.write('\n{"image": "a.png", "phrase": "left"}\n')
    with pytest.raises(InvalidInput, match=r'mine\.jsonl line 5: the line has no "mask"'):
        refseg_evaluate(checkpoint, data)


def test_a_phrase_that_the_model_cannot_read_names_the_picture(checkpoint, data):
    with data.open("a") as file:
        file.write('\n{"image": "a.png", "phrase": "zebra", "no_target": true}\n')
    with pytest.raises(InvalidInput, match=r"^a\.png: .*zebra"):
        refseg_evaluate(checkpoint, data)


def test_options_of_scenes_do_not_fit_a_file(checkpoint, data):
    with pytest.raises(InvalidInput, match="frames belong to scenes"):
        refseg_evaluate(checkpoint, data, "--frames", "2")


def test_a_further_field_of_the_scenes_world_is_taken_as_it_is_written(checkpoint, monkeypatch):
    monkeypatch.setattr(
        SeeingModel,
        "tokenize",
        lambda self, phrases, real=SeeingModel.tokenize: real(self, ["left"] * len(phrases)),
    )
    words = ["--count", "2", "--size", "32", "--frames", "3", "--sprites", "none"]
    world = ["--world", "twins=1.0", "--world", "motions=['left', 'right']", "--world", "registers={mot=1}"]
    record = json.loads(refseg_evaluate(checkpoint, "scenes", *words, *world, "--json").stdout)
    assert record["source"]["twins"] == 1.0
    assert record["source"]["motions"] == ["left", "right"]
    assert record["source"]["registers"] == {"mot": 1.0}


@pytest.mark.parametrize(
    ("world", "words"),
    [
        (["twins"], "KEY=VALUE"),
        (["twins=1.0", "twins=0.5"], "twice"),
        (["twins=all"], "twins of scenes is 'all'"),
        (["twinns=1.0"], "twins"),
    ],
)
def test_a_field_that_no_world_has_is_refused(checkpoint, world, words):
    given = [part for one in world for part in ("--world", one)]
    with pytest.raises((InvalidInput, UnknownName), match=words):
        refseg_evaluate(checkpoint, "scenes", "--frames", "2", *given)


def test_evaluations_are_added_to_a_model_card(checkpoint, data, tmp_path):
    page = tmp_path / "cards" / "README.md"
    for split in ("val", "train"):
        done = refseg_evaluate(checkpoint, data, "--split", split, "--card-file", page)
    (_, train) = json.loads(page.with_name("card.json").read_text())["results"]
    assert train["source"]["split"] == "train"
    assert train["scores"]["loc"]["mIoU"] == 1.0  # left is right
    assert "### mine.jsonl val: 1 examples, 3 phrases" in page.read_text()
    assert done.stdout.split("\nmine.jsonl")[0] in page.read_text()  # the table as printed, but for its times
