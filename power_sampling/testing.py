"""Tools to prove a sampler or an engine right: a model small enough to enumerate, exact laws, executable contracts.

Shipped, so that the author of another engine or sampler can run them; imports no test framework. A broken law raises
AssertionError with the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.base import Cost, Ending, LanguageModel, Row, context_of
from power_sampling.samplers import Sampler
from power_sampling.types import Answer, Chain, Continuation, Draw, Floats, Law, Round, Tokens

__all__ = [
    "Branches",
    "TableLM",
    "check_language_model",
    "completions",
    "drive",
    "outcomes",
    "power_law",
    "run_draws",
    "suffixes",
]

T = TypeVar("T")


# ---------------------------------------------------------------- a model to enumerate


class _TablePrompt:
    def __init__(self, tokens: Tokens, ending: Ending) -> None:
        self.tokens, self.ending, self.prefilled_tokens, self.reused_tokens = tokens, ending, 0, 0


class TableLM:
    """A language model whose next-token laws are drawn from a hash of the context. Satisfies `LanguageModel`.

    `spread` is the standard deviation of the logits: lengths and probabilities of completions vary with it. It decodes
    every row at once; `max_rows` only says how many are to spare.
    """

    context_window = None
    max_rows = 32

    def __init__(self, vocab_size: int, seed: int, *, spread: float = 1.5) -> None:
        self.vocab_size, self._seed, self._spread = vocab_size, seed, spread
        self._logits: dict[Tokens, Floats] = {}
        self._tickets = count()
        self._rows: dict[int, tuple[_TablePrompt, Row]] = {}
        self.cost = Cost(0, 0, 0, 0)

    def logits(self, context: Tokens) -> Floats:
        """Logits of the next token, (V,)."""
        if context not in self._logits:
            generator = np.random.default_rng([self._seed, *context])
            self._logits[context] = generator.normal(size=self.vocab_size) * self._spread
        return self._logits[context]

    def open(self, prompt: Tokens, ending: Ending) -> _TablePrompt:
        return _TablePrompt(prompt, ending)

    def add(self, prompt: _TablePrompt, draw: Draw) -> int:
        ticket = next(self._tickets)
        self._rows[ticket] = prompt, Row(ticket, draw, prompt.ending)
        return ticket

    def drop(self, ticket: int) -> None:
        self._rows.pop(ticket, None)

    def drawn(self, ticket: int) -> Tokens:
        return tuple(self._rows[ticket][1].tokens) if ticket in self._rows else ()

    def so_far(self, ticket: int) -> Continuation:
        return self._rows[ticket][1].so_far()

    def set_floor(self, ticket: int, floor: float) -> None:
        self._rows[ticket][1].floor = floor

    @property
    def spare_rows(self) -> int:
        return self.max_rows - len(self._rows)

    def reset(self) -> None:
        self._rows.clear()

    def step(self) -> tuple[list[int], list[tuple[int, Continuation]]]:
        tickets, finished = list(self._rows), []
        for ticket in tickets:
            prompt, row = self._rows[ticket]
            law = row.draw.law
            logits = self.logits((*context_of(prompt.tokens, row.draw), *row.tokens))
            allowed = row.allowed()
            q = np.exp(_log_law(logits, law.proposal_temperature, allowed))
            cdf = np.cumsum(q)
            token = int(np.searchsorted(cdf, row.uniform() * cdf[-1], side="right"))
            log_p = _log_law(logits, law.temperature)
            notes = _notes(logits, law, allowed, token)
            if row.push(token, float(log_p[token]), math.log(q[token]), notes):
                finished.append((ticket, row.continuation()))
                del self._rows[ticket]
        calls, steps, rows, prefilled = self.cost
        self.cost = Cost(calls + bool(tickets), steps + bool(tickets), rows + len(tickets), prefilled)
        return tickets, finished

    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        contexts = [(*prompt, *tokens[:t]) for t in range(len(tokens))]
        return np.array(
            [_log_law(self.logits(c), temperature)[t] for c, t in zip(contexts, tokens, strict=True)], dtype=float
        )


def _notes(logits: Floats, law: Law, allowed: NDArray[np.bool_] | None, token: int) -> list[float]:
    """What a law asks for besides log p and log q (see `Row.push`)."""
    scores = [float(_log_law(logits, temperature, allowed)[token]) for temperature in law.score_at]
    if law.cut_exponent is None:
        return scores
    log_p = _log_law(logits, law.temperature)
    return [-float(np.exp(log_p) @ log_p), *scores]


def _log_law(logits: Floats, temperature: float, allowed: NDArray[np.bool_] | None = None) -> Floats:
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    if temperature == 0:
        return np.where(np.arange(len(logits)) == logits.argmax(), 0.0, -np.inf)
    scaled: Floats = logits / temperature
    return np.asarray(scaled - np.logaddexp.reduce(scaled))


def suffixes(
    lm: TableLM, prompt: Tokens, ending: Ending, draw: Draw, temperature: float
) -> list[tuple[Continuation, float]]:
    """Every continuation a draw can return, floor apart, with its log probability under `temperature`, masked where
    the ending's constraint forbids."""
    found: list[tuple[Continuation, float]] = []
    given = context_of(prompt, draw)

    def grow(tokens: Tokens, numbers: list[tuple[float, float, list[float]]], log_r_all: float) -> None:
        row = _replayed(draw, ending, tokens, numbers)
        logits, allowed = lm.logits((*given, *tokens)), row.allowed()
        log_p, log_q = (
            _log_law(logits, draw.law.temperature),
            _log_law(logits, draw.law.proposal_temperature, allowed),
        )
        log_r = _log_law(logits, temperature, allowed)
        for token in np.flatnonzero(log_r > -math.inf).tolist():
            notes = _notes(logits, draw.law, allowed, token)
            drawn = (*tokens, token), [*numbers, (float(log_p[token]), float(log_q[token]), notes)]
            row = _replayed(draw, ending, tokens, numbers)
            if row.push(token, *drawn[1][-1]):
                found.append((row.continuation(), log_r_all + float(log_r[token])))
            else:
                grow(*drawn, log_r_all + float(log_r[token]))

    grow((), [], 0.0)
    return found


