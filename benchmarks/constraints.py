"""Token masks for constrained decoding: llguidance against xgrammar, side by side in one run.

    python benchmarks/constraints.py                 llguidance is installed with the project
    pip install xgrammar                             the other side, which nothing else here needs

Each library runs in a process of its own, on the tokenizer of the embedded model. For every constraint: the time from
its source to a state that gives masks; the time of each mask along a legal text, on the first walk (nothing cached yet)
and on later ones that start from forks; the time of a fork in the middle of the text. Milliseconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import distribution
from typing import Any, NamedTuple

import numpy as np
from transformers import AutoTokenizer

from power_sampling.engines.torch.load import _source

PERSON = {"name": "Ada Quill", "age": 41, "email": "ada@example.org"}
GOODS = [{"name": "lamp oil", "unit": "litre", "amount": 2.5}, {"name": "rope", "unit": "metre", "amount": 40}]
HOUSES = [{"street": "12 Pier Road", "country": "NO"}, {"street": "3 Ferry Lane", "country": "SE"}]
ORDER = {"customer": PERSON, "status": "shipped", "items": GOODS, "addresses": HOUSES, "note": None}
CALL = {"name": "search", "arguments": {"query": "opening hours of the lighthouse", "limit": 5, "exact": False}}


def schema_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


TEXT, INTEGER = {"type": "string"}, {"type": "integer"}
PERSON_SCHEMA = schema_of(name=TEXT, age=INTEGER, email=TEXT)
GOODS_SCHEMA = schema_of(name=TEXT, unit={"enum": ["piece", "litre", "metre"]}, amount={"type": "number"})
ORDER_SCHEMA = schema_of(
    customer={"$ref": "#/$defs/person"},
    status={"enum": ["new", "shipped", "returned"]},
    items={"type": "array", "items": GOODS_SCHEMA, "minItems": 1},
    addresses={"type": "array", "items": {"$ref": "#/$defs/address"}},
    note={"anyOf": [TEXT, {"type": "null"}]},
) | {"$defs": {"person": PERSON_SCHEMA, "address": schema_of(street=TEXT, country={"enum": ["NO", "SE", "DK"]})}}
CALL_SCHEMA = schema_of(
    name={"const": "search"}, arguments=schema_of(query=TEXT, limit=INTEGER, exact={"type": "boolean"})
)
PLACES = [f"{kind} of {place}" for kind in ("the harbour", "the lighthouse") for place in ("Bergen", "Oslo", "Tromso")]

# name: (kind, source, a legal text)
CONSTRAINTS: dict[str, tuple[str, Any, str]] = {
    "flat object": ("json_schema", PERSON_SCHEMA, json.dumps(PERSON)),
    "nested object": ("json_schema", ORDER_SCHEMA, json.dumps(ORDER)),
    "tool call": ("json_schema", CALL_SCHEMA, json.dumps(CALL)),
    "regex": ("regex", r"[A-Z][a-z]+ [0-9]{1,2}, [0-9]{4} \([a-z ]{3,40}\)", "November 21, 2026 (a calm day at sea)"),
    "six choices": ("choices", PLACES, PLACES[-1]),
}


class Side(NamedTuple):
    state: Callable[[str, Any], Any]  # of (kind, source)
    mask: Callable[[Any], np.ndarray]  # bits of the legal tokens, in words of 32
    accept: Callable[[Any, int], bool]
    fork: Callable[[Any], Any]


def llguidance_side(tokenizer: Any) -> Side:
    from llguidance import LLMatcher, hf
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    own, words = hf.from_tokenizer(tokenizer), allocate_token_bitmask(1, len(tokenizer))
    grammars: dict[str, Callable[[Any], str]] = {
        "json_schema": LLMatcher.grammar_from_json_schema,
        "regex": LLMatcher.grammar_from_regex,
        "choices": lambda s: LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, s))),
    }
    return Side(
        lambda kind, source: LLMatcher(own, grammars[kind](source)),
        lambda state: (fill_next_token_bitmask(state, words), words[0])[1],
        LLMatcher.consume_token,
        LLMatcher.deep_copy,
    )


def xgrammar_side(tokenizer: Any) -> Side:
    from xgrammar import GrammarCompiler, GrammarMatcher, TokenizerInfo, allocate_token_bitmask

    compiler = GrammarCompiler(TokenizerInfo.from_huggingface(tokenizer), cache_enabled=False)
    words = allocate_token_bitmask(1, len(tokenizer))
    compile_as: dict[str, Callable[[Any], Any]] = {
        "json_schema": lambda s: compiler.compile_json_schema(json.dumps(s)),
        "regex": compiler.compile_regex,
        "choices": lambda s: compiler.compile_grammar("root ::= " + " | ".join(map(json.dumps, s))),
    }
    return Side(
        lambda kind, source: GrammarMatcher(compile_as[kind](source)),
        lambda state: (words if state.fill_next_token_bitmask(words) else words.fill_(-1)).numpy()[0],
        GrammarMatcher.accept_token,
        GrammarMatcher.fork,
    )


SIDES = {"llguidance": llguidance_side, "xgrammar": xgrammar_side}


def timed(work: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work(*args)
    return 1000 * (time.perf_counter() - start), result


def walk(side: Side, state: Any, tokens: list[int]) -> list[float]:
    """Milliseconds of each mask along the tokens."""
    times = []
    for token in tokens:
        milliseconds, words = timed(side.mask, state)
        times.append(milliseconds)
        assert words[token // 32] >> (token % 32) & 1 and side.accept(state, token), f"illegal token {token}"
    return times


def measure(library: str, repetitions: int) -> None:
    """Print the rows of one library."""
    tokenizer = AutoTokenizer.from_pretrained(_source("embedded"))
    before, kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    setup, side = timed(SIDES[library], tokenizer)
    for name, (kind, source, text) in CONSTRAINTS.items():
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        half = len(tokens) // 2
        compiled, first, later, forks = [], [], [], []
        for _ in range(repetitions):
            milliseconds, start = timed(side.state, kind, source)
            compiled.append(milliseconds)
            fresh = side.fork(start)
            first += walk(side, start, tokens)
            for _ in range(5):
                middle = side.fork(fresh)
                later += walk(side, middle, tokens[:half])
                milliseconds, fork = timed(side.fork, middle)
                forks.append(milliseconds)
                later += walk(side, fork, tokens[half:])
        kept += [side.fork(middle) for _ in range(40)]
        masks = [" / ".join(f"{np.percentile(times, q):.3f}" for q in (50, 95, 99)) for times in (first, later)]
        numbers = [f"{statistics.median(compiled):.2f}", *masks, f"{statistics.median(forks):.3f}"]
        print("|", " | ".join([f"{name}, {len(tokens)} tokens", library, *numbers]), "|")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"| import and set up once | {library} | {setup:.0f} | memory with {len(kept)} forks: {grown:.0f} MB |||")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        measure(args.side, args.repetitions)
        return
    sides = []
    for library in SIDES:
        if importlib.util.find_spec(library) is None:
            print(f"{library} is not installed: pip install {library}")
            continue
        package = distribution(library)
        needs = [need.split(";")[0].strip() for need in package.requires or [] if "extra ==" not in need]
        print(f"{library} {package.version} requires {', '.join(needs) or 'nothing'}")
        command = [sys.executable, __file__, "--side", library, "--repetitions", str(args.repetitions)]
        sides.append(subprocess.check_output(command, text=True).splitlines())
    print("\n| constraint | library | compile | first walk, 50 / 95 / 99 % | later walks, 50 / 95 / 99 % | fork |")
    print("|---|---|---|---|---|---|")
    print("\n".join(row for rows in zip(*sides, strict=True) for row in rows))


if __name__ == "__main__":
    main()
