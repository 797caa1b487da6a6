"""Which roles a chat template accepts, found out by trying, and messages put into a shape that it accepts.

Templates refuse, or silently drop, a system role, roles that do not alternate, a system message in the middle. What a
template accepts is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Roles", "accepted", "roles_of"]

Messages = list[dict[str, Any]]


class Roles(NamedTuple):
    """What a chat template accepts."""

    system: bool = True
    late_system: bool = True  # after other messages
    repeated: bool = True


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
    )


def accepted(messages: Messages, roles: Roles) -> Messages:
    """The messages as a template of these roles takes them, nothing left out."""
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
            content = "\n\n".join(filter(None, [before.get("content"), message.get("content")]))
            result[-1] = {**before, **message, "content": content, **({"tool_calls": calls} if calls else {})}
        else:
            result.append(message)
    return result
