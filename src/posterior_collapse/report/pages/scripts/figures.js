// The linked figures: spectrum, staircase or map, KL of each unit, and the modes as pictures.

const MARGIN = { left: 52, right: 14, top: 24, bottom: 38 };
// A figure as wide as its place, so that its text keeps its size on every screen.
function canvas(place, height, label, role = "img") {
  const width = Math.max(260, Math.min(760, Math.floor(place.clientWidth || 560)));
  const svg = drawn("svg", {
    class: "pc-plot", viewBox: `0 0 ${width} ${height}`, width, height, role,
    "aria-label": label,
  });
  const plot = {
    svg,
    left: MARGIN.left,
    right: width - MARGIN.right,
    top: MARGIN.top,
    bottom: height - MARGIN.bottom,
  };
  place.replaceChildren(svg);
  return plot;
}
// The index of a Greek letter is set low.
function text(x, y, words, anchor = "start") {
  const [before, index, after = ""] = words.split(/(?<=[βησ])_([a-z\d]+)/);
  const low = index ? [drawn("tspan", { dy: 3, class: "pc-low" }, index)] : [];
  const rest = after ? [drawn("tspan", { dy: -3 }, after)] : [];
  return drawn("text", { x, y, "text-anchor": anchor }, before, ...low, ...rest);
}
const logScale = (low, high, from, to) => (value) => {
  const within = Math.min(Math.max(value, low), high);
  return from + (Math.log(within / low) / Math.log(high / low)) * (to - from);
};
function decades(low, high, most) {
  const [from, to] = [Math.ceil(Math.log10(low)), Math.floor(Math.log10(high))];
  const every = Math.max(1, Math.ceil((to - from + 1) / most));
  const ticks = [];
  for (let d = from; d <= to; d += every) ticks.push(10 ** d);
  if (ticks.length > 2) return ticks;
  const fine = [-2, -1, 0, 1].flatMap((d) =>
    [1, 2, 5].map((n) => digits(n * 10 ** (from + d), 1)),
  );
  return fine.filter((v) => v >= low && v <= high);
}
function rowTicks(plot, y, ticks, name = "") {
  if (name) plot.svg.append(text(2, 12, name));
  for (const tick of ticks) {
    plot.svg.append(
      drawn("path", { class: "pc-grid", d: `M${plot.left} ${y(tick)}H${plot.right}` }),
      text(plot.left - 6, y(tick) + 4, shown(tick), "end"),
    );
  }
}
function columnTicks(plot, x, ticks, name) {
  for (const tick of ticks) plot.svg.append(text(x(tick), plot.bottom + 16, shown(tick), "middle"));
  plot.svg.append(text(plot.right, plot.bottom + 32, name, "end"));
}
function roundTicks(low, high, most, least = 0) {
  const power = 10 ** Math.floor(Math.log10((high - low) / most));
  const steps = [1, 2, 5, 10].map((n) => Math.max(least, n * power));
  const step = steps.find((s) => (high - low) / s <= most);
  const [from, to] = [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  return Array.from({ length: to - from + 1 }, (_, i) => digits((from + i) * step, 6));
}
const wholeTicks = (high, most) => roundTicks(0, high, most, 1);
// Of things counted from 1.
const countTicks = (high, most) => [
  ...new Set(wholeTicks(high, most).map((n) => Math.max(1, n))),
];
function dot(status, x, y) {
  if (status === "noise") {
    return drawn("rect", { class: "pc-noise", x: x - 4, y: y - 4, width: 8, height: 8 });
  }
  return drawn("circle", { class: `pc-${status}`, cx: x, cy: y, r: status === "none" ? 2 : 4.5 });
}
const diamond = (x, y) =>
  drawn("path", { class: "pc-here", d: `M${x} ${y - 8}l8 8l-8 8l-8 -8Z` });

// Units of a level by the mode that they carry.
const byMode = (level) => {
  const ordered = [];
  level.forEach((unit, i) => (ordered[unit.mode] = { ...unit, unit: i }));
  return ordered;
};

let scaleOfSpectrum = null; // from pixels to variance, while the threshold is dragged
function drawSpectra() {
  const places = found.levels.map(() => element("div"));
  $("spectrum").replaceChildren(...places);
  found.levels.forEach((level, l) => drawSpectrum(places[l], byMode(level), l));
}
function drawSpectrum(place, carried, l) {
  const theta = data.laws[likelihood()].theta;
  const strongest = (theta[0] ?? 1) ** 2;
  const needed = Math.min(...found.levels.map((_, level) => leastThreshold(found, level)));
  const there = theta.filter((t) => t ** 2 > Math.min(strongest * 1e-6, needed / 10)).length;
  const count = Math.max(1, Math.min(there, Math.max(2 * Math.max(...state.dims), 24)));
  const variances = theta.slice(0, count).map((t) => t ** 2);
  const [low, high] = [(variances[count - 1] ?? strongest) / 3, strongest * 2];
  const active = carried.filter((u) => u.status === "active").length;
  const name = depth > 1 ? ` of z${l + 1}` : "";
  const plot = canvas(place, 280, `Spectrum: variances of the ${count} strongest data modes from ` +
    `${shown(strongest)} to ${shown(variances[count - 1] ?? 0)}; ${active} ` +
    `${active === 1 ? "carries" : "carry"} an active unit` +
    `${name}. The numbers are in the table.`, l === 0 ? "group" : "img");
  const x = (mode) => plot.left + ((mode + 0.5) / count) * (plot.right - plot.left);
  const y = logScale(low, high, plot.bottom, plot.top);
  rowTicks(plot, y, decades(low, high, 6), "variance of data mode");
  const modes = countTicks(count, 7);
  const what = depth > 1 ? `data mode; units${name}` : "data mode, strongest first";
  columnTicks(plot, (n) => x(n - 1), modes, what);
  const points = carried.slice(0, count).flatMap((u, mode) =>
    Number.isFinite(u.threshold)
      ? [`${x(mode - 0.5)},${y(u.threshold)}`, `${x(mode + 0.5)},${y(u.threshold)}`]
      : [],
  );
  if (points.length) {
    // Beyond the units it is what one more would have to exceed.
    if (carried.length < count) points.push(`${x(count - 0.5)},${points.at(-1).split(",")[1]}`);
    plot.svg.append(drawn("polyline", { class: "pc-threshold", points: points.join(" ") }));
  }
  variances.forEach((v, mode) => {
    plot.svg.append(dot(carried[mode]?.status ?? "none", x(mode), y(v)));
  });
  const least = leastThreshold(found);
  if (l === 0 && Number.isFinite(least)) {
    scaleOfSpectrum = (pixel) =>
      low * (high / low) ** ((plot.bottom - pixel) / (plot.bottom - plot.top));
    addGrip(plot, y(least), least);
  }
}
function addGrip(plot, y, least) {
  const grip = drawn("rect", {
    class: "pc-grip", x: plot.left, y: y - 13, width: plot.right - plot.left, height: 26,
    tabindex: 0, role: "slider", "aria-label": "threshold", "aria-orientation": "vertical",
    "aria-valuenow": least, "aria-valuetext": shown(least),
  });
  const handle = drawn("path", {
    class: "pc-handle", d: `M${plot.right + 2} ${y}l10 -7v14z`,
  });
  grip.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    dragging = true;
  });
  grip.addEventListener("keydown", (event) => {
    const up = ["ArrowUp", "ArrowRight"].includes(event.key);
    const down = ["ArrowDown", "ArrowLeft"].includes(event.key);
    if (!up && !down) return;
    event.preventDefault();
    setThreshold(up ? least * 1.1 : least / 1.1);
    $("spectrum").querySelector(".pc-grip")?.focus();
  });
  plot.svg.append(handle, grip);
}
let dragging = false;
// On the window: the figure is drawn anew while the pointer moves.
window.addEventListener("pointermove", (event) => {
  const svg = $("spectrum").querySelector("svg");
  if (!dragging || !scaleOfSpectrum || !svg) return;
  const box = svg.getBoundingClientRect();
  const share = (event.clientY - box.top) / box.height;
  setThreshold(scaleOfSpectrum(share * svg.viewBox.baseVal.height));
});
for (const end of ["pointerup", "pointercancel"]) {
  window.addEventListener(end, () => (dragging = false));
}
// All betas are turned by one factor; where sigma or eta_dec answers to it, it is searched for.
function setThreshold(variance) {
  const start = state.betas;
  const with_ = (times) => start.map((beta) => beta * times);
  const reached = (times) => {
    const tried = laws.forecast(problemOf({ ...state, betas: with_(times) }));
    return tried.error ? 0 : leastThreshold(tried);
  };
  let times = variance / leastThreshold(found);
  if (Math.abs(reached(times) / variance - 1) > 1e-6) {
    let [low, high] = [Math.log(1e-9), Math.log(1e9)];
    for (let step = 0; step < 50; step++) {
      const middle = (low + high) / 2;
      if (reached(Math.exp(middle)) < variance) low = middle;
      else high = middle;
    }
    times = Math.exp((low + high) / 2);
  }
  const betas = with_(times).map((beta) => digits(beta, 4));
  if (betas.every((beta) => positive(String(beta)) !== null)) {
    state.betas = betas;
    update();
  }
}

