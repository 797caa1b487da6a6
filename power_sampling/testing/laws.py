"""The laws of an engine as executable checks, for the author of another one.

A broken law raises AssertionError with the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.choice import Logits, base_logits, log_law
from power_sampling.engines.protocol import LanguageModel, StepsOnHost
from power_sampling.engines.row import context_of
from power_sampling.types import BaseLaw, Chain, Continuation, Draw, Floats, Law, Termination, Tokens

__all__ = ["check_language_model", "run_draws"]


def run_draws(lm: LanguageModel, handle: object, draws: Sequence[Draw]) -> list[Continuation]:
    """Decode draws to their ends, together."""
    return _decoded(lm, [lm.add(handle, draw) for draw in draws])


def _decoded(lm: LanguageModel, tickets: Sequence[int]) -> list[Continuation]:
    results: dict[int, Continuation] = {}
    while len(results) < len(tickets):
        results.update(lm.step().finished)
    return [results[ticket] for ticket in tickets]


SMALL = 32  # tokens of a vocabulary up to which log p of every one is asked for
PARITY = "parity"  # the constraint of these checks


def check_language_model(
    lm: LanguageModel,
    prompt: Tokens,
    *,
    horizon: int = 8,
    num_draws: int = 400,
    tolerance: float = 1e-9,
    law: Law = Law(2.0, 1.0, 0.5),  # noqa: B008 - immutable
) -> None:
    """Assert the laws of `LanguageModel` on a prompt, those of its capabilities included.

    Deterministic but for the law of first tokens: each token's frequency f has to satisfy num_draws * KL(f, q) < 15,
    about 5.5 standard errors, so that a right engine fails with probability below 2 exp(-15) = 6e-7 times the
    vocabulary, whatever `num_draws` (Chernoff); an engine with a random generator of its own is checked so behind every
    cut of a completion too.

    What takes log p of every token is asserted on vocabularies of up to 32 tokens alone: the entropy of p, for a law
    that wants it, and log q under a constraint, that at the temperatures of `score_at` included, and all numbers of a
    base law of its own. The constraint is checked on engines that step on the host.
    """
    end = Termination(frozenset())
    handle = lm.open(prompt, end)
    draws = [Draw(Chain.empty(), 0, horizon, law, seed) for seed in range(num_draws)]
    drawn = run_draws(lm, handle, draws)
    _check_numbers(lm, prompt, drawn[:8], law, tolerance)
    _check_first_token(lm, prompt, drawn, law)
    chain = Chain.empty().spliced(0, drawn[0])
    if lm.capabilities.seeded:
        alone = [run_draws(lm, lm.open(prompt, end), [draw])[0] for draw in draws[:4]]
        assert [c.tokens for c in alone] == [c.tokens for c in drawn[:4]], "a draw depends on its neighbours"
        _check_forks(lm, prompt, chain, horizon, law, tolerance)
    else:
        _check_forks_in_law(lm, prompt, chain, horizon, law, num_draws, tolerance)
    if lm.capabilities.floors and lm.capabilities.seeded:
        _check_floors(lm, handle, draws[0], drawn[0])
    _check_what_is_asked_for(lm, prompt, horizon, law, tolerance)


def _check_forks(lm: LanguageModel, prompt: Tokens, chain: Chain, horizon: int, law: Law, tolerance: float) -> None:
    """A draw from a cut is the same whether the chain's state is cached or not."""
    for cut in range(len(chain.tokens)):
        forks = [Draw(c, cut, horizon - cut, law, 7) for c in (chain, chain._replace(memo=None))]
        cached, fresh = (run_draws(lm, lm.open(prompt, Termination(frozenset())), [fork])[0] for fork in forks)
        assert cached.tokens == fresh.tokens, f"a draw from cut {cut} depends on what is cached"
        assert np.abs(cached.logp - fresh.logp).max() < tolerance, f"a fork at {cut} has other log p"


def _check_forks_in_law(
    lm: LanguageModel, prompt: Tokens, chain: Chain, horizon: int, law: Law, num_draws: int, tolerance: float
) -> None:
    """Draws from a cut have the law of the context there, and its numbers."""
    handle = lm.open(prompt, Termination(frozenset()))
    for cut in range(1, len(chain.tokens)):
        forks = [Draw(chain, cut, horizon - cut, law, seed) for seed in range(num_draws)]
        drawn, context = run_draws(lm, handle, forks), context_of(prompt, forks[0])
        _check_numbers(lm, context, drawn[:4], law, tolerance)
        _check_first_token(lm, context, drawn, law)


