// How someone's loss is written, what beta its weight is, and what to do with that weight.

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
  const [before, times, etaDec] = [state.form, factor(found.etaDec), found.etaDec];
  const other = FORMS[form].likelihood !== likelihood();
  state.form = form;
  if (other) state.count = likelihood() === "categorical" ? data.positions : features;
  if (form === "nll") return update();
  if (before === "nll" && state.learn) {
    if (Number.isFinite(etaDec)) state.etas = state.etas.map(() => etaDec);
    state.learn = false;
  }
  if (before === "nll" && gaussian() && depth === 1) {
    // The same threshold beta eta_dec^2, said at eta_dec = 1.
    state.betas = [digits(state.betas[0] * state.etas[0] ** 2, 12)];
  }
  if (depth === 1) state.etas = [1];
  if (before !== "nll") {
    const after = factor(state.etas[0]);
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
      `kl = kl_divergence(posterior, prior)${prior}`,
      `loss = recon + ${weights[0]} * kl.sum(1).mean()`,
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
  const critical = level.map((u) => u.informedBeta).filter((b) => !Number.isNaN(b));
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
  const end = Math.max(...level.map((u) => u.criticalBeta));
  const noise = end > onset ? ` Below ${shown(end * times)} some relay noise.` : "";
  if (can === 0) return `${own}no value of ${name} keeps a unit.${noise}`;
  const lines = [];
  const last = critical[can - 1];
  const live = can === 1 ? "lives" : "live";
  let all = `${can} (the data have no more modes)`;
  if (can === level.length) all = can === 1 ? "The unit" : `All ${units(can)}`;
  if (can > alive && Number.isFinite(last)) {
    lines.push(`${all} ${live} while ${name} is below ${roundedDown(last * times)}.`);
  } else if (can > alive) lines.push(`${all} ${live} at a higher ${name}.`);
  if (Number.isFinite(onset)) lines.push(`None lives from ${name} = ${shown(onset * times)} on.${noise}`);
  else lines.push(`Some live whatever ${name} is.`);
  if (depth === 1 && alive > 0 && alive < level.length) {
    const others = level.length - alive > 1 ? "the others carry" : "the other carries";
    lines.push(`Or use ${alive} latent${alive === 1 ? "" : "s"}: ${others} nothing.`);
  } else if (depth === 1 && alive === level.length && found.possible > alive) {
    lines.push(`This data supports ${found.possible}: more latents would live.`);
  }
  return own + lines.join(" ");
}

function showLoss() {
  const form = FORMS[state.form];
  const times = factor(found.etaDec);
  const weights = state.betas.map((beta) => digits(beta * times, 6));
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
