"""Plausible slips in what the law rests on, one at a time, and whether the tests notice.

    python benchmarks/mutations.py              all of them; prints which tests noticed, and what lived
    python benchmarks/mutations.py cut swap     those whose description contains one of these words

Every slip is made in a copy of the tree; its tests run there until the first failure. What lives is a gap in the tests,
or a change without effect: either has to be known. `tests/test_mutations.py` holds each slip to the code of today.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

__all__ = ["SLIPS", "Slip", "place_of"]

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("power_sampling", "langchain_power_sampling", "llamaindex_power_sampling", "tests", "docs")
TIME_LIMIT = 600.0  # seconds for the tests of one slip: one that hangs is noticed too

MH = "power_sampling/samplers/metropolis_hastings.py"
GIBBS = "power_sampling/samplers/particle_gibbs.py"
SMC = "power_sampling/samplers/sequential_monte_carlo.py"
TEMPERING = "power_sampling/samplers/parallel_tempering.py"
MARGINAL = "power_sampling/samplers/marginal.py"
PARTS = "power_sampling/samplers/parts"
DRAWS = "power_sampling/serving/draws.py"
JUDGING = "power_sampling/serving/judging.py"
WORKER = "power_sampling/serving/worker.py"
ROW = "power_sampling/engines/row.py"
HOST_CHOICE = "power_sampling/engines/choice.py"
CHOICE = "power_sampling/engines/torch/choice.py"
KV = "power_sampling/engines/torch/kv.py"
RECURRENT = "power_sampling/engines/torch/recurrent.py"
ENGINE = "power_sampling/engines/stepped/engine.py"
THOUGHT = "power_sampling/text/thought.py"

CONFORMANCE = "tests/samplers/test_conformance.py"
OF_MH = ("tests/samplers/test_metropolis_hastings.py", "tests/samplers/test_counts.py", CONFORMANCE)
OF_STARTS = ("tests/samplers/test_starts.py", "tests/runtime/test_starts.py")
OF_MIXING = ("tests/samplers/test_mixing.py", "tests/runtime/test_starts.py")
OF_CUTS = ("tests/samplers/test_entropy_cuts.py", *OF_MH)
OF_GIBBS = ("tests/samplers/test_particle_gibbs.py", CONFORMANCE)
OF_SMC = ("tests/samplers/test_sequential_monte_carlo.py", CONFORMANCE)
OF_POTENTIALS = ("tests/samplers/test_potentials.py",)
OF_JUDGES = ("tests/serving/test_judging.py",)
OF_TEMPERING = ("tests/samplers/test_parallel_tempering.py", CONFORMANCE)
OF_MARGINAL = ("tests/samplers/test_marginal.py", "tests/runtime/test_vote.py")
OF_PREFETCH = ("tests/samplers/test_prefetch.py", "tests/samplers/test_counts.py")
OF_CHOICE = ("tests/engines/torch/test_choice.py", "tests/engines/stepped/test_backends.py")
OF_BASE_LAWS = ("tests/engines/torch/test_base_law.py", "tests/samplers/test_base_law.py", *OF_CHOICE)
OF_ENGINE = ("tests/engines/torch/test_engine.py", "tests/engines/stepped")
OF_THOUGHT = ("tests/text/test_thought.py",)
OF_RECURRENT = ("tests/engines/torch/test_recurrent.py",)
OF_WORKER = ("tests/serving/test_worker.py", "tests/samplers/test_counts.py", "tests/samplers/test_prefetch.py")


class Slip(NamedTuple):
    what: str
    file: str
    right: str  # stands in the file exactly once
    wrong: str
    tests: tuple[str, ...]


SLIPS = (
    # samplers
    Slip("MH without the length in its ratio", MH, ".sum()) - log_span(chain, self.options)", ".sum())", OF_MH),
    Slip(
        "MH proposals no longer than the chain",
        MH,
        "length, bounds = self.stage_end - plan.cut, None",
        "length, bounds = (len(chain.tokens) if chain.end else self.stage_end) - plan.cut, None",
        OF_MH,
    ),
    Slip(
        "MH with one seed for all proposals", MH, "tuple(rng.seed() for _ in range", "(rng.seed(),) * len(range", OF_MH
    ),
    Slip(
        "MH weighs from behind the cut",
        MH,
        "chain.log_weight[cut:].sum()",
        "chain.log_weight[cut + 1:].sum()",
        OF_MH,
    ),
    Slip(
        "MH floors without the chain's own weight",
        MH,
        "plan.log_u + self.log_w(chain, plan.cut) - self.most",
        "plan.log_u - self.most",
        OF_MH,
    ),
    Slip(
        "a start is grown in stages",
        MH,
        "is_last = chain.is_terminated or is_spent or is_given",
        "is_last = chain.is_terminated or is_spent",
        OF_STARTS,
    ),
    Slip(
        "the pilot answers",
        MH,
        "if pilot.is_budget_spent:",
        "if pilot.trace:",
        ("tests/samplers/test_auto_steps.py",),
    ),
    Slip(
        "the pilot begins where the chain does",
        MH,
        "grown = Chain.empty()",
        "grown = chain",
        ("tests/samplers/test_auto_steps.py",),
    ),
    Slip(
        "a start whose numbers are known is weighed again",
        "power_sampling/reading.py",
        "start=self._chain if is_known else",
        "start=self._chain.tokens if is_known else",
        OF_STARTS,
    ),
    Slip(
        "a start is answered by its own stream",
        "power_sampling/prepared.py",
        "SeedSequence([seed, *tokens])",
        "SeedSequence([seed])",
        OF_STARTS,
    ),
    Slip(
        "particle Gibbs begins anew in spite of a start",
        GIBBS,
        "given = Answer(chain, self.exactness,",
        "given = Answer(chain.head(0), self.exactness,",
        OF_STARTS,
    ),
    Slip("MH counts a rejected move as accepted", MH, "num_accepted + (moved is not chain)", "num_accepted + 1", OF_MH),
    Slip(
        "MH uses one stream for all moves",
        f"{PARTS}/prefetch.py",
        "return self._streams[number].copy()",
        "return self._streams[min(self._streams)].copy()",
        OF_MH,
    ),
    Slip(
        "multiple try forgets the other proposals",
        f"{PARTS}/accept.py",
        "w_others = float(w.sum() - w[chosen])",
        "w_others = 0.0 * float(w.sum())",
        OF_MH,
    ),
    Slip(
        "multiple try picks the heaviest",
        f"{PARTS}/accept.py",
        "rng.categorical(w) if len(w) > 1 else 0",
        "int(w.argmax())",
        OF_MH,
    ),
    Slip(
        "acceptance by the wrong side of u",
        f"{PARTS}/accept.py",
        "if log_u <= log_ratio",
        "if -log_u <= log_ratio",
        OF_MH,
    ),
    Slip(
        "cuts never at the last token",
        f"{PARTS}/cuts.py",
        "return rng.integers(len(chain.tokens))",
        "return rng.integers(max(1, len(chain.tokens) - 1))",
        OF_MH,
    ),
    Slip("floors two tokens early", f"{PARTS}/cuts.py", "chain.head(cut + 1)", "chain.head(cut + 3)", OF_CUTS),
    Slip(
        "entropy cuts by entropy, not by its rise",
        f"{PARTS}/cuts.py",
        "np.maximum(0.0, np.diff(entropy, prepend=0.0))",
        "np.diff(entropy, prepend=0.0)**2",
        OF_CUTS,
    ),
    Slip(
        "entropy cuts without their span",
        f"{PARTS}/cuts.py",
        "return float(cut_weights(chain.entropy, cuts.cut_exponent).sum())",
        "return float(len(chain.tokens))",
        OF_CUTS,
    ),
    Slip(
        "particle Gibbs without the length",
        GIBBS,
        "log_weights - np.array([log_span(x, options) for x in particles])",
        "log_weights",
        OF_GIBBS,
    ),
    Slip(
        "particle Gibbs loses the kept particle",
        GIBBS,
        "particles[:], chain.head(end)",
        "particles[:], particles[0] if start > cut else chain.head(end)",
        OF_GIBBS,
    ),
    Slip(
        "particle Gibbs keeps weights after resampling",
        GIBBS,
        "            log_weights = np.zeros(n)\n        notes",
        "        notes",
        OF_GIBBS,
    ),
    Slip(
        "particle Gibbs with one seed for all",
        GIBBS,
        "law, rng.seed(), judged=by) for i in live]",
        "law, 7, judged=by) for i in live]",
        OF_GIBBS,
    ),
    Slip(
        "particle Gibbs weighs the whole kept suffix at once",
        GIBBS,
        "chain.log_weight[start:end].sum()",
        "chain.log_weight[start:].sum()",
        OF_GIBBS,
    ),
    Slip(
        "SMC with one seed for all",
        SMC,
        "block_law, rng.seed(), judged=by)",
        "block_law, 7, judged=by)",
        OF_SMC,
    ),
    Slip(
        "SMC picks a particle uniformly",
        SMC,
        "    chosen = rng.categorical(weights)\n    answer",
        "    chosen = rng.integers(len(particles))\n    answer",
        OF_SMC,
    ),
    Slip(
        "SMC resampling forgets log Z",
        SMC,
        "np.full(len(log_weights), log_mean_exp(log_weights))",
        "np.zeros(len(log_weights))",
        OF_SMC,
    ),
    Slip(
        "SMC never arrives at alpha",
        SMC,
        "log_weights + (alpha - alpha_before) * _logp(particles)",
        "log_weights + 0.0",
        OF_SMC,
    ),
    Slip(
        "pooled runs picked uniformly",
        SMC,
        "chosen = rng.categorical(evidence)",
        "chosen = rng.integers(len(answers))",
        OF_SMC,
    ),
    Slip(
        "MH without its potentials",
        MH,
        "log_span(chain, self.options) + chain.log_phi",
        "log_span(chain, self.options)",
        OF_POTENTIALS,
    ),
    Slip("MH floors without the most of log phi", MH, "plan.cut) - self.most", "plan.cut)", OF_POTENTIALS),
    Slip(
        "potentials of partial texts do not telescope",
        f"{PARTS}/judging.py",
        "else after.log_phi - before.log_phi",
        "else after.log_phi",
        OF_POTENTIALS,
    ),
    Slip(
        "SMC without the last potentials",
        SMC,
        "gained(x, y) for x, y in zip(particles, complete",
        "gained(x, x) for x, y in zip(particles, complete",
        OF_POTENTIALS,
    ),
    Slip(
        "the kept particle is judged as if it were complete",
        GIBBS,
        "judgement(particles[0], law, by)",
        'judgement(particles[0], law, "final")',
        OF_POTENTIALS,
    ),
    Slip(
        "a fault of one request's texts is told to all that were asked together",
        JUDGING,
        "if len(cases) == 1:\n            cases[0].hearing",
        "for case in cases:\n            case.hearing",
        OF_JUDGES,
    ),
    Slip(
        "what is abandoned early is judged",
        DRAWS,
        'continuation.end in ("floor", "illegal")',
        'continuation.end in ("illegal",)',
        OF_JUDGES,
    ),
    Slip(
        "systematic resampling rounds all down",
        f"{PARTS}/resampling.py",
        "np.ceil(expected - u)",
        "np.ceil(expected - 0.5)",
        ("tests/samplers/test_sequential_monte_carlo.py",),
    ),
    Slip(
        "chopthin forgets what it passes on",
        f"{PARTS}/resampling.py",
        "passed_on = np.where(w < a, a, w / np.maximum(counts, 1))",
        "passed_on = w",
        OF_SMC,
    ),
    Slip(
        "swaps with the ratio turned round", TEMPERING, "* (hot - cold) if hot", "* (cold - hot) if hot", OF_TEMPERING
    ),
    Slip(
        "swapped chains keep their old weights",
        TEMPERING,
        "_weighed(swept[k + 1], laws, k), _weighed(swept[k], laws, k + 1)",
        "swept[k + 1], swept[k]",
        OF_TEMPERING,
    ),
    Slip(
        "the curve's tolerance above and not below",
        TEMPERING,
        "curve >= curve[-1] - tolerance",
        "curve >= curve[-1] + tolerance",
        OF_TEMPERING,
    ),
    Slip(
        "the chosen power and another rung's chain",
        TEMPERING,
        "chain=chains[k], exactness",
        "chain=chain, exactness",
        OF_TEMPERING,
    ),
    Slip("illegal chains are chosen", TEMPERING, "is_near = is_legal & (curve", "is_near = (curve", OF_TEMPERING),
    Slip("tempering goes on adapting", TEMPERING, "if i < num_tuning:", "if stage_end == horizon:", OF_TEMPERING),
    Slip(
        "lookahead without its own weight",
        "power_sampling/samplers/lookahead.py",
        "joint = log_w[:, None] + rollouts",
        "joint = 0 * log_w[:, None] + rollouts",
        ("tests/samplers/test_lookahead.py",),
    ),
    Slip(
        "rejection takes what was abandoned",
        "power_sampling/samplers/rejection.py",
        "is_accepted = continuation.is_complete and bound",
        "is_accepted = bound",
        ("tests/samplers/test_rejection.py",),
    ),
    Slip(
        "best of n takes the last",
        "power_sampling/samplers/best_of_n.py",
        "best = max(",
        "best = min(",
        ("tests/samplers/test_best_of_n.py",),
    ),
    Slip(
        "a trace tells a rejected proposal as accepted",
        MH,
        "plan.log_u, accepted, moved",
        "plan.log_u, 0, moved",
        ("tests/runtime/test_frames.py",),
    ),
    Slip(
        "a trace tells other ancestors",
        SMC,
        "ancestors=tuple(ancestors)",
        "ancestors=tuple(ancestors[::-1])",
        ("tests/runtime/test_frames.py",),
    ),
    Slip(
        "a step is told twice",
        f"{PARTS}/notes.py",
        "tuple(self._steps), []",
        "tuple(self._steps), self._steps",
        ("tests/runtime/test_frames.py",),
    ),
    Slip(
        "chances of a tree of moves are not multiplied",
        f"{PARTS}/prefetch.py",
        "(weight * chance, next(order)",
        "(chance * -1.0, next(order)",
        OF_PREFETCH,
    ),
    Slip(
        "particle Gibbs prefetches what no move asks for",
        GIBBS,
        "self._planned(self.stream(number), chain)",
        "self._planned(self.stream(number).fork(), chain)",
        OF_PREFETCH,
    ),
    Slip(
        "tempering prefetches what no step asks for",
        TEMPERING,
        "            rng = self.stream(number)\n",
        "            rng = self.stream(number).fork()\n",
        OF_PREFETCH,
    ),
    Slip(
        "answers of several samplers change places",
        f"{PARTS}/lockstep.py",
        "for i, current in rounds.items()}\n    return",
        "for i, current in reversed(rounds.items())}\n    return",
        (*OF_SMC, *OF_TEMPERING),
    ),
    Slip(
        "a chain that did not move is not told",
        "power_sampling/reading.py",
        "if trace and not answer.num_moved:",
        "if trace and answer.num_moved < 0:",
        OF_MIXING,
    ),
    Slip(
        "R-hat of whole chains",
        f"{PARTS}/mixing.py",
        "for part in (trace[:n], trace[length - n : length])",
        "for part in (trace,)",
        OF_MIXING,
    ),
    Slip(
        "particles forget their roots",
        SMC,
        "roots = [roots[i] for i in ancestors]",
        "roots = list(ancestors)",
        OF_MIXING,
    ),
    # votes
    Slip(
        "a vote raises completions where it should raise answers",
        MARGINAL,
        "law._replace(alpha=1.0)",
        "law",
        OF_MARGINAL,
    ),
    Slip("a vote counts what is illegal", MARGINAL, 'if x.end != "illegal"', "if True", OF_MARGINAL),
    Slip(
        "a vote weighs by p alone where q is masked",
        MARGINAL,
        "float(chains[i].log_weight.sum())",
        "float((drawn.alpha - 1) * chains[i].logp.sum())",
        OF_MARGINAL,
    ),
    Slip(
        "a drawn answer is the winner", MARGINAL, 'if self.returned == "drawn" else 0', "if False else 0", OF_MARGINAL
    ),
    Slip(
        "a vote on the thought and the answer",
        "power_sampling/prepared.py",
        "return reader.finish()[1].content",
        "return text",
        OF_MARGINAL,
    ),
    Slip(
        "any ballot stands for its answer",
        "power_sampling/vote.py",
        "or logps[i] > logps[best[answers[i]]]",
        "",
        OF_MARGINAL,
    ),
    # numbers of a row
    Slip(
        "a given token has the numbers of the one that would be drawn",
        HOST_CHOICE,
        "given[0] if given else laws.q.pick(row.uniform())",
        "laws.q.pick(row.uniform())",
        OF_STARTS,
    ),
    Slip(
        "drawing stops behind given tokens",
        ROW,
        "return self.draw.given[len(self.tokens) :]",
        "return self.draw.given[len(self.tokens) : len(self.tokens) + 1][:-1]",
        OF_STARTS,
    ),
    Slip(
        "the logits of given tokens are one off",
        ENGINE,
        "piece = (seq.last_token, *seq.row.given[:-1])",
        "piece = (*seq.row.given,)",
        OF_STARTS,
    ),
    Slip(
        "weights by p alone",
        ROW,
        "log_weight = draw.law.alpha * logp - logq",
        "log_weight = (draw.law.alpha - 1) * logp",
        OF_CHOICE + OF_MH,
    ),
    Slip(
        "a draw's limit is one less",
        ROW,
        "if len(self.tokens) == draw.max_new_tokens:",
        "if len(self.tokens) >= max(1, draw.max_new_tokens - 1):",
        OF_ENGINE,
    ),
    Slip("EOS is no end", ROW, "if token in self._eos_ids:", "if False:", OF_ENGINE),
    Slip(
        "illegal completions keep their weight",
        ROW,
        "self._log_weight[-1] = -math.inf",
        "pass",
        ("tests/text/test_constraints.py", "tests/text/test_horizon.py"),
    ),
    Slip(
        "floors at the end of what was asked",
        ROW,
        "self._total < self.floors[len(self.tokens) - 1]",
        "self._total <= self.floors[0]",
        (*OF_MH, *OF_ENGINE),
    ),
    Slip(
        "host: p is masked too",
        HOST_CHOICE,
        "p = Softmax(logits, law.temperature)",
        "p = Softmax(logits, law.temperature, allowed)",
        (*OF_CHOICE, "tests/text/test_constraints.py", "tests/text/test_horizon.py"),
    ),
    Slip(
        "host: q is drawn from p",
        HOST_CHOICE,
        "Softmax(logits, law.proposal_temperature, allowed)",
        "Softmax(logits, law.temperature, allowed)",
        OF_CHOICE,
    ),
    Slip(
        "base law: a completion without a way on is taken for legal",
        HOST_CHOICE,
        "logq = np.inf if laws.is_dead else laws.q.log(token)",
        "logq = laws.q.log(token)",
        OF_BASE_LAWS,
    ),
    Slip(
        "base law: top_p before top_k is normalised",
        HOST_CHOICE,
        "kept = ordered[ordered >= least]",
        "kept = ordered",
        OF_BASE_LAWS,
    ),
    Slip(
        "base law: biases are added behind the temperature",
        "power_sampling/engines/torch/base_law.py",
        "index_put_(self.bias_at, self.bias,",
        "index_put_(self.bias_at, self.bias * self.temperature[self.bias_at[0], 0],",
        OF_BASE_LAWS,
    ),
    Slip(
        "base law: a word is looked for from the cut on",
        ROW,
        "(*self.draw.chain.tokens[: self.draw.cut], *self.tokens) if",
        "tuple(self.tokens) if",
        OF_BASE_LAWS,
    ),
    Slip(
        "base law: a step is begun before a word has been seen",
        ROW,
        "not (looks_back or (self.watch",
        "not ((self.watch",
        OF_BASE_LAWS,
    ),
    Slip(
        "base law: the device's dead rows go on",
        CHOICE,
        "found[:, 2:3].masked_fill_(is_dead, math.inf)",
        "pass",
        OF_BASE_LAWS,
    ),
    Slip("device: p is masked too", CHOICE, "p = _Softmax(centred,", "p = _Softmax(legal,", OF_CHOICE),
    Slip(
        "device: the entropy is q's",
        CHOICE,
        "torch.special.entr(p.weights / p.total)",
        "torch.special.entr(torch.softmax(legal, -1))",
        OF_CHOICE,
    ),
    Slip(
        "device: blocks begin too early",
        CHOICE,
        "ends.gather(-1, (block - 1).clamp_min(0))",
        "ends.gather(-1, block.clamp_min(0))",
        OF_CHOICE,
    ),
    Slip(
        "device: greedy rows have q of p",
        CHOICE,
        "log_q = torch.where(laws.is_greedy, 0.0, log_q)",
        "log_q = log_q + 0.0",
        OF_CHOICE,
    ),
    Slip(
        "device: notes at the first temperature",
        CHOICE,
        "for temperature in laws.score_at]\n    return",
        "for temperature in laws.score_at[:1] * len(laws.score_at)]\n    return",
        OF_CHOICE + OF_TEMPERING,
    ),
    # states
    Slip(
        "a fork one token too long",
        KV,
        "kept.append(piece if piece.length <= room else piece.head(room))",
        "kept.append(piece)",
        OF_ENGINE,
    ),
    Slip(
        "a moved row loses its first slot",
        KV,
        "window = slice(self.cursor - self.lengths[source], self.cursor)",
        "window = slice(self.cursor - self.lengths[source] + 1, self.cursor)",
        OF_ENGINE,
    ),
    Slip(
        "rows that move keep their old length",
        KV,
        "            self.lengths[place] = self.lengths[source]\n",
        "",
        OF_ENGINE,
    ),
    Slip(
        "pads of the longest",
        KV,
        "return [longest - length for length in self.lengths]",
        "return [0 for length in self.lengths]",
        OF_ENGINE,
    ),
    Slip(
        "a recurrent state cut beyond its copy",
        RECURRENT,
        "kept = max((n for n in self.snapshots if n <= length), default=0)",
        "kept = max((n for n in self.snapshots if n <= length + 1), default=0)",
        OF_RECURRENT,
    ),
    Slip(
        "recurrent rows that move leave their state behind",
        RECURRENT,
        "            order[gap] = order[source]\n",
        "            pass\n",
        OF_RECURRENT,
    ),
    Slip(
        "a recurrent state taken for that of fewer tokens",
        RECURRENT,
        "if length != self.lengths[row] or length == base.length:",
        "if length == base.length:",
        OF_RECURRENT,
    ),
    Slip(
        "a copy of a recurrent state is the batch's own",
        RECURRENT,
        "states[row].clone()",
        "states[row]",
        OF_RECURRENT,
    ),
    Slip(
        "a recurrent model's trial passes over what its own cache says",
        "power_sampling/engines/torch/trial.py",
        "min(_difference(found, _at(logits)) for logits in own) <= gap.allowed",
        "bool(own)",
        ("tests/engines/torch/test_trial.py",),
    ),
    Slip(
        "padding through a recurrence",
        "power_sampling/engines/torch/backend.py",
        "groups.setdefault((len(piece), bool(state.length)), [])",
        "groups.setdefault((0, bool(state.length)), [])",
        OF_RECURRENT,
    ),
    Slip(
        "a shift reads the new window",
        KV,
        "slice(self.left, self.cursor), slice(cursor - used, cursor)",
        "slice(cursor - used, cursor), slice(cursor - used, cursor)",
        OF_ENGINE,
    ),
    Slip(
        "a watch is forked where it ends",
        ENGINE,
        "return memo.row.watch.fork(draw.cut)",
        "return memo.row.watch.fork(len(draw.chain.tokens))",
        ("tests/text/test_rules.py", "tests/text/test_constraints.py"),
    ),
    # draws and worker
    Slip(
        "what was dropped costs nothing",
        DRAWS,
        "self.tokens_decoded += max(0, len(self.drawn(ticket)) - len(draw.given))",
        "pass",
        OF_WORKER,
    ),
    Slip(
        "abandoned draws answer everything",
        DRAWS,
        "if known is None or known.is_complete:",
        "if known is None or known:",
        OF_WORKER,
    ),
    Slip(
        "floors of running draws stay",
        DRAWS,
        "self._peeks.set_floors(self._running[key], draw.floors)",
        "pass",
        OF_WORKER,
    ),
    Slip("nothing useful is kept", DRAWS, "useful |= {draw.key for", "useful = {draw.key for", OF_WORKER),
    Slip(
        "prefetch never gives way",
        WORKER,
        "while spare < 0 and live.draws.cancel_youngest():",
        "while False:",
        (*OF_WORKER, "tests/engines/stepped/test_fairness.py"),
    ),
    Slip(
        "all rows of a step are one step each",
        WORKER,
        "for live in {owners[ticket] for ticket in decoded}:",
        "for live in [owners[ticket] for ticket in decoded]:",
        OF_WORKER,
    ),
    Slip(
        "a forced call need not obey the schema of its tool",
        "power_sampling/text/formats/base.py",
        "if not (self.conversation.strict or self._must_call):",
        "if not self.conversation.strict:",
        ("tests/langchain/test_chat_law.py", "tests/llamaindex/test_exact.py"),
    ),
    Slip(
        "a thought may be one token longer than its budget",
        THOUGHT,
        'place.stage == "inside" and place.spent >= self._rule.limit.budget',
        'place.stage == "inside" and place.spent > self._rule.limit.budget',
        OF_THOUGHT,
    ),
    Slip(
        "a thought that is opened again has its whole budget again",
        THOUGHT,
        'self._settled(place._replace(stage="inside", begins=len(text)))',
        'self._settled(place._replace(stage="inside", begins=len(text), spent=0))',
        OF_THOUGHT,
    ),
    Slip(
        "a fork of a thought stands where its row stands",
        THOUGHT,
        "fork._places = self._places[: length + 1]",
        "fork._places = list(self._places)",
        OF_THOUGHT,
    ),
)


def place_of(slip: Slip) -> int:
    """How often what it changes stands in its file: once, or the slip is out of date."""
    return (ROOT / slip.file).read_text().count(slip.right)


def noticed_by(slip: Slip, tree: Path) -> str | None:
    """The first test that fails with the slip made, or None."""
    file = tree / slip.file
    text = file.read_text()
    file.write_text(text.replace(slip.right, slip.wrong))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *slip.tests]
    try:
        ran = subprocess.run(
            command,
            cwd=tree,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        return "(did not end)"
    finally:
        file.write_text(text)
    if ran.returncode == 0:
        return None
    if ran.returncode not in (1, 2):
        raise RuntimeError(f"pytest did not run the tests of {slip.what!r}: {ran.stdout[-500:]}{ran.stderr[-500:]}")
    told = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return told[0][:110] if told else f"(pytest ended with {ran.returncode})"


def main(words: list[str]) -> int:
    slips = [slip for slip in SLIPS if not words or any(word in slip.what for word in words)]
    lived = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        for slip in tqdm(slips):
            told = noticed_by(slip, tree)
            lived += told is None
            tqdm.write(f"{'lived  ' if told is None else 'noticed'}  {slip.what:50}  {told or ''}", file=sys.stdout)
            sys.stdout.flush()
    print(f"{len(slips) - lived} of {len(slips)} noticed.")
    return int(lived > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
