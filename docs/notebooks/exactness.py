# %% [markdown]
# # Exactness by enumeration
#
# A table model with three tokens is a language model small enough to list every completion. So the law that a sampler
# ought to have is known to the last digit, and the law that it has can be computed by walking every path of its
# chance. No number below is an estimate.

# %%
import numpy as np

from power_sampling import MetropolisHastings
from power_sampling.samplers.metropolis_hastings import Move
from power_sampling.testing import TableLM, completions, drive, outcomes, power_law, suffixes
from power_sampling.types import Law, Progress, Termination

alpha, horizon, prompt, eos = 4.0, 3, (2, 1), Termination(frozenset({0}))
lm, law = TableLM(vocab_size=3, seed=1), Law(alpha, 1.0, 1 / alpha)
every = completions(lm, prompt, eos, horizon, law)
target = power_law(every, alpha)
for x, pi in zip(every[:5], target[:5], strict=True):
    print(x.tokens, f"p = {np.exp(x.logp.sum()):.4f}   p^4 / Z = {pi:.4f}")
print(len(every), "completions of", sorted({len(x.tokens) for x in every}), "tokens")

# %% [markdown]
# One move of the package's own Metropolis-Hastings, as a matrix: from every completion to every completion.
# `outcomes` runs the sampler's generator again and again, each time down another path of its chance, and tells the
# path's probability.

# %%
index = {x.tokens: i for i, x in enumerate(every)}


def kernel():
    move = Move(MetropolisHastings(early_rejection=False), law, horizon)
    matrix = np.zeros((len(every), len(every)))
    for i, x in enumerate(every):

        def program(rng, x=x):
            def answer(asked):
                options = suffixes(lm, prompt, eos, asked.draws[0], law.proposal_temperature)
                return [options[rng.categorical(np.exp([log_q for _, log_q in options]))][0]]

            return drive(move.run(x, rng, Progress(0, 1, {})), answer)

        for probability, y in outcomes(program):
            matrix[i, index[y.tokens]] += probability
    return matrix


right = kernel()
print("rows sum to one:", bool(np.allclose(right.sum(axis=1), 1)))
print("the target stays as it is:", bool(np.abs(target @ right - target).max() < 1e-12))

# %% [markdown]
# So a chain that has the target's law keeps it. And one that begins elsewhere goes there:


# %%
def distance(law):
    return 0.5 * np.abs(law - target).sum()


begin = np.full(len(every), 1 / len(every))
for moves in (0, 1, 10, 100, 1000):
    print(f"{moves:>4} moves: {distance(begin @ np.linalg.matrix_power(right, moves)):.4f}")

# %% [markdown]
# Now the slip that published scripts make: the ratio without the two lengths. A cut is drawn among the positions of a
# completion, and completions have different lengths. Without that term the chain goes somewhere else, and stays
# there.

# %%
import power_sampling.samplers.metropolis_hastings as module

log_span, module.log_span = module.log_span, lambda chain, options: 0.0
wrong = kernel()
module.log_span = log_span
print(f"after 1000 moves: {distance(begin @ np.linalg.matrix_power(wrong, 1000)):.4f}")
