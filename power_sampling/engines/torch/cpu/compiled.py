"""A model on a processor with everything between two matrix products compiled, layer by layer.

A step of one token for a few rows is bound by hundreds of small operations and by telling torch about them. torch's
compiler turns a decoder layer into a few loops. A block of layers is traced once for each kind, and all blocks of a
kind run the same program on their own weights: it takes a fraction of the time that the whole model would take. The
program is called without the compiler's guards, which would cost as much as it gains: what they would watch is what
makes blocks of one kind, and a trial has to agree with the model as it was. Attention and packed weights stay outside
of the program, as operators of their own: they know the batch, which changes with every step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.compile_fx import compile_fx
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils import logging

from power_sampling.engines.torch.cpu.attention import attend
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.kv import BatchCache
from power_sampling.errors import UnsupportedModelError
from power_sampling.types import Chain, Draw, Floats, Law, Termination, Tokens

__all__ = ["compile_layers"]

TRIED = (1, 3)  # numbers of rows; a batch of one is a program of its own, any other number another one
TRIED_TOKENS = 4
TOLERANCE = 1e-2  # of log p, for sums in another order
COARSE = 0.5  # where numbers have fewer bits than float32's
BLOCK = 3  # layers at most; measured: more of them are no faster, and take longer to compile
IMPLEMENTATION = "power_sampling"  # of attention, while a layer is traced


class _Place(threading.local):
    """Where attention is computed just now: a step runs on one thread."""

    cache: BatchCache | None = None  # held during a pass only: it has the states of all rows
    mask: torch.Tensor | None = None
    layer = 0


_PLACE = _Place()
torch.library.define("power_sampling::attend", "(Tensor query, Tensor key, Tensor value, float scale) -> Tensor")


@torch.library.impl("power_sampling::attend", "CPU")
def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention of new positions to all before them: (rows, heads, new, dim) -> (rows, new, heads, dim)."""
    cache, mask = _PLACE.cache, _PLACE.mask
    assert cache is not None, "programs run within a pass"
    keys, values = cache.update(key, value, _PLACE.layer)
    _PLACE.layer += 1  # for the next one of the block
    if query.shape[2] == 1:
        return attend(query, keys, values, mask, scale)
    is_causal, is_grouped = mask is None, keys.shape[1] != query.shape[1]
    found = scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=is_grouped
    )
    return found.transpose(1, 2).contiguous()


