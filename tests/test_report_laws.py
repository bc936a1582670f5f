"""The script of a page and the theory say the same of every kind of problem."""

import json
import shutil
import subprocess

import numpy as np
import pytest

import posterior_collapse as pc
from posterior_collapse.errors import NotSolvedError, UnboundedObjectiveError
from posterior_collapse.report.pages.forecast import law, laws_script, numbers
from posterior_collapse.theory.reading import as_modes

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node, which runs the page's script")

RUN = """
const text = require("fs").readFileSync(0, "utf8");
const { script, problems } = JSON.parse(text);
const laws = new Function(script + "; return laws;")();
const started = process.hrtime.bigint();
const found = problems.map((p) => ({ ...laws.forecast(p), active: laws.active(p) }));
const took = Number(process.hrtime.bigint() - started) / 1e9;
const words = (_, v) => (typeof v === "number" && !Number.isFinite(v) ? String(v) : v);
console.log(JSON.stringify({ found, took }, words));
"""
PER_UNIT = {
    "kl": "kl",
    "information": "information",
    "posterior_std": "std",
    "data_variance": "variance",
    "threshold": "threshold",
    "critical_beta": "criticalBeta",
    "critical_eta_dec": "criticalEta",
    "informed_beta": "informedBeta",
}


def problem(modes, spec):
    """What the script of a page solves."""
    return law(modes) | numbers(spec)