def _replayed(draw: Draw, ending: Ending, tokens: Tokens, numbers: list[tuple[float, float, list[float]]]) -> Row:
    row = Row(0, draw._replace(floor=-math.inf), ending)
    for token, given in zip(tokens, numbers, strict=True):
        row.push(token, *given)
    return row


def completions(lm: TableLM, prompt: Tokens, ending: Ending, horizon: int, law: Law) -> list[Chain]:
    """Every legal completion up to the horizon, as the chain a draw under `law` would make of it."""
    draw = Draw(Chain.empty(), 0, horizon, law, seed=0)
    every = [Chain.empty().spliced(0, c) for c, _ in suffixes(lm, prompt, ending, draw, law.temperature)]
    return [x for x in every if x.end != "illegal"]


def power_law(chains: Sequence[Chain], alpha: float) -> Floats:
    """p(x)^alpha / Z over these completions."""
    log_pi = alpha * np.array([x.logp.sum() for x in chains])
    return np.asarray(np.exp(log_pi - np.logaddexp.reduce(log_pi)))


# ---------------------------------------------------------------- every outcome of a program


class _LazyLogUniform(float):
    """log u for a uniform u that is decided by the one comparison it takes part in."""

    def __new__(cls, branches: Branches) -> _LazyLogUniform:
        self = super().__new__(cls, math.nan)
        self.branches = branches
        return self

    branches: Branches

    def __le__(self, log_ratio: float) -> bool:
        p = math.exp(min(0.0, log_ratio))
        return self.branches._one_of([1 - p, p]) == 1


