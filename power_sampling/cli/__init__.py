"""`power-sampling ...`: complete a prompt, compare the samplers on one, watch one at work, list them.

Answers go to stdout, everything about them to stderr. Options that are not given come from `POWER_SAMPLING_*`, then
from `--config`, then from the defaults.
"""

from power_sampling.cli.commands import app, main

__all__ = ["app", "main"]
