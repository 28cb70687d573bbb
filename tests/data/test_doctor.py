"""The doctor on damaged copies of the miniatures, and on whole ones."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from data import refer_maker as maker
from refseg.cli import app, load_verbs
from refseg.data.doctor.examine import examine, examine_folder, mend, places_in
from refseg.data.doctor.findings import CHECKS
from refseg.data.doctor.html import page
from refseg.errors import InvalidInput

CASES = Path(__file__).parents[1] / "parity" / "cases" / "datasets"
COUNTS = {"count", "count-rough", "split-missing"}  # miniatures are smaller than what is published


def run_cli(*words):
    load_verbs()
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def copied(tmp_path):
    def copy(name):
        shutil.copytree(CASES / name, tmp_path / name)
        return tmp_path / name

    return copy


def examined(name, root, **options):
    return examine(places_in(name, root)[0], **options)


def found(report):
    """Checks that found something, beside those that every miniature fails."""
    return {check: finding for check, finding in report.found.items() if check not in COUNTS}


WHOLE = {
    "refcoco": ("refcoco", {"mask-empty", "parts-overlap", "parts-outside"}),
    "refcoco+": ("refcoco_plus_python2_pickle", {"mask-empty", "parts-overlap"}),
    "refcocog-google": ("refcocog", {"mask-empty", "parts-overlap", "parts-outside", "shared-own", "shared-other"}),
    "refclef-unc": ("refclef", {"mask-empty", "parts-overlap"}),
    "grefcoco": ("grefcoco", {"mask-empty", "parts-overlap", "parts-outside"}),
    "ref-youtube-vos": ("ref_youtube_vos", {"test-listed"}),
    "ref-davis17": ("ref_davis17", {"object-later"}),
    "a2d": ("a2d_sentences", {"row-skipped"}),
    "jhmdb": ("jhmdb_sentences", {"mask-empty"}),
    "mevis": ("mevis", set()),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_miniature_has_only_what_was_put_into_it(copied, name):
    folder, wanted = WHOLE[name]
    root = copied(folder)
    before = sorted(root.rglob("*"))
    report = examined(name, root)
    assert set(found(report)) >= wanted, report.findings
    assert set(found(report)) - wanted <= {"parts-outside", "parts-small", "mask-empty", "object-absent"}
    assert not any(found(report)[check].level == "error" for check in found(report))
    after = sorted(path for path in root.rglob("*") if not path.name.endswith(".refseg-index"))
    assert after == before, "a check writes nothing but indexes"


def test_every_count_is_told_beside_the_published_one(copied):
    report = examined("refcoco", copied("refcoco"))
    rows = {(row["split"], row["what"]): (row["found"], row["published"]) for row in report.counts}
    assert rows["testA", "objects"] == (4, 1_975) and rows["train", "phrases"] == (13, 120_624)
    assert rows["all", "objects"] == (14, 50_000) and rows["all", "phrases"] == (31, 142_210)
    assert len(rows) == 15 and report.found["count"].count == 15
    assert "val has 1 objects, and 3,811 are published" in " ".join(report.found["count"].examples)


def picture_of(root, name="*.jpg"):
    return sorted((root / "images").rglob(name))[0]


def test_missing_truncated_and_resized_pictures_are_found(copied):
    root = copied("refcoco")
    pictures = sorted((root / "images").rglob("*.jpg"))
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[1].read_bytes()[:-200])
    Image.new("RGB", (5, 5)).save(pictures[2])
    pictures[3].write_bytes(b"")
    report = examined("refcoco", root)
    assert report.found["picture-missing"].examples == [pictures[0].name]
    assert {e.split(":")[0] for e in report.found["picture-damaged"].examples} == {
        pictures[1].name,
        pictures[3].name,
    }
    assert report.found["picture-size"].examples[0].startswith(f"{pictures[2].name} 5x5 for ")
    quick = examined("refcoco", root, is_quick=True)
    assert quick.found["picture-damaged"].count == 1, "headers alone do not tell of a cut end"


def test_records_that_cannot_be_used_are_all_told(tmp_path):
    refs = maker.records(6)
    refs[1]["ann_id"] = "x"
    refs[4]["image_id"] = 77
    things = maker.instances(6)
    things["annotations"][5]["segmentation"] = [[1, 2, None]]
    maker.write(tmp_path, refs, things)
    report = examined("refcoco", tmp_path)
    assert report.found["record"].count == 3 and report.looked_at["references"] == 3
    assert 'record 1: the field "ann_id"' in report.found["record"].examples[0]


@pytest.mark.parametrize("damage", ["cut", "hostile", "gone"])
def test_a_file_that_cannot_be_read_is_told(copied, damage):
    root = copied("refcoco")
    refs = root / "refcoco" / "refs(unc).p"
    if damage == "gone":
        (root / "refcoco" / "instances.json").write_text("[]")
    else:
        refs.write_bytes(refs.read_bytes()[:100] if damage == "cut" else b"cos\nsystem\n(S'true'\ntR.")
    report = examined("refcoco", root)
    assert report.found["file"].count == 1 and report.errors


def test_numbers_that_stand_twice_and_phrases_without_a_word_are_told(tmp_path):
    refs = maker.records(4)
    refs[1]["ref_id"] = 0
    refs[2]["sentences"][0] |= {"sent": " ", "raw": "", "tokens": []}
    maker.write(tmp_path, refs)
    report = examined("refcoco", tmp_path)
    assert report.found["id-twice"].examples == ["ref_id 0, 2 times"]
    assert report.found["phrase-empty"].examples == ["sentence 4"]


def test_pictures_shared_between_sets_are_counted(tmp_path):
    maker.write(tmp_path, maker.records(6, splits=("train",)), maker.instances(6))
    maker.write(tmp_path, maker.records(4, splits=("testA", "train")), maker.instances(4), name="refcoco+")
    report = examined("refcoco", tmp_path)
    assert report.found["shared-other"].examples == ["2 pictures are in val or test of refcoco+"]
    assert "shared-own" not in report.found
    other = examined("refcoco+", tmp_path)
    assert other.found["shared-own"].examples == ["2 pictures of refcoco+"]


def test_damage_to_frames_and_masks_of_videos_is_found(copied):
    root = copied("ref_youtube_vos")
    train = root / "ref-youtube-vos" / "train"
    videos = sorted(path.name for path in (train / "JPEGImages").iterdir())
    frames = sorted((train / "JPEGImages" / videos[0]).iterdir())
    frames[0].unlink()
    frames[1].write_bytes(b"no picture")
    Image.new("RGB", (7, 7)).save(sorted((train / "JPEGImages" / videos[1]).iterdir())[-1])
    masks = sorted((train / "Annotations" / videos[1]).iterdir())
    masks[0].unlink()
    Image.new("RGB", Image.open(masks[1]).size).save(masks[1])
    Image.new("L", (3, 3)).save(masks[2])
    shutil.rmtree(train / "JPEGImages" / videos[2])
    report = examined("ref-youtube-vos", root)
    assert report.found["picture-missing"].examples == [f"train/{videos[0]}/{frames[0].name}"]
    assert report.found["picture-damaged"].count == 1 and report.found["picture-size"].count == 1
    assert report.found["mask-missing"].examples == [f"train/{videos[1]}/{masks[0].name}"]
    assert "holds colours" in report.found["mask-damaged"].examples[0]
    assert f"train/{videos[1]}/{masks[2].name} 3x3" in report.found["mask-size"].examples
    assert report.found["video-missing"].examples == [f"train/{videos[2]}"]


def test_an_object_in_no_frame_is_told(copied):
    root = copied("ref_youtube_vos")
    path = root / "ref-youtube-vos" / "meta_expressions" / "train" / "meta_expressions.json"
    told = json.loads(path.read_text())
    video = next(iter(told["videos"]))
    told["videos"][video]["expressions"]["0"]["obj_id"] = "77"
    told["videos"][video]["expressions"]["1"]["obj_id"] = "red"
    path.write_text(json.dumps(told))
    report = examined("ref-youtube-vos", root)
    assert f"train/{video} object 77" in report.found["object-absent"].examples
    assert 'expression 1: "obj_id" is red' in report.found["record"].examples[0]


def test_lists_of_davis_that_do_not_match_are_told(copied):
    root = copied("ref_davis17")
    path = root / "ref-davis" / "davis_text_annotations" / "Davis17_annot2.txt"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if not line.startswith(b"blackswan")))
    report = examined("ref-davis17", root)
    assert (
        "Davis17_annot2.txt speaks of the objects (none) of video blackswan"
        in report.found["file"].examples[0]
    )


def test_damage_to_a2d_is_found(copied):
    root = copied("a2d_sentences")
    folder = root / "a2d_sentences"
    h5 = sorted((folder / "text_annotations").rglob("K1zW9TI8m2s/*.h5"))
    h5[0].write_bytes(b"damaged")
    (folder / "Release" / "clips320H" / "T6bNPuKV-wY.mp4").unlink()
    listed = folder / "a2d_sentences_single_frame_train_annotations.json"
    listed.write_text(json.dumps(json.loads(listed.read_text())[:-1]))
    report = examined("a2d", root)
    assert "K1zW9TI8m2s" in " ".join(report.found["mask-damaged"].examples)
    assert report.found["video-missing"].examples == ["T6bNPuKV-wY.mp4"]
    assert "from entry 2 on (2 entries, 3 from the raw files)" in report.found["list-differs"].examples[0]


def test_a_video_that_ends_before_its_annotation_is_told(copied):
    root = copied("a2d_sentences")
    clips = root / "a2d_sentences" / "Release" / "clips320H"
    shutil.copy(clips / "-0djzMEOuXU.mp4", clips / "0gZz8hESBEs.mp4")  # 14 frames for 23
    report = examined("a2d", root)
    assert report.found["video-length"].examples == ["0gZz8hESBEs.mp4: 14 frames, and frame 23 is annotated"]
    assert "video-length" not in examined("a2d", root, is_quick=True).found


def test_damage_to_jhmdb_is_found(copied):
    root = copied("jhmdb_sentences")
    mats = sorted(root.rglob("puppet_mask.mat"))
    mats[0].write_bytes(b"no matlab")
    mats[1].unlink()
    pictures = sorted((root / "jhmdb_sentences" / "Rename_Images" / "sit").rglob("*.png"))
    pictures[0].unlink()
    report = examined("jhmdb", root)
    assert report.found["mask-damaged"].count == 1, "three samples of one video"
    assert report.found["mask-missing"].examples == [str(mats[1].relative_to(root / "jhmdb_sentences"))]
    assert report.found["picture-missing"].examples == ["sitting_x/00001.png"]


def test_damage_to_mevis_is_found(copied):
    root = copied("mevis")
    path = root / "mevis" / "train" / "mask_dict.json"
    masks = json.loads(path.read_text())
    names = list(masks)
    masks[names[0]] = masks[names[0]][:-1]
    del masks[names[1]]
    videos = json.loads((path.parent / "meta_expressions.json").read_text())["videos"].values()
    said = [e["anno_id"] for video in videos for e in video["expressions"].values()]
    alone = next(str(ids[0]) for ids in said if len(ids) == 1 and str(ids[0]) not in names[:2])
    masks[alone] = [None] * len(masks[alone])
    path.write_text(json.dumps(masks))
    report = examined("mevis", root)
    told = " ".join(report.found["mask-damaged"].examples)
    assert f"mask_dict.json {names[0]}: it has" in told and f'"anno_id" is {names[1]}' in told
    assert report.found["object-absent"].count >= 1


@pytest.mark.parametrize(
    "folder", ["refcoco_coco_form/coco/refcoco", "refcoco_parquet/objects_form", "refcoco_parquet/lmms_form"]
)
def test_other_forms_are_checked_too(copied, folder):
    root = copied(folder.split("/")[0]).parent
    report = examine_folder(root / folder)
    assert report.looked_at["references"] > 6 and not report.errors


def test_a_phrase_file_is_checked_line_by_line(tmp_path):
    Image.new("RGB", (9, 6)).save(tmp_path / "a.png")
    (tmp_path / "dogs.jsonl").write_text(
        '{"image": "a.png", "phrase": "x", "no_target": true}\n{"image": "a.png"}\n'
    )
    report = examine_folder(tmp_path)
    assert report.found["line"].examples[0].startswith("dogs.jsonl line 2: ")


def test_only_junk_and_broken_indexes_are_removed(copied):
    root = copied("refcoco")
    junk = picture_of(root).with_name("._COCO.jpg")
    junk.write_bytes(b"x")
    (root / "refcoco" / ".DS_Store").write_bytes(b"x")
    (root / "refcoco" / ".refs(unc).refseg-index").write_bytes(b"half")
    (root / "refcoco" / "..refs(unc).1234abcd.part.refseg-index").write_bytes(b"half")
    kept = {path for path in (root / "refcoco").iterdir() if not path.name.startswith(".")}
    report = examined("refcoco", root)
    assert report.found["leftover"].count == 2 and report.found["junk"].count == 1
    mend(report)
    assert "leftover" not in report.found and len(report.mended) == 3
    assert set((root / "refcoco").iterdir()) == kept
    assert junk.exists(), "the folder of pictures belongs to several sets"


def test_the_command_tells_in_words_in_json_and_in_html(copied, tmp_path):
    root = copied("refcoco")
    result = run_cli(
        "data", "doctor", "refcoco", "--root", str(root), "--html", str(tmp_path / "report.html")
    )
    assert result.exit_code == 1
    assert "objects have parts that overlap: 5 (reference 11, 164 pixels" in result.stdout
    assert 'masks = "exactly-one"' in result.stdout and "web.archive.org" in result.stdout
    text = (tmp_path / "report.html").read_text()
    assert "RefCOCO (unc)" in text and "120,624" in text and "To mend it" in text
    told = json.loads(run_cli("data", "doctor", str(root), "--json").stdout)["reports"]
    assert [report["name"] for report in told] == ["refcoco", "refcoco-google"]
    assert {finding["check"] for finding in told[0]["findings"]} >= {"count", "parts-overlap"}
    assert all(finding["remedy"] for finding in told[0]["findings"])


def test_the_command_refuses_what_it_does_not_know(tmp_path):
    for words, told in (
        ([str(tmp_path)], "holds no data set that is known"),
        ([str(tmp_path / "gone")], "there is no folder"),
        ([str(tmp_path), "--html", "report.txt"], "ends in .html"),
    ):
        result = run_cli("data", "doctor", *words)
        assert isinstance(result.exception, InvalidInput) and told in str(result.exception)


def test_a_set_that_nobody_published_has_no_counts_to_compare(tmp_path):
    maker.write(tmp_path, name="my-set", split_by="me")
    result = run_cli("data", "doctor", str(tmp_path / "my-set"))
    assert result.exit_code == 0, result.stdout
    assert "train: 2 pictures, 2 objects, 4 phrases" in result.stdout


def test_text_from_files_is_no_html(tmp_path):
    refs = maker.records(4)
    refs[1]["split"] = "<script>alert(1)</script>"
    maker.write(tmp_path, refs)
    assert "<script>" not in page([examined("refcoco", tmp_path)])


def test_every_check_has_a_remedy_and_a_level():
    for name, check in CHECKS.items():
        assert check.remedy and not check.remedy.endswith("."), name
        assert check.level in ("error", "warning", "note")


def test_a_missing_set_is_told_with_its_layout(tmp_path):
    with pytest.raises(InvalidInput, match="was not found: looked for mevis"):
        places_in("mevis", tmp_path)


def test_pictures_of_grefcoco_are_compared_with_those_of_other_sets(copied):
    root = copied("grefcoco")
    things = json.loads((root / "grefcoco" / "instances.json").read_text())
    train = {
        r["image_id"]
        for r in json.loads((root / "grefcoco" / "grefs(unc).json").read_text())
        if r["split"] == "train"
    }
    refs, made = maker.records(2, splits=("val",)), maker.instances(2)
    shared = next(image for image in things["images"] if image["id"] in train)
    for record in refs:
        record["image_id"] = shared["id"]
    for annotation in made["annotations"]:
        annotation["image_id"] = shared["id"]
    made["images"] = [shared]
    maker.write(root, refs, made, pictures=False)
    report = examined("grefcoco", root)
    assert report.found["shared-other"].examples == ["1 pictures are in val or test of refcoco"]


def test_a_folder_that_is_called_as_a_data_set_is_looked_into(copied, monkeypatch):
    root = copied("refcoco")
    (root.parent / "above").mkdir()
    root.rename(root.parent / "above" / "refcoco")
    monkeypatch.chdir(root.parent / "above")
    assert [place.facts.name for place in places_in("refcoco")] == ["refcoco", "refcoco-google"]


def test_pictures_of_jhmdb_are_looked_for_where_masks_are_missing(copied):
    root = copied("jhmdb_sentences")
    shutil.rmtree(root / "jhmdb_sentences" / "puppet_mask")
    shutil.rmtree(next((root / "jhmdb_sentences" / "Rename_Images").glob("*/*")))
    report = examined("jhmdb", root)
    assert {"mask-missing", "picture-missing"} <= set(report.found)
