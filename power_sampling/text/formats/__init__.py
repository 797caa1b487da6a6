"""How models are shown tools, and how they write calls and thoughts: one file per family, chosen by the text of the
chat template.

    harmony        <|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}        gpt-oss
    gemma4         <|tool_call>call:f{city:<|"|>Köln<|"|>}<tool_call|>                            Gemma 4
    functiongemma  <start_function_call>call:f{city:<escape>Köln<escape>}<end_function_call>      FunctionGemma
    qwen3_coder    <tool_call>\\n<function=f>\\n<parameter=city>\\nKöln\\n...               Qwen3-Coder, 3.5, Nemotron 3
    glm4           <tool_call>f\\n<arg_key>city</arg_key>\\n<arg_value>Köln</arg_value>...         GLM 4.5, 4.6
    glm47          the same, without line breaks                                                 GLM 4.7 and later
    seed           <seed:tool_call>\\n<function=f>\\n<parameter=city>Köln</parameter>...           Seed-OSS
    minimax        <minimax:tool_call>\\n<invoke name="f">\\n<parameter name="city">Köln</parameter>...  MiniMax M2
    kimi           <|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{...}...
                                                                                                 Kimi K2
    deepseek_v31   <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{...}...             DeepSeek V3.1
    deepseek       the same, with `function`, and the arguments in a fence                       DeepSeek V3, R1
    deepseek_v32   <｜DSML｜function_calls>\\n<｜DSML｜invoke name="f">\\n<｜DSML｜parameter name="city"
                   string="true">Köln</｜DSML｜parameter>...                                      DeepSeek V3.2
    deepseek_v4    the same, with `tool_calls`                                                   DeepSeek V4
    lfm2           <|tool_call_start|>[f(city="Köln")]<|tool_call_end|>                           LFM2
    llama4         [f(city="Köln")], perhaps after <|python_start|>                              Llama 4, 3.2 pythonic
    olmo3          <function_calls>\\nf(city="Köln")\\n</function_calls>                           OLMo 3
    nemotron       <TOOLCALL>[{"name": ..., "arguments": {...}}]</TOOLCALL>                       Nemotron Nano 2
    apriel         <tool_calls>[{"name": ..., "arguments": {...}}]</tool_calls>                   Apriel, Hunyuan A13B
    apertus        <|tools_prefix|>[{"f": {...}}]<|tools_suffix|>                               Apertus
    phi4           <|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>                 Phi-4-mini
    granite        <|tool_call|>[{"name": ..., "arguments": {...}}]                              Granite 3
    mistral_args   [TOOL_CALLS]f[ARGS]{...}                                                      Mistral, the newer form
    mistral        [TOOL_CALLS] [{"name": ..., "arguments": {...}}]                              Mistral
    hermes         <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>, ...           Hermes, Qwen, Granite 4
    llama3         {"name": ..., "parameters": {...}}, perhaps after <|python_tag|>              Llama 3.1 to 3.3

A template that is of no known family gets that of the model's type, or the tags of Hermes; where it knows no tools at
all, they are explained in a system message. To add a family: a file with a subclass of `SyntaxFormat`, and its place
in `FAMILIES`.
"""

# ruff: noqa: RUF002 - DeepSeek writes bars of full width

from __future__ import annotations

import re
from collections.abc import Mapping

from power_sampling.errors import ConfigurationError, shortened
from power_sampling.text.formats.apertus import Apertus
from power_sampling.text.formats.apriel import Apriel
from power_sampling.text.formats.base import ToolFormat, Turn
from power_sampling.text.formats.deepseek import DeepSeek, DeepSeek31
from power_sampling.text.formats.dsml import DeepSeek4, DeepSeek32
from power_sampling.text.formats.gemma import FunctionGemma, Gemma4
from power_sampling.text.formats.glm import Glm4, Glm47
from power_sampling.text.formats.granite import Granite
from power_sampling.text.formats.harmony import Harmony
from power_sampling.text.formats.hermes import Hermes
from power_sampling.text.formats.kimi import Kimi
from power_sampling.text.formats.lfm2 import Lfm2
from power_sampling.text.formats.llama3 import Llama3
from power_sampling.text.formats.llama4 import Llama4
from power_sampling.text.formats.minimax import MiniMax
from power_sampling.text.formats.mistral import Mistral, MistralArgs
from power_sampling.text.formats.nemotron import Nemotron
from power_sampling.text.formats.olmo3 import Olmo3
from power_sampling.text.formats.phi4 import Phi4
from power_sampling.text.formats.qwen3_coder import Qwen3Coder
from power_sampling.text.formats.seed import Seed
from power_sampling.text.reply import MISTRAL_THOUGHTS, THINK, THINK_END, ParseResponse