function drawStairs() {
  $("stairs-title").textContent = depth === 2 ? "Active units of z2" : "Active units";
  if (depth === 2) return drawMap();
  return depth === 1 ? drawStaircase() : drawChainStairs();
}
function drawStaircase() {
  const byProduct = gaussian() && !(state.learn && canLearn());
  const scale = byProduct ? found.etaDec ** 2 : 1;
  const edges = found.levels[0].map((u) => u.criticalBeta * scale).filter((v) => v > 0);
  edges.sort((a, b) => a - b);
  const here = state.betas[0] * scale;
  const finite = edges.filter(Number.isFinite);
  const last = finite[finite.length - 1] ?? here;
  const low = Math.min(Math.max(finite[0] ?? here, last * 1e-5), here) / 3;
  const steps = [low, ...finite.filter((v) => v > low), Math.max(last, here) * 3];
  const count = (v) => [edges.filter((edge) => edge > v).length];
  const onset = edges.length > 0 && edges.length === finite.length ? last : 0;
  drawSteps(steps, count, here, byProduct ? "β η_dec² (data variance)" : "β", onset);
}
function drawChainStairs() {
  const none = state.dims.map(() => 0);
  const count = (v) => {
    const betas = state.betas.map((beta) => (beta * v) / state.betas[0]);
    return laws.active(problemOf({ ...state, betas })) ?? none;
  };
  const steps = Array.from({ length: 121 }, (_, i) => state.betas[0] * 1000 ** ((i - 60) / 60));
  drawSteps(steps, count, state.betas[0], "β of z1, the others in proportion", 0);
}
// `count` gives the active units of each level that has a line.
function drawSteps(steps, count, here, name, onset) {
  const [low, high] = [steps[0], steps[steps.length - 1]];
  const counts = steps.map(count);
  const most = Math.max(1, ...counts.flat());
  const now = count(here);
  const plot = canvas($("stairs"), 240, "Staircase: active units fall from " +
    `${counts[0].join(", ")} as ${name} grows; here, at ${shown(here)}, ` +
    `${now.join(", ")} ${are(now.length === 1 ? now[0] : 0)} active` +
    (onset ? `; none from ${shown(onset)} on.` : "."));
  const x = logScale(low, high, plot.left, plot.right);
  const y = (n) => plot.bottom - (n / most) * (plot.bottom - plot.top - 8);
  rowTicks(plot, y, wholeTicks(most, 5), "active units");
  columnTicks(plot, x, decades(low, high, Math.min(6, (plot.right - plot.left) / 50)), name);
  if (onset) {
    const side = x(onset) > plot.right - 50 ? -1 : 1;
    plot.svg.append(
      drawn("path", { class: "pc-threshold", d: `M${x(onset)} ${plot.top}V${plot.bottom}` }),
      ...["onset", shown(onset)].map((words, line) =>
        text(x(onset) + 5 * side, plot.top + 40 + 15 * line, words, side < 0 ? "end" : "start"),
      ),
    );
  }
  now.forEach((active, level) => {
    let path = `M${x(low)} ${y(counts[0][level])}`;
    steps.forEach((step, i) => (path += `H${x(step)}V${y(counts[i][level])}`));
    plot.svg.append(drawn("path", { class: "pc-stairs", d: path }));
    const whose = now.length > 1 ? `z${level + 1}: ${active}` : `you are here: ${active}`;
    // Below on the left, where no stairs are, or above on the right, where they have gone down.
    const below = x(here) > plot.left + 7 * whose.length && y(active) < plot.bottom - 22;
    const side = below || x(here) > plot.right - 120 ? -1 : 1;
    plot.svg.append(
      diamond(x(here), y(active)),
      text(x(here) + 13 * side, y(active) + (below ? 18 : -8), whose, side < 0 ? "end" : "start"),
    );
  });
}

