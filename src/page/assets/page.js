// The script of the pages: it follows the sweep and gives curves a cursor. Every page works without it.

const LIVE = "[data-live][id]";
/** The HTML of each part as the server sent it, before charts were drawn into it. */
const received = new Map();
const charts = new Map();

for (const part of document.querySelectorAll(LIVE)) received.set(part.id, part.outerHTML);
drawCharts(document);
follow();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts.values()) chart.redraw();
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea");
  const filter = document.getElementById("filter");
  if (event.key === "/" && !typing && filter && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    filter.focus();
  }
});

/** Fetches this page again whenever the coordinator reports a change, one request at a time. */
function follow() {
  if (!document.querySelector(LIVE)) return;
  const state = document.getElementById("live");
  const show = (text) => { if (state && state.textContent !== text) state.textContent = text; };
  let busy = false;
  let again = false;
  const refresh = async () => {
    again = busy;
    if (busy) return;
    busy = true;
    const began = performance.now();
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (answer.ok) replaceParts(await answer.text());
    } catch {
      // The connection is gone; the next event comes when it is back.
    }
    // A page that takes long to draw is fetched less often.
    setTimeout(() => { busy = false; if (again) refresh(); }, 4 * (performance.now() - began));
  };
  let source;
  // A browser opens few connections to one address, so a hidden tab holds none.
  const connect = () => {
    source?.close();
    source = undefined;
    if (document.hidden) return;
    source = new EventSource("/events");
    source.addEventListener("changed", refresh);
    source.addEventListener("open", () => show("live"));
    source.addEventListener("error", () => show("the coordinator does not answer"));
  };
  connect();
  document.addEventListener("visibilitychange", () => { connect(); if (!document.hidden) refresh(); });
}

/** Replaces the parts of the page that differ from what was received before. */
function replaceParts(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  for (const part of document.querySelectorAll(LIVE)) {
    const next = page.getElementById(part.id);
    if (!next || received.get(part.id) === next.outerHTML) continue;
    // The user is about to act here.
    if (part.contains(document.activeElement) && part.querySelector("details.action[open]")) continue;
    received.set(part.id, next.outerHTML);
    const open = [...part.querySelectorAll("details[id][open]")].map((details) => details.id);
    const scrolled = new Map([...part.querySelectorAll(".scroll")].map((box) => [box.ariaLabel, box.scrollLeft]));
    const focused = part.contains(document.activeElement) ? placeOf(document.activeElement, part) : null;
    const adopted = document.importNode(next, true);
    for (const id of charts.keys()) if (part.querySelector(`#${CSS.escape(id)}`)) forget(id);
    part.replaceWith(adopted);
    for (const id of open) adopted.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
    for (const box of adopted.querySelectorAll(".scroll")) box.scrollLeft = scrolled.get(box.ariaLabel) ?? 0;
    if (focused) elementAt(focused, adopted)?.focus?.({ preventScroll: true });
    drawCharts(adopted);
  }
}

/** The place of an element in a part: the nearest element around it that has an id, and the child indices below that. */
function placeOf(element, part) {
  const path = [];
  let node = element;
  for (; node !== part && !node.id; node = node.parentElement) {
    path.unshift([...node.parentElement.children].indexOf(node));
  }
  return { id: node.id, path };
}

function elementAt({ id, path }, part) {
  const anchor = part.id === id ? part : part.querySelector(`#${CSS.escape(id)}`);
  return path.reduce((node, place) => node?.children[place], anchor);
}

function forget(id) {
  charts.get(id).destroy();
  charts.delete(id);
}

function drawCharts(root) {
  if (typeof uPlot === "undefined") return;
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      seen.unobserve(entry.target);
      drawChart(entry.target);
    }
  });
  for (const figure of root.querySelectorAll(".chart[data-chart]")) seen.observe(figure);
}

/** Draws a chart with a cursor in place of the drawing that came with the page. */
function drawChart(figure) {
  const drawing = figure.querySelector("svg");
  if (!drawing) return;
  const { unit, series } = JSON.parse(figure.dataset.chart);
  const epochs = [...new Set(series.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  const at = (pairs) => { const known = new Map(pairs); return epochs.map((x) => known.get(x) ?? null); };
  const style = getComputedStyle(figure);
  // Read for each drawing: the colour scheme may change.
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const soft = () => colour("soft");
  const faintLine = () => colour("line");
  const data = [epochs];
  const lines = [{ label: "epoch" }];
  const bands = [];
  for (const line of series) {
    data.push(at(line.points));
    lines.push({
      label: line.label, stroke: () => colour(`c${line.colour}`), width: line.faint ? 1 : 2, spanGaps: true, alpha: line.faint ? 0.55 : 1,
      dash: line.faint ? [] : [[], [7, 3], [2, 3]][line.colour] ?? [], points: { show: epochs.length < 2 },
      class: line.faint ? "aside" : undefined,
      value: (_, value) => (value == null ? "" : `${Number(value.toPrecision(5))}${unit && ` ${unit}`}`),
    });
    if (line.band.length) {
      const x = line.points.map(([x]) => x);
      for (const edge of [1, 0]) {
        data.push(at(x.map((x, place) => [x, line.band[place][edge]])));
        lines.push({ label: edge ? "high" : "low", class: "aside", stroke: "transparent", points: { show: false }, spanGaps: true });
      }
      bands.push({ series: [lines.length - 2, lines.length - 1], fill: () => `${colour(`c${line.colour}`)}2e` });
    }
  }
  const size = () => ({ width: Math.max(240, Math.floor(figure.clientWidth)), height: 260 });
  const axis = { stroke: soft, grid: { stroke: faintLine, width: 1 }, ticks: { stroke: faintLine, width: 1 } };
  const holder = document.createElement("div");
  drawing.replaceWith(holder);
  // Without a cursor the last values are shown.
  const last = { idx: epochs.length - 1 };
  const chart = new uPlot({
    hooks: { setCursor: [(chart) => { if (chart.cursor.idx == null) chart.setLegend(last); }] },
    ...size(), series: lines, bands, scales: { x: { time: false } },
    axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }, { ...axis, size: 56 }],
    cursor: { sync: { key: "epoch" }, drag: { x: true, y: false } },
  }, data, holder);
  chart.setLegend(last);
  charts.set(figure.id, chart);
  new ResizeObserver(() => { if (figure.isConnected) chart.setSize(size()); }).observe(figure);
}
