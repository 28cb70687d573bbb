"""What VLT tells of its answers, and the sheet that shows it."""

import json

import numpy as np
import torch
from PIL import Image

from models.vlt.files import DEBUG, fresh
from refseg.checkpoints import native
from refseg.media.draw_explanation import draw_explanation
from refseg.predictor import Predictor
from refseg.structures import EvidenceMap, Explanation

PHRASE = "the man's left hat"


def picture(height=50, width=80):
    return torch.randint(
        0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


def told(predictor):
    return predictor.explain(predictor.encode(picture()), [PHRASE])[0]


def test_every_query_is_told_with_its_look_its_mark_and_its_weight():
    explanation = told(Predictor(fresh()))
    assert [one.group for one in explanation.maps] == ["looks"] * 4 + ["marks"] * 4
    assert all(one.values.shape == (1, 50, 80) for one in explanation.maps)
    assert all(0 < one.weight < 1 for one in explanation.maps)


def test_looks_are_shares_of_the_cells():
    predictor = Predictor(fresh())
    model, clip = predictor.model, predictor.encode(picture())
    with torch.inference_mode():
        text = model.encode_text(model.tokenize([PHRASE]))
        queries, cells = model._ask(clip.visual, text)
        looks = model._looks(queries, cells)
    torch.testing.assert_close(looks.flatten(2).sum(-1), torch.ones(1, DEBUG.num_queries))


def test_marks_and_weights_are_those_of_the_answer():
    predictor = Predictor(fresh())
    model, clip = predictor.model, predictor.encode(picture())
    with torch.inference_mode():
        text = model.encode_text(model.tokenize([PHRASE]))
        output = model.segment(clip.visual, text)
        (explanation,) = model.explain([PHRASE], clip.visual, text, output)
    marks = [one for one in explanation.maps if one.group == "marks"]
    assert all(torch.equal(one.values, output.responses[0, :, q]) for q, one in enumerate(marks))
    assert [one.weight for one in marks] == output.weights[0, 0].tolist()


def test_words_are_those_of_the_phrase_and_padding_takes_the_rest():
    words = told(Predictor(fresh())).words
    assert [word for word, _ in words] == PHRASE.split()
    assert 0 < sum(share for _, share in words) < 1


def test_the_sheet_shows_stronger_maps_brighter_on_one_scale():
    pixels = np.full((40, 60, 3), 90, np.uint8)
    maps = tuple(
        EvidenceMap(f"query {n}", torch.full((1, 40, 60), value), 0.5, "marks")
        for n, value in enumerate((1.0, 0.1))
    )
    sheet = np.asarray(draw_explanation(pixels, np.zeros((40, 60), bool), "it", Explanation(maps)))
    panel = (sheet.shape[1] - 8) // 3
    strong, weak = (
        sheet[5:100, start + 5 : start + panel - 5].mean() for start in (panel + 4, 2 * panel + 8)
    )
    assert strong > weak + 50


def test_points_and_boxes_are_drawn_where_they_are():
    pixels = np.full((100, 100, 3), 90, np.uint8)
    empty = np.zeros((100, 100), bool)
    plain = np.asarray(draw_explanation(pixels, empty, "it", Explanation())).astype(int)
    point = Explanation(points=torch.tensor([[0.75, 0.25]]), boxes=torch.tensor([[0.5, 0.5, 0.9, 0.9]]))
    drawn = np.asarray(draw_explanation(pixels, empty, "it", point)).astype(int)
    changed = np.abs(drawn - plain).sum(-1) > 60
    side = plain.shape[0]
    assert changed[round(side * 0.25), round(side * 0.75)]
    assert changed[round(side * 0.5), round(side * 0.05)]
    assert not changed[round(side * 0.5), round(side * 0.5)]


def test_predict_writes_a_sheet_and_the_weights(tmp_path, command):
    native.save(tmp_path / "m.safetensors", fresh(), family="vlt", variant="debug", origin={})
    Image.fromarray(picture()[0].permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    arguments = [
        tmp_path / "m.safetensors",
        tmp_path / "photo.png",
        PHRASE,
        "--explain",
        "-o",
        tmp_path / "out",
        "--json",
    ]
    code, out, err = command("predict", *arguments)
    assert code == 0, err
    record = json.loads(out)["explanation"]
    assert (tmp_path / "out" / record["sheet"]).is_file()
    assert set(record["weights"]) == {f"query {n} {verb}" for n in range(1, 5) for verb in ("looks", "marks")}
    assert [word for word, _ in record["words"]] == PHRASE.split()


def test_a_family_that_has_nothing_to_show_is_refused_before_any_work(tmp_path, command):
    from refseg.models import catalog

    torch.manual_seed(0)
    model = catalog.build("scout", "debug")
    native.save(tmp_path / "m.safetensors", model, family="scout", variant="debug", origin={})
    Image.fromarray(picture()[0].permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    code, _, err = command(
        "predict",
        tmp_path / "m.safetensors",
        tmp_path / "photo.png",
        "the red circle",
        "--explain",
        "-o",
        tmp_path / "out",
    )
    assert code == 2
    assert "leave out --explain" in err
    assert not (tmp_path / "out").exists()


def test_of_a_clip_the_frame_that_shows_most_is_told(tmp_path, command):
    torch.manual_seed(0)
    native.save(tmp_path / "m.safetensors", fresh(), family="vlt", variant="debug", origin={})
    (tmp_path / "clip").mkdir()
    for number in range(3):
        frame = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8).numpy()
        Image.fromarray(frame).save(tmp_path / "clip" / f"{number}.png")
    arguments = [
        "predict",
        tmp_path / "m.safetensors",
        tmp_path / "clip",
        "--clip",
        "-p",
        PHRASE,
        "-p",
        "a dog",
    ]
    code, out, err = command(*arguments, "--explain", "-o", tmp_path / "out", "--json")
    assert code == 0, err
    sheets = [json.loads(line)["explanation"]["sheet"] for line in out.splitlines()]
    assert len(set(sheets)) == 2
    assert all((tmp_path / "out" / sheet).is_file() for sheet in sheets)


def test_the_clearest_frame_is_the_one_with_the_largest_mask():
    from refseg.cli.predict.explanations import clearer
    from refseg.prediction import Prediction

    frames, masks = torch.zeros(3, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[1, :2] = True
    first = clearer(None, frames, Prediction("it", masks))
    assert (first.frame, int(first.mask.sum())) == (1, 8)
    smaller = torch.zeros(3, 4, 4, dtype=torch.bool)
    assert clearer(first, frames, Prediction("it", smaller)) is first
    larger = torch.ones(3, 4, 4, dtype=torch.bool)
    assert clearer(first, frames, Prediction("it", larger)).frame == 0
