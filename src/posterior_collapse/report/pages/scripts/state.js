// What the page is told and what it keeps: a few numbers, in its address. Everything shown is
// worked out from them by `laws`. Text goes in as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const depth = data.spec.dims.length;
const MOST_UNITS = 1024;
const STEPS = 1000; // of a slider
const ICONS = { active: "●", noise: "■", collapsed: "○" };

const digits = (value, n) => Number(value.toPrecision(n));
function shown(value) {
  if (Number.isNaN(value)) return "?";
  if (!Number.isFinite(value)) return "always";
  const rounded = digits(value, 3);
  const size = Math.abs(rounded);
  const fits = size === 0 || (size >= 1e-4 && size < 1e6); // within an axis's margin
  return fits ? String(rounded) : rounded.toExponential();
}
const exact = (value) =>
  Math.abs(value) < 1e7 ? String(digits(value, 5)) : digits(value, 5).toExponential();
const roundedDown = (value) => {
  const unit = 10 ** (Math.floor(Math.log10(value)) - 2);
  return digits(Math.floor(value / unit) * unit, 3);
};
const units = (count) => `${count} unit${count === 1 ? "" : "s"}`;
const are = (count) => (count === 1 ? "is" : "are");
const index = (level) => (depth > 1 ? `_${level + 1}` : "");

const FORMS = {
  nll: { likelihood: "gaussian", label: "Gaussian log-likelihood with std η_dec" },
  "se-sum": { likelihood: "gaussian", label: "squared error, summed", half: true },
  "se-mean": {
    likelihood: "gaussian", label: "squared error, mean over features", half: true, mean: true,
  },
  "bce-sum": { likelihood: "bernoulli", label: "binary cross-entropy, summed" },
  "bce-mean": { likelihood: "bernoulli", label: "binary cross-entropy, mean", mean: true },
  "poisson-sum": { likelihood: "poisson", label: "Poisson, summed" },
  "poisson-mean": { likelihood: "poisson", label: "Poisson, mean", mean: true },
  "ce-sum": { likelihood: "categorical", label: "cross-entropy, summed over positions" },
  "ce-mean": {
    likelihood: "categorical", label: "cross-entropy, mean over positions", mean: true,
  },
  nb: { likelihood: "negative-binomial", label: "negative binomial, summed" },
};
const known = (form) => data.laws[FORMS[form].likelihood]?.theta !== undefined;
const firstForm = Object.keys(FORMS).find((id) => FORMS[id].likelihood === data.likelihood);
const features = data.laws[data.likelihood].features;
// A number or a "learned" for each eta that can be turned: one, but for chains.
const ownEtas = data.model === "chain" ? data.spec.etas : [data.spec.etas[depth - 1]];
const fixedUnits = data.spec.sigmas.map(Array.isArray);

const asMade = () => ({
  form: firstForm,
  half: false,
  count: FORMS[firstForm].likelihood === "categorical" ? data.positions : features,
  betas: [...data.spec.betas],
  etas: ownEtas.map((eta) => (eta === "learned" ? 1 : eta)),
  learn: ownEtas[0] === "learned",
  dims: [...data.spec.dims],
});
let state = asMade();
let sorting = { key: null, down: false };
const likelihood = () => FORMS[state.form].likelihood;
const gaussian = () => likelihood() === "gaussian";
// With one level and a squared error eta_dec is no number of its own: it is in the weight.
const hasEta = () => (depth > 1 ? true : state.form === "nll");
const canLearn = () => state.form === "nll" && data.model !== "chain";

function etasOf(s) {
  if (s.learn && canLearn()) return data.spec.etas.map(() => "learned");
  if (data.model === "chain") return s.etas;
  const first = gaussian() ? s.etas[0] : 1;
  return depth === 1 ? [first] : [first, s.etas[0]];
}
function problemOf(s) {
  const { betas, dims } = s;
  return { ...data.spec, ...data.laws[likelihood()], betas, dims, etas: etasOf(s) };
}
// Their loss is so many times the log-likelihood with beta KL, hence their weight of the KL.
function factor(etaDec) {
  const form = FORMS[state.form];
  const over = form.mean ? state.count : 1;
  return form.half ? ((state.half ? 0.5 : 1) / over) * 2 * etaDec ** 2 : 1 / over;
}

const positive = (text) => {
  const value = Number(text);
  return text !== "" && value >= 1e-50 && value <= 1e50 ? value : null;
};
const whole = (text) => {
  const value = Number(text);
  return Number.isInteger(value) && value >= 1 && value <= MOST_UNITS ? value : null;
};
function listed(text, read, length) {
  const values = (text ?? "").split(",").map(read);
  return values.length === length && values.every((v) => v !== null) ? values : null;
}
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const found = asMade();
  const form = given.get("loss");
  if (Object.hasOwn(FORMS, form ?? "") && known(form)) found.form = form;
  found.half = given.has("half") ? given.get("half") === "1" : found.half;
  found.count = positive(given.get("count") ?? "") ?? found.count;
  found.betas = listed(given.get("beta"), positive, depth) ?? found.betas;
  found.etas = listed(given.get("eta"), positive, found.etas.length) ?? found.etas;
  if (given.has("eta")) found.learn = given.get("eta") === "learned";
  const dims = listed(given.get("latents"), whole, depth);
  if (dims) found.dims = found.dims.map((own, l) => (fixedUnits[l] ? own : dims[l]));
  return found;
}
function writeAddress() {
  const parts = [`beta=${state.betas}`, `latents=${state.dims}`, `loss=${state.form}`];
  if (hasEta()) parts.push(`eta=${state.learn && canLearn() ? "learned" : state.etas}`);
  if (FORMS[state.form].half && state.half) parts.push("half=1");
  if (FORMS[state.form].mean) parts.push(`count=${state.count}`);
  try {
    history.replaceState(null, "", `#${parts.join("&")}`);
  } catch {
    // a page inside another document keeps no address
  }
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
// "β_1" with its index set low
function symbol(text) {
  return text.split(/(_\w+)/).map((part) =>
    part.startsWith("_") ? element("sub", {}, part.slice(1)) : part,
  );
}
