// Keeps the panels current from the server's event stream and draws the two charts.
// The fragments are escaped by the server; this file puts nothing else into markup.

const HTML_PANELS = ["network", "nodes", "blocks", "tasks", "training"];
const RETRY_MILLISECONDS = 5000;
const live = document.getElementById("live");
const series = {};

function swapPanel(name, html) {
  const panel = document.getElementById(`panel-${name}`);
  const seen = new Map([...panel.querySelectorAll("[data-key]")].map((row) => [row.dataset.key, row.textContent]));
  const top = panel.scrollTop;
  panel.innerHTML = html;
  panel.scrollTop = top;
  if (name !== "nodes" && seen.size > 0) {
    for (const row of panel.querySelectorAll("[data-key]")) {
      if (seen.get(row.dataset.key) !== row.textContent) row.classList.add("fresh");
    }
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

function showModels(names) {
  const select = document.getElementById("chat-model");
  const chosen = select.value;
  if (names.length === 0) return;
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}

function setLive(state, text) {
  live.dataset.state = state;
  live.textContent = text;
}

function listen() {
  const source = new EventSource("/events");
  source.onopen = () => setLive("on", "live");
  source.onerror = () => {
    setLive("off", "not connected, trying again");
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MILLISECONDS);
  };
  for (const name of HTML_PANELS) {
    source.addEventListener(name, (event) => swapPanel(name, event.data));
  }
  source.addEventListener("models", (event) => showModels(JSON.parse(event.data)));
  for (const name of ["power", "loss"]) {
    source.addEventListener(name, (event) => {
      series[name] = JSON.parse(event.data);
      drawCharts();
    });
  }
}

function getColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function getLayout() {
  const grid = { gridcolor: getColour("line"), zeroline: false, linecolor: getColour("line"), automargin: true };
  return {
    autosize: true,
    margin: { l: 48, r: 8, t: 12, b: 40 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: getColour("muted") },
    hoverlabel: { bgcolor: getColour("card"), bordercolor: getColour("line"), font: { color: getColour("ink") } },
    xaxis: { ...grid, title: { text: "round" }, rangemode: "tozero" },
    yaxis: { ...grid, title: { text: "loss" } },
  };
}

function drawCharts() {
  if (!window.Plotly) return;
  if (series.loss) drawLoss(series.loss);
  if (series.power) drawPower(series.power);
}

function draw(id, traces, layout) {
  const place = document.getElementById(id);
  place.hidden = false;
  window.Plotly.react(place, traces, layout, { displayModeBar: false, responsive: true });
}

function drawLoss({ rounds, losses }) {
  if (rounds.length === 0) return;
  const trace = {
    x: rounds,
    y: losses,
    mode: "lines+markers",
    line: { color: getColour("chart-1"), width: 2.5 },
    marker: { size: 6 },
    hovertemplate: "round %{x}: loss %{y:.4f}<extra></extra>",
  };
  const layout = getLayout();
  // Rounds are whole numbers; left alone, a short run gets ticks in between that all read the same.
  layout.xaxis = { ...layout.xaxis, tick0: 0, dtick: Math.ceil(Math.max(...rounds) / 10) };
  draw("chart-loss", [trace], layout);
}

function drawPower({ names, values }) {
  document.getElementById("empty-power").hidden = names.length > 0;
  if (names.length === 0) return;
  const trace = {
    type: "pie",
    hole: 0.62,
    sort: false,
    labels: names,
    values,
    textinfo: "none",
    marker: {
      colors: names.map((_, index) => getColour(`chart-${(index % 6) + 1}`)),
      line: { color: getColour("card"), width: 2 },
    },
    hovertemplate: "%{label}: %{percent}<extra></extra>",
  };
  draw("chart-power", [trace], { ...getLayout(), margin: { l: 8, r: 8, t: 8, b: 8 }, legend: { font: { size: 13 } } });
}

showLocalTimes(document);
listen();
document.addEventListener("DOMContentLoaded", drawCharts);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
