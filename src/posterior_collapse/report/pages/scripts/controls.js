// Sliders with a box each, and copies of what they are set to.

// A slider on a logarithmic scale and a box for any number, both for one number of the state.
function slider({ id, label, low, high, get, set, integer }) {
  const range = element("input", { type: "range", id, min: 0, max: STEPS, step: "any" });
  const box = element("input", {
    type: "number", id: `${id}-box`, step: "any", min: integer ? 1 : 0, "aria-label": label,
  });
  const name = element("label", { for: id }, ...symbol(label));
  const at = (value) => (STEPS * Math.log(value / low)) / Math.log(high / low);
  const take = (value) => {
    const read = (integer ? whole : positive)(String(value));
    if (read === null) return;
    set(read);
    update();
  };
  range.addEventListener("input", () => {
    const value = low * (high / low) ** (range.value / STEPS);
    take(integer ? Math.round(value) : digits(value, 3));
  });
  box.addEventListener("change", () => {
    take(box.value);
    show();
  });
  function show() {
    if (document.activeElement !== range) range.value = at(get());
    range.setAttribute("aria-valuetext", shown(get()));
    box.value = integer ? get() : digits(get(), 6);
  }
  const node = element("div", { class: "pc-slider" }, name, box, range);
  return { node, show, range, box };
}

const first = laws.forecast(problemOf(state));
const decade = (value, side) => 10 ** Math[side](Math.log10(value));
const sliders = [];
function makeSliders() {
  const onset = Number.isFinite(first.onset) && first.onset > 0 ? first.onset : 1;
  data.spec.betas.forEach((own, level) => {
    sliders.push({
      kind: "beta",
      ...slider({
        id: `beta${index(level)}`,
        label: `β${index(level)}`,
        low: decade(Math.min(own, onset) / 300, "floor"),
        high: decade(Math.max(own, onset) * 2, "ceil"),
        get: () => state.betas[level],
        set: (value) => (state.betas[level] = value),
      }),
    });
  });
  const largest = data.laws[data.likelihood].theta[0] ?? 1;
  state.etas.forEach((own, level) => {
    sliders.push({
      kind: "eta",
      ...slider({
        id: `eta${level || ""}`,
        label: ownEtas.length > 1 ? `η_${level + 1}` : "η_dec",
        low: decade(Math.min(own, largest) / 100, "floor"),
        high: decade(Math.max(own, largest) * 2, "ceil"),
        get: () => state.etas[level],
        set: (value) => (state.etas[level] = value),
      }),
    });
  });
  data.spec.dims.forEach((own, level) => {
    const made = slider({
      id: `latents${index(level)}`,
      label: depth > 1 ? `units of z${level + 1}` : "latents",
      low: 1,
      high: Math.min(MOST_UNITS, Math.max(2 * own, 32)),
      get: () => state.dims[level],
      set: (value) => (state.dims[level] = value),
      integer: true,
    });
    if (fixedUnits[level]) made.range.disabled = made.box.disabled = true;
    sliders.push({ kind: "latents", ...made });
  });
  $("sliders").append(...sliders.map((one) => one.node));
}

function saidOfSigmas() {
  const said = data.spec.sigmas.map((sigma, level) => {
    const how = Array.isArray(sigma) ? "fixed per unit" : shownSigma(sigma);
    return `σ${index(level)} ${how}`;
  });
  if (data.spec.etaEnc !== 1) said.push(`η_enc ${shown(data.spec.etaEnc)}`);
  if (fixedUnits.some(Boolean)) said.push("as many units as σ was given for");
  return said.join("; ");
}
const shownSigma = (sigma) => (typeof sigma === "string" ? `${sigma}` : shown(sigma));

// A word as a shell takes it.
const quoted = (word) =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
const hasDispersion = () => likelihood() === "negative-binomial" && data.dispersion !== "learned";
// Levels, and the units of one sigma, are parted by colons: commas part several forecasts.
const numberList = (values) => values.map((v) => digits(v, 12)).join(":");
function command() {
  const parts = ["collapse forecast", data.source ?? (data.name ? quoted(data.name) : "DATA")];
  if (data.model !== "vae") parts.push(`--model ${data.model}`);
  parts.push(`--latents ${numberList(state.dims)}`, `--beta ${numberList(state.betas)}`);
  const eta = state.learn && canLearn() ? "learned" : digits(state.etas[0], 12);
  if (hasEta() && eta !== 1) parts.push(`--eta-dec ${eta}`);
  if (data.spec.etaEnc !== 1) parts.push(`--eta-enc ${data.spec.etaEnc}`);
  data.spec.sigmas.forEach((sigma, level) => {
    const option = depth > 1 ? `--sigma-${level + 1}` : "--sigma";
    const words = Array.isArray(sigma) ? numberList(sigma) : sigma;
    if (depth > 1 || sigma !== "learned") parts.push(`${option} ${words}`);
  });
  if (!gaussian()) parts.push(`--likelihood ${likelihood()}`);
  if (hasDispersion()) parts.push(`--dispersion ${data.dispersion}`);
  if (data.bias !== "both") parts.push("--no-biases"); // no option is for the encoder alone
  return parts.join(" ");
}
function python() {
  const tuple = (values) => `(${values.join(", ")}${values.length === 1 ? "," : ""})`;
  const word = (v) => (typeof v === "string" ? `"${v}"` : Array.isArray(v) ? tuple(v) : String(v));
  const betas = state.betas.map((beta) => digits(beta, 12));
  const eta = state.learn && canLearn() ? "learned" : digits(state.etas[0], 12);
  const given = [];
  if (depth === 1 && data.model !== "chain") {
    given.push(`latent_dim=${state.dims[0]}`, `beta=${betas[0]}`);
    if (gaussian()) given.push(`eta_dec=${word(eta)}`);
    given.push(`eta_enc=${data.spec.etaEnc}`, `sigma=${word(data.spec.sigmas[0])}`);
  } else {
    given.push(`latent_dims=${tuple(state.dims)}`, `betas=${tuple(betas)}`);
    if (data.model === "chain") given.push(`eta_decs=${tuple(state.etas)}`);
    else given.push(`eta_dec=${word(eta)}`);
    given.push(`eta_enc=${data.spec.etaEnc}`);
    if (data.model === "chain") given.push(`sigmas=${tuple(data.spec.sigmas.map(word))}`);
    else data.spec.sigmas.forEach((s, l) => given.push(`sigma_${l + 1}=${word(s)}`));
  }
  if (!gaussian()) given.push(`likelihood="${likelihood()}"`);
  if (hasDispersion()) given.push(`dispersion=${data.dispersion}`);
  const names = { vae: "VAESpec", cvae: "CVAESpec", hvae: "HVAESpec", chain: "ChainSpec" };
  const bias = data.bias === "both" ? "" : `, bias="${data.bias}"`;
  return `import posterior_collapse as pc\n\nspec = pc.${names[data.model]}(\n    ` +
    `${given.join(",\n    ")},\n)\nprint(pc.forecast(data, spec${bias}))`;
}
async function copy(words) {
  $("copied").textContent = words;
  $("copied").hidden = false;
  try {
    await navigator.clipboard.writeText(words);
    $("said").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren($("copied"));
    $("said").textContent = "Selected: copy it from here.";
  }
}