class Branches:
    """An `Rng` that follows one path of a program's chance and remembers the forks. See `outcomes`.

    A continuous uniform is split at `edges`, which have to contain every value at which the program's course changes;
    without edges it decides itself in the comparison `log_u <= log_ratio`.
    """

    def __init__(self, path: list[list[int]], edges: Floats | None) -> None:
        self._path, self._depth, self._edges = path, 0, edges
        self.probability = 1.0

    def _one_of(self, weights: list[float]) -> int:
        if self._depth == len(self._path):
            self._path.append([i for i, weight in enumerate(weights) if weight])
        choice = self._path[self._depth][0]
        self._depth += 1
        self.probability *= weights[choice] / sum(weights)
        return choice

    def categorical(self, weights: Floats) -> int:
        return self._one_of(weights.tolist())

    def integers(self, high: int) -> int:
        return self._one_of([1.0] * high)

    def log_uniform(self) -> float:
        if self._edges is None:
            return _LazyLogUniform(self)
        edges = np.unique(np.concatenate([[0.0], self._edges[(self._edges > 0) & (self._edges < 1)], [1.0]]))
        piece = self.categorical(np.diff(edges))
        return math.log((edges[piece] + edges[piece + 1]) / 2)

    def seed(self) -> int:
        return 0

    def fork(self) -> Branches:
        return self

    def copy(self) -> Branches:
        """The path itself: who asks for a copy walks either that or the original, not both."""
        return self


class outcomes(Generic[T]):  # noqa: N801 - used as a function
    """Iterate over (probability, outcome) of `program(rng)` down every path of its chance: its exact law."""

    def __init__(self, program: Callable[[Branches], T], edges: Floats | None = None) -> None:
        self._program, self._edges = program, edges

    def __iter__(self) -> Iterator[tuple[float, T]]:
        path: list[list[int]] = []
        while True:
            rng = Branches(path, self._edges)
            outcome = self._program(rng)
            yield rng.probability, outcome
            while path and len(path[-1]) == 1:
                path.pop()
            if not path:
                return
            path[-1].pop(0)


# ---------------------------------------------------------------- running things without a worker


def run_draws(lm: LanguageModel, handle: object, draws: Sequence[Draw]) -> list[Continuation]:
    """Decode draws to their ends, together."""
    return _decoded(lm, [lm.add(handle, draw) for draw in draws])


def _decoded(lm: LanguageModel, tickets: Sequence[int]) -> list[Continuation]:
    results: dict[int, Continuation] = {}
    while len(results) < len(tickets):
        _, finished = lm.step()
        results.update(finished)
    return [results[ticket] for ticket in tickets]


def drive(sampler: Sampler, answer: Callable[[Round], list[Continuation]]) -> Answer:
    """Run a sampler to its end, its rounds answered by a function."""
    try:
        current = next(sampler)
        while True:
            current = sampler.send(answer(current))
    except StopIteration as stop:
        result: Answer = stop.value
        return result


# ---------------------------------------------------------------- the laws of an engine

SMALL = 32  # tokens of a vocabulary up to which log p of every one is asked for


