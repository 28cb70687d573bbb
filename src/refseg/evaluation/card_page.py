"""The page of a model card: front matter for model hubs, then text for people; every number comes from the facts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]

_MORE = {  # how hubs call metrics that have a name there
    "mIoU": "mean_iou",
    "ECE": "expected_calibration_error",
}


def card_page(facts: Facts) -> str:
    """The whole page, without what a person adds to it."""
    parts = [_front_matter(facts), *_introduction(facts), *_results(facts)]
    if facts["training"] is not None:
        parts += [*_training(facts["training"]), *_data(facts["training"]["data"])]
    parts += [*_limits(facts), *_licence(facts["licence"])]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: Facts) -> str:
    """YAML in block style; texts are quoted as in JSON, which YAML reads."""
    model, licence = facts["model"], facts["licence"]
    lines = ["---", f"license: {_text(licence['id'])}"]
    if licence["id"] == "other":
        lines.append(f"license_name: {_text(licence['name'])}")
    lines += [f"library_name: {_text('refseg')}", f"pipeline_tag: {_text('image-segmentation')}", "tags:"]
    lines += [f"- {_text(tag)}" for tag in ("referring-segmentation", "refseg", model["family"])]
    names = dict.fromkeys(_data_names(facts))
    lines += ["datasets:", *(f"- {_text(name)}" for name in names)] if names else []
    shown = [one for one in facts["results"] if _numbers(one)]
    lines += ["metrics:", f"- {_text('mean_iou')}"] if shown else []
    return "\n".join([*lines, *_model_index(facts["name"], shown), "---"])


def _data_names(facts: Facts) -> Iterator[str]:
    if facts["training"] is not None:
        yield from (one["name"] for one in facts["training"]["data"])
    yield from (one["source"]["name"] for one in facts["results"])


def _model_index(name: str, results: Sequence[Facts]) -> Iterator[str]:
    if not results:
        return
    yield from ("model-index:", f"- name: {_text(name)}", "  results:")
    for one in results:
        source = one["source"]
        yield "  - task:"
        yield f"      type: {_text('image-segmentation')}"
        yield f"      name: {_text('referring segmentation')}"
        yield "    dataset:"
        yield f"      type: {_text(source['name'])}"
        yield f"      name: {_text(_kind(one))}"
        yield f"      split: {_text(source.get('split') or 'all')}"
        yield "    metrics:"
        for metric, told, value in _numbers(one):
            yield f"    - type: {_text(metric)}"
            yield f"      name: {_text(told)}"
            yield f"      value: {value}"


def _numbers(found: Facts) -> list[tuple[str, str, float]]:
    """Type, name and value of every number of an evaluation, in percent; none of the control."""
    if found["data"]["shuffled_phrases"]:
        return []
    numbers = []
    for name, entry in found["protocols"].items():
        for metric, value in entry["scores"].items():
            if value is not None:
                numbers.append((_slug(metric), f"{metric} ({name})", round(100 * value, 2)))
    for claim, entry in (found["calibration"] or {}).items():
        told = f"ECE of {claim} ({len(entry['bins'])} bins)"
        numbers.append((_slug("ECE"), told, round(100 * entry["ece"], 2)))
    return numbers


def _slug(metric: str) -> str:
    return _MORE.get(metric) or re.sub(r"[^a-z0-9]+", "_", metric.lower()).strip("_")


def _kind(found: Facts) -> str:
    data, source = found["data"], found["source"]
    clips = ", clips" if data["frames"] > data["examples"] else ""
    return f"{source['name']} {source.get('split') or 'all'}{clips}"


def _introduction(facts: Facts) -> Iterator[str]:
    model = facts["model"]
    yield f"# {facts['name']}"
    yield (
        f"A phrase and an image or a clip in, the mask of what the phrase refers to out. Family `{model['family']}`, variant "
        f"`{model['variant']}` of refseg {model['version']}: {model['parameters'] / 1e6:.2f} M parameters, "
        f"{model['bytes'] / 1e6:.1f} MB. Weights: sha256 `{model['sha256']}`; they come from {_pairs(model['origin'])}."
    )
    phrase = (
        next((one["example"] for one in facts["results"] if one["example"]), None) or "the dog on the left"
    )
    yield "## Use"
    yield _code(
        "python",
        "import refseg\n\n"
        f"for answer in refseg.load({json.dumps(model['file'])})({json.dumps('photo.jpg')}, [{json.dumps(phrase)}]):\n"
        "    print(answer.phrase, answer.score, answer.box())",
    )
    yield _code("bash", f"refseg predict {model['file']} photo.jpg {json.dumps(phrase)} --out answers")


def _results(facts: Facts) -> Iterator[str]:
    yield "## Results"
    if not facts["results"]:
        yield f"Nothing was measured: {facts['unmeasured']}."
    for one in facts["results"]:
        data, machine = one["data"], one["machine"]
        control = (
            "; the control: every phrase was asked of another example" if data["shuffled_phrases"] else ""
        )
        yield f"### {_kind(one)}: {data['examples']} examples, {data['phrases']} phrases{control}"
        yield _code("text", one["table"])
        yield (
            f"Computed in {one['dtype']} on {machine['date'][:10]} with refseg {machine['refseg']}, torch {machine['torch']}, "
            f"{_place(machine)}. The examples: `{json.dumps(one['source'], ensure_ascii=False)}`"
        )


def _place(machine: Facts) -> str:
    device = "" if machine["device"] == "cpu" else f"{machine['device']}, "
    return f"{device}{machine['processor']}, {machine['threads']} threads"


def _training(training: Facts) -> Iterator[str]:
    yield "## Training"
    yield training["summary"]
    if training["init"] is not None:
        first = training["init"]
        yield f"First weights: `{first['name']}`, sha256 `{first['sha256']}`; where those come from: {_pairs(first['origin'])}."
    else:
        yield "First weights: random."
    yield "The recipe in full, as `refseg train` takes it:"
    yield _code("toml", training["recipe"].rstrip())
    if training["losses"]:
        yield "The loss, each a mean over the steps up to the one named:"
        yield _table(training["losses"])
    if training["measurements"]:
        yield "Measured on the way:"
        yield _table(training["measurements"])
    yield f"Versions: {_pairs(training['versions'])}. Machine: {training['machine']}."


def _data(sets: Sequence[Facts]) -> Iterator[str]:
    yield "## Data"
    for one in sets:
        told = {key: value for key, value in one.items() if key not in ("name", "sources", "licence")}
        yield f"- **{one['name']}**: {_pairs(told)}"
        files = [f"  - `{file}`: sha256 `{digest}`" for file, digest in one.get("sources", {}).items()]
        if files:
            yield "\n".join(files)


def _limits(facts: Facts) -> Iterator[str]:
    model = facts["model"]
    frame = model["frame"]
    yield "## Limits"
    lines = []
    if frame:
        lines.append(
            f"- The network sees pictures brought to {frame['size']} pixels ({frame['fit']}); what is a few pixels wide there is lost."
        )
    if model["words"] is not None:
        lines.append(f"- It knows {model['words']} words; a phrase with another one is refused.")
    if any(one["name"] == "scenes" for one in (facts["training"] or {"data": []})["data"]):
        lines.append("- It learnt from drawn scenes and is not at home on photographs.")
    lines += [
        "- Scores are as honest as the ECE above says, on data like that alone."
        if any(one["calibration"] for one in facts["results"])
        else "- Whether its scores are probabilities was not measured, or it gives none.",
        "- What is not among the results above was not measured; masks of people and of things that matter need a person's eye.",
    ]
    yield "\n".join(lines)


def _licence(licence: Facts) -> Iterator[str]:
    yield "## Licence"
    yield licence["told"]
    if licence["rests_on"]:
        yield "\n".join(f"- {one['what']}: {one['licence']}" for one in licence["rests_on"])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of named cells in Markdown; a name that a row lacks is left blank."""
    heads = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in heads] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *cells])


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _pairs(values: Mapping[str, Any]) -> str:
    told = (f"{key} {_value(value)}" for key, value in values.items() if value not in (None, "", {}, []))
    return ", ".join(told) or "not told"


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | tuple) else str(value)


def _code(language: str, text: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