def run_laws(problems):
    """Return what the script says of problems, and the seconds it took."""
    text = json.dumps({"script": laws_script(), "problems": problems})
    done = subprocess.run([NODE, "-e", RUN], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer["found"], answer["took"]


def number(value):
    return {"Infinity": np.inf, "-Infinity": -np.inf, "NaN": np.nan}.get(value, value)


def scale(rng, low=0.2, high=3.0):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def gaussian_data(rng, rows=100):
    d = int(rng.integers(2, 9))
    stds = np.exp(rng.uniform(-2, 1.5, d)) * (rng.random(d) > 0.15)
    stds[0] = 1.0
    return rng.standard_normal((rows, d)) @ rng.standard_normal((d, d)) * 0.3 * stds


def likely_data(rng, likelihood):
    x = gaussian_data(rng)
    if likelihood == "bernoulli":
        return (rng.random(x.shape) < 1 / (1 + np.exp(-3 * x))).astype(float)
    if likelihood == "categorical":
        return np.eye(4)[rng.integers(0, 4, len(x))]
    return rng.poisson(np.exp(np.clip(x, -3, 2))).astype(float)


def sigmas(rng, units):
    """The kinds of a sigma: learned in two ways, shared, a number, one per unit."""
    return [
        "learned",
        "input",
        "shared",
        scale(rng, 0.1, 1.5),
        tuple(scale(rng, 0.1, 1.5) for _ in range(units)),
    ]


def one_level(rng, kind, eta_dec):
    units = int(rng.integers(1, 11))
    choice = {
        "latent_dim": units,
        "beta": scale(rng),
        "eta_dec": eta_dec,
        "eta_enc": scale(rng),
        "sigma": kind(units),
    }
    if rng.random() < 0.5:
        x = gaussian_data(rng)
        return x, pc.VAESpec(**choice)
    x, y = gaussian_data(rng), gaussian_data(rng)
    y[:, 0] += x[:, 0]
    return (x, y), pc.CVAESpec(**choice)


def hierarchy(rng, sigma_1, sigma_2, likelihood="gaussian"):
    dims = tuple(int(n) for n in rng.integers(1, 9, 2))
    one, two = sigma_1(dims[0]), sigma_2(dims[1])
    betas = (scale(rng), scale(rng))
    if all(isinstance(s, str) for s in (one, two)):
        betas = (min(betas), max(betas) if rng.random() < 0.8 else min(betas))
    spec = pc.HVAESpec(
        dims, betas, scale(rng), scale(rng), one, two, likelihood=likelihood, dispersion="learned"
    )
    data = gaussian_data(rng) if likelihood == "gaussian" else likely_data(rng, likelihood)
    return data, spec


def chain(rng, fixed):
    levels = int(rng.integers(1, 5))
    dims = tuple(int(n) for n in rng.integers(1, 6, levels))
    betas = tuple(sorted(scale(rng) for _ in dims))
    sigma = [scale(rng, 0.1, 1.5) if fixed else "learned" for _ in dims]
    if fixed and rng.random() < 0.5:
        sigma[-1] = "learned"
    etas = tuple(scale(rng) for _ in dims)
    return gaussian_data(rng), pc.ChainSpec(dims, betas, etas, scale(rng), tuple(sigma))


def every_kind(rng):
    """Yield a random problem of each kind, as data and spec."""
    for which in range(5):
        for eta_dec in (scale(rng), "learned"):
            yield one_level(rng, lambda n, which=which: sigmas(rng, n)[which], eta_dec)
    for likelihood in ("bernoulli", "poisson", "negative-binomial", "categorical"):
        spec = pc.VAESpec(4, scale(rng, 0.05), likelihood=likelihood)
        yield likely_data(rng, likelihood), spec
        yield likely_data(rng, likelihood), spec.replace(sigma=scale(rng, 0.1, 1.5))
    y = likely_data(rng, "bernoulli")
    yield (gaussian_data(rng), y), pc.CVAESpec(3, scale(rng, 0.05), likelihood="bernoulli")
    learned, number_ = (lambda n: "learned"), (lambda n: scale(rng, 0.1, 1.5))
    several = lambda n: tuple(scale(rng, 0.1, 1.5) for _ in range(n))  # noqa: E731
    for one, two in (
        (learned, learned), (learned, number_), (learned, several), (number_, learned),
        (number_, number_), (number_, several), (several, learned), (several, number_),
        (several, several),
    ):  # fmt: skip
        yield hierarchy(rng, one, two)
    yield hierarchy(rng, number_, learned, "bernoulli")
    data, spec = hierarchy(rng, number_, number_, "bernoulli")
    yield data, spec.replace(eta_dec=1.0)
    yield hierarchy(rng, learned, learned, "poisson")
    data, spec = hierarchy(rng, learned, learned, "bernoulli")
    yield data, spec.replace(eta_dec="learned")
    yield chain(rng, fixed=True)
    yield chain(rng, fixed=False)


def made(count, seed=0):
    """Return what the theory says, or its error, and the problems for the script."""
    rng, said, problems = np.random.default_rng(seed), [], []
    while len(said) < count:
        for data, spec in every_kind(rng):
            problems.append(problem(*as_modes(data, spec)))
            try:
                said.append(pc.forecast(data, spec))
            except (NotSolvedError, UnboundedObjectiveError) as error:
                said.append(error)
    return said, problems


@pytest.fixture(scope="module")
def both():
    said, problems = made(200)
    found, _ = run_laws(problems)
    return list(zip(said, found, problems, strict=True))


def test_the_script_forecasts_as_the_theory_does(both):
    solved = [(f, js) for f, js, _ in both if isinstance(f, pc.Forecast)]
    assert len(solved) > 150
    for f, js in solved:
        where = f"{f.spec!r}: {js.get('error')}"
        assert js["loss"] == pytest.approx(f.loss, rel=1e-9, abs=1e-12), where
        for level, units in zip(f.levels, js["levels"], strict=True):
            assert [unit["status"] for unit in units] == list(level.status), where
            for name, key in PER_UNIT.items():
                ours = [number(unit[key]) for unit in units]
                np.testing.assert_allclose(
                    ours, getattr(level, name), rtol=1e-9, atol=1e-9, err_msg=f"{name} of {where}"
                )
        assert js["active"] == [level.n_active for level in f.levels], where
        assert js["possible"] == f.n_possible, where
        assert number(js["onset"]) == pytest.approx(f.onset, rel=1e-9), where
        assert number(js["etaDec"]) == pytest.approx(f.eta_dec, rel=1e-9, nan_ok=True), where
        assert set(js["notes"]) == set(f._solution.notes), where


def test_units_that_live_are_possible():
    """More units than modes, where as many have no minimum: theory/forecasting.py n_possible."""
    spec = pc.VAESpec(12, 1.0, "learned", sigma="shared")
    data = np.eye(4)[np.arange(60) % 4]
    f, ((js,), _) = pc.forecast(data, spec), run_laws([problem(*as_modes(data, spec))])
    assert js["possible"] == f.n_possible == f.n_active == 3


def test_the_script_refuses_what_the_theory_refuses(both):
    kinds = {NotSolvedError: "unsolved", UnboundedObjectiveError: "unbounded"}
    refused = [(error, js) for error, js, _ in both if isinstance(error, Exception)]
    assert {type(error) for error, _ in refused} == set(kinds)
    for error, js in refused:
        assert js.get("kind") == kinds[type(error)], str(error)
        assert js["active"] is None
        assert js["error"].endswith(".")


def test_every_kind_of_unit_occurs(both):
    statuses = {s for f, _, _ in both if isinstance(f, pc.Forecast) for s in f.levels[-1].status}
    assert statuses == {"active", "noise", "collapsed"}


def test_a_page_of_64_units_is_instant():
    rng = np.random.default_rng(0)
    spectrum = np.diag(np.exp(rng.uniform(-8, 2, 784)))
    modes, spec = as_modes(pc.Moments.from_matrices(spectrum), pc.VAESpec(64, beta=0.3))
    _, took = run_laws([problem(modes, spec)] * 100)
    assert took / 100 < 0.05  # seconds; about 1 ms, on a machine that does other things too
