# %% [markdown]
# # RAG with LlamaIndex
#
# Answers from notes of your own, drawn from p(x)^alpha. Everything is local: the model is the embedded SmolLM2-135M,
# the index goes by keywords. What changes between plain and power sampling is one field.

# %%
from llama_index.core import Document, PromptTemplate, Settings, SimpleKeywordTableIndex

from llamaindex_power_sampling import PowerSamplingLLM

NOTES = [
    "The lighthouse of Harrow Point was built in 1871. Its keeper was Ada Quill, who kept a diary for forty years.",
    "The harbour of Harrow Point freezes in January. Fishing boats are then pulled ashore by horses.",
    "The railway to Harrow Point was closed in 1962 and is a bicycle path today.",
]
sampler = {"name": "sequential_monte_carlo", "num_particles": 4}
Settings.llm = llm = PowerSamplingLLM(model="embedded", sampler=sampler, alpha=4.0, max_new_tokens=24, seed=1)

# %% [markdown]
# The index asks the model for the keywords of a question; so that the notebook is quick, it takes them from the text
# here.

# %%
index = SimpleKeywordTableIndex.from_documents([Document(text=note) for note in NOTES])
PROMPT = PromptTemplate("Use this note: {context_str}\n\nAnswer in one short sentence. {query_str}")
engine = index.as_query_engine(retriever_mode="simple", text_qa_template=PROMPT)

answer = engine.query("Who was the keeper of the lighthouse?")
print(answer)
print("from:", answer.source_nodes[0].text)

# %% [markdown]
# Plain sampling, for comparison: the field can be assigned, and the next call honours it. Weights stay where they
# are.

# %%
llm.sampler = "ancestral"
print(engine.query("Who was the keeper of the lighthouse?"))

# %% [markdown]
# The model's own answer tells what the sampler did and spent.

# %%
llm.sampler = sampler
facts = llm.complete("Answer in one word. Is a lighthouse a building?").raw["power_sampling"]
print({name: facts[name] for name in ("sampler", "alpha", "exactness", "tokens_decoded")})
