"""The pictures of docs/power_sampling.md and docs/architecture.md.

    python docs/figures.py            writes docs/figures/*.svg

No number is drawn from chance or written by hand: the toy's completions are enumerated, and every law is that of the
package's own code, walked down every path of its chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from power_sampling import MetropolisHastings
from power_sampling.engines.protocol import Rule
from power_sampling.samplers.metropolis_hastings import Move
from power_sampling.testing import Branches, TableLM, completions, drive, outcomes, power_law, suffixes
from power_sampling.types import Chain, Continuation, Draw, Floats, Law, Progress, Round, Termination, Tokens

mpl.use("svg")
mpl.rcParams |= {"svg.hashsalt": "power", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
mpl.rcParams |= {"axes.spines.right": False, "figure.constrained_layout.use": True}

from matplotlib import pyplot as plt  # noqa: E402 - after the settings

FIGURES = Path(__file__).parent / "figures"
WORDS = ("", "maybe", "surely", "red", "green", "blue")  # of the toy's tokens; 0 is its EOS
NEXT: dict[Tokens, Sequence[float]] = {
    (): (0, 0.6, 0.4, 0, 0, 0),
    (1,): (0, 0, 0, 0.34, 0.33, 0.33),
    (2,): (0, 0, 0, 0, 0.03, 0.97),
}
"""The toy: a first word that is likely and whose ends are not, and one that is less likely and whose end is sure."""
ENDED = (1, 0, 0, 0, 0, 0)
HORIZON = 2
EOS = Termination(frozenset({0}))
GREY, BLUE, ORANGE = "#8a8f98", "#3b5bdb", "#e8590c"


class Toy(TableLM):
    """A table model whose laws are written down."""

    def logits(self, context: Tokens) -> Floats:
        return np.log(np.array(NEXT.get(context, ENDED)) + 1e-12)


class Listed:
    """A constraint that lists the completions it admits. It is asked before every token, and after it."""

    def __init__(self, legal: Sequence[Tokens]) -> None:
        self.legal = legal

    def watch(self, tokens: Tokens) -> Watch:
        return Watch(self.legal, tokens)


class Watch:
    has_masks, is_limited = True, False

    def __init__(self, legal: Sequence[Tokens], tokens: Tokens) -> None:
        self.legal, self.tokens = legal, tokens

    def allowed(self) -> Any:
        mask, here = np.zeros(len(WORDS), dtype=np.bool_), len(self.tokens)
        for word in self.legal:
            if word[:here] == self.tokens and len(word) > here:
                mask[word[here]] = True
        return mask

    def push(self, token: int) -> None:
        self.tokens = (*self.tokens, token)

    def fork(self, length: int) -> Watch:
        return Watch(self.legal, self.tokens[:length])


LEGAL = ((1, 4), (2, 4))  # "the word green": the likely beginning goes on with it often, the other one seldom


def rules(termination: Termination) -> Rule | None:
    return Listed(LEGAL) if termination.constraint else None  # type: ignore[return-value] # a guide is used as far as it goes


class World:
    """The toy under a power, with everything enumerated."""

    def __init__(self, alpha: float, ending: Termination = EOS) -> None:
        self.lm, self.ending = Toy(len(WORDS), 0, rules=rules), ending
        self.law = Law(alpha, 1.0, 1 / alpha)
        every = completions(self.lm, (), ending, HORIZON, self.law)
        self.chains = [x for x in every if x.logp.sum() > -9]
        self.index = {x.tokens: i for i, x in enumerate(self.chains)}
        self.names = [" ".join(WORDS[token] for token in x.tokens) for x in self.chains]

    def plain(self) -> Floats:
        """p, of the completions that are legal."""
        return power_law(self.chains, 1.0)

    def target(self) -> Floats:
        return power_law(self.chains, self.law.alpha)

    def proposal(self) -> Floats:
        """The law of a draw: low temperature, token by token, masked where the constraint forbids."""
        draw = Draw(Chain.empty(), 0, HORIZON, self.law, seed=0)
        return self._law(suffixes(self.lm, (), self.ending, draw, self.law.proposal_temperature))

    def _law(self, drawn: list[tuple[Continuation, float]]) -> Floats:
        found = np.zeros(len(self.chains))
        for continuation, log_q in drawn:
            if continuation.tokens in self.index:
                found[self.index[continuation.tokens]] = np.exp(log_q)
        return found / found.sum()

    def kernel(self) -> Floats:
        """The transition matrix of one move of the package's Metropolis-Hastings."""
        move = Move(MetropolisHastings(early_rejection=False), self.law, HORIZON)
        matrix = np.zeros((len(self.chains), len(self.chains)))
        for i, x in enumerate(self.chains):

            def program(rng: Branches, x: Chain = x) -> Chain:
                generator: Any = move.run(x, rng, Progress(0, 1, {}))
                moved: Any = drive(generator, lambda asked: self._answered(asked, rng))
                return moved

            for probability, y in outcomes(program):
                if y.tokens in self.index:
                    matrix[i, self.index[y.tokens]] += probability
        return matrix / matrix.sum(axis=1, keepdims=True)

    def _answered(self, asked: Round, rng: Branches) -> list[Continuation]:
        (draw,) = asked.draws
        options = suffixes(self.lm, (), self.ending, draw, draw.law.proposal_temperature)
        return [options[rng.categorical(np.exp([log_q for _, log_q in options]))][0]]

    def after(self, moves: int) -> Floats:
        """The law of a chain that begins with a draw, after so many moves."""
        return np.asarray(self.proposal() @ np.linalg.matrix_power(self.kernel(), moves))


