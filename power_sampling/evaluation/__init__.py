"""Whether power sampling pays, on your model and your questions, beside the honest opponent at equal tokens.

    task = load_task("gsm8k", Path("test.jsonl"))
    methods, votes = parse_methods("greedy,low_temperature,metropolis_hastings,vote", sampler.generation)
    table = run(sampler, task, make_plan(task, methods, votes, questions=200), Path("results"))
    print(verdict(table))

The commands over it are `power-sampling evaluate` and `power-sampling tune`.
"""

from power_sampling.evaluation.graders import Grade
from power_sampling.evaluation.graders import by_name as load_grader
from power_sampling.evaluation.methods import Method, parse_methods
from power_sampling.evaluation.plan import Plan, make_plan
from power_sampling.evaluation.programs import answer_text, run_programs
from power_sampling.evaluation.rewriting import Rewritten, rewrite
from power_sampling.evaluation.runs import Bounds, run
from power_sampling.evaluation.table import Row, Table
from power_sampling.evaluation.tasks import Question, Task, load_task
from power_sampling.evaluation.tuning import suggest_alpha, tune, tune_alpha

__all__ = [
    "Bounds",
    "Grade",
    "Method",
    "Plan",
    "Question",
    "Rewritten",
    "Row",
    "Table",
    "Task",
    "answer_text",
    "load_grader",
    "load_task",
    "make_plan",
    "parse_methods",
    "rewrite",
    "run",
    "run_programs",
    "suggest_alpha",
    "tune",
    "tune_alpha",
]