@torch.library.register_fake("power_sampling::attend")  # type: ignore[untyped-decorator] # torch has no types here
def _like(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,  # attention knows it
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in layers that are being traced."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return torch.ops.power_sampling.attend(query, key, value, scale), None


AttentionInterface.register(IMPLEMENTATION, _attention)


class _NewStates:
    """The cache of layers that are being traced: attention gets the new states and knows where the others are. It has
    nothing else that they may ask for: numbers of one step would become constants of the program."""

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return keys, values


class _Program(NamedTuple):
    """A block compiled. Its inputs are named tensors of the block, or places among what a pass gives it."""

    run: Callable[..., Any]
    inputs: tuple[str | int, ...]


class _Layers:
    """The decoder layers of a model, in blocks, and the programs of these."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[nn.Module]) -> None:
        self._config = model.config.get_text_config(decoder=True)
        self.layers = layers
        self.blocks = dict(_blocks_of(layers))  # by the place of their first layer
        self._tensors = {i: dict([*x.named_parameters(), *x.named_buffers()]) for i, x in self.blocks.items()}
        self._kinds = {i: _kind_of(block) for i, block in self.blocks.items()}
        self._programs: dict[Hashable, _Program] = {}
        self._calls: dict[tuple[int, bool, bool], tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        # transformers' own kind of bar: whoever silences it for loading silences this one
        self.bar = logging.tqdm(total=4 * len(set(self._kinds.values())), desc="Compiling layers")

    @property
    def is_complete(self) -> bool:
        """Whether every block has run as a program."""
        return {index for index, *_ in self._calls} == set(self.blocks)

    def pass_through(self, index: int, hidden: torch.Tensor, arguments: Mapping[str, Any]) -> torch.Tensor:
        """New positions of every row through the block that begins at this layer, (rows, new, width)."""
        given = _given(hidden, arguments)
        _PLACE.cache, _PLACE.mask = arguments["past_key_values"], arguments.get("attention_mask")
        try:
            key = index, given[0] == 1, given[1] == 1  # the compiler makes another program of what there is one of
            if key not in self._calls:
                self._calls[key] = self._call_of(index, key[1:], hidden, arguments)
            run, fed = self._calls[key]
            _PLACE.layer = index
            output: torch.Tensor
            (output,) = run(*[given[x] if isinstance(x, int) else x for x in fed])
            return output
        finally:
            _PLACE.cache = _PLACE.mask = None

    def _call_of(
        self, index: int, shape: tuple[bool, bool], hidden: torch.Tensor, arguments: Mapping[str, Any]
    ) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The program of a block's kind, traced if it is the first, and what it is fed for this one."""
        kind = self._kinds[index], *shape
        if kind not in self._programs:
            self._programs[kind] = self._traced(index, hidden, arguments)
            self.bar.update()
        run, inputs = self._programs[kind]
        return run, tuple(self._tensors[index][x] if isinstance(x, str) else x for x in inputs)

    def _traced(self, index: int, hidden: torch.Tensor, arguments: Mapping[str, Any]) -> _Program:
        """A block's program. What the compiler feeds it when it runs it first shows what its inputs are. That run
        appends the same states at the same place as the next one does."""
        runs: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

        def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            compiled: Callable[..., Any] = compile_fx(  # type: ignore[assignment] # nothing else without options
                graph, inputs, config_patches={"size_asserts": False}
            )

            def run(*fed: Any) -> Any:
                runs.append((compiled, fed))
                return compiled(*fed)

            return run

        block = self.blocks[index]

        def forward(hidden: torch.Tensor, arguments: Mapping[str, Any]) -> Any:
            for layer in block:
                hidden = type(layer).forward(layer, hidden, **arguments)
            return hidden

        # a code object of its own: the compiler keeps its work by code, and that for other blocks is of no use here
        forward.__code__ = forward.__code__.replace()
        rows, new, *tensors = _given(hidden, arguments)
        for tensor in tensors:
            for dim in (0, 1) if tensor.shape[:2] == (rows, new) else ():
                if tensor.shape[dim] > 1:
                    torch._dynamo.mark_dynamic(tensor, dim)
        _PLACE.layer = index
        with self._attention_outside():
            traced = {**arguments, "past_key_values": _NewStates(), "attention_mask": None}
            # dynamic only where it is marked: what other models had here before must not make sizes of weights so
            output = torch.compile(forward, fullgraph=True, dynamic=False, backend=backend)(hidden, traced)
        ((compiled, fed),) = runs
        if not isinstance(output, torch.Tensor):
            raise UnsupportedModelError(f"a {type(block[0]).__name__} answers with a {type(output).__name__}")
        names: dict[int, str | int] = {id(tensor): name for name, tensor in self._tensors[index].items()}
        names |= {id(tensor): place for place, tensor in enumerate(tensors, 2)}
        sizes = {new: 1, rows: 0}  # a trial has more positions than rows
        inputs = [names.get(id(x)) if isinstance(x, torch.Tensor) else sizes.get(x) for x in fed]
        if None in inputs:
            raise UnsupportedModelError(f"a {type(block[0]).__name__} reads what is neither its own nor the pass's")
        return _Program(compiled, tuple(x for x in inputs if x is not None))

    @contextmanager
    def _attention_outside(self) -> Iterator[None]:
        own = self._config._attn_implementation
        self._config._attn_implementation = IMPLEMENTATION
        try:
            yield
        finally:
            self._config._attn_implementation = own


class _Forward:
    """The forward of one layer: in passes of the engine the program of the block that it begins, or nothing if it
    begins none; its own in others."""

    def __init__(self, layers: _Layers, index: int) -> None:
        self._layers, self._index = layers, index

    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        is_ours = isinstance(kwargs.get("past_key_values"), BatchCache) and not args
        if is_ours and not torch.is_grad_enabled():
            begins = self._index in self._layers.blocks
            return self._layers.pass_through(self._index, hidden_states, kwargs) if begins else hidden_states
        layer = self._layers.layers[self._index]
        return type(layer).forward(layer, hidden_states, *args, **kwargs)


def _given(hidden: torch.Tensor, arguments: Mapping[str, Any]) -> list[Any]:
    """What a pass gives to a layer: rows, new positions, and tensors but the mask, which attention knows."""
    given = [hidden.shape[0], hidden.shape[1], hidden]
    for name, value in arguments.items():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, torch.Tensor) and name != "attention_mask":
                given.append(item)
    return given


