"""Tools to prove a sampler or an engine right: a model small enough to enumerate, exact laws, executable contracts.

Shipped, so that the author of another engine or sampler can run them; imports no test framework.
"""

from power_sampling.testing.backend import TableBackend
from power_sampling.testing.contract import check_sampler
from power_sampling.testing.enumeration import Branches, completions, drive, outcomes, power_law, suffixes
from power_sampling.testing.laws import check_language_model, run_draws
from power_sampling.testing.rest import comes_to_rest
from power_sampling.testing.table import TableLM

__all__ = [
    "Branches",
    "TableBackend",
    "TableLM",
    "check_language_model",
    "check_sampler",
    "comes_to_rest",
    "completions",
    "drive",
    "outcomes",
    "power_law",
    "run_draws",
    "suffixes",
]
