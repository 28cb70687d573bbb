"""`refseg train` as a user meets it."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from refseg import distributed
from refseg.checkpoints import native
from refseg.cli import app, load_verbs
from refseg.errors import InvalidInput, UnknownName
from refseg.training import data, loop
from refseg.training.recipe import packaged_recipes, read_recipe

SHORT = [
    "run.steps=2",
    "run.batch_size=2",
    "run.evaluate_examples=2",
    "schedule.warmup_steps=0",
    "data.workers=0",
    "variant=debug",
]
SMALL = [*SHORT, "run.log_every=1", "run.precision=float32"]
NAMING = ["scout/naming", *SMALL, "model.num_nouns=192", "model.num_colours=16"]


load_verbs()


def refseg(*arguments):
    result = CliRunner().invoke(app, ["train", "--device", "cpu", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """The folder of a run of the naming recipe."""
    folder = tmp_path_factory.mktemp("naming") / "run"
    assert refseg(*NAMING, "--out", folder).exit_code == 0
    return folder


def test_a_run_leaves_its_recipe_its_log_its_state_and_checkpoints(named):
    assert {path.name for path in named.iterdir()} == {
        "run.toml", "log.jsonl", "state.pt", "last.safetensors", "best.safetensors",
        "summary.json", "card.json", "README.md",
    }  # fmt: skip
    steps = [json.loads(line) for line in (named / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == [1, 2, 2]
    assert set(steps[0]) == {"step", "lr", "seconds", "waiting", "loss", "noun", "colour", "norm"}
    assert set(steps[2]["evaluation"]) == {"loss", "noun", "colour"}


def test_the_checkpoint_says_how_it_was_made(named):
    _, header = native.load(named / "last.safetensors")
    assert (header.family, header.variant) == ("scout", "debug")
    assert header.origin["recipe"] == "scout-naming"
    assert header.origin["step"] == "2"


def test_the_resolved_run_can_be_passed_back(named, tmp_path):
    result = refseg(named / "run.toml", "--out", tmp_path / "again")
    assert result.exit_code == 0
    assert (tmp_path / "again/run.toml").read_text() == (named / "run.toml").read_text()


def test_phrases_are_learnt_from_a_named_start_and_measured_by_register(named, tmp_path):
    arguments = [*SMALL, f"init={named / 'last.safetensors'}", "data.registers={app = 1.0}"]
    result = refseg("scout/scenes", *arguments, "--out", tmp_path / "run")
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "run/last.safetensors")
    last = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert {"mIoU", "mIoU app", "kept"} <= set(last["evaluation"])


def test_the_start_tells_parameters_data_and_steps(named, tmp_path):
    result = refseg(*NAMING, "run.evaluate_examples=0", "optimizer.accumulate=3", "--out", tmp_path / "run")
    told = result.stderr.splitlines()
    assert re.fullmatch(r"scout debug: 0\.\d\d M parameters, 0\.\d\d M trained, from scratch", told[0])
    assert told[1] == "data scenes train: drawn, new ones at every step, 6 a step, 0 workers"
    assert told[2] == "2 steps on cpu in float32"
    assert re.match(r"step 1/2  loss .*  data \d+%  left", told[3])


def test_quiet_prints_the_checkpoint_and_nothing_else(tmp_path):
    result = refseg(*NAMING, "run.evaluate_examples=0", "--quiet", "--out", tmp_path / "run")
    assert result.stderr == ""


def test_a_folder_with_a_run_is_not_overwritten(named):
    before = (named / "last.safetensors").read_bytes()
    with pytest.raises(
        InvalidInput, match=r"holds a run; go on with it by --resume, or throw it away by --force"
    ):
        refseg(*NAMING, "--out", named)
    assert (named / "last.safetensors").read_bytes() == before


def test_force_throws_away_the_run_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "last.safetensors").write_text("old")
    assert refseg(*NAMING, "run.evaluate_examples=0", "--force", "--out", folder).exit_code == 0
    assert (folder / "notes.txt").read_text() == "mine"
    assert native.load(folder / "last.safetensors")


def test_resuming_nothing_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"there is no run in .* to resume"):
        refseg(*NAMING, "--resume", "--out", tmp_path / "run")


def test_resuming_with_another_recipe_names_the_keys(named):
    with pytest.raises(InvalidInput, match=r"another value of optimizer.lr, run.steps"):
        refseg(*NAMING, "optimizer.lr=0.5", "run.steps=9", "--resume", "--out", named)


@pytest.mark.parametrize("more", [[], ["optimizer.lr=0.5"]])
@pytest.mark.parametrize("lost", [["state.pt"], ["state.pt", "log.jsonl", "run.toml"]])
def test_checkpoints_without_their_state_are_not_trained_over(named, tmp_path, lost, more):
    folder = Path(shutil.copytree(named, tmp_path / "run"))
    for name in lost:
        (folder / name).unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        InvalidInput,
        match=r"holds last.safetensors, best.safetensors and no state.pt .* init=.*last.safetensors .* --force",
    ):
        refseg(*NAMING, *more, "--resume", "--out", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_killed_before_its_first_save_is_resumed_from_its_beginning(named, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(named / "run.toml", folder)
    with pytest.raises(InvalidInput, match=r"another value of optimizer.lr"):
        refseg(*NAMING, "optimizer.lr=0.5", "--resume", "--out", folder)
    assert [path.name for path in folder.iterdir()] == ["run.toml"]
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 9.0}\n')
    assert refseg(*NAMING, "--resume", "--out", folder).exit_code == 0
    steps = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == [1, 2, 2]
    assert (folder / "last.safetensors").read_bytes() == (named / "last.safetensors").read_bytes()


def test_a_log_alone_is_no_run_to_resume(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(InvalidInput, match=r"holds log.jsonl, but no run to resume; begin anew by --force"):
        refseg(*NAMING, "--resume", "--out", tmp_path)
    assert (tmp_path / "log.jsonl").exists()


def test_a_process_leaves_without_a_word_where_another_says_why_it_cannot_start(tmp_path, monkeypatch):
    def refuse(device):
        raise distributed.PeerFailed

    monkeypatch.setattr(distributed, "start", refuse)
    for more in ([], ["--plan"]):
        result = refseg(*NAMING, *more, "--out", tmp_path / "run")
        assert (result.exit_code, result.output) == (2, "")


def test_resume_and_force_exclude_each_other():
    with pytest.raises(InvalidInput, match="give one of them"):
        refseg("scout/naming", "--resume", "--force")


def test_a_finished_run_is_resumed_to_its_end_at_once(named):
    before = (named / "log.jsonl").read_text()
    assert refseg(*NAMING, "--resume", "--out", named).exit_code == 0
    assert (named / "log.jsonl").read_text() == before


def test_the_list_names_every_packaged_recipe():
    assert refseg("--list").stdout.split() == list(packaged_recipes())


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["scout/namng"], UnknownName, "did you mean 'scout/naming'"),
        ([], InvalidInput, "name a recipe"),
        (["scout/naming", "family=scuot"], UnknownName, "did you mean 'scout'"),
        (["scout/naming", "variant=bse"], UnknownName, "did you mean 'base'"),
        ([*NAMING, "objective=nameing"], UnknownName, "did you mean 'naming'"),
        ([*NAMING, "model.widht=3"], UnknownName, "key of"),
        ([*NAMING, "data.split=trian"], UnknownName, "trian"),
        ([*NAMING, "init=absent.safetensors"], InvalidInput, "absent.safetensors"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, error, said, tmp_path):
    with pytest.raises(error, match=said):
        refseg(*arguments, "--out", tmp_path / "run")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidInput, match="cannot be made"):
        refseg(*NAMING, "--out", tmp_path / "run")


def test_an_output_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InvalidInput, match="run cannot be made"):
        refseg(*NAMING, "--out", tmp_path / "run")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_state(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(InvalidInput, match=r"became (nan|inf) at step \d+; .*the state of step \d+ is sound"):
        refseg(*NAMING, "optimizer.lr=1e30", "run.steps=9", "run.save_every=1", "--out", folder)
    state = torch.load(folder / "state.pt", weights_only=True)
    assert state["step"] >= 1


def test_every_family_with_recipes_has_a_test_that_takes_their_steps():
    families = {name.split("/")[0] for name in packaged_recipes()} - {"scout"}
    models = Path(__file__).parents[1] / "models"
    for family in families:
        assert "take_three_steps" in "".join(p.read_text() for p in (models / family).glob("test_*.py")), (
            family
        )


@pytest.mark.parametrize("name", [name for name in packaged_recipes() if name.startswith("scout/")])
def test_a_packaged_recipe_trains(name, named, tmp_path):
    run = read_recipe(packaged_recipes()[name])
    more = ["run.evaluate_examples=0"]
    if run.init:
        more.append(f"init={named / 'last.safetensors'}")
    else:
        more += ["model.num_nouns=192", "model.num_colours=16"]
    if run.data.clips is not None:
        more.append("data.clips.batch_size=2")  # as SHORT has it for pictures
    if run.data.name != "scenes":
        more += [f"data.name={phrase_file(tmp_path)}"]
    assert refseg(name, *SHORT, *more, "--out", tmp_path / "run").exit_code == 0


def phrase_file(folder):
    """Three pictures of a white square on the left or on the right, in the open form."""
    lines = []
    for number, side in enumerate(("left", "right", "left")):
        pixels = np.zeros((40, 60, 3), np.uint8)
        start = 5 if side == "left" else 35
        pixels[10:30, start : start + 20] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
        box = [start, 10, start + 20, 10, start + 20, 30, start, 30]
        split = "val" if number == 2 else "train"
        line = {"image": f"{number}.png", "phrase": f"{side} squarish", "mask": [box], "split": split}
        lines.append(json.dumps(line))
    (folder / "mine.jsonl").write_text("\n".join(lines))
    return folder / "mine.jsonl"


def test_a_phrase_file_with_new_words_is_learnt_and_measured(named, tmp_path):
    arguments = [
        f"init={named / 'last.safetensors'}",
        f"data.name={phrase_file(tmp_path)}",
        "run.log_every=1",
    ]
    result = refseg("scout/own", *SHORT, *arguments, "--out", tmp_path / "run")
    assert "data " in result.stderr
    assert "2 examples, 2 a step" in result.stderr
    assert "with new rows: text.words.weight" in result.stderr
    last = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["evaluation"]["mIoU"] <= 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_stops_the_run_in_one_sentence(named, tmp_path, workers):
    path = phrase_file(tmp_path)
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    arguments = [f"init={named / 'last.safetensors'}", f"data.name={path}", f"data.workers={workers}"]
    with pytest.raises(InvalidInput, match=r"[01]\.png") as caught:
        refseg("scout/own", *SHORT, *arguments, "--out", tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "run").iterdir()) == []  # nothing was begun: the same words start it again


def test_a_start_that_is_refused_leaves_no_run_behind(tmp_path):
    with pytest.raises(InvalidInput, match="there is no checkpoint file"):
        refseg(*NAMING, "init=gone.safetensors", "--out", tmp_path / "run")
    assert refseg(*NAMING, "run.evaluate_examples=0", "--out", tmp_path / "run").exit_code == 0


def test_a_file_without_the_split_to_measure_on_is_refused_before_the_first_step(named, tmp_path):
    path = phrase_file(tmp_path)
    arguments = [f"init={named / 'last.safetensors'}", f"data.name={path}", "data.evaluate_split=test"]
    with pytest.raises(UnknownName, match=r"split in mine.jsonl named 'test'"):
        refseg("scout/own", *SHORT, *arguments, "--out", tmp_path / "run")
    assert not (tmp_path / "run/log.jsonl").exists()


def test_a_clip_trains_a_family_with_several_candidate_queries(tmp_path):
    recipe = tmp_path / "clips.toml"
    recipe.write_text(
        'family = "referformer"\nvariant = "debug"\nmodel = {frame = {size = 96}}\n[data]\nname = "scenes"\n'
        "frames = 2\nphrases = 2\nsize = 64\n[optimizer]\nlr = 1e-4\n[run]\nsteps = 2\nbatch_size = 2\n"
        "evaluate_examples = 1\nlog_every = 1\n"
    )
    assert refseg(recipe, "--out", tmp_path / "run").exit_code == 0
    first = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0])
    assert {"class", "box", "giou", "mask", "dice"} <= set(first)


def test_float16_trains_with_a_scaled_loss(named, tmp_path):
    arguments = [
        *SMALL,
        "run.precision=float16",
        "run.evaluate_examples=0",
        f"init={named / 'last.safetensors'}",
    ]
    assert refseg("scout/scenes", *arguments, "--out", tmp_path / "run").exit_code == 0
    assert torch.load(tmp_path / "run/state.pt", weights_only=True)["scaler"]["scale"] > 1


def test_the_loss_of_one_picture_falls_when_it_is_shown_again_and_again(tmp_path, monkeypatch):
    class Same:
        name, vocabulary = "same", None

        def __init__(self, examples):
            self.examples, self.vocabulary = examples, examples.vocabulary

        def __len__(self):
            return 10_000

        def __getitem__(self, index):
            return self.examples[0]

    opened = data.open_training_data
    monkeypatch.setattr(
        loop, "open_training_data", lambda run, side: Same(opened(run, side).sources[0].examples)
    )
    arguments = [
        "run.steps=40",
        "optimizer.lr=5e-3",
        "run.ema=0.0",
        "run.evaluate_examples=0",
        "data.phrases=1",
        "init_allow=[]",
    ]
    recipe = tmp_path / "same.toml"
    recipe.write_text(
        "\n".join(
            line for line in packaged_recipes()["scout/scenes"].read_text().splitlines() if "init" not in line
        )
    )
    refseg(recipe, *SMALL, *arguments, "--out", tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.6 * losses[0]


def test_memory_that_runs_out_in_training_is_told_with_what_makes_the_run_smaller(tmp_path, monkeypatch):
    def fail(training, feed, place):
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr(loop, "_one_step", fail)
    with pytest.raises(
        InvalidInput, match=r"memory ran out on cpu; --plan tells .* run.batch_size=1 optimizer.accumulate=2"
    ):
        refseg(*NAMING, "--out", tmp_path / "run")


@pytest.mark.gpu
def test_a_recipe_trains_on_a_gpu(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    arguments = ["--out", str(tmp_path / "run"), "run.precision=bfloat16"]
    result = CliRunner().invoke(app, ["train", *NAMING, "--device", "cuda", *arguments])
    assert result.exit_code == 0
    assert Path(tmp_path / "run/last.safetensors").exists()
