// The sentence, the table, and all of the page drawn anew when a number changes.

function sentence() {
  if (found.error) return "There is no forecast here.";
  const alive = found.levels.map((level) => level.filter((u) => u.status === "active").length);
  const alone = depth === 1 && state.dims[0] === 1;
  if (alive.every((n) => n === 0)) {
    let none = `None of your ${depth > 1 ? "units" : units(state.dims[0])} will live`;
    if (alone) none = "Your unit will not live";
    if (!data.laws[likelihood()].theta.length) return `${none}: there is no variance to carry.`;
    return `${none}: this loss is past the onset of collapse.`;
  }
  if (depth === 1) {
    const whose = alone ? "Your unit" : `${alive[0]} of your ${units(state.dims[0])}`;
    return `${whose} will live; ` +
      `this data supports ${found.possible} at this loss.`;
  }
  const said = alive.map((n, level) => `z${level + 1}: ${n} of ${state.dims[level]}`);
  return `Units that will live: ${said.join(", ")}.`;
}
function reading() {
  if (found.error) return found.error;
  const parts = [];
  found.levels.forEach((_, level) => {
    const least = leastThreshold(found, level);
    const whose = depth > 1 ? `A unit of z${level + 1}` : "A unit";
    if (Number.isFinite(least)) {
      parts.push(`${whose} lives while its mode's variance exceeds ${shown(least)}.`);
    }
  });
  if (state.learn && canLearn()) parts.push(`Learned η_dec: ${shown(found.etaDec)}.`);
  parts.push(`Loss ${exact(found.loss)} nats per sample.`);
  if (!gaussian()) parts.push("Variances are in units of the noise that this loss tolerates.");
  return parts.join(" ");
}
function leastThreshold(of, level = 0) {
  const values = of.levels[level].map((u) => u.threshold).filter(Number.isFinite);
  return values.length ? Math.min(...values) : Infinity;
}

const table = $("units").querySelector("table");
const headers = [...table.querySelectorAll("th")];
function makeSortable() {
  const own = element("th", { scope: "col", "data-key": "weight" }, "lives while your weight\u00a0<");
  table.querySelector("thead tr").append(own);
  headers.push(own);
  for (const header of headers) {
    const button = element("button", { type: "button" }, header.textContent);
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const { key } = header.dataset;
      const byName = key === "unit" || key === "level";
      sorting = { key, down: sorting.key === key ? !sorting.down : !byName };
      showTable();
    });
  }
}
function showTable() {
  const times = factor(found.etaDec);
  const rows = found.levels.flatMap((level, l) =>
    level.map((u, i) => ({ ...u, level: l + 1, unit: i + 1, weight: u.informedBeta * times })),
  );
  const { key, down } = sorting;
  if (key) {
    const value = (row) => (Number.isNaN(row[key]) ? -Infinity : row[key]);
    const order = (a, b) => (value(a) === value(b) ? 0 : value(a) > value(b) ? 1 : -1);
    rows.sort((a, b) => (down ? -order(a, b) : order(a, b)));
  }
  for (const header of headers) {
    const sorted = header.dataset.key === key;
    header.setAttribute("aria-sort", sorted ? (down ? "descending" : "ascending") : "none");
    header.hidden = header.dataset.key === "weight" && times === 1;
  }
  const cell = (row, name) => {
    if (name === "level") return element("td", {}, `z${row.level}`);
    if (name === "unit") return element("td", {}, String(row.unit));
    if (name === "status") {
      const shape = { class: `pc-${row.status}`, "aria-hidden": "true" };
      const icon = element("span", shape, ICONS[row.status]);
      return element("td", { class: "pc-status" }, icon, " ", element("span", {}, row.status));
    }
    const never = ["threshold", "criticalBeta"].includes(name) && row[name] === Infinity;
    return element("td", {}, never ? "never" : shown(row[name]));
  };
  const columns = headers.filter((header) => !header.hidden).map((h) => h.dataset.key);
  table.querySelector("tbody").replaceChildren(
    ...rows.map((row) => element("tr", {}, ...columns.map((name) => cell(row, name)))),
  );
}

let found = first;
let waiting = false;
let writing = 0;
// At most once per frame: a slider tells of more moves than a screen shows.
function update() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    show();
    // Browsers refuse an address that changes at every step of a slider.
    clearTimeout(writing);
    writing = setTimeout(writeAddress, 150);
  });
}
function show() {
  found = laws.forecast(problemOf(state));
  if (found.error) found = { ...found, etaDec: found.etaDec ?? state.etas[0], levels: [] };
  $("sentence").textContent = sentence();
  $("reading").replaceChildren(...symbol(reading()));
  $("reading").className = found.error ? "pc-warning" : "";
  for (const one of sliders) {
    one.show();
    const learned = one.kind === "eta" && state.learn && canLearn();
    one.node.hidden = one.kind === "eta" && (!hasEta() || learned);
  }
  $("learn").checked = state.learn && canLearn();
  $("learn-row").hidden = !canLearn();
  showLoss();
  $("results").hidden = Boolean(found.error);
  if (found.error) return;
  drawSpectra();
  drawStairs();
  drawBars();
  showModes();
  showTable();
  showNotes();
}
// Of a likelihood that the page was not made for.
function approximate(exact) {
  const known = exact ? `exact for any network${data.whose}` : "known as far as moments tell";
  return (
    `the beta from which total collapse is stable is ${known}; how many units live below it, ` +
    "their KL and the loss are those of a quadratic approximation"
  );
}
function showNotes() {
  $("trust").querySelectorAll(".pc-of-forecast").forEach((line) => line.remove());
  const collapse = Number.isFinite(found.onset) && found.onset > 0;
  $("onset").hidden = !collapse;
  const name = depth > 1 ? "β of z1" : "β";
  const onset = `${name} = ${shown(found.onset)}`;
  const { exact } = data.laws[likelihood()];
  $("onset").textContent = exact
    ? `Onset: from ${onset} on total collapse is stable, in any network${data.whose}.`
    : `Onset, as far as moments tell: total collapse is stable from ${onset} on.`;
  const own = likelihood() === data.likelihood ? data.notes : gaussian() ? [] : [approximate(exact)];
  for (const note of [...own, ...found.notes]) {
    $("trust").append(element("li", { class: "pc-of-forecast" }, `${note}.`));
  }
}

makeSliders();
makeLoss();
makeSortable();
$("fixed").replaceChildren(...symbol(saidOfSigmas()));
for (const id of ["loss", "turn", "drag", "stairs-section", "kl-section"]) $(id).hidden = false;
$("modes-section").hidden = !(data.images.length || data.named.length);
$("copy-command").hidden = data.model === "chain";
$("copy-command").addEventListener("click", () => copy(command()));
$("copy-python").addEventListener("click", () => copy(python()));
$("reset").addEventListener("click", () => {
  state = asMade();
  update();
});
window.addEventListener("hashchange", () => {
  state = readAddress();
  update();
});
let width = document.documentElement.clientWidth;
window.addEventListener("resize", () => {
  if (document.documentElement.clientWidth === width) return;
  width = document.documentElement.clientWidth;
  update();
});
state = readAddress();
show();
