"""Which roles a chat template accepts, found out by trying, and messages put into a shape that it accepts.

Templates refuse, or silently drop, a system role, roles that do not alternate, a system message in the middle. What a
template accepts is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from power_sampling.text.reply import THINK, THINK_END

__all__ = ["ROLES", "Roles", "accepted", "known_role", "roles_of"]

ROLES = ("system", "user", "assistant", "tool")
OTHER_NAMES = {"developer": "system", "function": "tool"}  # as OpenAI has called them

Messages = list[dict[str, Any]]


class Roles(NamedTuple):
    """What a chat template accepts."""

    system: bool = True
    late_system: bool = True  # after other messages
    repeated: bool = True
    thoughts: bool = False  # reasoning that stands in a field of its own is treated as that before `</think>`


def roles_of(render: Callable[[Messages], str | None]) -> Roles:
    """`render` gives what the template makes of messages, None where it refuses. A template that refuses a lone user
    message too is left to say why at the request."""

    def rendered(*roles: str) -> str | None:
        return render([{"role": role, "content": "x"} for role in roles])

    if rendered("user") is None:
        return Roles()
    has_system = rendered("system", "user") not in (None, rendered("user"))
    repeated = [("user", "user"), ("user", "assistant", "assistant", "user")]
    repeated += [("system", "system", "user")] * has_system
    late = rendered("user", "assistant", "system", "user")
    return Roles(
        system=has_system,
        late_system=has_system and late not in (None, rendered("user", "assistant", "user")),
        repeated=all(rendered(*roles) is not None for roles in repeated),
        thoughts=_takes_thoughts(render),
    )


def _takes_thoughts(render: Callable[[Messages], str | None]) -> bool:
    inside: Messages = [{"role": "assistant", "content": f"{THINK}\nq\n{THINK_END}\n\nz"}]
    user = {"role": "user", "content": "x"}
    before = render([user, *inside, user])
    return before is not None and before == render([user, *(_with_thoughts_apart(m) for m in inside), user])


def _with_thoughts_apart(message: dict[str, Any]) -> dict[str, Any]:
    """Tags in a message are text to a template, so it is told what stands between them in a field of its own."""
    content: str = message["content"]
    if message["role"] != "assistant" or THINK_END not in content or "reasoning_content" in message:
        return message
    before, _, after = content.rpartition(THINK_END)
    thoughts = before.split(THINK_END)[0].rstrip("\n").rpartition(THINK)[2].lstrip("\n")
    return {**message, "content": after.lstrip("\n"), "reasoning_content": thoughts}


def known_role(role: str, words: Collection[str], render: Callable[[Messages], str | None]) -> str | None:
    """The role as a template that has these words knows it; None: it does not, and would leave the message out."""
    if role in ROLES or role in words:
        return role
    if role in OTHER_NAMES:
        return OTHER_NAMES[role]
    user = {"role": "user", "content": "x"}
    return role if render([user, {"role": role, "content": "y"}]) not in (None, render([user])) else None


def accepted(messages: Messages, roles: Roles) -> Messages:
    """The messages as a template of these roles takes them, nothing left out."""
    if roles.thoughts:
        messages = [_with_thoughts_apart(message) for message in messages]
    if not roles.system:
        messages = _without_system(messages)
    elif not roles.late_system:
        first = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
        messages = messages[:first] + [_as_user(message) for message in messages[first:]]
    return messages if roles.repeated else _merged(messages)


def _as_user(message: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": message["content"]} if message["role"] == "system" else message


def _without_system(messages: Messages) -> Messages:
    """What the system says at the beginning goes before the user's first words; later on it is the user's own turn."""
    first = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    said = [message["content"] for message in messages[:first]]
    rest = [_as_user(message) for message in messages[first:]]
    if said and rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": "\n\n".join([*said, rest[0]["content"]])}, *rest[1:]]
    return [*([{"role": "user", "content": "\n\n".join(said)}] if said else []), *rest]


def _merged(messages: Messages) -> Messages:
    """Messages of one role in a row as one. Results of tools stay apart: each answers a call of its own."""
    result: Messages = []
    for message in messages:
        if result and message["role"] == result[-1]["role"] != "tool":
            before = result[-1]
            calls = [*before.get("tool_calls", ()), *message.get("tool_calls", ())]
            texts = {key: [m[key] for m in (before, message) if m.get(key)] for key in ("content", "reasoning_content")}
            joined = {key: "\n\n".join(parts) for key, parts in texts.items() if parts or key == "content"}
            result[-1] = {**before, **message, **joined, **({"tool_calls": calls} if calls else {})}
        else:
            result.append(message)
    return result
