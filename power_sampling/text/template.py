"""A chat template: rendered with marks for its own control tokens, outside of any lock, and with limits."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateRuntimeError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from power_sampling.text.control import END, ControlTokens, Marks

__all__ = ["MOST_LETTERS", "MOST_STEPS", "ChatTemplate"]

MOST_STEPS = 1_000_000
"""Turns of loops and calls of macros in one rendering. Templates look at every message a few times, no more."""
MOST_LETTERS = 2**25
"""The longest text that a template may build."""

_PLAIN = "plain text"  # a filter: no template can name it
THOUGHTS = ("thinking", "reasoning")  # as templates call what a message's `reasoning_content` is

_PROBE = "qzxq"

Messages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """`source` is Jinja, `variables` are the special tokens by their names, `own_texts` what is written into messages
    by this library, `roles` those that any conversation may have. Safe from any thread.
    """

    def __init__(
        self,
        source: str,
        control: ControlTokens,
        *,
        variables: Mapping[str, Any],
        own_texts: Sequence[str] = (),
        roles: Sequence[str] = (),
    ) -> None:
        environment = _Environment()
        self._plain = environment.from_string(environment.limited(source))
        self._variables = dict(variables)
        texts = [text for node in _texts(environment.parse(source)) if isinstance(text := _text_of(node), str)]
        self.words = frozenset(text for text in texts if text.isidentifier())
        """Every word that the template compares with or prints: the roles it knows are among them."""
        values = [value for value in variables.values() if isinstance(value, str)]
        self.marks = Marks(control, [*texts, *values, *own_texts], {*roles, *self.words})
        self._marked = environment.from_string(environment.limited(source, self.marks))
        self._marked_variables = {
            name: self.marks.marked(value) if isinstance(value, str) else value for name, value in variables.items()
        }
        self._environment = environment
        self._takes_parts = False
        self._takes_parts = not self._shows(_PROBE) and self._shows(_in_parts(_PROBE))

    def _shows(self, content: Any) -> bool:
        """Whether the template prints this content of a message."""
        return _PROBE in (self.tried([{"role": "user", "content": content}]) or "")

    def render(self, messages: Messages, **arguments: Any) -> str:
        """The prompt, with a mark for every control token of the template's own. Raises whatever the template does."""
        rendered = self._continued(self._marked, messages, {**self._marked_variables, **arguments})
        return self.marks.settled(rendered, {"assistant", *(str(message.get("role")) for message in messages)})

    def render_plain(self, messages: Messages, **arguments: Any) -> str:
        """The prompt, where all that spells a control token looks like one."""
        return self._continued(self._plain, messages, {**self._variables, **arguments})

    def tried(self, messages: Messages, **arguments: Any) -> str | None:
        """The same; None where the template refuses."""
        try:
            return self.render_plain(messages, **arguments)
        except Exception:  # noqa: BLE001 - refusing is what is tried out, and refusals have no common type
            return None

    def _continued(self, template: Any, messages: Messages, arguments: Mapping[str, Any]) -> str:
        """A last message of the assistant's is left open, for the model to go on with; one that calls tools is over."""
        chat = [_with_thoughts(message) for message in messages]
        is_continued = chat[-1].get("role") == "assistant" and not chat[-1].get("tool_calls")
        if is_continued:
            chat[-1]["content"] += f"{END} "
        if self._takes_parts:
            chat = [{**message, "content": _in_parts(message["content"])} for message in chat]
        values = {"tools": None, "documents": None, **arguments}
        rendered = self._environment.render(
            template, {**values, "messages": chat, "add_generation_prompt": not is_continued}
        )
        if not is_continued:
            return rendered
        text, end, rest = rendered.rpartition(END)
        if not end:
            raise TemplateRuntimeError("it leaves out the last message, which is to be continued")
        return text if rest.startswith(" ") else text.rstrip()  # a template that trims has trimmed what came before


def _in_parts(content: str) -> list[dict[str, str]]:
    """For templates of models that also read images: some know no other content."""
    return [{"type": "text", "text": content}] if content else []


