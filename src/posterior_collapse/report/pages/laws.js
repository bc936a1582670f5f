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
"use strict";

const laws = (() => {
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

  // ---- closed_forms.py -------------------------------------------------------------------------

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

  // ---- state.py --------------------------------------------------------------------------------

  function asState(theta, levels) {
    const second = levels.map((of) => of.map((unit) => unit.second));
    const noise = levels.map((of) => of.map((unit) => unit.noise));
    const unheard = second.map((of, l) =>
      of.map((s, i) => (l > 0 && i >= second[l - 1].length ? 1 : noise[l][i] / s)),
    );
    const lost = [unheard[0]];
    for (const shares of unheard.slice(1)) {
      const below = lost[lost.length - 1];
      lost.push(shares.map((share, i) => share + (1 - share) * (i < below.length ? below[i] : 1)));
    }
    return { theta, second, noise, unheard, lost };
  }

  const correlation = (state, level, i) => 1 - (state.unheard[level]?.[i] ?? 1);

  function klOf(state, numbers) {
    return state.second.map((of, level) =>
      of.map((s, i) => {
        const variance = square(priors(numbers)[level]);
        const parent = correlation(state, level + 1, i);
        const noise = state.noise[level][i];
        return ((s * (1 - parent)) / variance - Math.log(noise / variance) - 1) / 2;
      }),
    );
  }

  function lossOf(state, kl, numbers, outside, dim) {
    const variance = numbers.etas[0] ** 2;
    const error = outside + sum(state.unheard[0].map((u, i) => square(state.theta[i] ?? 0) * u));
    const total = sum(kl.map((of, level) => numbers.betas[level] * sum(of)));
    return (error / variance + dim * Math.log(2 * Math.PI * variance)) / 2 + total;
  }

  // ---- thresholds.py ---------------------------------------------------------------------------

  // Each returns, per level, a list of {variance, beta, eta}: what the unit's mode must exceed, and
  // the beta and eta_dec above which the unit collapses.

  function thresholdsLearned(theta, numbers) {
    const [beta, eta] = [numbers.betas[0], numbers.etas[0]];
    return theta.map((t) => ({
      variance: beta * square(eta), beta: t ** 2 / square(eta), eta: t / Math.sqrt(beta),
    }));
  }

  function thresholdsFixed(theta, numbers, sigma) {
    const [beta, eta] = [numbers.betas[0], numbers.etas[0]];
    return theta.map((t, i) => {
      const scaled = sigma[i] / numbers.etaEnc;
      return {
        variance: beta * square(eta * scaled),
        beta: square(t / (eta * scaled)),
        eta: t / (Math.sqrt(beta) * scaled),
      };
    });
  }

  function thresholdsShared(theta, numbers, sigma) {
    const [beta, eta] = [numbers.betas[0], numbers.etas[0]];
    const now = thresholdsFixed(theta, numbers, theta.map(() => sigma));
    return theta.map((t, i) => {
      const product = (t * sum(theta.map((other) => Math.max(other, t)))) / theta.length;
      return {
        variance: now[i].variance, beta: product / square(eta), eta: Math.sqrt(product / beta),
      };
    });
  }

  function learnedEtaBeta(theta, rest, dim) {
    return theta.map((t, i) => {
      const scale = rest[i + 1] + (i + 1) * t ** 2;
      return scale > 0 ? (t ** 2 * dim) / scale : 0;
    });
  }

  function learnedEtaFixedBeta(theta, sigma, rest, dim) {
    const slope = cumulated(theta.map((t, i) => t * sigma[i]));
    return theta.map((t, i) => {
      const inverse = (rest[i] * sigma[i] ** 2) / t ** 2 + (slope[i] * sigma[i]) / t;
      return t > 0 ? dim / inverse : 0;
    });
  }

  function learnedEtaSharedBeta(theta, rest, dim) {
    const units = theta.length;
    const strong = cumulated(theta);
    return theta.map((t, i) => {
      const scale = units * (t * strong[i + 1] + rest[i + 1]);
      const top = dim * t * ((units - i - 1) * t + strong[i + 1]);
      return scale > 0 ? top / scale : 0;
    });
  }

  function thresholdsAllLearned(theta, dims, numbers) {
    const levels = [thresholdsLearned(fit(theta, dims[0]), numbers)];
    for (let level = 1; level < dims.length; level++) {
      const [lower, upper] = [numbers.betas[level - 1], numbers.betas[level]];
      const flat = lower === upper;
      levels.push(
        range(dims[level]).map(() => ({
          variance: flat ? NaN : Infinity, beta: lower, eta: flat ? NaN : 0,
        })),
      );
    }
    return levels;
  }

  function thresholdsFirstLearned(theta, dims, numbers, sigma2) {
    const first = thresholdsLearned(fit(theta, dims[0]), numbers);
    const above = range(dims[1]).map((i) => {
      const beta = i < dims[0] ? numbers.betas[0] * square(numbers.etaEnc / sigma2[i]) : 0;
      const on = numbers.betas[1] < beta;
      return { variance: on ? first[0].variance : Infinity, beta, eta: on ? Infinity : 0 };
    });
    return [first, above];
  }

  function thresholdsTwoFixed(theta, dims, numbers, sigma1, sigma2) {
    const [beta1, beta2] = numbers.betas;
    const eta = numbers.etas[0];
    const scaled = (i) => sigma2[i] / numbers.etaEnc;
    const level1 = range(dims[0]).map((i) => {
      const [first, one] = [theta[i] ?? 0, sigma1[i]];
      const alone = square(first / one);
      if (i >= dims[1]) {
        return {
          variance: beta1 * one ** 2,
          beta: alone,
          eta: first > Math.sqrt(beta1) * one ? Infinity : 0,
        };
      }
      let helped = first > Math.sqrt(beta2) * eta ? Infinity : 0;
      let helpedEta = first / Math.sqrt(beta2);
      let helpedVariance = beta2 * square(eta);
      if (sigma2 !== null) {
        const above = scaled(i);
        helped = first ** 4 / (beta2 * square(eta * one * above));
        helpedEta = first ** 2 / (Math.sqrt(beta1 * beta2) * one * above);
        helpedVariance = Math.sqrt(beta1 * beta2) * eta * one * above;
      }
      return {
        variance: Math.min(beta1 * one ** 2, helpedVariance),
        beta: Math.max(alone, helped),
        eta: first > Math.sqrt(beta1) * one ? Infinity : helpedEta,
      };
    });
    const level2 = range(dims[1]).map((i) => {
      const child = i < dims[0];
      const one = child ? sigma1[i] : 1;
      const signal = theta[i] ?? 0;
      const second = child ? Math.max(one ** 2, (signal * one) / Math.sqrt(beta1)) * beta1 : 0;
      const two = sigma2 === null ? 1 : scaled(i);
      const both = square(beta2 * square(eta * two)) / (beta1 * one ** 2);
      return {
        variance: child ? Math.max(level1[i].variance, both) : Infinity,
        beta: second / square(eta * two),
        eta: Math.sqrt(second / beta2) / two,
      };
    });
    return [level1, level2];
  }

  function byBisection(theta, dims, numbers, solveState) {
    const width = Math.max(...dims);
    const replaced = (values, level, value) => values.map((v, k) => (k === level ? value : v));
    return dims.map((units, level) => {
      const dead = (state) =>
        range(width).map((i) => !(i < units && correlation(state, level, i) > 0));
      const heard = (v) => {
        const { lost } = solveState(v, numbers);
        return range(width).map((i) => i < units && 1 - lost[level][i] > 0);
      };
      const variance = switched(width, heard);
      const beta = switched(width, (v) =>
        dead(solveState(theta, { ...numbers, betas: replaced(numbers.betas, level, v) })),
      );
      const eta = switched(width, (v) =>
        dead(solveState(theta, { ...numbers, etas: replaced(numbers.etas, level, v) })),
      );
      return range(units).map((i) => ({
        variance: square(variance[i]), beta: beta[i], eta: eta[i],
      }));
    });
  }

  function switched(width, past) {
    const low = range(width).map(() => Math.log(LEAST));
    const high = range(width).map(() => Math.log(MOST));
    const always = past(low.map(Math.exp));
    const ever = past(high.map(Math.exp));
    for (let step = 0; step < HALVINGS; step++) {
      const middle = low.map((l, i) => (l + high[i]) / 2);
      past(middle.map(Math.exp)).forEach((turned, i) => {
        if (turned) high[i] = middle[i];
        else low[i] = middle[i];
      });
    }
    return high.map((h, i) => (always[i] ? 0 : ever[i] ? Math.exp(h) : Infinity));
  }

  // ---- solve.py --------------------------------------------------------------------------------

  const perUnit = (sigma) => sigma === "learned" || sigma === "input";
  const isotropic = (std) => std === null || std.every((s) => s === std[0]);
  const ROTATION =
    "units of equal fixed sigma can be rotated freely, so which unit is active and the KL of " +
    "each are not determined (counts, totals and singular values are)";

  function prepared(problem) {
    const { dims, outside } = problem;
    const levels = problem.sigmas.map((sigma, level) => {
      if (typeof sigma === "string") return { std: null, order: range(dims[level]) };
      const std = range(dims[level]).map((i) => at(sigma, i));
      const order = range(dims[level]).sort((a, b) => std[a] - std[b]);
      return { std: order.map((unit) => std[unit]), order };
    });
    const after = [0];
    fit(problem.theta, Math.max(dims[0], problem.theta.length)).reverse()
      .forEach((t) => after.push(after[after.length - 1] + t ** 2));
    return {
      ...problem,
      units: fit(problem.theta, dims[0]),
      rest: after.reverse().slice(0, dims[0] + 1).map((v) => outside + v),
      stds: levels.map((level) => level.std),
      orders: levels.map((level) => level.order),
      depth: dims.length,
      allLearned: problem.sigmas.every(perUnit),
      shared: dims.length === 1 && problem.sigmas[0] === "shared",
    };
  }

  function refuseUnsolved(p) {
    if (p.allLearned) return;
    const learned = p.sigmas.map((s) => typeof s === "string");
    let reason = "";
    if (p.depth > 1 && p.sigmas.includes("shared")) {
      reason = "a hierarchy with one shared learned σ";
    } else if (p.depth > 1 && p.etas[0] === "learned") {
      reason = "a hierarchy with η_dec learned and some σ fixed";
    } else if (p.depth > 2 && (learned.slice(0, -1).some(Boolean) || !p.stds.every(isotropic))) {
      reason = "three or more levels with σ neither all learned nor fixed and equal";
    } else if (p.depth === 2 && !isotropic(p.stds[0])) {
      if (p.dims[1] < p.dims[0]) reason = "σ_1 fixed and unequal with fewer units in z2 than in z1";
      else if (!isotropic(p.stds[1])) reason = "σ_1 and σ_2 both fixed and unequal";
    }
    if (reason) throw new NoForecast("unsolved", `No closed form is known for ${reason}.`);
  }

  function decoderStd(p) {
    if (p.etas[0] !== "learned") return [NaN, []];
    const [theta, beta, rest, dim] = [p.units, p.betas[0], p.rest, p.features];
    if (p.allLearned) return learnedEta(theta, rest, beta, dim);
    refuseUnsolved(p);
    if (p.shared) return [learnedEtaSharedSigma(theta, rest, beta, dim), []];
    const ratio = p.stds[0].map((s) => (Math.sqrt(beta) * s) / p.etaEnc);
    return [learnedEtaFixedSigma(theta, ratio, rest, dim), []];
  }

  function solveState(p, theta, numbers) {
    if (p.allLearned) return allLearned(theta, p.dims, numbers);
    refuseUnsolved(p);
    const [first, second] = p.stds;
    if (p.depth === 1) {
      const root = Math.sqrt(numbers.betas[0]) * (numbers.etas[0] / numbers.etaEnc);
      const unit = (i) => fixedUnit(theta[i] ?? 0, root * first[i], first[i]);
      return asState(theta, [range(p.dims[0]).map(unit)]);
    }
    if (p.depth === 2 && first === null) return firstLearned(theta, p.dims, numbers, second);
    if (p.depth === 2) return twoFixed(theta, p.dims, numbers, first, second);
    return allFixed(theta, p.dims, numbers, p.stds);
  }

  function solve(problem) {
    let p = prepared(problem);
    const [etaDec, notes] = decoderStd(p);
    const etas = p.etas.map((e) => (e === "learned" ? etaDec : e));
    const numbers = { betas: p.betas, etas, etaEnc: p.etaEnc };
    if (p.shared) {
      const sigma = sharedSigma(p.units, p.betas[0], etas[0], p.etaEnc);
      p = { ...p, stds: [p.units.map(() => sigma)] };
    }
    const state = solveState(p, p.theta, numbers);
    const kl = klOf(state, numbers);
    const logs = [...state.second, ...state.noise].map((of) => sum(of.map(Math.log)));
    if (![...logs, ...kl.map(sum)].every(Number.isFinite)) {
      throw new NoForecast("scales", "Stds and betas lie too far apart for floats.");
    }
    return { p, numbers, state, kl, notes: [...notes, ...notesOf(p, state)] };
  }

  function notesOf(p, state) {
    if (p.allLearned) {
      return range(p.depth).filter((l) => l > 0 && p.betas[l] === p.betas[l - 1]).map(
        (l) =>
          `level ${l + 1}: with beta equal to that of level ${l} and all sigmas learned it is a ` +
          "flat direction; the member with this level collapsed is shown",
      );
    }
    const notes = [];
    p.stds.forEach((std, level) => {
      if (std !== null && new Set(std).size < std.length) {
        notes.push(`level ${level + 1}: ${ROTATION}`);
      }
    });
    if (p.depth === 2 && p.stds[0] === null) {
      if (new Set(state.second[0]).size > 1) {
        notes.push(
          "level 1: which mode goes with which unit of z1 is not determined, hence neither its " +
            "encoder singular values and sigma nor the information in z2",
        );
      }
    } else if (p.depth === 2 && !isotropic(p.stds[0])) {
      notes.push(
        "level 1: where every mode is active at both levels, z1 may be rotated freely, and " +
          "encoder and decoder singular values are not determined",
      );
    }
    return notes;
  }

  function critical({ p, numbers, state }) {
    const [theta, rest, dim] = [p.units, p.rest, p.features];
    const learnsEta = p.etas[0] === "learned";
    const withBeta = (level, betas) =>
      learnsEta ? level.map((unit, i) => ({ ...unit, beta: betas()[i] })) : level;
    if (p.allLearned) {
      const levels = thresholdsAllLearned(p.theta, p.dims, numbers);
      levels[0] = withBeta(levels[0], once(() => learnedEtaBeta(theta, rest, dim)));
      return levels;
    }
    if (p.shared) {
      const level = thresholdsShared(theta, numbers, Math.sqrt(state.noise[0][0]));
      return [withBeta(level, once(() => learnedEtaSharedBeta(theta, rest, dim)))];
    }
    const [first, second] = p.stds;
    if (p.depth === 1) {
      const scaled = first.map((s) => s / numbers.etaEnc);
      const level = thresholdsFixed(theta, numbers, first);
      return [withBeta(level, once(() => learnedEtaFixedBeta(theta, scaled, rest, dim)))];
    }
    if (p.depth === 2 && first === null) {
      return thresholdsFirstLearned(p.theta, p.dims, numbers, second);
    }
    if (p.depth === 2 && numbers.etas[0] === numbers.etas[1] && p.oneEta) {
      return thresholdsTwoFixed(p.theta, p.dims, numbers, first, second);
    }
    return byBisection(p.theta, p.dims, numbers, (t, n) => solveState(p, t, n));
  }

  function once(make) {
    let made;
    return () => (made ??= make());
  }

  // ---- forecasting.py --------------------------------------------------------------------------

  function statusOf(weight, information) {
    if (information > 0) return "active";
    return weight > 0 ? "noise" : "collapsed";
  }

  // Units per level in their own order; {error, kind} where there is no forecast.
  function forecast(problem) {
    try {
      return forecastOf(problem);
    } catch (error) {
      if (error instanceof NoForecast) return { error: error.message, kind: error.kind };
      throw error;
    }
  }

  function forecastOf(problem) {
    const solution = solve(problem);
    const { p, numbers, state, kl, notes } = solution;
    const gaussian = p.constant === null;
    const levels = critical(solution).map((thresholds, level) => {
      const units = thresholds.map((threshold, mode) => {
        const second = state.second[level][mode];
        const known = -Math.log(state.lost[level][mode]) / 2 + 0;
        const weight = Math.sqrt(second * correlation(state, level, mode));
        return {
          mode,
          variance: square(p.theta[mode] ?? 0),
          threshold: threshold.variance,
          kl: kl[level][mode],
          information: known,
          status: statusOf(weight, known),
          criticalBeta: threshold.beta,
          criticalEta: level > 0 || gaussian ? threshold.eta : NaN,
          std: Math.sqrt(state.noise[level][mode]),
        };
      });
      const ordered = [];
      p.orders[level].forEach((unit, mode) => (ordered[unit] = units[mode]));
      return ordered;
    });
    let loss = lossOf(state, kl, numbers, p.rest[p.dims[0]], p.features);
    if (!gaussian) {
      const total = p.outside + sum(p.theta.map(square));
      loss += p.constant - (total / 2 + (p.features / 2) * Math.log(2 * Math.PI));
    }
    const betas = levels[0].map((unit) => unit.criticalBeta).filter((b) => !Number.isNaN(b));
    const thresholds = levels[0].map((u) => u.threshold).filter((t) => !Number.isNaN(t));
    const least = Math.min(...thresholds, Infinity) * (1 + THRESHOLD_ROUNDING);
    return {
      loss,
      levels,
      notes,
      etaDec: gaussian ? numbers.etas[0] : NaN,
      onset: Math.max(...betas, 0),
      possible: p.theta.filter((t) => square(t) > least).length,
    };
  }

  // Active units per level, without what is not needed to count them; null where there is no
  // forecast.
  function active(problem) {
    try {
      const { p, state } = solve(problem);
      return p.dims.map((units, level) => state.lost[level].filter((lost) => lost < 1).length);
    } catch (error) {
      if (error instanceof NoForecast) return null;
      throw error;
    }
  }

  return { forecast, active };
})();
