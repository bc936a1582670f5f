"""Chains of fixed sigmas at every scale: the optimum is certified, and found in so many steps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

import posterior_collapse as pc
from posterior_collapse.theory import ExactObjective, closed_forms, switches
from posterior_collapse.theory.state import Numbers

DATA = np.random.default_rng(0).standard_normal((20, 8))
ENDLESS = pc.ChainSpec(
    (500, 8, 2, 3),
    betas=(0.0146, 0.197, 1.83, 23.7),
    eta_decs=(32.3, 80.4, 320, 12.7),
    sigmas=(0.197, 0.446, 2.71, 0.745),
)
"""On this one policy iteration went round in circles."""


def chains(seed: int, decades: float):
    """A random chain: thetas, dims, numbers, sigmas, all over so many powers of ten."""
    rng = np.random.default_rng(seed)

    def any_of(size: int) -> list[float]:
        return (10 ** rng.uniform(-decades, decades, size)).tolist()

    depth = int(rng.integers(2, 6))
    dims = rng.integers(1, 5, depth).tolist()
    modes = int(rng.integers(1, 5))
    theta = np.sort(any_of(modes))[::-1] * (rng.random(modes) < 0.9)
    sigmas = [np.full(d, s) for d, s in zip(dims, any_of(depth), strict=True)]
    if rng.random() < 0.5:
        sigmas[-1] = None
    numbers = Numbers(any_of(depth), any_of(depth), any_of(1)[0])
    return np.sort(theta)[::-1], dims, numbers, sigmas


def log_terms(theta, dims, numbers, sigmas, mode, logs):
    """Logs of the terms of one mode's cost from the definition, given log E[z_l^2] per level.

    What level 1 loses of the data, and what each level, or the end of the chain, costs in
    distance to its prior; a mode without signal or without a unit at a level has no such term.
    With the last level's sigma learned, its cost in closed form is `price` as well.
    """
    free = [s for s in sigmas if s is not None]
    found = []
    below = 2 * np.log(theta[mode]) if mode < len(theta) and theta[mode] > 0 else None
    weights, stds = [1.0, *numbers.betas], [*numbers.etas, numbers.eta_enc]
    for level in range(len(free) + 1):
        cost = None if below is None else np.log(weights[level]) - 2 * np.log(stds[level]) + below
        last = level == len(free)
        here = not last and mode < dims[level]
        if cost is not None and here:
            cost += 2 * np.log(free[level][0]) - logs[level]
        found.append(cost)
        below = logs[level] if here else None
    return found


def price(top_learned, numbers, log_term):
    """What a learned last level makes of the cost of hearing nothing."""
    plain = np.exp(log_term)
    beta = numbers.betas[-1]
    if not top_learned or plain <= beta:
        return plain
    return beta + beta * (log_term - np.log(beta))


@pytest.mark.parametrize("decades", [0.5, 3, 10])
@pytest.mark.parametrize("seed", range(40))
def test_the_optimum_is_stationary_in_a_convex_problem(seed: int, decades: float) -> None:
    """In logs of E[z^2] each mode's cost is convex, so these conditions certify the optimum."""
    theta, dims, numbers, sigmas = problem = chains(seed, decades)
    state = closed_forms.all_fixed(theta, dims, numbers, sigmas)
    free = len([s for s in sigmas if s is not None])
    for mode in range(max(dims)):
        here = [mode < dims[level] for level in range(free)]
        logs = [np.log(state.second[k][mode]) if here[k] else None for k in range(free)]
        terms = log_terms(*problem, mode, logs)
        hears = sigmas[-1] is None and mode < dims[-1]
        if hears and terms[-1] is not None:  # its marginal cost, which is at most beta
            terms[-1] = min(terms[-1], np.log(numbers.betas[-1]))
        for level in range(free):
            if not here[level]:
                continue
            gain = logs[level] - 2 * np.log(sigmas[level][0])
            less, more = terms[level], terms[level + 1]
            rounding = 1e-11 * (1 + decades)
            if gain > 5e-13:  # less than 1e-12 counts as none
                assert less is not None
                assert less == pytest.approx(more, abs=rounding)
            else:
                assert gain == pytest.approx(0, abs=5e-13)
                assert less is None or less <= more + rounding


@pytest.mark.parametrize("seed", range(30))
def test_no_minimiser_finds_less(seed: int) -> None:
    theta, dims, numbers, sigmas = problem = chains(seed, 1.0)
    state = closed_forms.all_fixed(theta, dims, numbers, sigmas)
    free = len([s for s in sigmas if s is not None])
    for mode in range(max(dims)):
        floors = np.array([2 * np.log(sigmas[k][0]) for k in range(free)])

        def cost(logs, mode=mode):
            terms = log_terms(*problem, mode, logs)
            hears = sigmas[-1] is None and mode < dims[-1]
            last = 0.0 if terms[-1] is None else price(hears, numbers, terms[-1])
            return sum(np.exp(t) for t in terms[:-1] if t is not None) + last

        ours = [np.log(state.second[k][mode]) if mode < dims[k] else floors[k] for k in range(free)]
        start = floors + np.random.default_rng(seed).exponential(1, free)
        bounds = [(f, None) for f in floors]
        best = optimize.minimize(
            cost, start, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-12}
        )
        assert cost(ours) <= best.fun * (1 + 1e-12)
        assert cost(ours) == pytest.approx(best.fun, rel=1e-4)


