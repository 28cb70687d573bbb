"""The page of a model card: front matter for model hubs, then text for people; every number comes from the facts.

An evaluation's record as the `[[checkpoint.measured]]` tables of a result card, so that nobody types a number.

The model card of a checkpoint: what it is, how it was made, and every number that was measured of it.

Two files tell the same: `card.json` for programs, and a page in Markdown with the front matter that model hubs read. Every
evaluation of the same weights adds its numbers; those of other weights are dropped. What a person writes below `MARKER` stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg.checkpoints import native, zoo
from refseg.errors import InvalidInput
from refseg.evaluation.table import result_table
from refseg.files import write_whole_text

if TYPE_CHECKING:
    from refseg.checkpoints.cards import Published
    from refseg.evaluation.run import Result


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


OURS = "source"  # the protocol whose numbers stand by register


METRICS = ("mIoU", "oIoU", "P@0.5", "P@0.7", "J", "kept", "refused")


def card_tables(record: dict[str, Any]) -> str:
    """TOML tables, one for each metric of each register that was measured; shares become percent.

    Args:
        record: what `evaluation.table.result_record` returns, and `refseg evaluate --out` writes.
    """
    source, machine = record["source"], record["machine"]
    shared = {
        "dataset": source["name"] + _data_kind(record["data"]),
        "split": source.get("split") or "all",
        "protocol": _protocol(record),
        "version": machine["refseg"],
    }
    date, where = machine["date"][:10], f"{machine['processor']}, {machine['threads']} threads"
    has_clips = record["data"]["frames"] > record["data"]["examples"]
    numbers = [(shared, *pair) for pair in _register_numbers(record["scores"], has_clips=has_clips)]
    for name, entry in record.get("protocols", {}).items():
        if name != OURS:
            ruler = shared | {"protocol": f"{name}: {entry['means']}; {record['data']['phrases']} phrases"}
            numbers += [(ruler, *pair) for pair in _rounded(entry["scores"])]
    numbers += [(shared, *pair) for pair in _calibration(record.get("calibration"))]
    tables = []
    for facts, metric, value in numbers:
        pairs = [*facts.items(), ("metric", metric), ("machine", where)]
        lines = [f"{key} = {json.dumps(text, ensure_ascii=False)}" for key, text in pairs]
        tables.append("\n".join(["[[checkpoint.measured]]", *lines, f"value = {value}", f"date = {date}"]))
    return "\n\n".join(tables)


def _calibration(found: dict[str, Any] | None) -> Iterator[tuple[str, float]]:
    """Errors in percent; the Brier score is a mean square and no share."""
    for claim, entry in (found or {}).items():
        yield f"ECE {claim} ({len(entry['bins'])} bins)", round(100 * entry["ece"], 2)
        yield f"adaptive ECE {claim}", round(100 * entry["adaptive_ece"], 2)
        yield f"Brier {claim}", round(entry["brier"], 4)


def _rounded(scores: dict[str, float | None]) -> Iterator[tuple[str, float]]:
    """Metrics of a protocol that were measured, in percent with two digits."""
    for metric, value in scores.items():
        if value is not None:
            yield metric, round(100 * value, 2)


def _data_kind(data: dict[str, Any]) -> str:
    """What sets a measurement apart from the ordinary one of the same data."""
    clips = ", clips" if data["frames"] > data["examples"] else ""
    return clips + (", control" if data["shuffled_phrases"] else "")


def _protocol(record: dict[str, Any]) -> str:
    data = record["data"]
    asked = f"{data['examples']} examples, {data['phrases']} phrases, masks at source size, {record['dtype']}"
    control = "; control: every phrase asked of another example" if data["shuffled_phrases"] else ""
    return asked + control


def _register_numbers(scores: dict[str, dict[str, Any]], *, has_clips: bool) -> Iterator[tuple[str, float]]:
    """Metric and register, and the value in percent with one digit."""
    for register, score in scores.items():
        for metric in METRICS:
            if score[metric] is not None and (metric != "J" or has_clips):
                yield f"{metric} {register}", round(100 * score[metric], 1)


FORM = "refseg model card 1"


PAGE_NAME, FACTS_NAME = "README.md", "card.json"


MARKER = "<!-- What you write below this line stays when the card is written again. -->"


def facts_path(page: Path) -> Path:
    """The file of plain facts that belongs to a page: card.json beside README.md, else the page's name with .json."""
    return page.with_name(FACTS_NAME) if page.name == PAGE_NAME else page.with_suffix(".json")