def _check_floors(lm: LanguageModel, handle: object, draw: Draw, whole: Continuation) -> None:
    """A draw that is below its floors at one token alone. The engine may go on; it may not abandon it earlier."""
    running = np.cumsum(whole.log_weight)
    below, floors = len(running) // 2, running - 1
    floors[below] = running.max() + 1
    (cut_short,) = run_draws(lm, handle, [draw._replace(floors=floors)])
    length = len(cut_short.tokens)
    assert cut_short.tokens == whole.tokens[:length], "floors change what is drawn"
    if not cut_short.is_complete:
        assert length > below, f"abandoned after {length} tokens, above its floors until {below + 1}"


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
    """The constraint PARITY: the token at an even position is even, at an odd one odd. Satisfies `Rule` and `Watch`."""

    has_masks, is_limited = True, False

    def __init__(self, vocab_size: int, position: int = 0) -> None:
        self._vocab_size, self._position = vocab_size, position

    def watch(self, tokens: Tokens) -> _Parity:
        return _Parity(self._vocab_size, len(tokens))

    def fork(self, length: int) -> _Parity:
        return _Parity(self._vocab_size, length)

    def allowed(self) -> NDArray[np.bool_]:
        return np.asarray(np.arange(self._vocab_size) % 2 == self._position % 2)

    def push(self, token: int) -> None:
        self._position += 1


@contextmanager
def _parity_rules(lm: LanguageModel) -> Iterator[_Parity | None]:
    """The engine understands PARITY meanwhile, where it makes its watches on the host."""
    if not (lm.capabilities.masks and isinstance(lm, StepsOnHost) and lm.vocab_size <= SMALL):
        yield None
        return
    own, parity = lm.rules, _Parity(lm.vocab_size)
    lm.rules = lambda termination: parity if termination.constraint == PARITY else own(termination)
    try:
        yield parity
    finally:
        lm.rules = own


