"""The named protocols as a table: what `refseg evaluate --protocols` prints, and what stands in the documentation."""

from __future__ import annotations

from refseg.metrics.protocols import OF_DATASETS, PROTOCOLS, Protocol

HEADS = ["protocol", "compared", "both empty", "P@X", "prints", "convention of"]


def protocol_rows() -> list[list[str]]:
    """One row a protocol: name, size, what two empty masks are worth, thresholds, metrics, origin."""
    return [
        [
            protocol.name,
            _compared(protocol),
            _empty(protocol),
            _thresholds(protocol),
            ", ".join(protocol.metrics),
            protocol.source,
        ]
        for protocol in PROTOCOLS.values()
    ]


def protocol_text() -> str:
    """The protocols for a terminal, with the data sets whose publishers fixed one."""
    lines = []
    for protocol, (name, compared, empty, thresholds, metrics, source) in zip(
        PROTOCOLS.values(), protocol_rows(), strict=True
    ):
        precision = "" if thresholds == "-" else f"; P@X: {thresholds}"
        lines += [
            f"{name}: {protocol.title}",
            f"    prints {metrics}; compared: {compared}; two empty masks: {empty}{precision}; from {source}",
        ]
    fixed = [f"{name} ({', '.join(one.name for one in chosen)})" for name, chosen in OF_DATASETS.items()]
    return "\n".join([*lines, f"fixed by the data set: {', '.join(fixed)}"])


def protocol_markdown() -> str:
    """The table for a page."""
    rows = [HEADS, ["---"] * len(HEADS), *protocol_rows()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _compared(protocol: Protocol) -> str:
    if protocol.kind == "boxes" or all(metric.startswith("box") for metric in protocol.metrics):
        return "boxes, source pixels"
    size = "source" if protocol.at == "source" else "network input"
    frames = {"all": "", "labelled": ", labelled frame", "inner": ", all frames but first and last"}
    threshold = f", scores > {protocol.mask_threshold}" if protocol.mask_threshold else ""
    parts = ", overlapping parts are no target" if protocol.overlapping_parts != "union" else ""
    window = f", clips of {protocol.window}" if protocol.window else ""
    return size + frames[protocol.frames] + threshold + parts + window


def _empty(protocol: Protocol) -> str:
    if protocol.kind == "generalised":
        return "right where refused"
    if protocol.kind == "boxes":
        return "right"
    return "left out" if protocol.empty is None else f"{protocol.empty:.0f}"


def _thresholds(protocol: Protocol) -> str:
    if not any(metric.endswith("P@X") for metric in protocol.metrics):
        return "-"
    sign = ">=" if protocol.counts_equal else ">"
    lift = f", {protocol.lift:g} added" if protocol.lift else ""
    single = " in float32" if protocol.single_precision else ""
    first, second, last = protocol.thresholds[0], protocol.thresholds[1], protocol.thresholds[-1]
    return f"IoU {sign} {first:.2g}, {second:.2g}, ..., {last:.2g}{lift}{single}"
