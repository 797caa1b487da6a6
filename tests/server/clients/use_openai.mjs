// The OpenAI JavaScript SDK: chat, stream, two tools in a loop, a schema, text, an error.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [url, answer] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "key", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello?" }];

const said = await client.chat.completions.create({ model: "M:mh@num_steps=2", messages, n: 2, seed: 1, logprobs: true });
assert.deepEqual(said.choices.map((choice) => choice.message.content), [answer, answer]);
assert.equal(said.choices[0].logprobs.content[0].token, answer[0]);

let text = "";
const stream = await client.chat.completions.create({ model: "M", messages, stream: true, stream_options: { include_usage: true } });
let usage = null;
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, answer);
assert.ok(usage.completion_tokens > 0);

const tools = ["look", "switch"].map((name) => ({
  type: "function",
  function: {
    name,
    description: `${name} at the light`,
    parameters: { type: "object", properties: name === "switch" ? { on: { type: "boolean" } } : {} },
  },
}));
const asked = [];
const turns = [{ role: "user", content: "Light, please." }];
for (;;) {
  const { message } = (await client.chat.completions.create({ model: "M", messages: turns, tools })).choices[0];
  turns.push(message);
  if (!message.tool_calls) {
    assert.equal(message.content, answer);
    break;
  }
  for (const call of message.tool_calls) {
    asked.push(call.function.name);
    turns.push({ role: "tool", tool_call_id: call.id, content: "done" });
  }
}
assert.deepEqual(asked, ["look", "switch"]);

const schema = {
  type: "object",
  properties: { good: { type: "boolean" }, marks: { type: "integer" } },
  required: ["good", "marks"],
  additionalProperties: false,
};
const typed = await client.chat.completions.create({
  model: "M",
  messages,
  response_format: { type: "json_schema", json_schema: { name: "verdict", schema, strict: true } },
});
assert.equal(typeof JSON.parse(typed.choices[0].message.content).marks, "number");

const cut = await client.completions.create({ model: "M", prompt: "ab", max_tokens: 4 });
assert.ok(cut.choices[0].text.length <= 4);
assert.ok((await client.models.list()).data.some((model) => model.id === "M"));
await assert.rejects(client.chat.completions.create({ model: "nobody", messages }), OpenAI.NotFoundError);
