// The official client for Node.js plays one scene against a server and prints what it saw, as JSON.
// node node_client.mjs FOLDER_OF_THE_CLIENT BASE_URL SCENE MODEL RETRIES
import { createRequire } from "node:module";

const [folder, baseURL, scene, model, retries] = process.argv.slice(2);
const { default: OpenAI, toFile } = createRequire(`${folder}/package.json`)("openai");
const client = new OpenAI({ baseURL, apiKey: "sk-good", maxRetries: Number(retries), timeout: 20_000 });
const messages = [{ role: "user", content: "hi" }];

const scenes = {
  async models() {
    const listed = [];
    for await (const found of client.models.list()) listed.push(found.id);
    return { listed, one: (await client.models.retrieve(model)).owned_by };
  },
  async whole() {
    const { data, response } = await client.chat.completions.create({ model, messages, seed: 3 }).withResponse();
    const { content } = data.choices[0].message;
    return { content, tokens: data.usage.total_tokens, executor: response.headers.get("x-paceline-executor") };
  },
  async stream() {
    const options = { model, messages, stream: true, stream_options: { include_usage: true } };
    const pieces = [];
    let usage = null;
    for await (const chunk of await client.chat.completions.create(options)) {
      pieces.push(chunk.choices[0]?.delta?.content ?? "");
      usage = chunk.usage ?? usage;
    }
    return { text: pieces.join(""), tokens: usage.total_tokens };
  },
  async helper() {
    const answer = await client.chat.completions.stream({ model, messages }).finalChatCompletion();
    return { content: answer.choices[0].message.content, reason: answer.choices[0].finish_reason };
  },
  async abort() {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    for await (const chunk of stream) {
      if (chunk.choices[0].delta.content) stream.controller.abort();
    }
    return { aborted: stream.controller.signal.aborted };
  },
  async embeddings() {
    const found = await client.embeddings.create({ model, input: ["a", "b"] });
    const plain = await client.embeddings.create({ model, input: ["a", "b"], encoding_format: "float" });
    return { vectors: found.data.map((one) => Array.from(one.embedding)), plain: plain.data.map((one) => one.embedding) };
  },
  async files() {
    const made = [];
    for (const name of ["a", "b", "c"]) {
      const line = JSON.stringify({ custom_id: name, method: "POST", url: "/v1/completions", body: { model, prompt: name } });
      made.push((await client.files.create({ file: await toFile(Buffer.from(line), `${name}.jsonl`), purpose: "batch" })).id);
    }
    const paged = [];
    for await (const file of client.files.list({ limit: 2, order: "asc" })) paged.push(file.id);
    const text = await (await client.files.content(made[0])).text();
    return { made, paged, same: text.includes('"custom_id":"a"') };
  },
  async response() {
    const first = await client.responses.create({ model, input: "hi" });
    const kinds = [];
    for await (const event of await client.responses.create({ model, input: "hi", stream: true })) kinds.push(event.type);
    return { text: first.output_text, first: kinds[0], last: kinds.at(-1) };
  },
};

function tell(error) {
  const { status, code, param, type } = error;
  return { error: error.constructor.name, status: status ?? null, code: code ?? null, param: param ?? null, type: type ?? null };
}

console.log(JSON.stringify(await scenes[scene]().catch(tell)));