def _check_what_is_asked_for(lm: LanguageModel, prompt: Tokens, horizon: int, law: Law, tolerance: float) -> None:
    """Rows of one batch whose laws ask for nothing but log p and log_weight, for entropies, for scores, for both under
    a constraint, and for both of another base law: from the prompt, and again from a cut."""
    can = lm.capabilities
    laws = [law]
    if can.entropy:
        laws.append(law._replace(wants_entropy=True))
    if can.score_at:
        laws.append(law._replace(score_at=(1.7,)))
    warmer = law._replace(temperature=1.3 * law.temperature) if can.temperature else law
    both = warmer._replace(wants_entropy=can.entropy, score_at=(0.4, 2.5) if can.score_at else ())
    every_logp = _EveryLogp(lm)
    with _parity_rules(lm) as parity:
        rows = [*laws, both]
        if can.base and lm.vocab_size <= SMALL:
            rows.append(both._replace(base=_other_base_law(lm.vocab_size)))
        masks = [parity if each is both else None for each in rows]
        ends = [Termination(frozenset(), constraint=PARITY if mask else None) for mask in masks]
        handles = [lm.open(prompt, end) for end in ends]
        chains = [Chain.empty()] * len(handles)
        for cut in (0, horizon // 2):
            asked = zip(chains, rows, strict=True)
            draws = [Draw(chain, cut, horizon - cut, each, 11) for chain, each in asked]
            drawn = _decoded(lm, [lm.add(handle, draw) for handle, draw in zip(handles, draws, strict=True)])
            if can.seeded:
                assert len({c.tokens for c in drawn[: len(laws)]}) == 1, (
                    "what a law asks for besides changes what is drawn"
                )
            for draw, mask, c in zip(draws, masks, drawn, strict=True):
                guide = mask.watch(draw.chain.tokens[:cut]) if mask else None
                _check_one(lm, every_logp, context_of(prompt, draw), draw, c, guide, tolerance)
            if can.given:
                for handle, draw, c in zip(handles, draws, drawn, strict=True):
                    _check_given(lm, handle, draw, c, tolerance)
            chains = [draw.chain.spliced(cut, c) for draw, c in zip(draws, drawn, strict=True)]


def _check_given(lm: LanguageModel, handle: object, draw: Draw, c: Continuation, tolerance: float) -> None:
    """Given tokens have the numbers that they had when they were drawn, and drawing goes on behind them as it did."""
    for length in {max(1, len(c.tokens) // 2), len(c.tokens)}:
        (found,) = run_draws(lm, handle, [draw._replace(given=c.tokens[:length])])
        n = len(c.tokens) if lm.capabilities.seeded else length
        assert found.tokens[:n] == c.tokens[:n], "what is drawn behind given tokens depends on whether they were drawn"
        for name in ("logp", "log_weight", "entropy", "logq"):
            given, drawn = getattr(found, name)[:n], getattr(c, name)[:n]
            assert given.shape == drawn.shape, f"{len(given)} numbers of {name} instead of {len(drawn)}"
            off = float(np.abs(given - drawn).max(initial=0.0))
            assert off < 5 * (1 + draw.law.alpha) * tolerance, f"{name} of given tokens is off by {off}"


def _check_one(
    lm: LanguageModel,
    every_logp: _EveryLogp,
    context: Tokens,
    draw: Draw,
    c: Continuation,
    guide: _Parity | None,
    tolerance: float,
) -> None:
    """One continuation has the numbers that its law asks for, and they are right."""
    law, n = draw.law, len(c.tokens)
    asked = n if law.wants_entropy else 0, n * len(law.score_at)
    assert (len(c.entropy), c.logq.size) == asked, f"{len(c.entropy)}, {c.logq.size} numbers instead of {asked}"
    if guide is None and law.base is None:
        _check_numbers(lm, context, [c], law, tolerance)
    else:
        _check_masked(every_logp, context, c, draw, guide, tolerance)
    if lm.vocab_size <= SMALL and asked[0]:
        _check_entropy(every_logp, context, c, draw, tolerance)


def _other_base_law(vocab_size: int) -> BaseLaw:
    """One of which every part counts."""
    words = ((vocab_size - 1,),) if vocab_size > 4 else ()
    return BaseLaw(((0, 0.7), (1, -0.4)), (*words, (0, 1)), max(2, vocab_size - 2), 0.9, 0.01)


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
    every_logp: _EveryLogp, context: Tokens, c: Continuation, draw: Draw, guide: _Parity | None, tolerance: float
) -> None:
    """log p, log q at the proposal's temperature and at those of `score_at`, at the first position and the last, under
    a constraint or with a base law of its own."""
    law, allowed = draw.law, None
    temperatures = (law.proposal_temperature, *law.score_at)
    for t, token in enumerate(c.tokens):
        if guide is not None:
            allowed = guide.allowed()
            guide.push(token)
            assert allowed[token], f"token {token} was drawn where the constraint forbids it"
        if t in (0, len(c.tokens) - 1):
            every = _base_logits(every_logp, context, c, t, draw)
            masked = [log_law(every, temperature, allowed)[token] for temperature in temperatures]
            right = [log_law(every, law.temperature)[token], *masked]
            assert np.isfinite(right).all(), f"token {token} was drawn, to which the base law gives no probability"
            found = [c.logp[t], law.alpha * c.logp[t] - c.log_weight[t], *c.logq[t]]
            off = float(np.abs(np.array(found) - right).max())
            what = "under a constraint" if guide is not None else "of another base law"
            # an error of log p grows with 1 / temperature, here 2.5 or about alpha, and is in the normaliser too
            assert off < 5 * (1 + law.alpha) * tolerance, f"log p or log q {what} is off by {off}"


def _base_logits(every_logp: _EveryLogp, context: Tokens, c: Continuation, t: int, draw: Draw) -> Logits:
    """Of the token that stands t tokens after the draw's cut."""
    logits, base = every_logp((*context, *c.tokens[:t])), draw.law.base
    excluded = base.excluded((*draw.chain.tokens[: draw.cut], *c.tokens[:t])) if base is not None else ()
    return base_logits(logits, draw.law, excluded)


def _check_entropy(every_logp: _EveryLogp, context: Tokens, c: Continuation, draw: Draw, tolerance: float) -> None:
    """-sum p log p as stored, at the first position and the last."""
    for t in {0, len(c.tokens) - 1}:
        log_p = log_law(_base_logits(every_logp, context, c, t, draw), draw.law.temperature)
        entropy = -sum(p * math.log(p) for p in np.exp(log_p).tolist() if p)
        off = abs(c.entropy[t] - entropy)
        assert off < tolerance * (1 + entropy), f"the entropy {t} tokens after a cut is off by {off}"
