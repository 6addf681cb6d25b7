// Draws the two charts of the network's page and keeps the choice of models current.
// What it shows comes from `live.js` as events with the name of a series and its value.

const series = {};

function showModels(names) {
  const select = document.getElementById("chat-model");
  const chosen = select.value;
  if (names.length === 0) return;
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
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

document.addEventListener("paceline:series", ({ detail: { name, value } }) => {
  if (name === "models") {
    showModels(value);
    return;
  }
  series[name] = value;
  drawCharts();
});
document.addEventListener("DOMContentLoaded", drawCharts);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