def model_facts(path: Path, header: native.Header, num_parameters: int) -> dict[str, Any]:
    """What the checkpoint file says of itself, as plain data."""
    frame = header.config.get("frame", {})
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "family": header.family,
        "variant": header.variant,
        "sha256": header.sha256,
        "version": header.version,
        "origin": dict(header.origin),
        "parameters": num_parameters,
        "frame": {key: frame[key] for key in ("fit", "size") if key in frame},
        "words": len(header.config["vocabulary"]) if header.config.get("vocabulary") else None,
    }


def first_facts(name: str, model: Mapping[str, Any], licence: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a checkpoint of which nothing was measured yet."""
    return {
        "form": FORM,
        "name": name,
        "model": dict(model),
        "licence": dict(licence),
        "training": None,
        "results": [],
        "unmeasured": "no evaluation was asked for",
    }


def result_facts(result: Result, record: Mapping[str, Any], published: Sequence[Published]) -> dict[str, Any]:
    """One evaluation for the card: the record that `refseg evaluate --out` writes, with the table that it prints."""
    phrases = [row.phrase for done in result.done for row in done.rows if row.views and row.pixels()[2]]
    return {**record, "table": result_table(result, published), "example": phrases[0] if phrases else None}


def with_result(facts: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with one more evaluation, in place of an earlier one of the same examples.

    Raises:
        InvalidInput: if it is an evaluation of other weights.
    """
    if found["checkpoint"]["sha256"] != facts["model"]["sha256"]:
        raise InvalidInput(
            f"the card is of {facts['model']['file']} and the evaluation of other weights ({found['checkpoint']['name']}); "
            "write it to another file"
        )
    kept = [one for one in facts["results"] if _question(one) != _question(found)]
    return {**facts, "results": [*kept, dict(found)], "unmeasured": ""}


def _question(found: Mapping[str, Any]) -> str:
    """What tells evaluations apart: the examples, and whether phrases were exchanged."""
    key = [found["source"], found["data"]["shuffled_phrases"], found["dtype"]]
    return json.dumps(key, sort_keys=True, default=str)


def add_to_card(
    page: Path, checkpoint: str, path: Path, num_parameters: int, found: Mapping[str, Any]
) -> None:
    """Adds an evaluation to the card at `page`; begins one where there is none of these weights.

    Args:
        checkpoint: the name or the path by which `path` was asked for.

    Raises:
        InvalidInput: if the file beside `page` is no card's, or cannot be written.
    """
    header = native.read_header(path)
    facts = read_facts(page, header.sha256)
    if facts is None:
        name = header.origin.get("recipe") or Path(checkpoint).stem
        facts = first_facts(name, model_facts(path, header, num_parameters), _licence_of(checkpoint))
    write_card(page, with_result(facts, found))


def _licence_of(checkpoint: str) -> dict[str, Any]:
    """What the checkpoint's own result card says of its licence; nothing is known of a file."""
    known = {card.name: card.licence for card in zoo.list_checkpoints()}.get(checkpoint)
    if known == "Apache-2.0":
        return {"id": "apache-2.0", "name": known, "told": "Apache License 2.0.", "rests_on": []}
    told = (
        f"What its source says of its licence: {known}." if known else "The file does not tell its licence."
    )
    return {"id": "other", "name": "see-the-card", "told": told, "rests_on": []}


def read_facts(page: Path, sha256: str) -> dict[str, Any] | None:
    """The facts beside a page, where they are of the weights with this hash.

    Raises:
        InvalidInput: if the file is no card's.
    """
    path = facts_path(page)
    if not path.is_file():
        return None
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts["form"] != FORM:
            raise ValueError("another form")
        return facts if facts["model"]["sha256"] == sha256 else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path} is no model card of this refseg; move it away, or name another file"
        ) from error


def write_card(page: Path, facts: Mapping[str, Any]) -> None:
    """Writes the facts and the page, each whole or not at all; what a person wrote below the marker stays.

    A page without the marker is a person's own: all of it is kept, below the marker.
    """
    text = f"{card_page(facts)}\n{MARKER}\n{_own_words(page)}"
    write_whole_text(
        facts_path(page), json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )
    write_whole_text(page, text)


def _own_words(page: Path) -> str:
    if not page.is_file():
        return ""
    text = page.read_text(encoding="utf-8")
    above, marker, below = text.partition(MARKER)
    return below.removeprefix("\n") if marker else f"\n{above}"
