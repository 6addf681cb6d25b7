// Keeps the panels of a page current from the server's event stream, which the page names.
// The fragments are escaped by the server; this file puts nothing else into markup.

const RETRY_MILLISECONDS = 5000;
const live = document.getElementById("live");
const panels = [...document.querySelectorAll("[id^='panel-']")].map((panel) => panel.id.slice("panel-".length));
const series = document.body.dataset.series.split(" ").filter(Boolean);

function swapPanel(name, html) {
  const panel = document.getElementById(`panel-${name}`);
  const seen = new Map([...panel.querySelectorAll("[data-key]")].map((row) => [row.dataset.key, row.textContent]));
  const opened = new Set([...panel.querySelectorAll("details[open]")].map((part) => part.dataset.part));
  const focused = panel.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  const top = panel.scrollTop;
  panel.innerHTML = html;
  panel.scrollTop = top;
  if (name !== "nodes" && seen.size > 0) {
    for (const row of panel.querySelectorAll("[data-key]")) {
      if (seen.get(row.dataset.key) !== row.textContent) row.classList.add("fresh");
    }
  }
  for (const part of panel.querySelectorAll("details")) part.open = opened.has(part.dataset.part);
  if (focused !== undefined) {
    [...panel.querySelectorAll("[data-focus]")].find((part) => part.dataset.focus === focused)?.focus({ preventScroll: true });
  }
  showLocalTimes(panel);
  document.dispatchEvent(new CustomEvent("paceline:panel", { detail: name }));
}

function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[data-milliseconds]")) {
    const moment = new Date(Number(time.dataset.milliseconds));
    time.textContent = moment.toLocaleTimeString([], { hour12: false });
    time.title = moment.toISOString();
  }
}

function setLive(state, text) {
  live.dataset.state = state;
  live.textContent = text;
}

function listen() {
  const source = new EventSource(document.body.dataset.events);
  source.onopen = () => setLive("on", "live");
  source.onerror = () => {
    setLive("off", "not connected, trying again");
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MILLISECONDS);
  };
  for (const name of panels) {
    source.addEventListener(name, (event) => swapPanel(name, event.data));
  }
  for (const name of series) {
    source.addEventListener(name, (event) => {
      const detail = { name, value: JSON.parse(event.data) };
      document.dispatchEvent(new CustomEvent("paceline:series", { detail }));
    });
  }
}

showLocalTimes(document);
listen();
