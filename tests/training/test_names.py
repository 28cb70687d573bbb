"""People search for the words of their field: each finds the file of that name, or its first line."""

import ast
from pathlib import Path

import pytest

import refseg.training

FOLDER = Path(refseg.training.__file__).parent


@pytest.mark.parametrize(
    "word",
    [
        "validation",
        "early stopping",
        "LoRA",
        "gradient checkpointing",
        "non-finite",
        "resume",
        "data loader",
        "optimizer",
        "schema",
        "recipe",
        "calibration",
        "data parallel",
        "model card",
        "TensorBoard",
    ],
)
def test_a_word_of_the_field_finds_its_file(word):
    heads = {
        path.stem.replace("_", " "): ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for path in FOLDER.glob("*.py")
    }
    assert [name for name, head in heads.items() if word.lower() in f"{name} {head}".lower()], word


def test_training_is_few_files():
    assert len(list(FOLDER.rglob("*.py"))) <= 28
