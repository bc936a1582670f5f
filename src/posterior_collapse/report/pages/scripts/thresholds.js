// What a mode must exceed for its unit to live: theory/switches.py.

// Each returns, per level, a list of {variance, beta, eta}: what the unit's mode must exceed, and
// the beta and eta_dec above which the unit collapses; and informedBeta, above which it
// knows nothing of the data, where that is another.

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
        informedBeta: flat ? NaN : 0,
      })),
    );
  }
  return levels;
}

function thresholdsFirstLearned(theta, dims, numbers, sigma2) {
  const first = thresholdsLearned(fit(theta, dims[0]), numbers);
  const below = thresholdsLearned(fit(theta, dims[1]), numbers);
  const above = range(dims[1]).map((i) => {
    const beta = i < dims[0] ? numbers.betas[0] * square(numbers.etaEnc / sigma2[i]) : 0;
    const on = numbers.betas[1] < beta;
    return {
      variance: on ? first[0].variance : Infinity, beta, eta: on ? Infinity : 0,
      informedBeta: numbers.betas[0] < below[i].beta ? beta : 0,
    };
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
    const helped =
      sigma2 === null
        ? square(signal / eta)
        : signal ** 4 / (beta1 * square(eta * one * two));
    const heard = signal > Math.sqrt(beta1) * one ? Infinity : helped;
    const beta = second / square(eta * two);
    const both = square(beta2 * square(eta * two)) / (beta1 * one ** 2);
    return {
      variance: child ? Math.max(level1[i].variance, both) : Infinity,
      beta,
      eta: Math.sqrt(second / beta2) / two,
      informedBeta: Math.min(beta, heard),
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
    const atBeta = (v) =>
      solveState(theta, { ...numbers, betas: replaced(numbers.betas, level, v) });
    const beta = switched(width, (v) => dead(atBeta(v)));
    const eta = switched(width, (v) =>
      dead(solveState(theta, { ...numbers, etas: replaced(numbers.etas, level, v) })),
    );
    const informed = switched(width, (v) => {
      const { lost } = atBeta(v);
      return range(width).map((i) => !(i < units && 1 - lost[level][i] > 0));
    });
    return range(units).map((i) => ({
      variance: square(variance[i]), beta: beta[i], eta: eta[i], informedBeta: informed[i],
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