// Colours of few to many, told apart by all eyes: from cividis.
const SHADES = [
  [0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56],
];
function shade(share) {
  const place = share * (SHADES.length - 1);
  const below = Math.min(Math.floor(place), SHADES.length - 2);
  const mixed = SHADES[below].map((c, i) => c + (SHADES[below + 1][i] - c) * (place - below));
  return `rgb(${mixed.map(Math.round)})`;
}
const CELLS = 26;
let map = { key: "", counts: [] };
function drawMap() {
  const spans = data.spec.betas.map((own) => [own / 100, own * 100]);
  const value = (axis, cell) =>
    spans[axis][0] * (spans[axis][1] / spans[axis][0]) ** ((cell + 0.5) / CELLS);
  const cells = Array.from({ length: CELLS }, (_, i) => i);
  const key = JSON.stringify([etasOf(state), state.dims, state.form]);
  if (map.key !== key) {
    const counts = cells.map((row) => cells.map((column) => {
      const tried = { ...state, betas: [value(0, column), value(1, row)] };
      return laws.active(problemOf(tried))?.[1] ?? -1;
    }));
    map = { key, counts };
  }
  const most = Math.max(1, ...map.counts.flat());
  const here = found.error ? 0 : found.levels[1].filter((u) => u.status === "active").length;
  const plot = canvas($("stairs"), 300, "Map: active units of z2 over the two betas; here, at " +
    `beta 1 = ${shown(state.betas[0])} and beta 2 = ${shown(state.betas[1])}, ${here} ` +
    `${are(here)} active.`);
  const x = logScale(...spans[0], plot.left, plot.right);
  const y = logScale(...spans[1], plot.bottom, plot.top + 18);
  const [width, height] = [(plot.right - plot.left) / CELLS, (plot.bottom - plot.top - 18) / CELLS];
  map.counts.forEach((row, r) => row.forEach((count, c) => {
    const fill = count < 0 ? "none" : shade(count / most);
    plot.svg.append(drawn("rect", {
      class: "pc-tile", x: x(value(0, c)) - width / 2, y: y(value(1, r)) - height / 2,
      width: width + 0.5, height: height + 0.5, fill,
    }));
  }));
  columnTicks(plot, x, decades(...spans[0], 5), "β of z1");
  for (const tick of decades(...spans[1], 5)) {
    plot.svg.append(text(plot.left - 6, y(tick) + 4, shown(tick), "end"));
  }
  plot.svg.append(text(4, 12, "β of z2"), diamond(x(state.betas[0]), y(state.betas[1])));
  [0, most].forEach((count, i) => {
    const left = plot.right - 150 + 75 * i;
    plot.svg.append(
      drawn("rect", { x: left, y: 2, width: 12, height: 12, fill: shade(count / most) }),
      text(left + 16, 12, `${count} active`),
    );
  });
}