def _blocks_of(layers: Sequence[nn.Module]) -> Iterator[tuple[int, nn.ModuleList]]:
    """Neighbours of one kind, as many at a time as divide their number."""
    for _, group in groupby(range(len(layers)), lambda i: _kind_of(layers[i])):
        run = list(group)
        size = max(n for n in range(1, BLOCK + 1) if len(run) % n == 0)
        for i in run[::size]:
            yield i, nn.ModuleList(layers[i : i + size])


def _kind_of(block: nn.Module) -> Hashable:
    """What is the same in all that run one program: the shapes of tensors, and all plain settings but the number of a
    layer."""
    tensors = [(name, x.shape, x.dtype) for name, x in (*block.named_parameters(), *block.named_buffers())]
    settings = [
        (name, type(module), setting, value)
        for name, module in block.named_modules()
        for setting, value in vars(module).items()
        if isinstance(value, (bool, int, float, str, type(None))) and setting != "layer_idx"
    ]
    return tuple(tensors), tuple(settings)


def compile_layers(model: PreTrainedModel) -> None:
    """Compile the model's layers, in place. It takes seconds for each kind of layer, and a C++ compiler. Weights may be
    changed in place later on; tensors or modules that are exchanged are not noticed. Nothing else may run the model in
    the meantime: its layers change one after another.

    Raises UnsupportedModelError, and leaves the model as it was, where a layer cannot be traced on its own or where a
    trial disagrees with the plain model."""
    layers = _decoder_layers(model)
    if isinstance(vars(layers[0]).get("forward"), _Forward):
        return
    compiled = _Layers(model, layers)
    _install(compiled)
    try:
        with compiled.bar:
            drawn = [draw for rows in TRIED for draw in _drawn(model, rows)]
    except (TorchDynamoException, UnsupportedModelError) as error:
        raise _refusal(model, str(error).strip().partition("\n")[0]) from error
    finally:
        for layer in layers:
            del layer.forward
    if not compiled.is_complete:
        raise _refusal(model, "it calls its layers in a way of its own")
    gap = max(np.abs(TorchLM(model).score(prompt, tokens, 1.0) - logp).max() for prompt, tokens, logp in drawn)
    if not gap < (TOLERANCE if model.dtype in (torch.float32, torch.float64) else COARSE):
        raise _refusal(model, f"log p of a trial differs by {gap:.2g}")
    _install(compiled)


def _install(compiled: _Layers) -> None:
    for index, layer in enumerate(compiled.layers):
        # of this object alone, which types have no word for
        setattr(layer, "forward", _Forward(compiled, index))  # noqa: B010


def _decoder_layers(model: PreTrainedModel) -> Sequence[nn.Module]:
    config = model.config.get_text_config(decoder=True)
    if {x.device.type for x in model.parameters()} != {"cpu"} or hasattr(model, "_hf_hook"):
        raise _refusal(model, "it is not all on a CPU (a GPU has cuda_graphs)")
    if config._attn_implementation != "sdpa":
        raise _refusal(model, f"its attention is {config._attn_implementation}, not sdpa")
    lists = [x for x in model.modules() if isinstance(x, nn.ModuleList) and len(x) == config.num_hidden_layers]
    if not lists:
        raise _refusal(model, "it has no list of layers")
    return lists[0]  # type: ignore[return-value] # a ModuleList is a sequence in all but name


def _drawn(model: PreTrainedModel, rows: int) -> Iterator[tuple[Tokens, Tokens, Floats]]:
    """Prompts of several lengths, longer than there are rows, and what was drawn for them together, with its log p."""
    lm, random = TorchLM(model, max_rows=rows), np.random.default_rng(0)
    prompts = {}
    for row in range(rows):
        prompt = tuple(random.integers(lm.vocab_size, size=TRIED[-1] + 1 + row).tolist())
        handle = lm.open(prompt, Termination(frozenset()))
        prompts[lm.add(handle, Draw(Chain.empty(), 0, TRIED_TOKENS, Law(1.0, 1.0, 1.0), row))] = prompt
    while prompts:
        for ticket, draw in lm.step().finished:
            yield prompts.pop(ticket), draw.tokens, draw.logp


def _refusal(model: PreTrainedModel, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"compile_layers: {type(model).__name__} cannot be compiled: {reason}. Leave it out.")