def check_language_model(
    lm: LanguageModel,
    prompt: Tokens,
    *,
    horizon: int = 8,
    num_draws: int = 400,
    tolerance: float = 1e-9,
    law: Law = Law(2.0, 1.0, 0.5),  # noqa: B008 - immutable
) -> None:
    """Assert the laws of `LanguageModel` on a prompt.

    Deterministic but for the law of the first token: each token's frequency f has to satisfy num_draws * KL(f, q) < 15,
    about 5.5 standard errors, so that a right engine fails with probability below 2 exp(-15) = 6e-7 times the
    vocabulary, whatever `num_draws` (Chernoff).

    What takes log p of every token is asserted on vocabularies of up to 32 tokens alone: the entropy of p, which a law
    with a `cut_exponent` asks for, and log q under a constraint, that at the temperatures of `score_at` included.
    """
    ending = Ending(frozenset())
    handle = lm.open(prompt, ending)
    draws = [Draw(Chain.empty(), 0, horizon, law, seed) for seed in range(num_draws)]
    drawn = run_draws(lm, handle, draws)
    _check_numbers(lm, prompt, drawn[:8], law, tolerance)
    _check_first_token(lm, prompt, drawn, law)

    alone = [run_draws(lm, lm.open(prompt, ending), [draw])[0] for draw in draws[:4]]
    assert [c.tokens for c in alone] == [c.tokens for c in drawn[:4]], "a draw depends on its neighbours"

    chain = Chain.empty().spliced(0, drawn[0])
    for cut in range(len(chain.tokens)):
        forks = [Draw(c, cut, horizon - cut, law, 7) for c in (chain, chain._replace(memo=None))]
        remembered, fresh = (run_draws(lm, lm.open(prompt, ending), [fork])[0] for fork in forks)
        assert remembered.tokens == fresh.tokens, f"a draw from cut {cut} depends on what is remembered"
        assert np.abs(remembered.logp - fresh.logp).max() < tolerance, f"a fork at {cut} has other log p"

    floor = float(drawn[0].log_weight[: horizon // 2].sum()) - math.log(horizon // 2 + 1)
    (cut_short,) = run_draws(lm, handle, [draws[0]._replace(floor=floor)])
    length = len(cut_short.tokens)
    assert cut_short.tokens == drawn[0].tokens[:length], "a floor changes what is drawn"
    if not cut_short.is_complete:
        total = cut_short.log_weight.sum() - math.log(length)
        assert total < floor, f"abandoned at {total}, above its floor {floor}"

    _check_what_is_asked_for(lm, prompt, horizon, law, tolerance)


def _check_numbers(lm: LanguageModel, prompt: Tokens, drawn: list[Continuation], law: Law, tolerance: float) -> None:
    for c in drawn:
        logp = lm.score(prompt, c.tokens, law.temperature)
        off = float(np.abs(logp - c.logp).max())
        assert off < tolerance, f"score and draw disagree about log p by {off}"
        log_weight = law.alpha * logp - lm.score(prompt, c.tokens, law.proposal_temperature)
        off = float(np.abs(log_weight - c.log_weight).max())
        assert off < tolerance * (1 + law.alpha), f"log_weight is off by {off}"
        for k, temperature in enumerate(law.score_at):
            off = float(np.abs(lm.score(prompt, c.tokens, temperature) - c.logq[:, k]).max())
            assert off < tolerance, f"score and draw disagree about log q at temperature {temperature} by {off}"
        assert max(c.tokens) < lm.vocab_size, f"token {max(c.tokens)} is outside the vocabulary of {lm.vocab_size}"


def _check_first_token(lm: LanguageModel, prompt: Tokens, drawn: list[Continuation], law: Law) -> None:
    n = len(drawn)
    seen = np.bincount([c.tokens[0] for c in drawn], minlength=lm.vocab_size)
    for token in np.flatnonzero(seen > n / 50):
        f, q = float(seen[token] / n), math.exp(lm.score(prompt, (int(token),), law.proposal_temperature)[0])
        divergence = f * math.log(f / q) + ((1 - f) * math.log((1 - f) / max(1 - q, 1e-300)) if f < 1 else 0.0)
        assert n * divergence < 15, f"token {token} was drawn {seen[token]} times in {n}, expected {n * q:.1f}"


class _Parity:
    """A constraint: the token at an even position is even, at an odd one odd. Satisfies `Constraint` and `Guide`."""

    def __init__(self, vocab_size: int, position: int = 0) -> None:
        self._vocab_size, self._position = vocab_size, position

    def watch(self, tokens: Tokens) -> _Parity:
        return _Parity(self._vocab_size, len(tokens))

    def allowed(self) -> NDArray[np.bool_]:
        return np.asarray(np.arange(self._vocab_size) % 2 == self._position % 2)

    def push(self, token: int) -> bool:
        self._position += 1
        return True

    def is_legal_at_stop(self) -> bool:
        return True


def _check_what_is_asked_for(lm: LanguageModel, prompt: Tokens, horizon: int, law: Law, tolerance: float) -> None:
    """Rows of one batch whose laws ask for nothing but log p and log_weight, for entropies, for scores, and for both
    under a constraint: from the prompt, and again from a cut."""
    both = law._replace(temperature=1.3 * law.temperature, cut_exponent=1.0, score_at=(0.4, 2.5))
    laws = [law, law._replace(cut_exponent=4.0), law._replace(score_at=(1.7,)), both]
    constraints = [None, None, None, _Parity(lm.vocab_size) if lm.vocab_size <= SMALL else None]
    handles = [lm.open(prompt, Ending(frozenset(), None, constraint)) for constraint in constraints]
    every_logp = _EveryLogp(lm)
    chains = [Chain.empty()] * len(laws)
    for cut in (0, horizon // 2):
        draws = [Draw(chain, cut, horizon - cut, each, 11) for chain, each in zip(chains, laws, strict=True)]
        drawn = _decoded(lm, [lm.add(handle, draw) for handle, draw in zip(handles, draws, strict=True)])
        assert len({c.tokens for c in drawn[:3]}) == 1, "what a law asks for besides changes what is drawn"
        for draw, constraint, c in zip(draws, constraints, drawn, strict=True):
            n, context = len(c.tokens), context_of(prompt, draw)
            asked = n if draw.law.cut_exponent is not None else 0, n * len(draw.law.score_at)
            assert (len(c.entropy), c.logq.size) == asked, f"{len(c.entropy)}, {c.logq.size} numbers instead of {asked}"
            if constraint is None:
                _check_numbers(lm, context, [c], draw.law, tolerance)
            else:
                _check_masked(every_logp, context, c, draw.law, constraint.watch(draw.chain.tokens[:cut]), tolerance)
            if lm.vocab_size <= SMALL and asked[0]:
                _check_entropy(every_logp, context, c, draw.law, tolerance)
        chains = [draw.chain.spliced(cut, c) for draw, c in zip(draws, drawn, strict=True)]


class _EveryLogp:
    """log p of every token after a context, (V,), by scoring each."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._known: dict[Tokens, Floats] = {}

    def __call__(self, context: Tokens) -> Floats:
        if context not in self._known:
            logp = [self._lm.score(context, (token,), 1.0)[0] for token in range(self._lm.vocab_size)]
            self._known[context] = np.array(logp)
        return self._known[context]


def _check_masked(
    every_logp: _EveryLogp, context: Tokens, c: Continuation, law: Law, guide: _Parity, tolerance: float
) -> None:
    """log p, log q at the proposal's temperature and at those of `score_at`, at the first position and the last."""
    temperatures = (law.proposal_temperature, *law.score_at)
    for t, token in enumerate(c.tokens):
        allowed = guide.allowed()
        guide.push(token)
        assert allowed[token], f"token {token} was drawn where the constraint forbids it"
        if t in (0, len(c.tokens) - 1):
            every = every_logp((*context, *c.tokens[:t]))
            masked = [_log_law(every, temperature, allowed)[token] for temperature in temperatures]
            right = [_log_law(every, law.temperature)[token], *masked]
            found = [c.logp[t], law.alpha * c.logp[t] - c.log_weight[t], *c.logq[t]]
            off = float(np.abs(np.array(found) - right).max())
            # an error of log p grows with 1 / temperature, here 2.5 or about alpha, and is in the normaliser too
            assert off < 5 * (1 + law.alpha) * tolerance, f"log p or log q under a constraint is off by {off}"


def _check_entropy(every_logp: _EveryLogp, context: Tokens, c: Continuation, law: Law, tolerance: float) -> None:
    """-sum p log p as stored, at the first position and the last."""
    for t in {0, len(c.tokens) - 1}:
        log_p = _log_law(every_logp((*context, *c.tokens[:t])), law.temperature)
        entropy = -sum(p * math.log(p) for p in np.exp(log_p).tolist() if p)
        off = abs(c.entropy[t] - entropy)
        assert off < tolerance * (1 + entropy), f"the entropy {t} tokens after a cut is off by {off}"
