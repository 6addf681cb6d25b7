// The chat box: a plain client of this node's own /v1/chat/completions.
// What a model writes is only ever set as text, never as markup.

const byId = (id) => document.getElementById(id);
const [log, form, box, hint, send, stop] = ["log", "form", "text", "hint", "send", "stop"].map((id) => byId(`chat-${id}`));
const greeting = log.innerHTML;
const receipts = new Map();
let history = [];
let running = null;

function say(role, text) {
  log.querySelector(".empty")?.remove();
  const bubble = document.createElement("div");
  bubble.className = `said ${role}`;
  bubble.textContent = text;
  log.append(bubble);
  scrollToEnd();
  return bubble;
}

function addReceipt() {
  const line = document.createElement("p");
  line.className = "receipt";
  log.append(line);
  return line;
}

function isAtEnd() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 60;
}

function scrollToEnd() {
  log.scrollTop = log.scrollHeight;
}

function buildCall() {
  const headers = { "content-type": "application/json" };
  const key = byId("chat-key")?.value;
  if (key) headers.authorization = `Bearer ${key}`;
  const body = JSON.stringify({
    model: byId("chat-model").value,
    messages: history,
    max_tokens: byId("chat-limit").valueAsNumber,
    stream: true,
    stream_options: { include_usage: true },
  });
  return { method: "POST", headers, body, signal: running.signal };
}

async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function ask(turns) {
  const response = await fetch("/v1/chat/completions", buildCall());
  if (!response.ok) throw new Error((await response.json()).error.message);
  const bubble = say("assistant", "");
  bubble.classList.add("busy");
  const line = addReceipt();
  const receipt = { line, task: response.headers.get("x-paceline-task"), node: response.headers.get("x-paceline-executor") };
  receipts.set(receipt.task, receipt);
  showReceipt(receipt);
  try {
    await follow(response, bubble, receipt);
  } finally {
    bubble.classList.remove("busy");
    if (bubble.textContent) turns.push({ role: "assistant", content: bubble.textContent });
    showReceipt(receipt);
  }
}

async function follow(response, bubble, receipt) {
  for await (const chunk of readEvents(response)) {
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.usage) receipt.tokens = chunk.usage.completion_tokens;
    if (chunk.paceline) receipt.cost = chunk.paceline.cost_nicoin;
    const text = chunk.choices[0]?.delta.content;
    if (text) {
      const follows = isAtEnd();
      bubble.append(text);
      if (follows) scrollToEnd();
    }
  }
}

function showReceipt(receipt) {
  const parts = [`answered by ${receipt.node}`];
  if (receipt.tokens !== undefined) parts.push(`${receipt.tokens} tokens`);
  if (receipt.cost !== undefined) parts.push(`${receipt.cost.toLocaleString("en")} nicoin`);
  const row = [...document.querySelectorAll("tr[data-task]")].find((found) => found.dataset.task === receipt.task);
  if (row) receipt.checks = row.dataset.checks;
  if (receipt.checks) parts.push(receipt.checks);
  receipt.line.classList.toggle("bad", Boolean(receipt.checks?.includes("REJECTED")));
  const text = parts.join(" · ");
  if (receipt.line.textContent === text) return;
  const follows = isAtEnd();
  receipt.line.textContent = text;
  if (follows) scrollToEnd();
}

function setRunning(controller) {
  running = controller;
  send.disabled = controller !== null;
  stop.hidden = controller === null;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = box.value.trim();
  if (running || !text) return;
  const mine = new AbortController();
  setRunning(mine);
  hint.textContent = "";
  const turns = history;
  turns.push({ role: "user", content: text });
  say("user", text);
  box.value = "";
  try {
    await ask(turns);
  } catch (error) {
    // A question without any answer is not part of the conversation: the next one would be sent together with it.
    if (turns.at(-1)?.role === "user") turns.pop();
    if (running === mine) hint.textContent = mine.signal.aborted ? "Stopped." : error.message;
  }
  if (running === mine) setRunning(null);
});

box.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});

stop.addEventListener("click", () => running?.abort());

byId("chat-clear").addEventListener("click", () => {
  running?.abort();
  setRunning(null);
  history = [];
  receipts.clear();
  hint.textContent = "";
  log.innerHTML = greeting;
});

document.addEventListener("paceline:panel", (event) => {
  if (event.detail === "tasks") receipts.forEach(showReceipt);
});
