// Which theorem applies, and what it says of every unit: theory/state.py, solve.py and
// forecasting.py.

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
  if (p.etas[0] !== "learned" && p.etas.includes("learned")) {
    throw new NoForecast("unsolved", "No closed form is known for a learned std of p(z1|z2) alone.");
  }
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
        "flat direction of the loss; shown is the optimum with this level collapsed",
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
        "level 1: which mode goes with which unit of z1 is not determined, so neither are its " +
          "encoder singular values, its sigma and the information in z2; if z1 has spare units, " +
          "nor is the number of units that share the active modes",
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
  if (p.depth === 2 && p.oneEta && p.constant === null) { // one eta for both decoders
    return thresholdsTwoFixed(p.theta, p.dims, numbers, first, second);
  }
  return byBisection(p.theta, p.dims, numbers, (t, n) => solveState(p, t, n));
}

function once(make) {
  let made;
  return () => (made ??= make());
}

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
        informedBeta: threshold.informedBeta ?? threshold.beta,
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
  return {
    loss,
    levels,
    notes,
    etaDec: gaussian ? numbers.etas[0] : NaN,
    onset: Math.max(...betas, 0),
    possible: Math.max(
      possibleOf(problem, levels[0]),
      levels[0].filter((unit) => unit.status === "active").length,
    ),
  };
}

// How many units of the first level would live, were there enough: most_living of
// theory/advice.py. Where each has a sigma of its own, modes above the lowest threshold.
function possibleOf(problem, units) {
  if (Array.isArray(problem.sigmas[0])) {
    const thresholds = units.map((unit) => unit.threshold).filter((t) => !Number.isNaN(t));
    const least = Math.min(...thresholds, Infinity) * (1 + THRESHOLD_ROUNDING);
    return problem.theta.filter((t) => square(t) > least).length;
  }
  let [all, some] = [0, problem.theta.filter((t) => t > 0).length + 1];
  while (some - all > 1) {
    const middle = Math.floor((all + some) / 2);
    const dims = [middle, ...problem.dims.slice(1)];
    if ((active({ ...problem, dims })?.[0] ?? 0) < middle) some = middle;
    else all = middle;
  }
  return all;
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