def _with_thoughts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Some templates know the reasoning by another name."""
    thoughts = message.get("reasoning_content")
    return {**({} if thoughts is None else dict.fromkeys(THOUGHTS, thoughts)), **message}


def _texts(parsed: nodes.Template) -> list[nodes.TemplateData | nodes.Const]:
    """What a template says by itself."""
    return [*parsed.find_all(nodes.TemplateData), *parsed.find_all(nodes.Const)]


def _text_of(node: nodes.TemplateData | nodes.Const) -> Any:
    return node.data if isinstance(node, nodes.TemplateData) else node.value


def _mark(node: nodes.TemplateData | nodes.Const, marks: Marks) -> None:
    if isinstance(node, nodes.TemplateData):
        node.data = marks.marked(node.data)
    elif isinstance(node.value, str):
        node.value = marks.marked(node.value)


class _Environment(ImmutableSandboxedEnvironment):
    """transformers' own environment for templates, which also counts what a template does."""

    intercepted_binops = frozenset(["+", "*", "**"])

    def __init__(self) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        given = _compile_jinja_template("").environment
        extensions = [type(extension) for extension in given.extensions.values()]
        super().__init__(trim_blocks=given.trim_blocks, lstrip_blocks=given.lstrip_blocks, extensions=extensions)
        self.filters.update(given.filters)
        self.tests.update(given.tests)
        self.globals.update(given.globals)
        self.filters[_PLAIN] = str
        self._count = threading.local()

    def limited(self, source: str, marks: Marks | None = None) -> nodes.Template:
        """A template that counts its steps, and has marks in its text."""
        parsed = self.parse(source)
        loops = list(parsed.find_all(nodes.For))
        bodies: list[Any] = [*loops, *parsed.find_all(nodes.Macro), *parsed.find_all(nodes.CallBlock)]
        for node in bodies:
            node.body.insert(0, nodes.ExprStmt(_step(), lineno=node.lineno))
        for loop in loops:
            if loop.test is not None:
                loop.test = nodes.And(_step(), loop.test)
        _replace_joins(parsed)
        if marks is not None:
            for text in _texts(parsed):
                _mark(text, marks)
        parsed.set_environment(self)
        return parsed

    def render(self, template: Any, values: Mapping[str, Any]) -> str:
        self._count.steps = self._count.letters = 0
        pieces = []
        for piece in template.generate(values):
            self._count.letters += len(piece)
            self._check_length(self._count.letters)
            pieces.append(piece)
        return "".join(pieces)

    @property
    def step(self) -> bool:
        """Read by the template at every turn of a loop and every call of a macro; a call would be checked each time."""
        self._count.steps += 1
        if self._count.steps > MOST_STEPS:
            raise TemplateRuntimeError(f"it takes more than {MOST_STEPS} steps; its loops do not end in time")
        return True

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            self._check_length(_length(left) + _length(right))
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                self._check_length(_length(one) * (other if isinstance(other, int) else 0))
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            self._check_length(left.bit_length() * right)
        return super().call_binop(context, operator, left, right)

    @staticmethod
    def _check_length(length: int) -> None:
        if length > MOST_LETTERS:
            raise TemplateRuntimeError(f"it builds a text of more than {MOST_LETTERS} letters")


def _length(value: Any) -> int:
    """Of a text, in letters; an item of a list takes the room of some."""
    return len(value) if isinstance(value, str) else 16 * len(value) if isinstance(value, (list, tuple)) else 0


def _step() -> nodes.Expr:
    return nodes.EnvironmentAttribute("step")


def _replace_joins(parsed: nodes.Template) -> None:
    """`a ~ b` as a sum of texts, for sums are what the sandbox shows."""
    for parent in [parsed, *parsed.find_all(nodes.Node)]:
        for name, value in parent.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(parent, name, _sum(value))
            elif isinstance(value, list):
                value[:] = [_sum(item) if isinstance(item, nodes.Concat) else item for item in value]


def _sum(joined: nodes.Concat) -> nodes.Expr:
    # plain texts, as `~` joins them: with `+` one that is `safe` would escape the others
    texts: list[nodes.Expr] = [nodes.Filter(node, _PLAIN, [], [], None, None) for node in joined.nodes]
    whole = texts[0]
    for text in texts[1:]:
        whole = nodes.Add(whole, text)
    return whole
