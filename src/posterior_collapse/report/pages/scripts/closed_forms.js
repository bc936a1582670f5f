// The closed forms of `posterior_collapse.theory` as pure functions, for the sliders of a page.
//
// A port, function by function and under the same names, of theory/closed_forms.py, thresholds.py,
// state.py and solve.py, where each is derived and said. tests/test_report_laws.py runs it on
// random problems of every kind and compares with Python.
//
// A problem: {theta, modes, outside, features, constant, dims, betas, etas, etaEnc, sigmas,
// oneEta}. theta holds the stds of the data modes, descending, zeros left out, of `modes` in all;
// constant is null for a Gaussian, else the loss without latents; an eta or sigma is a number or
// "learned", a sigma also "shared" or a list with one number per unit; oneEta says whether the
// levels share one eta_dec by construction.

const THRESHOLD_ROUNDING = 1e-12;
const LEAST = 1e-50;
const MOST = 1e50;
const HALVINGS = 60;

const range = (n) => Array.from({ length: n }, (_, i) => i);
const sum = (values) => values.reduce((a, b) => a + b, 0);
const square = (x) => x * x;
const fit = (values, width) => range(width).map((i) => (i < values.length ? values[i] : 0));
// A number for all modes, or one for each of them.
const at = (value, i) => (Array.isArray(value) ? value[i] : value);
const atLeastOne = (ratio) => (ratio > 1 + THRESHOLD_ROUNDING ? ratio : 1);
const cumulated = (values) => {
  let total = 0;
  return [0, ...values.map((v) => (total += v))];
};

class NoForecast extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind; // "unbounded", "unsolved" or "scales"
  }
}

// Each returns {second, noise}: E[z^2] and posterior variance per level and mode.

function learnedUnit(signal, threshold, etaEnc) {
  return { second: etaEnc ** 2, noise: etaEnc ** 2 / atLeastOne(signal / threshold) };
}

function fixedUnit(theta, kappa, sigma) {
  return { second: square(sigma) * atLeastOne(theta / kappa), noise: square(sigma) };
}

function sharedSigma(theta, beta, etaDec, etaEnc) {
  const units = theta.length;
  const ratio = theta.map((t) => t / etaDec);
  const strong = cumulated(ratio);
  let x = 0;
  for (let k = units; k >= 0; k--) {
    const weak = units - k;
    x = (2 * beta * units) / (strong[k] + Math.sqrt(strong[k] ** 2 + 4 * weak * beta * units));
    if (k === 0 || ratio[k - 1] > x) break;
  }
  return (x * etaEnc) / Math.sqrt(beta);
}

function everythingExplained(rank) {
  const what = rank ? "the units explain all variance" : "there is no variance left to explain";
  const fewer = rank > 1 ? `, or use fewer than ${rank} units` : "";
  return new NoForecast(
    "unbounded",
    `With η_dec learned ${what}, so the loss falls without end: fix η_dec${fewer}.`,
  );
}

function learnedEta(theta, rest, beta, dim) {
  const variance = theta.map(square);
  const rank = variance.filter((v) => v > 0).length;
  if (rest[rank] === 0 && beta * rank < dim) throw everythingExplained(rank);
  if (rest[rank] === 0 && beta * rank === dim) {
    const note =
      "beta x rank = features: the loss is the same for every eta_dec below the one shown, " +
      "where all units are active with a larger KL: counts and KL are not determined";
    return [Math.sqrt(variance[rank - 1] / beta), [note]];
  }
  let v = 0;
  for (let k = Math.min(rank, Math.ceil(dim / beta) - 1); k >= 0; k--) {
    v = rest[k] / (dim - beta * k);
    if (k === 0 || variance[k - 1] > beta * v) break;
  }
  return [Math.sqrt(v), []];
}

function learnedEtaFixedSigma(theta, ratio, rest, dim) {
  if (rest[0] === 0) throw everythingExplained(0);
  const slope = cumulated(theta.map((t, i) => t * ratio[i]));
  let t = 0;
  for (let k = theta.length; k >= 0; k--) {
    t = (2 * dim) / (slope[k] + Math.sqrt(slope[k] ** 2 + 4 * rest[k] * dim));
    if (k === 0 || theta[k - 1] * t > ratio[k - 1]) break;
  }
  return 1 / t;
}

function learnedEtaSharedSigma(theta, rest, beta, dim) {
  const units = theta.length;
  const strong = cumulated(theta);
  for (let k = units; k >= 0; k--) {
    const r = positiveRoot(
      dim * (units - k), (dim - beta * units) * strong[k], beta * units * rest[k],
    );
    if (r > 0 && (k === 0 || theta[k - 1] > r) && (k === units || theta[k] <= r)) {
      return Math.sqrt((r * strong[k] + rest[k]) / dim);
    }
  }
  throw everythingExplained(theta.filter((t) => t > 0).length);
}

function positiveRoot(a, b, c) {
  const root = Math.sqrt(b * b + 4 * a * c);
  if (b >= 0) return b + root > 0 ? (2 * c) / (b + root) : 0;
  return a > 0 ? (root - b) / (2 * a) : 0;
}

const priors = (numbers) => [...numbers.etas.slice(1), numbers.etaEnc];

