// What moves on the page of a forecast: a state of a few numbers, kept in the address; everything
// shown is worked out from it by `laws`. Text goes in as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const depth = data.spec.dims.length;
  const MOST_UNITS = 1024;
  const STEPS = 1000; // of a slider
  const ICONS = { active: "●", noise: "■", collapsed: "○" };

  // ---- words and numbers -----------------------------------------------------------------------

  const digits = (value, n) => Number(value.toPrecision(n));
  function shown(value) {
    if (Number.isNaN(value)) return "?";
    if (!Number.isFinite(value)) return "any";
    const rounded = digits(value, 3);
    return Math.abs(rounded) < 1e7 ? String(rounded) : rounded.toExponential();
  }
  const exact = (value) =>
    Math.abs(value) < 1e7 ? String(digits(value, 5)) : digits(value, 5).toExponential();
  const roundedDown = (value) => {
    const unit = 10 ** (Math.floor(Math.log10(value)) - 2);
    return digits(Math.floor(value / unit) * unit, 3);
  };
  const units = (count) => `${count} unit${count === 1 ? "" : "s"}`;
  const index = (level) => (depth > 1 ? `_${level + 1}` : "");

  // ---- the state and its problem ---------------------------------------------------------------

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
    return { ...data.spec, ...data.laws[likelihood()], betas: s.betas, dims: s.dims, etas: etasOf(s) };
  }
  // Their loss is so many times the log-likelihood with beta KL, hence their weight of the KL.
  function factor(etaDec) {
    const form = FORMS[state.form];
    const over = form.mean ? state.count : 1;
    return form.half ? ((state.half ? 0.5 : 1) / over) * 2 * etaDec ** 2 : 1 / over;
  }

  // ---- the address -----------------------------------------------------------------------------

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

  // ---- elements --------------------------------------------------------------------------------

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

  // ---- sliders ---------------------------------------------------------------------------------

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

  // ---- your loss -------------------------------------------------------------------------------

  const weightBoxes = [];
  function makeLoss() {
    for (const [id, form] of Object.entries(FORMS)) {
      if (form.likelihood === "negative-binomial" && data.likelihood !== form.likelihood) continue;
      const option = element("option", { value: id }, form.label);
      if (!known(id)) {
        option.disabled = true;
        option.title = data.laws[form.likelihood]?.reason ?? "";
      }
      $("form").append(option);
    }
    $("form").addEventListener("change", () => changeForm($("form").value));
    $("half").addEventListener("change", () => {
      keepWeights(() => (state.half = $("half").checked));
    });
    $("count").addEventListener("change", () => {
      const value = positive($("count").value);
      if (value !== null) keepWeights(() => (state.count = value));
    });
    data.spec.betas.forEach((_, level) => {
      const id = `weight${index(level)}`;
      const box = element("input", { type: "number", id, min: 0, step: "any" });
      box.addEventListener("change", () => {
        const value = positive(box.value);
        if (value !== null) state.betas[level] = digits(value / factor(found.etaDec), 12);
        update();
      });
      weightBoxes.push(box);
      const name = depth > 1 ? `Your weight of the KL of z${level + 1}` : "Your weight of the KL";
      $("weights").append(
        element("p", { class: "pc-row" }, element("label", { for: id }, name), box),
      );
    });
    $("learn").addEventListener("change", () => {
      if (!$("learn").checked && Number.isFinite(found.etaDec)) {
        state.etas = state.etas.map(() => digits(found.etaDec, 4));
      }
      state.learn = $("learn").checked;
      update();
    });
  }
  // The way a loss is written changes what beta its weight is, not the weight in someone's code.
  function keepWeights(change) {
    const before = factor(found.etaDec);
    change();
    const after = factor(found.etaDec);
    state.betas = state.betas.map((beta) => digits((beta * before) / after, 12));
    update();
  }
  function changeForm(form) {
    const [before, times] = [state.form, factor(found.etaDec)];
    const other = FORMS[form].likelihood !== likelihood();
    if (state.learn && canLearn() && form !== before) {
      if (Number.isFinite(found.etaDec)) state.etas = state.etas.map(() => found.etaDec);
      state.learn = false;
    }
    state.form = form;
    if (other) state.count = likelihood() === "categorical" ? data.positions : features;
    if (depth === 1 && FORMS[form].half && state.etas[0] !== 1) {
      // The same threshold beta eta_dec^2, said at eta_dec = 1.
      state.betas = [digits(state.betas[0] * state.etas[0] ** 2, 12)];
      state.etas = [1];
    } else if (before !== "nll" && form !== "nll") {
      const after = factor(gaussian() ? state.etas[0] : NaN);
      state.betas = state.betas.map((beta) => digits((beta * times) / after, 12));
    }
    update();
  }

  const SNIPPETS = {
    nll: ["error = ((y_hat - y) ** 2).sum(1).mean()", "recon = error / (2 * eta_dec**2)"],
    "se-sum": ["error = ((y_hat - y) ** 2).sum(1).mean()", "recon = {half}error"],
    "se-mean": ["recon = {half}F.mse_loss(y_hat, y)  # over {count} features"],
    "bce-sum": [
      "bce = F.binary_cross_entropy_with_logits",
      'recon = bce(logits, y, reduction="sum") / len(y)',
    ],
    "bce-mean": [
      "bce = F.binary_cross_entropy_with_logits", "recon = bce(logits, y)  # over {count} features",
    ],
    "poisson-sum": [
      "nll = F.poisson_nll_loss", 'recon = nll(log_rate, y, reduction="sum") / len(y)',
    ],
    "poisson-mean": ["recon = F.poisson_nll_loss(log_rate, y)", "# over {count} features"],
    "ce-sum": ["ce = F.cross_entropy", 'recon = ce(logits, y, reduction="sum") / len(y)'],
    "ce-mean": ["recon = F.cross_entropy(logits, y)", "# over {count} positions"],
    nb: ["p = NegativeBinomial(r, logits=logits)", "recon = -p.log_prob(y).sum(1).mean()"],
  };
  function snippet(weights) {
    const lines = [...SNIPPETS[state.form]];
    if (state.form === "nll" && state.learn) {
      lines.unshift("eta_dec = log_eta_dec.exp()  # a parameter");
      lines.push("recon = recon + y.shape[1] * log_eta_dec");
    } else if (state.form === "nll") {
      lines.unshift(`eta_dec = ${digits(state.etas[0], 6)}`);
    }
    if (depth === 1) {
      const prior = data.spec.etaEnc === 1 ? "" : `  # prior of std ${shown(data.spec.etaEnc)}`;
      lines.push(
        `kl = kl_divergence(posterior, prior)${prior}`, `loss = recon + ${weights[0]} * kl.sum(1).mean()`,
      );
    } else {
      const terms = weights.map((weight, level) => `${weight} * kl_${level + 1}`);
      lines.push(`loss = recon + ${terms.join(" + ")}`);
    }
    return lines
      .join("\n")
      .replace("{half}", state.half ? "0.5 * " : "")
      .replace("{count}", String(state.count));
  }

  function advice(times) {
    return found.levels.map((level, l) => levelAdvice(level, l, times)).join("\n");
  }
  function levelAdvice(level, l, times) {
    const critical = level.map((u) => u.criticalBeta).filter((b) => !Number.isNaN(b));
    critical.sort((a, b) => b - a);
    const own = depth > 1 ? `z${l + 1}: ` : "";
    const weight = state.form === "nll" ? "β" : "your weight";
    const name = depth > 1 ? `${weight} of z${l + 1}` : weight;
    const alive = level.filter((u) => u.status === "active").length;
    const can = critical.filter((b) => b > 0).length;
    if (l > 0 && data.spec.sigmas.every((s) => s === "learned" || s === "input")) {
      return `${own}with every σ learned no weight keeps its units.`;
    }
    if (!critical.length) return `${own}its units are not determined.`;
    const onset = critical[0];
    if (can === 0) return `${own}no value of ${name} keeps a unit.`;
    const lines = [];
    const last = critical[can - 1];
    const all = can === level.length ? `All ${units(can)}` : `${can} (the data have no more modes)`;
    if (can > alive && Number.isFinite(last)) {
      lines.push(`${all} live while ${name} is below ${roundedDown(last * times)}.`);
    } else if (can > alive) lines.push(`${all} live at a higher ${name}.`);
    if (Number.isFinite(onset)) lines.push(`None lives from ${name} = ${shown(onset * times)} on.`);
    else lines.push(`Some live whatever ${name} is.`);
    if (depth === 1 && alive > 0 && alive < level.length) {
      lines.push(`Or use ${alive} latents: the others carry nothing.`);
    } else if (depth === 1 && alive === level.length && found.possible > alive) {
      lines.push(`This data supports ${found.possible}: more latents would live.`);
    }
    return own + lines.join(" ");
  }

  function showLoss() {
    const form = FORMS[state.form];
    const times = factor(found.etaDec);
    const weights = state.betas.map((beta) => digits(beta * times, 4));
    $("form").value = state.form;
    $("half").checked = state.half;
    $("half-label").hidden = !form.half;
    $("count-label").hidden = !form.mean;
    $("count-text").textContent = likelihood() === "categorical" ? "positions" : "features";
    $("count").value = state.count;
    weightBoxes.forEach((box, level) => {
      if (document.activeElement !== box) box.value = weights[level];
    });
    $("snippet").textContent = snippet(weights);
    $("advice").textContent = found.error ? "" : advice(times);
  }

  // ---- sentences -------------------------------------------------------------------------------

  function sentence() {
    if (found.error) return "There is no forecast here.";
    const alive = found.levels.map((level) => level.filter((u) => u.status === "active").length);
    if (alive.every((n) => n === 0)) {
      const whose = depth > 1 ? "your units" : `your ${units(state.dims[0])}`;
      if (!data.laws[likelihood()].theta.length) {
        return `None of ${whose} will live: there is no variance for them to carry.`;
      }
      return `None of ${whose} will live: this loss is past the onset of collapse.`;
    }
    if (depth === 1) {
      return `${alive[0]} of your ${units(state.dims[0])} will live; ` +
        `this data supports ${found.possible} at this loss.`;
    }
    const said = alive.map((n, level) => `z${level + 1}: ${n} of ${state.dims[level]}`);
    return `Units that will live: ${said.join(", ")}.`;
  }
  function reading() {
    if (found.error) return found.error;
    const least = leastThreshold(found);
    const parts = [];
    if (Number.isFinite(least)) {
      parts.push(`A unit lives while its mode's variance exceeds ${shown(least)}.`);
    }
    if (state.learn && canLearn()) parts.push(`Learned η_dec: ${shown(found.etaDec)}.`);
    parts.push(`Loss ${exact(found.loss)} nats per sample.`);
    if (!gaussian()) parts.push("Variances are in units of the noise that this likelihood tolerates.");
    return parts.join(" ");
  }
  function leastThreshold(of) {
    const values = of.levels[0].map((u) => u.threshold).filter(Number.isFinite);
    return values.length ? Math.min(...values) : Infinity;
  }

  // ---- figures ---------------------------------------------------------------------------------

  const MARGIN = { left: 52, right: 14, top: 14, bottom: 38 };
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
  const text = (x, y, words, anchor = "start") =>
    drawn("text", { x, y, "text-anchor": anchor }, words);
  const logScale = (low, high, from, to) => (value) =>
    from + (Math.log(Math.min(Math.max(value, low), high) / low) / Math.log(high / low)) * (to - from);
  function decades(low, high, most) {
    const [from, to] = [Math.ceil(Math.log10(low)), Math.floor(Math.log10(high))];
    const every = Math.max(1, Math.ceil((to - from + 1) / most));
    const ticks = [];
    for (let d = from; d <= to; d += every) ticks.push(10 ** d);
    if (ticks.length > 2) return ticks;
    const fine = [-1, 0, 1, 2].flatMap((d) => [1, 2, 5].map((n) => digits(n * 10 ** (from - 1 + d), 1)));
    return fine.filter((v) => v >= low && v <= high);
  }
  function rowTicks(plot, y, ticks) {
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
  function wholeTicks(high, most) {
    const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500];
    const step = steps.find((s) => high / s <= most) ?? 1000;
    return Array.from({ length: Math.floor(high / step) + 1 }, (_, i) => i * step);
  }
  function dot(status, x, y) {
    if (status === "noise") {
      return drawn("rect", { class: "pc-noise", x: x - 4, y: y - 4, width: 8, height: 8 });
    }
    return drawn("circle", { class: `pc-${status}`, cx: x, cy: y, r: status === "none" ? 2 : 4.5 });
  }
  const diamond = (x, y) =>
    drawn("path", { class: "pc-here", d: `M${x} ${y - 8}L${x + 8} ${y}L${x} ${y + 8}L${x - 8} ${y}Z` });

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
    const there = theta.filter((t) => t ** 2 > strongest * 1e-6).length;
    const count = Math.max(1, Math.min(there, Math.max(2 * Math.max(...state.dims), 24)));
    const variances = theta.slice(0, count).map((t) => t ** 2);
    const [low, high] = [(variances[count - 1] ?? strongest) / 3, strongest * 2];
    const active = carried.filter((u) => u.status === "active").length;
    const name = depth > 1 ? ` of z${l + 1}` : "";
    const plot = canvas(place, 280, `Spectrum: variances of the ${count} strongest data modes from ` +
      `${shown(strongest)} to ${shown(variances[count - 1] ?? 0)}; ${active} carry an active unit` +
      `${name}. The numbers are in the table.`, l === 0 ? "group" : "img");
    const x = (mode) => plot.left + ((mode + 0.5) / count) * (plot.right - plot.left);
    const y = logScale(low, high, plot.bottom, plot.top);
    rowTicks(plot, y, decades(low, high, 6));
    const modes = wholeTicks(count, 7).map((n) => Math.max(1, n)).filter((n) => n <= count);
    columnTicks(plot, (n) => x(n - 1), modes, `data mode${depth > 1 ? `; units${name}` : ", strongest first"}`);
    plot.svg.append(text(4, 10, "variance"));
    const points = carried.slice(0, count).flatMap((u, mode) =>
      Number.isFinite(u.threshold)
        ? [`${x(mode - 0.5)},${y(u.threshold)}`, `${x(mode + 0.5)},${y(u.threshold)}`]
        : [],
    );
    if (points.length) {
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
      const step = { ArrowUp: 1.1, ArrowRight: 1.1, ArrowDown: 1 / 1.1, ArrowLeft: 1 / 1.1 }[event.key];
      if (!step) return;
      event.preventDefault();
      setThreshold(least * step);
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
    setThreshold(scaleOfSpectrum(((event.clientY - box.top) * svg.viewBox.baseVal.height) / box.height));
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
    drawSteps(steps, count, here, byProduct ? "β η²" : "β", edges.length === finite.length ? last : 0);
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
    const plot = canvas($("stairs"), 240, `Staircase: active units fall from ${counts[0].join(", ")} as ` +
      `${name} grows; here, at ${shown(here)}, ${now.join(", ")} are active` +
      (onset ? `; none from ${shown(onset)} on.` : "."));
    const x = logScale(low, high, plot.left, plot.right);
    const y = (n) => plot.bottom - (n / most) * (plot.bottom - plot.top - 16);
    rowTicks(plot, y, wholeTicks(most, 5));
    columnTicks(plot, x, decades(low, high, 6), name);
    if (onset) {
      plot.svg.append(
        drawn("path", { class: "pc-threshold", d: `M${x(onset)} ${plot.top}V${plot.bottom}` }),
        text(x(onset) + 5, plot.top + 40, "onset"),
        text(x(onset) + 5, plot.top + 55, shown(onset)),
      );
    }
    now.forEach((active, level) => {
      let path = `M${x(low)} ${y(counts[0][level])}`;
      steps.forEach((step, i) => (path += `H${x(step)}V${y(counts[i][level])}`));
      plot.svg.append(drawn("path", { class: "pc-stairs", d: path }));
      const side = x(here) > (plot.left + plot.right) / 2 ? "end" : "start";
      const whose = now.length > 1 ? `z${level + 1}: ${active}` : `you are here: ${active}`;
      plot.svg.append(
        diamond(x(here), y(active)),
        text(x(here) + (side === "end" ? -13 : 13), y(active) - 8, whose, side),
      );
    });
  }

  // Colours of few to many, told apart by all eyes: from cividis.
  const SHADES = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
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
      `beta 1 = ${shown(state.betas[0])} and beta 2 = ${shown(state.betas[1])}, ${here} are active.`);
    const x = logScale(...spans[0], plot.left, plot.right);
    const y = logScale(...spans[1], plot.bottom, plot.top + 18);
    const [width, height] = [(plot.right - plot.left) / CELLS, (plot.bottom - plot.top - 18) / CELLS];
    map.counts.forEach((row, r) => row.forEach((count, c) => {
      const fill = count < 0 ? "none" : shade(count / most);
      plot.svg.append(drawn("rect", {
        class: "pc-cell", x: x(value(0, c)) - width / 2, y: y(value(1, r)) - height / 2,
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
      rowTicks(plot, y, [...new Set([low, 0, high / 2, high])]);
      const width = (plot.right - plot.left) / level.length;
      level.forEach((unit, i) => {
        const [from, to] = [y(Math.max(unit.kl, 0)), y(Math.min(unit.kl, 0))];
        plot.svg.append(drawn("rect", {
          class: `pc-${unit.status}`, x: x(i) + width * 0.1, y: from, width: width * 0.8,
          height: Math.max(0, to - from),
        }));
      });
      const ticks = wholeTicks(level.length, 7).map((n) => Math.max(1, n));
      columnTicks(plot, (n) => x(n - 0.5), ticks, `unit; ${name}${shown(total)} nats in all`);
    });
  }

  function showModes() {
    if (!data.images.length) return;
    const carried = byMode(found.levels[0]);
    $("modes").replaceChildren(...data.images.map((source, mode) => {
      const unit = carried[mode];
      const alive = unit?.status === "active";
      const words = unit
        ? `${ICONS[unit.status]} unit ${unit.unit + 1} ${alive ? "lives" : unit.status}`
        : "no unit";
      const image = element("img", { src: source, alt: `data mode ${mode + 1}` });
      return element("li", { class: alive ? "" : "pc-faded" }, image, words);
    }));
  }

  // ---- the table -------------------------------------------------------------------------------

  const table = $("units").querySelector("table");
  const headers = [...table.querySelectorAll("th")];
  function makeSortable() {
    const own = element("th", { scope: "col", "data-key": "weight" }, "lives while your weight <");
    table.querySelector("thead tr").append(own);
    headers.push(own);
    for (const header of headers) {
      const button = element("button", { type: "button" }, header.textContent);
      header.replaceChildren(button);
      button.addEventListener("click", () => {
        const { key } = header.dataset;
        sorting = { key, down: sorting.key === key ? !sorting.down : key !== "unit" && key !== "level" };
        showTable();
      });
    }
  }
  function showTable() {
    const times = factor(found.etaDec);
    const rows = found.levels.flatMap((level, l) =>
      level.map((u, i) => ({ ...u, level: l + 1, unit: i + 1, weight: u.criticalBeta * times })),
    );
    const { key, down } = sorting;
    if (key) {
      const order = (a, b) => (a[key] === b[key] ? 0 : a[key] > b[key] ? 1 : -1);
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
        const icon = element("span", { class: `pc-${row.status}`, "aria-hidden": "true" }, ICONS[row.status]);
        return element("td", { class: "pc-status" }, icon, " ", element("span", {}, row.status));
      }
      const never = name === "threshold" && row.threshold === Infinity;
      return element("td", {}, never ? "never" : shown(row[name]));
    };
    const columns = headers.filter((header) => !header.hidden).map((h) => h.dataset.key);
    table.querySelector("tbody").replaceChildren(
      ...rows.map((row) => element("tr", {}, ...columns.map((name) => cell(row, name)))),
    );
  }

  // ---- copies ----------------------------------------------------------------------------------

  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  const hasDispersion = () => likelihood() === "negative-binomial" && data.dispersion !== "learned";
  const numberList = (values) => values.map((v) => digits(v, 12)).join(",");
  function command() {
    const parts = ["collapse forecast", data.source ?? (data.name ? quoted(data.name) : "DATA")];
    if (data.model !== "vae") parts.push(`--model ${data.model}`);
    parts.push(`--latents ${state.dims}`, `--beta ${numberList(state.betas)}`);
    const eta = state.learn && canLearn() ? "learned" : digits(state.etas[0], 12);
    if (hasEta() && eta !== 1) parts.push(`--eta-dec ${eta}`);
    if (data.spec.etaEnc !== 1) parts.push(`--eta-enc ${data.spec.etaEnc}`);
    data.spec.sigmas.forEach((sigma, level) => {
      const option = depth > 1 ? `--sigma-${level + 1}` : "--sigma";
      if (depth > 1 || sigma !== "learned") parts.push(`${option} ${sigma}`);
    });
    if (!gaussian()) parts.push(`--likelihood ${likelihood()}`);
    if (hasDispersion()) parts.push(`--dispersion ${data.dispersion}`);
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
    return `import posterior_collapse as pc\n\nspec = pc.${names[data.model]}(\n    ` +
      `${given.join(",\n    ")},\n)\nprint(pc.forecast(data, spec))`;
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

  // ---- all of it -------------------------------------------------------------------------------

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
    for (const id of ["stairs-section", "kl-section"]) $(id).hidden = Boolean(found.error);
    if (found.error) return;
    drawSpectra();
    drawStairs();
    drawBars();
    showModes();
    showTable();
    showNotes();
  }
  const APPROXIMATE =
    "the beta at which everything collapses is exact for any network; how many units live below " +
    "it, their KL and the loss are those of a quadratic approximation";
  function showNotes() {
    $("trust").querySelectorAll(".pc-of-forecast").forEach((line) => line.remove());
    const collapse = Number.isFinite(found.onset) && found.onset > 0;
    $("onset").hidden = !collapse;
    const name = depth > 1 ? "β of z1" : "β";
    $("onset").textContent =
      `Onset: from ${name} = ${shown(found.onset)} on every unit collapses, in any network.`;
    const own = likelihood() === data.likelihood ? data.notes : gaussian() ? [] : [APPROXIMATE];
    for (const note of [...own, ...found.notes]) {
      $("trust").append(element("li", { class: "pc-of-forecast" }, `${note}.`));
    }
  }

  makeSliders();
  makeLoss();
  makeSortable();
  $("fixed").replaceChildren(...symbol(saidOfSigmas()));
  for (const id of ["loss", "turn", "drag"]) $(id).hidden = false;
  $("modes-section").hidden = !data.images.length;
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
})();
