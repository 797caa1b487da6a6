"""A trace on the terminal, step by step: what is new is coloured, what was given up struck through."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from power_sampling.cli.following import number
from power_sampling.errors import written
from power_sampling.types import Chain, Chosen, Chunk, Extended, Frame, Moved, Swapped, Weighed

__all__ = ["FramePrinter", "check_target", "sentence", "write_page"]

MOST_SHOWN = 8  # particles of a step, the heaviest
KEPT_SHOWN = 60  # characters before what is new
NEW, GONE, SOFT = "black on green", "strike red", "dim"


class FramePrinter:
    """Prints the frames of the pieces of a stream."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._number = 0

    def show(self, chunk: Chunk) -> None:
        for frame in chunk.frames:
            self._number += 1
            self._console.print(Text(f"step {self._number}  ", "bold").append(sentence(frame), "not bold"))
            for line in _lines(frame):
                self._console.print(Text("  ").append_text(line))


def sentence(frame: Frame) -> str:
    """What was done, in words."""
    step = frame.event.step
    match step:
        case Extended():
            return _of(step.of) + f"continued from token {step.cut}, log p {_number(_logp(step.chain))}"
        case Moved():
            done = "rejected" if step.accepted is None else "accepted"
            if step.log_ratio is None or step.log_u is None:
                return _of(step.of) + f"redrawn from token {step.cut}: {done} by weight"
            bound = "at most " if any(x.end == "floor" for x in step.proposals) else ""
            return _of(step.of) + (
                f"redrawn from token {step.cut}: {done}, log ratio {bound}{_number(step.log_ratio)}, "
                f"log u {_number(step.log_u)}"
            )
        case Swapped():
            done = "swapped" if step.is_accepted else "not swapped"
            return f"chains {step.of} and {step.of + 1} {done}, log ratio {_number(step.log_ratio)}"
        case Weighed():
            kept = "not resampled" if step.ancestors is None else f"resampled, {len(set(step.ancestors))} go on"
            return f"{len(step.particles)} particles grown from token {step.cut}: ESS {_number(step.ess)}, {kept}"
        case Chosen():
            how = "taken" if step.weights is None else "drawn by weight"
            return _of(step.of) + f"candidate {step.chosen + 1} of {len(step.candidates)} {how}"
    return type(step).__name__


def _lines(frame: Frame) -> Iterator[Text]:
    """A line for each text, the heaviest first; equal ones together."""
    shares, groups = _shares(frame.event.step), dict[tuple[str, int, bool], list[int]]()
    for i, (text, mark) in enumerate(zip(frame.texts, frame.marks, strict=True)):
        groups.setdefault((text, mark, _is_gone(frame, i)), []).append(i)
    weights = {key: sum(shares[i] for i in group) if shares else 0.0 for key, group in groups.items()}
    order = sorted(groups, key=lambda key: -weights[key])
    for key in order[:MOST_SHOWN]:
        text, mark, is_gone = key
        head = f"{weights[key]:6.1%} " if shares else ""
        head += f"x{len(groups[key])} " if len(groups[key]) > 1 else ""
        yield Text(head, SOFT).append_text(_changed(text, mark, GONE if is_gone else NEW))
    if left := sum(len(groups[key]) for key in order[MOST_SHOWN:]):
        yield Text(f"and {left} more", SOFT)


def _changed(text: str, mark: int, style: str) -> Text:
    kept = text[:mark] if mark <= KEPT_SHOWN else f"[{mark - KEPT_SHOWN} characters]{text[mark - KEPT_SHOWN : mark]}"
    return Text(_one_line(kept), SOFT).append(_one_line(text[mark:]), style)


def _one_line(text: str) -> str:
    """Line ends as a sign; what would steer the terminal escaped."""
    return "".join(c if c.isprintable() else "⏎" if c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _is_gone(frame: Frame, i: int) -> bool:
    """Whether nothing goes on from this chain."""
    match frame.event.step:
        case Moved(accepted=accepted):
            return i != accepted
        case Weighed(ancestors=ancestors):
            return ancestors is not None and i not in ancestors
        case Chosen(chosen=chosen):
            return i != chosen
    return False


def _shares(step: object) -> list[float]:
    weights: Sequence[float] = ()
    if isinstance(step, Weighed):
        top = max(step.log_weights)
        weights = [math.exp(w - top) if top > -math.inf else 0.0 for w in step.log_weights]
    elif isinstance(step, Chosen) and step.weights is not None:
        weights = step.weights
    total = float(np.sum(weights)) or 1.0
    return [w / total for w in weights]


def _of(number: int) -> str:
    return f"chain {number} " if number else ""


def _logp(chain: Chain) -> float:
    return float(chain.logp.sum())


def _number(value: float) -> str:
    return number(round(value, 2) + 0.0) if math.isfinite(value) else "-inf" if value < 0 else "inf"


def check_target(target: str) -> Path:
    """Where the page is to be written. Raises ConfigurationError where it cannot be, before anything is drawn."""
    path = Path(target)
    is_new = not (path.exists() or path.is_symlink())
    with written(path, "--html"):
        path.open("ab").close()
        if is_new:
            path.unlink()
    return path


def write_page(page: str, path: Path) -> None:
    with written(path, "--html"):
        path.write_text(page, encoding="utf-8", errors="replace")
