const at = id => document.getElementById(id);
const MODEL = document.body.dataset.model, BASE = new URL("v1", document.baseURI).href;
const OPTIONS = { metropolis_hastings: ["steps"], sequential_monte_carlo: ["particles"], particle_gibbs: ["steps", "particles"] };
const trace = new Trace(at("trace"));
let controller = null, shown = "curl";

// ------------------------------------------------------------ what is asked

function sampler() {
  const asked = { name: at("sampler").value };
  for (const option of OPTIONS[asked.name]) asked[`num_${option}`] = Number(at(option).value);
  return asked;
}

function power() {
  return { sampler: sampler(), alpha: Number(at("alpha").value) };
}

function body(fields) {
  const words = at("prompt").value;
  const asked = at("raw").checked ? { prompt: words } : { messages: [{ role: "user", content: words }] };
  return { model: MODEL, ...asked, max_tokens: Number(at("tokens").value), seed: Number(at("seed").value), ...fields };
}

const path = () => (at("raw").checked ? "/completions" : "/chat/completions");

// ------------------------------------------------------------ a stream

// Calls `told` with every event: kind `trace`, `progress` or `data`, and what it carries.
async function stream(fields, told) {
  const key = at("key").value, headers = { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  const asked = JSON.stringify({ ...body(fields), stream: true, stream_options: { include_usage: true } });
  const response = await fetch(BASE + path(), { method: "POST", headers, body: asked, signal: controller.signal });
  if (!response.ok) throw new Error(await reason(response));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = /^(?:: (trace|progress)|(data):) (.*)$/s.exec(line);
      if (!event || event[3] === "[DONE]") continue;
      const carried = JSON.parse(event[3]);
      if (carried.error) throw new Error(carried.error.message);
      told(event[1] || event[2], carried);
    }
  }
}

async function reason(response) {
  try { return (await response.json()).error.message; } catch { return `The server answered ${response.status}.`; }
}

// ------------------------------------------------------------ what is shown

function show(side, kind, told) {
  const answer = at(side);
  if (kind === "trace") { trace.add(told.frame); return; }
  if (kind === "progress") { if (side === "power") at("progress").value = told.done / Math.max(1, told.total); return; }
  const choice = told.choices[0];
  if (choice) {
    const delta = choice.delta || choice;
    if (delta.reasoning_content) answer.append(make("span", { className: "thought", textContent: delta.reasoning_content }));
    answer.append(delta.content || delta.text || "");
    for (const call of delta.tool_calls || []) answer.append(`${call.function.name}(${call.function.arguments})`);
    if (choice.power_sampling) at(`${side}-facts`).replaceChildren(...known(choice.power_sampling));
  }
  if (told.usage) at(`${side}-facts`).append(fact("tokens", told.usage.completion_tokens));
}

function fact(name, value) {
  return make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: String(value) }));
}

function known(found) {
  const facts = { "log p": number(found.logp), law: found.exactness, decoded: found.tokens_decoded, "serial steps": found.serial_steps, seconds: number(found.seconds) };
  if (typeof found.acceptance_rate === "number") facts.accepted = `${Math.round(100 * found.acceptance_rate)}%`;
  if (typeof found.ess === "number") facts["smallest ESS"] = number(found.ess, 1);
  return Object.entries(facts).map(([name, value]) => fact(name, value));
}

async function ask() {
  controller = new AbortController();
  trace.clear();
  for (const id of ["plain", "power", "plain-facts", "power-facts"]) at(id).replaceChildren();
  at("progress").value = 0; at("ask").disabled = true; at("stop").disabled = false; at("state").textContent = "Drawing both answers.";
  const sides = { plain: { sampler: "plain" }, power: { ...power(), trace: true } };
  const ends = await Promise.allSettled(Object.entries(sides).map(([side, fields]) => stream(fields, (kind, told) => show(side, kind, told))));
  const failed = ends.find(end => end.status === "rejected");
  at("progress").value = 1; at("ask").disabled = false; at("stop").disabled = true;
  at("state").textContent = !failed ? "Done." : failed.reason.name === "AbortError" ? "Stopped." : failed.reason.message;
}

// ------------------------------------------------------------ code

// A key that was entered is not written into code.
function code(kind) {
  const words = at("prompt").value, key = at("key").value ? "YOUR_KEY" : "none", text = JSON.stringify;
  const [tokens, seed] = [Number(at("tokens").value), Number(at("seed").value)];
  if (kind === "curl") {
    const quoted = `'${text(body(power())).replaceAll("'", "'\\''")}'`;
    const bearer = at("key").value ? ` \\\n  -H 'Authorization: Bearer ${key}'` : "";
    return `curl ${BASE}${path()} -H 'Content-Type: application/json'${bearer} \\\n  -d ${quoted}`;
  }
  if (kind === "langchain") {
    return `from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    base_url=${text(BASE)},
    api_key=${text(key)},
    model=${text(MODEL)},
    max_tokens=${tokens},
    seed=${seed},
    extra_body=${text(power())},
)
print(model.invoke(${text(words)}).text)
`;
  }
  return `from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    api_base=${text(BASE)},
    api_key=${text(key)},
    model=${text(MODEL)},
    temperature=1.0,
    max_tokens=${tokens},
    is_chat_model=True,
    additional_kwargs=${text({ seed, extra_body: power() })},
)
print(llm.complete(${text(words)}))
`;
}

async function copy(kind) {
  shown = kind;
  refresh();
  try { await navigator.clipboard.writeText(at("code").textContent); at("copied").textContent = "Copied."; }
  catch { at("copied").textContent = "It stands below; this page may not write to the clipboard."; }
}

// ------------------------------------------------------------ what the controls do

function refresh() {
  for (const id of ["alpha", "steps", "particles"]) at(`${id}-shown`).textContent = at(id).value;
  for (const id of ["steps", "particles"]) at(id).parentElement.hidden = !OPTIONS[at("sampler").value].includes(id);
  at("code").textContent = code(shown);
}

at("form").oninput = refresh;
at("form").onsubmit = event => { event.preventDefault(); ask(); };
at("stop").onclick = () => controller.abort();
at("prompt").onkeydown = event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit(); };
for (const button of document.querySelectorAll("[data-code]")) button.onclick = () => copy(button.dataset.code);
refresh();
