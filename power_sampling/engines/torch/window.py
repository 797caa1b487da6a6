"""How many tokens a model takes, by what its configuration says. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["context_window", "right_up_to"]


def context_window(declared: Any, fields: Mapping[str, Any]) -> int | None:
    """The longest text whose numbers are right: the model's own window, as `declared`, or the shorter one that
    `right_up_to` says. None: no end."""
    ends = (declared, right_up_to(fields))
    return min((end for end in ends if isinstance(end, int) and not isinstance(end, bool)), default=None)


def right_up_to(fields: Mapping[str, Any]) -> int | None:
    """The length from which on a model computes the tokens before otherwise, or otherwise in a batch; None: it never
    does. What has been kept of a text is stale there, and so is what transformers' own cache keeps. `fields` is a
    configuration as `config.json` has it."""
    text = _text_part(fields)
    ends = [_longrope_end(text, rope) for rope in _ropes(text)]
    if text.get("attn_temperature_tuning") and text.get("floor_scale"):  # Llama 4 counts it from the batch's first slot
        ends.append(int(text["floor_scale"]) - 1)
    ends.append(text.get("keep_window_size"))  # Doge then chooses among all keys, later ones included
    return min((end for end in ends if isinstance(end, int)), default=None)


def _text_part(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    text = fields.get("text_config")
    return text if isinstance(text, Mapping) else fields


def _ropes(text: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rotary parameters: one mapping, or one for every type of layer."""
    found = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(found, Mapping):
        return []
    return [found, *(x for x in found.values() if isinstance(x, Mapping))]


def _longrope_end(text: Mapping[str, Any], rope: Mapping[str, Any]) -> int | None:
    """All positions take other frequencies as soon as one is beyond the original window."""
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in ("longrope", "su") or rope.get("short_factor") == rope.get("long_factor"):
        return None
    end = rope.get("original_max_position_embeddings", text.get("original_max_position_embeddings"))
    return end if isinstance(end, int) else None
