"""Figures of every kind of forecast: what they draw is what a forecast there says."""

import warnings

import matplotlib.image
import numpy as np
import pytest

import posterior_collapse as pc
from posterior_collapse.report import save_figure
from posterior_collapse.report.names import settings
from seen import DIGITS, ON_DIGITS, ON_OTHERS

CHAIN, TWO = ON_DIGITS["chain"], ON_DIGITS["hvae"]
KINDS = {name: (DIGITS, spec) for name, spec in ON_DIGITS.items()} | ON_OTHERS


@pytest.mark.parametrize("name", KINDS)
def test_every_forecast_can_be_drawn(name, tmp_path):
    f = pc.forecast(*KINDS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = f.plot()
        path = save_figure(figure, tmp_path / "out.png", dpi=40)
    assert matplotlib.image.imread(path).std() > 0.05  # there is something on it
    assert figure.get_suptitle().startswith(f.spec.model.upper())
    left, right = figure.axes[:2]
    assert f"{f.n_active} of {f.spec.dims[-1]} units active" in left.get_title()
    here = next(line for line in right.get_lines() if line.get_label() == "you are here")
    active = f.spec.beta_levels[1] if len(f.levels) == 2 else f.levels[0].n_active
    assert here.get_ydata()[0] == active


@pytest.mark.parametrize("units", [1, 500])
def test_one_unit_and_many_more_than_modes_are_drawn_to_scale(units):
    data = DIGITS[:, 20:21] if units == 1 else DIGITS
    found = pc.forecast(data, pc.VAESpec(units, beta=0.02))
    left, right = found.plot().axes
    modes = np.count_nonzero(found.spectrum)
    assert left.get_xlim()[1] == pytest.approx(modes + 0.6)
    for ticks in (left.get_xticks(), right.get_yticks()):
        assert len(ticks)
        assert (ticks == ticks.round()).all()


def test_the_map_is_a_forecast_per_cell():
    axes = pc.forecast(DIGITS, TWO).plot(panel="map").axes[0]
    (mesh,) = axes.collections
    cells = mesh.get_array()
    first, second = (np.geomspace(beta / 100, beta * 100, len(cells)) for beta in TWO.betas)
    for row, column in ((3, 4), (10, 20), (14, 12), (20, 2), (24, 24)):
        spec = TWO.replace(betas=(first[column], second[row]))
        assert cells[row, column] == pc.forecast(DIGITS, spec).n_active


def test_the_stairs_of_a_chain_are_forecasts():
    axes = pc.forecast(DIGITS, CHAIN).plot(panel="staircase").axes[0]
    drawn = {line.get_label(): line for line in axes.get_lines()}
    for place in (0, 20, 33, 41, 60):
        factor = drawn["z1"].get_xdata()[place] / CHAIN.betas[0]
        there = pc.forecast(DIGITS, CHAIN.replace(betas=tuple(factor * b for b in CHAIN.betas)))
        for number, level in enumerate(there.levels, 1):
            assert drawn[f"z{number}"].get_ydata()[place] == level.n_active


def test_a_run_s_figure_has_its_history():
    run = pc.fit(pc.VAESpec(14, eta_dec=0.3), DIGITS[:200], "mlp", hidden=(8,), epochs=3)
    active, stacked = run.plot().axes
    (line, optimum) = active.get_lines()
    assert list(line.get_ydata()) == run.history["active_1"]
    assert optimum.get_ydata()[0] == run.forecast.n_active
    tops = [band.get_paths()[0].vertices[:, 1].max() for band in stacked.collections]
    assert len(tops) == 11  # ten units, and the four others together
    assert max(tops) == pytest.approx(max(run.history["kl_1"]), rel=1e-4)
    assert sorted(tops) == tops
    assert settings(run.spec) in run.plot().get_suptitle().replace("$_\\mathrm{dec}$", "_dec")


def test_a_dollar_in_a_name_is_no_formula():
    x = pc.Dataset("cost$^$", np.random.default_rng(0).standard_normal((50, 3)))
    found = pc.sweep([pc.VAESpec(2), pc.VAESpec(2, beta=0.5)], x, "linear", exact=True)
    figure = found.plot()
    figure.draw_without_rendering()
    assert figure.get_suptitle().startswith(r"cost\$^\$")


def test_titles_name_data_and_settings():
    digits = pc.load("digits")
    spec = pc.VAESpec(4, beta=2.0, eta_dec=0.3)
    forecast = pc.forecast(digits, spec)
    run = pc.fit(spec, digits, "linear", exact=True)
    named = "VAE, 4 latent units, β = 2, η_dec = 0.3; digits"
    varied = forecast.phase_diagram([1.0, 2.0], [0.3, 0.5])
    swept = pc.sweep(
        [spec, spec.replace(beta=1.0, eta_dec=0.5)], digits, "linear", exact=True, seeds=[0, 0]
    )
    titles = {
        f"{named}; 1,797 rows of 64 features": forecast,
        f"{named}; linear, seed 0": run,
        f"{named}; 1,797 rows\n": pc.diagnose(run, digits),
        # What varies has no value of its own.
        "VAE, 4 latent units; digits": varied,
        "VAE, 4 latent units, η_dec = 0.3; digits": forecast.phase_diagram([1.0, 2.0]),
        "VAE, 4 latent units; mine": pc.phase_diagram(
            pc.Dataset("mine", digits.x), spec, [1.0, 2.0], [0.3, 0.5]
        ),
        "digits, linear: 2 runs; β and η_dec vary": swept,
    }
    for said, result in titles.items():
        title = result.plot().get_suptitle().replace("$_\\mathrm{dec}$", "_dec")
        assert title.startswith(said)
    unnamed = pc.forecast(digits.x, spec).plot().get_suptitle()
    assert unnamed.endswith("; 1,797 rows of 64 features")


def test_seeds_that_agree_are_drawn_side_by_side():
    specs = [pc.VAESpec(2), pc.VAESpec(2, beta=0.5)]
    found = pc.sweep(specs * 3, DIGITS[:200], "linear", exact=True, seeds=[0, 0, 1, 1, 2, 2])
    axes = found.plot(panel="active").axes[0]
    axes.get_figure().draw_without_rendering()
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    places = np.concatenate([d.get_transform().transform(d.get_xydata()) for d in dots])
    assert len(np.unique(places.round(1), axis=0)) == len(found.runs)
    (left, low), (right, high) = axes.bbox.get_points()
    assert (places > (left, low)).all()
    assert (places < (right, high)).all()


def test_what_was_trained_is_drawn_beside_its_optimum():
    spec = pc.HVAESpec((4, 3), sigma_1=0.4, eta_dec=0.3)
    run = pc.fit(spec, DIGITS[:200], "linear", epochs=3)
    for number, level in enumerate(run.forecast.levels, 1):
        axes = run.plot(panel=f"KL over epochs of z{number}").axes[0]
        (line,) = axes.get_lines()
        assert line.get_ydata()[0] == pytest.approx(level.kl.sum())
        assert all(tick == round(tick) for tick in axes.get_xticks())  # epochs
