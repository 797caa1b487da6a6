"""The prefix cache: prompts kept across requests, so that a shared beginning is prefilled once.

A system prompt, a template, few-shot examples, the history of a chat: the longest common beginning with any cached
prompt is found by content and shared by reference. What was used longest ago goes first when memory runs out.

The prompts form a tree whose branches part where their tokens do. So what it costs to find, keep or forget one depends
on its own length, not on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from power_sampling.engines.stepped.backend import Part, State
from power_sampling.types import Tokens

__all__ = ["PrefixCache", "shared_length"]


PIECE = 256  # tokens that are compared at once


class Found(NamedTuple):
    """The state of a prompt's first tokens, and the logits at its end where that is the end of the prompt asked for."""

    state: Any
    logits: Any | None


class _Entry(NamedTuple):
    tokens: Tokens
    state: Any
    logits: Any


class _Node:
    """A place where prompts part, or where one ends; `edge` are the tokens that lead to it from the node above."""

    __slots__ = ("below", "edge", "entry")

    def __init__(self, edge: Tokens, below: dict[int, _Node] | None = None, entry: _Entry | None = None) -> None:
        self.edge, self.entry = edge, entry
        self.below: dict[int, _Node] = {} if below is None else below  # by the first token of their edges


class PrefixCache:
    """At most `capacity` bytes of prompts. Used by the engine's thread alone."""

    def __init__(self, capacity: int, empty: Any) -> None:
        self.capacity, self._empty = capacity, empty
        self.clear()

    def clear(self) -> None:
        self._entries: dict[Tokens, _Entry] = {}  # the one used last stands last
        self._root = _Node(())
        self._stored = _Stored()

    @property
    def nbytes(self) -> int:
        """Bytes held; what several prompts share counts once."""
        return self._stored.nbytes

    def find(self, tokens: Tokens) -> Found:
        """The most that is kept of this prompt; at least its last token is left to compute, or its logits are known
        too."""
        if known := self._entries.get(tokens):
            self._use(known)
            return Found(known.state, known.logits)
        path, length = self._descend(tokens)
        length = min(length, len(tokens) - 1)
        best, found = self._empty, None
        for entry in _alike(path) if length > 0 else ():
            if (state := entry.state.head(min(length, entry.state.length))).length > best.length:
                best, found = state, entry
            if best.length == length:  # where states can be cut anywhere, the first one's is
                break
        if found is not None:
            self._use(found)
        return Found(best, None)

    def shared(self, tokens: Tokens) -> int:
        """The length of the longest beginning of these tokens that any prompt here has."""
        return self._descend(tokens)[1]

    def put(self, tokens: Tokens, state: Any, logits: Any) -> None:
        """Keep a prompt whose state and last logits are known."""
        if not self.capacity or tokens in self._entries:
            return
        entry = self._entries[tokens] = _Entry(tokens, state, logits)
        self._stored.add(entry)
        self._insert(entry)
        self._make_room()

    def _make_room(self) -> None:
        while self._entries and self.nbytes > self.capacity:
            oldest = next(iter(self._entries.values()))
            del self._entries[oldest.tokens]
            self._stored.remove(oldest)
            self._remove(oldest.tokens)

    def _use(self, entry: _Entry) -> None:
        self._entries[entry.tokens] = self._entries.pop(entry.tokens)

    # ------------------------------------------------------------ the tree

    def _descend(self, tokens: Tokens) -> tuple[list[_Node], int]:
        """The nodes to the one that the longest known beginning of these tokens leads to or towards, and its length."""
        node, at = self._root, 0
        path = [node]
        while at < len(tokens) and (below := node.below.get(tokens[at])) is not None:
            shared = shared_length(below.edge, tokens[at : at + len(below.edge)])
            node, at = below, at + shared
            path.append(node)
            if shared < len(below.edge):
                break
        return path, at

    def _insert(self, entry: _Entry) -> None:
        tokens, node, at = entry.tokens, self._root, 0
        while at < len(tokens):
            below = node.below.get(tokens[at])
            if below is None:
                node.below[tokens[at]] = _Node(tokens[at:], entry=entry)
                return
            shared = shared_length(below.edge, tokens[at : at + len(below.edge)])
            if shared < len(below.edge):
                below = node.below[tokens[at]] = _parted(below, shared)
            node, at = below, at + shared
        node.entry = entry

    def _remove(self, tokens: Tokens) -> None:
        path, at = [self._root], 0
        while at < len(tokens):
            path.append(path[-1].below[tokens[at]])
            at += len(path[-1].edge)
        node = path.pop()
        if node.below:
            node.entry = None
        else:
            node, gone = path.pop(), node.edge[0]
            del node.below[gone]
        if path and node.entry is None and len(node.below) == 1:  # nothing parts here any more
            (only,) = node.below.values()
            path[-1].below[node.edge[0]] = _Node(node.edge + only.edge, only.below, only.entry)


def _alike(path: list[_Node]) -> Iterator[_Entry]:
    """One that goes on from the end of a path, which has as much in common with it as any that does, and those that
    end on the way."""
    node = path[-1]
    while node.entry is None and node.below:
        node = next(iter(node.below.values()))
    yield from (node.entry for node in (node, *reversed(path[:-1])) if node.entry is not None)


def _parted(node: _Node, at: int) -> _Node:
    """A node at so many tokens of this one's edge, and the rest below it. What is in the tree is left alone: it is
    whole at any moment, whoever is forked then."""
    rest = node.edge[at:]
    return _Node(node.edge[:at], {rest[0]: _Node(rest, node.below, node.entry)})


class _Stored:
    """Bytes of entries, kept up to date; a part counts once, however many states it is in."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._users: dict[int, int] = {}  # of parts, by identity: those of an entry live as long as it does

    def add(self, entry: _Entry) -> None:
        for part in _parts(entry):
            users = self._users[id(part)] = self._users.get(id(part), 0) + 1
            self.nbytes += part.nbytes if users == 1 else 0

    def remove(self, entry: _Entry) -> None:
        for part in _parts(entry):
            self._users[id(part)] -= 1
            if not self._users[id(part)]:
                del self._users[id(part)]
                self.nbytes -= part.nbytes


def _parts(entry: _Entry) -> list[Part]:
    state: State = entry.state
    return [*{id(part): part for part in (*state.parts, entry.logits)}.values()]


def shared_length(a: Tokens, b: Tokens) -> int:
    """Tokens that both begin with."""
    for start in range(0, min(len(a), len(b)), PIECE):
        x, y = a[start : start + PIECE], b[start : start + PIECE]
        if x != y:
            return start + next((i for i, (v, w) in enumerate(zip(x, y, strict=False)) if v != w), min(len(x), len(y)))
    return min(len(a), len(b))