__all__ = ["FAMILIES", "MODEL_TYPES", "ToolFormat", "Turn", "names_read", "tool_format"]

FAMILIES: tuple[type[ToolFormat], ...] = (  # the first that fits is taken
    Harmony,
    Gemma4,
    FunctionGemma,
    Qwen3Coder,
    Glm47,
    Glm4,
    Seed,
    MiniMax,
    Kimi,
    DeepSeek32,
    DeepSeek4,
    DeepSeek31,
    DeepSeek,
    Lfm2,
    Llama4,
    Olmo3,
    Nemotron,
    Apriel,
    Apertus,
    Phi4,
    Granite,
    Hermes,
    MistralArgs,
    Mistral,
    Llama3,
)


# by the type of the model, where the template is of no known family; transformers has response templates for these too
MODEL_TYPES = {
    "deepseek_v32": "deepseek_v32",
    "deepseek_v4": "deepseek_v4",
    "gemma4": "gemma4",
    "glm4_moe": "glm4",
    "glm4_moe_lite": "glm47",
    "glm_moe_dsa": "glm47",
    "gpt_oss": "harmony",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2",
    "llama4": "llama4",
    "minimax_m2": "minimax",
    "olmo3": "olmo3",
    "qwen3_5": "qwen3_coder",
    "qwen3_5_moe": "qwen3_coder",
    "seed_oss": "seed",
}


def tool_format(
    chat_template: str | None,
    special_ids: Mapping[str, int],
    *,
    parse_response: ParseResponse | None = None,
    family: str | None = None,
    model_type: str = "",
) -> ToolFormat:
    """The family a chat template belongs to, from its text, or the one of this name; where the text tells none, the
    one of the model's type, as transformers calls it. Raises ConfigurationError for a name that is none.

    `special_ids` are all added tokens of the tokenizer. `parse_response` takes a whole reply apart where the tokenizer
    has a response template of its own: `{"content", "reasoning_content", "tool_calls"}`, every key optional.
    """
    template = chat_template or ""
    usual = _named(MODEL_TYPES.get(model_type.removesuffix("_text"), "hermes"))
    chosen = _named(family) if family else next((one for one in FAMILIES if one.fits(template)), usual)
    thoughts = chosen.thoughts_in(template)
    return chosen(
        shows_tools="tools" in names_read(template),
        shows_calls="tool_calls" in template,
        shows_results=bool(re.search(r"""["'](?:tool|tool_results|ipython)["']""", template)),
        thoughts=thoughts or (THINK, THINK_END),
        may_reason=thoughts is not None,
        # Mistral's templates take it as a part of the content
        writes_thoughts=thoughts == MISTRAL_THOUGHTS and "reasoning_content" not in template,
        special_ids=dict(special_ids),
        parse_response=parse_response if family is None else None,
    )


def _named(name: str) -> type[ToolFormat]:
    names = {family.family: family for family in FAMILIES}
    if name not in names:
        raise ConfigurationError(f"tool_format: expected one of {', '.join(sorted(names))}, got {shortened(name)}.")
    return names[name]


def names_read(template: str) -> frozenset[str]:
    """Names that a template reads: variables it may be given among them. It is read as a tree: jinja's own search would
    compute its constants, and `{{ 9 ** (9 ** 20) }}` has no end. Where it has tags of its own, all its words."""
    from jinja2 import Environment, TemplateSyntaxError, nodes

    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True).parse(template)
    except TemplateSyntaxError:  # tags such as `generation`
        return frozenset(re.findall(r"\b[A-Za-z_]\w*\b", template))
    return frozenset(name.name for name in parsed.find_all(nodes.Name) if name.ctx == "load")