function drawBars() {
  const places = found.levels.map(() => element("div"));
  $("kl").replaceChildren(...places);
  found.levels.forEach((level, l) => {
    const largest = Math.max(...level.map((u) => u.kl));
    const high = largest > 1e-6 ? largest : 1;
    const low = Math.min(0, ...level.map((u) => u.kl));
    const total = level.reduce((sum, u) => sum + u.kl, 0);
    const name = depth > 1 ? `z${l + 1}: ` : "";
    const plot = canvas(places[l], 210, `${name}KL of each unit in nats, ${shown(total)} in all; ` +
      "the numbers are in the table.");
    const x = (i) => plot.left + (i / level.length) * (plot.right - plot.left);
    const y = (v) => plot.bottom - ((v - low) / (high - low)) * (plot.bottom - plot.top - 8);
    rowTicks(plot, y, roundTicks(low, high, 4), "nats");
    const width = (plot.right - plot.left) / level.length;
    level.forEach((unit, i) => {
      const [from, to] = [y(Math.max(unit.kl, 0)), y(Math.min(unit.kl, 0))];
      plot.svg.append(drawn("rect", {
        class: `pc-${unit.status}`, x: x(i) + width * 0.1, y: from, width: width * 0.8,
        height: Math.max(0, to - from),
      }));
    });
    const ticks = countTicks(level.length, 7);
    columnTicks(plot, (n) => x(n - 0.5), ticks, `unit; ${name}${shown(total)} nats in all`);
  });
  $("negative").hidden = !found.levels.flat().some((unit) => unit.kl < 0);
}

const weighed = (features) =>
  features.map(([name, share]) => `${name} ${share > 0 ? "+" : "−"}${Math.abs(share)}`).join(", ");
function showModes() {
  const modes = data.images.length ? data.images : data.named;
  const carried = byMode(found.levels[0]);
  $("modes").className = data.images.length ? "pc-modes" : "pc-modes pc-named";
  $("modes").replaceChildren(...modes.map((source, mode) => {
    const unit = carried[mode];
    const alive = unit?.status === "active";
    const words = unit
      ? `${ICONS[unit.status]} unit ${unit.unit + 1} ${alive ? "lives" : unit.status}`
      : "no unit";
    const pattern = data.images.length
      ? element("img", { src: source, alt: `data mode ${mode + 1}` })
      : element("span", {}, weighed(source));
    return element("li", { class: alive ? "" : "pc-faded" }, pattern, words);
  }));
}