def _bars(world: World, laws: Sequence[tuple[str, Floats, str]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(laws), figsize=(2.2 * len(laws) + 0.6, 0.34 * len(world.names) + 1), sharey=True)
    for axis, (title, law, colour) in zip(axes, laws, strict=True):
        bars = axis.barh(world.names, law, color=colour)
        axis.bar_label(bars, [f"{each:.0%}" if each >= 0.005 else f"{each:.1%}" for each in law], padding=3)
        axis.set(xlim=(0, 1.2), xticks=[], title=title)
        axis.spines["bottom"].set_visible(False)
    axes[0].invert_yaxis()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def laws(path: Path) -> None:
    """p, p at a low temperature, and p^alpha, side by side."""
    world = World(4.0)
    shown = [("p", world.plain(), GREY), ("low temperature, 1/4", world.proposal(), ORANGE)]
    _bars(world, [*shown, ("p(x)^4", world.target(), BLUE)], path)


def chain(path: Path) -> None:
    """How the law of a chain moves from low temperature to the target."""
    world, moves = World(4.0), 40
    found, kernel = [world.proposal()], world.kernel()
    for _ in range(moves):
        found.append(found[-1] @ kernel)
    figure, axis = plt.subplots(figsize=(7, 2.8))
    colours = [GREY, "#adb5bd", "#ced4da", ORANGE, BLUE]
    axis.stackplot(range(moves + 1), np.array(found).T, labels=world.names, colors=colours[-len(world.names) :])
    distance = 0.5 * np.abs(np.array(found) - world.target()).sum(axis=1)
    axis.plot(distance, color="black", lw=1.5, label="distance to p(x)^4")
    axis.set(xlim=(0, moves), ylim=(0, 1), xlabel="moves", ylabel="probability")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _save(figure, path)


def masking(path: Path) -> None:
    """Masking token by token, and what Metropolis-Hastings makes of it."""
    world = World(2.0, Termination(frozenset({0}), constraint="green", max_new_tokens=HORIZON))
    shown = [
        ("p, where legal", world.plain(), GREY),
        ("masked, temperature 1/2", world.proposal(), ORANGE),
        ("after 8 moves", world.after(8), BLUE),
        ("p(x)^2, where legal", world.target(), BLUE),
    ]
    _bars(world, shown, path)


BOXES: dict[str, tuple[float, float, str, str]] = {
    "lc": (1.0, 10, "langchain_power_sampling", ""),
    "li": (3.9, 10, "llamaindex_power_sampling", ""),
    "server": (6.5, 10, "server", ""),
    "cli": (8.3, 10, "cli, compat", ""),
    "int": (4.6, 8.8, "integrations", "settings, tools, facts: what adapters share"),
    "rt": (4.6, 7.6, "runtime: PowerSampler", "sync, async, streams, batches"),
    "prep": (4.6, 6.4, "prepared: PreparedPrompt", "tokens, termination, readers; made once"),
    "text": (0.15, 5.0, "text", "codec, roles, formats,\ngrammar, stop strings"),
    "w": (4.6, 5.0, "serving/worker", "every live request, one step for all"),
    "read": (8.3, 6.4, "reading", "Completion, chunks of a stream"),
    "s": (2.45, 3.5, "samplers", "a generator per request:\nrounds of draws"),
    "d": (4.6, 3.5, "serving/draws", "draws under way,\nprefetched ones too"),
    "e": (7.1, 3.5, "engines: LanguageModel", "open, add, step"),
    "st": (4.0, 2.1, "engines/stepped", "scheduler, prefix cache, budget"),
    "b": (4.0, 1.0, "Backend: torch, llama_cpp", "feed tokens, fork states, choose tokens"),
    "f": (7.9, 1.0, "Forward", "tokens in, logits out"),
    "v": (7.9, 2.1, "engines/vllm", "whole draws, by HTTP"),
}
ARROWS = "lc-int li-int server-int cli-int int-rt rt-prep prep-text prep-w w-s w-d d-e e-st e-v st-b b-f w-read read-rt"


def architecture(path: Path) -> None:
    """The way of a prompt; a box is (x, y, name, what it does)."""
    figure, axis = plt.subplots(figsize=(9, 7))
    axis.set(xlim=(-0.8, 10), ylim=(0.4, 10.5))
    axis.axis("off")
    axis.add_patch(plt.Rectangle((1.3, 0.55), 8.5, 5.0, fill=False, ls="--", ec=GREY))
    axis.text(9.7, 5.3, "the worker's thread", ha="right", color=GREY)
    style = {"boxstyle": "round,pad=0.4", "fc": "white", "ec": BLUE}
    drawn = {}
    for key, (x, y, name, words) in BOXES.items():
        text = f"$\\bf{{{name.replace('_', chr(92) + '_').replace(' ', chr(92) + ' ')}}}$" + (
            f"\n{words}" if words else ""
        )
        drawn[key] = axis.text(x, y, text, ha="center", va="center", fontsize=7.5, bbox=style, zorder=2)
    for arrow in ARROWS.split():
        start, end = arrow.split("-")
        props = {
            "arrowstyle": "->",
            "color": GREY,
            "patchA": drawn[start].get_bbox_patch(),
            "patchB": drawn[end].get_bbox_patch(),
        }
        axis.annotate("", BOXES[end][:2], BOXES[start][:2], arrowprops=props, zorder=1)
    _save(figure, path)


PICTURES = {"laws": laws, "chain": chain, "masking": masking, "architecture": architecture}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=FIGURES)
    out: Path = parser.parse_args().out
    for name, draw in PICTURES.items():
        draw(out / f"{name}.svg")


if __name__ == "__main__":
    main()