def test_the_endless_chain_ends_in_so_many_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    solved = []
    original = closed_forms.all_fixed
    monkeypatch.setattr(
        closed_forms, "all_fixed", lambda *problem: solved.append(1) or original(*problem)
    )
    moments = pc.Moments.from_arrays(DATA)
    f = pc.forecast(moments, ENDLESS)
    # The optimum, and all critical values at once, by bisection between two ends; and next to them.
    assert len(solved) == 1 + switches.HALVINGS + 2 + 1
    assert [level.n_active for level in f.levels] == [8, 8, 0, 0]
    assert ExactObjective(moments, ENDLESS).loss(f.parameters()) == pytest.approx(f.loss, rel=1e-12)
    moments, narrow = pc.Moments.from_arrays(DATA[:, :2]), ENDLESS.replace(latent_dims=(2, 2, 1, 2))
    searched = pc.minimise(moments, narrow, restarts=1).loss
    assert searched == pytest.approx(pc.forecast(moments, narrow).loss, rel=1e-6)
    assert searched >= pc.forecast(moments, narrow).loss - 1e-9


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e9, 1e20])
def test_thresholds_move_with_the_units_of_the_data(scale: float) -> None:
    """Data, decoder and sigmas in other units: the same counts and KLs, thresholds rescaled."""
    spec = pc.ChainSpec((4, 3, 4), (0.9, 1.0, 1.3), (0.8, 0.7, 0.6), 1.1, (0.6, 0.7, "learned"))
    moved = pc.ChainSpec(
        (4, 3, 4),
        (0.9, 1.0, 1.3),
        [scale * eta for eta in spec.eta_decs],
        scale * 1.1,
        (scale * 0.6, scale * 0.7, "learned"),
    )
    here, there = pc.forecast(DATA, spec), pc.forecast(DATA * scale, moved)
    for one, other in zip(here.levels, there.levels, strict=True):
        assert one.status == other.status
        np.testing.assert_allclose(other.kl, one.kl, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(other.critical_beta, one.critical_beta, rtol=1e-9)
        np.testing.assert_allclose(other.threshold, one.threshold * scale**2, rtol=1e-9)


SCALES = {
    "chain": (pc.ChainSpec((3, 3, 3), (1, 1, 1), (1, 1e-9, 1), 1, (1, 1e-4, 1)), True),
    "chain-betas": (pc.ChainSpec((3, 3, 3), (1, 1e-13, 1), (1, 1, 1), 1, (1, 1, 1e-7)), False),
    "hvae": (pc.HVAESpec((3, 3), (1, 1), 1e-6, 1e7, 0.5, 1e-3), True),
    "hvae-betas": (pc.HVAESpec((8, 8), (1e-13, 1), 1e-7, 1, 1e-3), True),
    "vae": (pc.VAESpec(8, eta_dec=1e-13), True),
    "plain": (pc.VAESpec(8, eta_dec=0.1), False),
}


@pytest.mark.parametrize(("spec", "apart"), SCALES.values(), ids=SCALES)
def test_parameters_attain_the_loss_or_a_note_says_how_nearly(spec: pc.Spec, apart: bool) -> None:
    moments = pc.Moments.from_arrays(DATA)
    f = pc.forecast(moments, spec)
    gap = abs(ExactObjective(moments, spec).loss(f.parameters()) - f.loss)
    notes = [note for note in f.notes if note.startswith("parameters() may miss the loss")]
    assert len(notes) == apart
    within = float(notes[0].split("about ")[1].split(" nats")[0]) if notes else 0.0
    assert gap <= max(within, 1e-9 * (1 + abs(f.loss)))


def test_scales_that_fit_no_float_are_refused_in_one_line() -> None:
    spec = pc.HVAESpec((1, 1), (1e50, 1e-50), 1e50, 1e50, "learned", 1e-50)
    with pytest.raises(pc.InvalidArgumentError, match="fit no float"):
        pc.forecast(DATA, spec)


def test_a_chain_is_advised_on_its_sigmas_as_a_hierarchy_is() -> None:
    """That no sigma alone is enough was said without looking."""
    x = pc.load("digits").x
    two = pc.HVAESpec((16, 16), (1.0, 9.0), 0.5, sigma_1=0.5, sigma_2=0.9)
    chain = pc.ChainSpec((16, 16), (1.0, 9.0), (0.5, 0.5), sigmas=(0.5, 0.9))
    advice = [pc.forecast(x, spec).advice(active=3).changes for spec in (two, chain)]
    expected, found = (
        {c.name: c.value for c in changes if c.name.startswith("sigma")} for changes in advice
    )
    assert found == expected
    assert found
    for name, value in found.items():
        changed = chain.with_level("sigma", int(name[-1]), value)
        assert pc.forecast(x, changed).n_active >= 3
