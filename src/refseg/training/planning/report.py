"""A plan for people: a few short tables."""

from __future__ import annotations

from refseg.evaluation.table import aligned
from refseg.training.planning.estimate import COMFORT, Hours, Memory, Plan

_MEGABYTES = 100_000_000  # below, sizes are told in MB


def report(plan: Plan) -> str:
    """The plan as text, ending in what stands against the run."""
    blocks = [
        f"{plan.family} {plan.variant}, {plan.origin}; objective {plan.objective}; {plan.precision} on {plan.device}",
        _parts(plan),
        _groups(plan),
        _amounts(plan),
        _memory(plan.memory, plan.trouble),
        _disk(plan),
        _hours(plan),
        _against(plan),
    ]
    return "\n\n".join(filter(None, blocks))


def _parts(plan: Plan) -> str:
    rows = [["part", "trained", "frozen"]]
    rows += [[part.name, _count(part.trained), _count(part.frozen)] for part in plan.parts]
    total = [sum(part.trained for part in plan.parts), sum(part.frozen for part in plan.parts)]
    return aligned([*rows, ["all parameters", *map(_count, total)]])


def _groups(plan: Plan) -> str:
    rows = [["learning rate", "weight decay", "parameters", "of"]]
    rows += [
        [f"{group.lr:.2e}", f"{group.weight_decay:g}", _count(group.parameters), _some(group.parts)]
        for group in plan.groups
    ]
    return aligned(rows)


def _amounts(plan: Plan) -> str:
    has = plan.amounts
    many = "drawn, new ones at every step" if has.examples is None else f"{has.examples} examples"
    epochs = "" if has.epochs is None else f", {has.epochs:.1f} epochs"
    factors = [f"batches of {has.batch_size}"]
    factors += [f"{has.accumulate} in a row"] if has.accumulate > 1 else []
    factors += [f"{has.processes} processes"] if has.processes > 1 else []
    warm = f", {has.warmup_steps} of them warm-up" if has.warmup_steps else ""
    measured = "no evaluation"
    if has.evaluations:
        measured = f"{_many(has.evaluations, 'evaluation')} of {_many(has.evaluation_examples, 'example')}"
    if has.final_examples:
        measured += f", and of {_many(has.final_examples, 'example')} for the model card"
    return (
        f"data {has.data}: {many}; {has.examples_per_step} a step ({' x '.join(factors)})\n"
        f"{has.steps} steps{warm}{epochs}, {plan.schedule} schedule; {measured}; {_many(has.saves, 'save')}"
    )


def _memory(memory: Memory, trouble: str | None) -> str:
    held = memory.held
    rows = [["memory", ""]]
    if memory.start:
        rows.append(["Python, torch, data index", size(memory.start)])
    rows += [["weights", size(held.weights)], ["gradients", size(held.gradients)]]
    rows += [["gradients, to exchange them", size(memory.buckets)]] if memory.buckets else []
    rows += [["optimizer state", size(held.optimizer)]]
    rows += [["averaged weights", size(held.average)]] if held.average else []
    if memory.activations is not None:
        rows.append(["activations and work space, measured", size(memory.activations)])
    rows += [["workers, beside what they share", size(memory.workers)]] if memory.workers else []
    rows.append(["peak" if memory.peak is not None else "without activations", size(_sum(memory))])
    lines = [aligned(rows), _verdict(memory)]
    if trouble is not None:
        lines.append(f"one step does not fit: {trouble}")
    return "\n".join(filter(None, lines))


def _sum(memory: Memory) -> int:
    return memory.held.total + memory.buckets if memory.peak is None else memory.peak


def _verdict(memory: Memory) -> str:
    room = memory.room
    if room is None:
        return "the system does not tell how much memory is free"
    limit = f" by its {room.limit}" if room.limit else ""
    has = f"{room.device} has {size(room.free)} free of {size(room.total)}{limit}"
    times = f" in {memory.processes} processes" if memory.processes > 1 else ""
    if memory.fits is False:
        return f"does NOT fit: {size(memory.needed)} are needed{times}, and {has}"
    if memory.peak is None:
        return has
    tight = ", which is tight" if memory.needed > COMFORT * room.free else ""
    return f"fits: {size(memory.needed)} are needed{times}, and {has}{tight}"


def _disk(plan: Plan) -> str:
    disk = plan.disk
    verdict = "enough" if disk.needed <= disk.free else "NOT enough"
    return (
        f"disk: {size(disk.files)} of state ({size(disk.state)}) and checkpoints ({size(disk.checkpoint)} each), "
        f"{size(disk.needed)} while one is replaced; {size(disk.free)} free, {verdict}"
    )


def _hours(plan: Plan) -> str:
    hours, tried = plan.hours, plan.rehearsal
    if hours is None or tried is None:
        return "time: not measured" if plan.trouble is None else ""
    parts = [f"steps {duration(hours.steps)}"]
    parts += [f"evaluations {duration(hours.evaluations)}"] if hours.evaluations else []
    parts += [f"saves {duration(hours.saves)}"]
    return (
        f"time: about {duration(hours.total)} ({', '.join(parts)}); {hours.step_seconds:.3f} s a step, "
        f"{_waiting(hours)}, measured over {tried.steps} steps"
    )


def _waiting(hours: Hours) -> str:
    return f"{hours.waiting:.0%} of it waiting for data"


def _against(plan: Plan) -> str:
    lines = [f"note: {doubt}" for doubt in plan.doubts]
    lines += [f"try: {advice}" for advice in plan.advice]
    return "\n".join(lines)


def duration(hours: float) -> str:
    """Hours as people say them: 35s, 12m, 3h05m, 2d04h."""
    seconds = round(3600 * hours)
    if seconds < 90:
        return f"{seconds}s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes}m"
    whole, rest = divmod(minutes, 60)
    return f"{whole}h{rest:02d}m" if whole < 48 else f"{whole // 24}d{whole % 24:02d}h"


def _count(number: int) -> str:
    if number == 0:
        return "-"
    return f"{number / 1e6:.2f} M" if number >= 10_000 else str(number)


def size(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / 1e9:.2f} GB" if count >= _MEGABYTES else f"{count / 1e6:.1f} MB"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _some(names: tuple[str, ...], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