function allLearned(theta, dims, numbers) {
  for (let level = 1; level < dims.length; level++) {
    const [lower, upper] = [numbers.betas[level - 1], numbers.betas[level]];
    const falls = range(Math.max(...dims)).some((i) => at(upper, i) < at(lower, i));
    if (falls) {
      throw new NoForecast(
        "unbounded",
        `With every σ learned and β_${level + 1} below β_${level} the loss falls without end: ` +
          `raise β_${level + 1} to β_${level}, or fix a σ.`,
      );
    }
  }
  const levels = priors(numbers).map((prior, level) =>
    range(dims[level]).map((i) => {
      const threshold = at(numbers.betas[0], i) * square(at(numbers.etas[0], i));
      const unit = learnedUnit(level === 0 ? square(theta[i] ?? 0) : 0, threshold, 1);
      const scale = square(at(prior, i));
      return { second: unit.second * scale, noise: unit.noise * scale };
    }),
  );
  return asState(theta, levels);
}

function kappaOf(numbers, sigma, i) {
  const ratio = Math.sqrt(at(numbers.betas[1], i) / at(numbers.betas[0], i));
  return ratio * (at(numbers.etas[1], i) / numbers.etaEnc) * sigma[i];
}

function firstLearned(theta, dims, numbers, sigma2) {
  const seconds = range(Math.max(...dims)).map((i) => {
    const variance = square(at(numbers.etas[1], i));
    const gain = i < dims[1] ? atLeastOne(variance / square(kappaOf(numbers, sigma2, i))) : 0;
    return variance * (gain > 0 ? gain : 1);
  });
  const first = range(dims[0]).map((i) => {
    const threshold = at(numbers.betas[0], i) * square(at(numbers.etas[0], i));
    const heard = square(theta[i] ?? 0) / threshold;
    return { second: seconds[i], noise: seconds[i] / atLeastOne(heard) };
  });
  const above = range(dims[1]).map((i) =>
    fixedUnit(i < dims[0] ? Math.sqrt(seconds[i]) : 0, kappaOf(numbers, sigma2, i), sigma2[i]),
  );
  return asState(theta, [first, above]);
}

function twoFixed(theta, dims, numbers, sigma1, sigma2) {
  const first = range(dims[0]).map((i) => {
    const [beta1, beta2] = numbers.betas.map((b) => at(b, i));
    const [eta0, eta1] = numbers.etas.map((e) => at(e, i));
    const noise = square(sigma1[i]);
    const reach = (theta[i] ?? 0) * Math.sqrt(noise);
    const alone = (reach / Math.sqrt(beta1)) * (eta1 / eta0);
    let second = alone;
    if (i < dims[1]) {
      let helped = square(reach) / (beta2 * square(eta0));
      if (sigma2 !== null) {
        const kappa = kappaOf(numbers, sigma2, i);
        helped = (square(alone) / (kappa > 0 ? kappa : 1)) ** (2 / 3);
      }
      second = Math.max(alone, helped);
    }
    return { second: noise * atLeastOne(second / noise), noise };
  });
  const above = range(dims[1]).map((i) => {
    const heard = i < dims[0] ? first[i].second : 0;
    if (sigma2 !== null) {
      return fixedUnit(Math.sqrt(heard), kappaOf(numbers, sigma2, i), sigma2[i]);
    }
    const ratio = at(numbers.betas[1], i) / at(numbers.betas[0], i);
    return learnedUnit(heard, ratio * square(at(numbers.etas[1], i)), numbers.etaEnc);
  });
  return asState(theta, [first, above]);
}

function allFixed(theta, dims, numbers, sigmas) {
  const top = sigmas[sigmas.length - 1];
  const noise = sigmas.filter((s) => s !== null).map((s) => square(s[0]));
  const free = noise.length;
  const seconds = range(free).map(() => []);
  for (const i of range(Math.max(...dims))) {
    const present = [(theta[i] ?? 0) > 0, ...dims.slice(0, free).map((d) => i < d)];
    const level = [square(theta[i] ?? 0), ...noise.map((n, l) => (i < dims[l] ? n : 0))];
    const weights = [1, ...numbers.betas.map((b) => at(b, i))];
    const etas = [...numbers.etas.map((e) => at(e, i)), numbers.etaEnc];
    const terms = present.map(
      (here, l) => Math.log(weights[l]) + Math.log(here ? level[l] : 1) - 2 * Math.log(etas[l]),
    );
    const listens = top === null && i < dims[dims.length - 1];
    const most = listens ? Math.log(at(numbers.betas[numbers.betas.length - 1], i)) : Infinity;
    taut(terms, present, most).slice(0, free).forEach((gain, l) => {
      if (i < dims[l]) seconds[l].push(noise[l] * atLeastOne(Math.exp(gain)));
    });
  }
  const levels = seconds.map((of, l) => of.map((second) => ({ second, noise: noise[l] })));
  if (top === null) {
    const last = dims.length - 1;
    levels.push(
      range(dims[last]).map((i) => {
        const ratio = at(numbers.betas[last], i) / at(numbers.betas[last - 1], i);
        const heard = i < dims[last - 1] ? seconds[last - 1][i] : 0;
        const threshold = ratio * square(at(numbers.etas[last], i));
        return learnedUnit(heard, threshold, numbers.etaEnc);
      }),
    );
  }
  return asState(theta, levels);
}

function taut(terms, present, most) {
  const points = terms.length;
  const gains = range(points + 1).map(() => 0);
  for (let first = 0; first < points; first++) {
    const linked = present.slice(first).every(Boolean);
    let steepest = linked ? -most : -Infinity;
    for (let stop = points; stop > first; stop--) {
      const reached = present.slice(first, stop).every(Boolean);
      const slope = -sum(terms.slice(first, stop)) / (stop - first);
      const lifted = (stop - first) * (steepest - slope);
      gains[stop] = Math.max(gains[stop], reached ? lifted : 0);
      steepest = Math.max(steepest, reached ? slope : -Infinity);
    }
  }
  return gains.slice(1);
}
