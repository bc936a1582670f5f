"""A diagnosis on the page and in the figure: the numbers shown are the numbers found."""

import dataclasses
import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from rich.console import Console

import posterior_collapse as pc
from posterior_collapse.diagnosis import Finding, diagnose_arrays
from posterior_collapse.diagnosis.conclusions import verdict_parts
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.report import diagnosis_page, html, save_figure
from posterior_collapse.report.text import diagnosis_tables, loss_table, with_error

SCALE = np.array([0.0, 0.9, 0.0, 0.5, 0.3])
SPEC = pc.VAESpec(5, eta_dec=0.8)


@pytest.fixture(scope="module")
def found():
    """Units 1, 3 and 4 live, in that order of KL; units 0 and 2 do not."""
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((2000, 5)) * SCALE
    x = mean @ rng.standard_normal((5, 8)) + rng.standard_normal((2000, 8)) / 2
    return diagnose_arrays(mean, np.sqrt(1 - SCALE**2), data=x, spec=SPEC)


@pytest.fixture
def two_levels(found):
    """The same twice, as a hierarchy whose upper level relays noise."""
    (level,) = found.levels
    noise = dataclasses.replace(level, status=("noise", "active", "collapsed", "noise", "active"))
    return dataclasses.replace(
        found,
        levels=(level, noise),
        forecast=None,
        loss=12.5,
        loss_error=0.25,
        nll=11.0,
        nll_error=0.2,
        signal=(0.5, 1.5),
        signal_error=(0.01, 0.02),
        advice=(Finding("noise-relay", "2 units relay noise.", "Lower sigma_1."),),
        notes=("half of the rows [were] used",),
    )


def shown(*parts, width=100):
    console = Console(file=io.StringIO(), width=width)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def test_a_row_per_unit_the_most_kl_first(found):
    (table,) = diagnosis_tables(found)
    assert table.title == "z1: 3 of 5 units active"
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["unit"] == ["2", "4", "5", "1", "3"]
    assert "effect" not in columns
    level = found.levels[0]
    order = [1, 3, 4, 0, 2]
    assert columns["KL nats"] == [with_error(level.kl[i], level.kl_error[i]) for i in order]
    assert [float(cell) for cell in columns[r"Var E\[z|x]"]] == pytest.approx(
        level.mean_variance[order], rel=0.05
    )
    text = shown(table)
    assert "Var E[z|x]" in text
    assert [text.count(s) for s in (" active", "collapsed")] == [4, 2]


def test_the_page_says_all_there_is(two_levels):
    text = shown(*diagnosis_page(two_levels), width=300)
    for part in (
        "2,000 rows",
        "12.5 ± 0.2",
        "11.0 ± 0.2",
        "unclaimed signal t of z2",
        "1.50 ± 0.02",
        "z1: 3 of 5 units active",
        "z2: 2 of 5 units active",
        "Burda's active units: 3 of 5",
        two_levels.verdict,
        "2 units relay noise. Lower sigma_1.",
        "Note: half of the rows [were] used.",
    ):
        assert part in text


def test_the_forecast_stands_beside_what_was_measured(found):
    forecast = found.forecast
    text = shown(loss_table(found))
    assert "linear optimum" in text
    assert f"{forecast.levels[0].kl.sum():.6g}" in text
    assert "linear optimum" not in shown(loss_table(dataclasses.replace(found, forecast=None)))


def test_decoder_effects_are_shown_where_they_were_measured(found):
    level = dataclasses.replace(
        found.levels[0],
        decoder_effect=np.arange(5.0),
        decoder_effect_error=np.full(5, 0.25),
        information_is_lower_bound=np.array([False, True, False, False, False]),
    )
    (table,) = diagnosis_tables(dataclasses.replace(found, levels=(level,)))
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["effect"] == ["1", "3", "4", "0", "2"]
    assert columns["I(x;z)"][0].startswith("≥ ")
    assert not columns["I(x;z)"][1].startswith("≥ ")


def test_of_many_units_the_weakest_collapsed_are_left_out():
    mean = np.random.default_rng(0).standard_normal((500, 100)) * (np.arange(100) % 2)
    found = diagnose_arrays(mean, np.where(np.arange(100) % 2, 0.5, 1.0))
    (table,) = diagnosis_tables(found)
    assert table.row_count == 53
    assert "first 53 shown" in str(table.title)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.23456, 0.0123, "1.235 ± 0.012"),
        (1.23456, 0.0523, "1.23 ± 0.05"),
        (1.23456, 0.0963, "1.23 ± 0.10"),
        (-1234.5, 27.0, "-1234 ± 27"),
        (0.0, 0.0, "0"),
        (2.5, None, "2.5"),
        (2.5, float("nan"), "2.5"),
        (float("nan"), float("nan"), "-"),
        (3.0, 1e-15, "3"),
        (5e-14, 1e-15, "0"),
        (0.0, 3e-13, "0"),
        (1.2e-7, 3e-8, "1.2e-07 ± 3e-08"),
        (1.0, 3e-7, "1.0e+00 ± 3e-07"),
    ],
)
def test_numbers_have_the_digits_that_their_errors_tell(value, error, text):
    assert with_error(value, error) == text


def test_the_notebook_page_is_html(found):
    page = found._repr_html_()
    assert page == html(found)
    assert page.startswith('<div class="pc">')
    assert "<script" not in page
    headline, reason = verdict_parts(found)
    assert headline in page
    assert reason in page
    assert page.count("<tr data-kind") == 5
    assert page.count("<span>collapsed</span>") == 2
    assert "Forecast(vae" in html(found.forecast)


def test_headline_and_reason_are_the_verdict(two_levels):
    assert verdict_parts(two_levels) == (two_levels.verdict, "")
    counts = "z1: 3 of 5 units active, 2 collapsed; z2: 2 of 5 units active, 2 noise, 1 collapsed"
    clause = "signal is left unclaimed: the optimiser failed, not the objective"
    said = f"{counts}: {clause} (t of z1 = 2 (so it is); one more buys 3); the optimum keeps 2."
    assert verdict_parts(dataclasses.replace(two_levels, verdict=said)) == (
        f"{counts}: {clause}.",
        "t of z1 = 2 (so it is); one more buys 3; the optimum keeps 2.",
    )


def test_the_figure_draws_what_was_found(found):
    bars, curve, scatter = found.plot().axes
    (level,) = found.levels
    heights = {to_hex(p.get_edgecolor()): [] for p in bars.patches}
    for patch in bars.patches:
        heights[to_hex(patch.get_edgecolor())].append(patch.get_height())
    np.testing.assert_allclose(heights["#0072b2"], level.kl[[1, 3, 4]])
    np.testing.assert_allclose(heights["#d55e00"], level.kl[[0, 2]], atol=1e-12)
    assert [label.get_text() for label in bars.get_xticklabels()] == list("24513")
    optimum = next(line for line in bars.lines if line.get_label() == "linear optimum")
    forecast = np.sort(found.forecast.levels[0].kl)[::-1]
    np.testing.assert_allclose(optimum.get_ydata()[:5], forecast)
    np.testing.assert_allclose(curve.lines[0].get_ydata(), level.collapse_curve.share)
    np.testing.assert_allclose(curve.lines[0].get_xdata(), level.collapse_curve.epsilon)
    points = {line.get_label(): line for line in scatter.lines}
    np.testing.assert_allclose(points["active"].get_xdata(), level.mean_variance[[1, 3, 4]])
    np.testing.assert_allclose(points["active"].get_ydata(), level.posterior_std[[1, 3, 4]] ** 2)
    assert points["collapsed"].get_marker() != points["active"].get_marker()


def test_a_row_of_panels_per_level(two_levels, tmp_path):
    figure = pc.plot(two_levels)
    assert [axes.get_title() for axes in figure.axes[::3]] == [
        "z1: 3 of 5 units active",
        "z2: 2 of 5 units active",
    ]
    (hatched, *_) = [c for c in figure.axes[3].containers if c.get_label() == "relays noise"]
    assert all(patch.get_hatch() for patch in hatched)
    assert save_figure(figure, tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_units_that_all_collapsed_can_be_drawn(tmp_path):
    found = diagnose_arrays(np.zeros((50, 70)), 1.0)
    save_figure(found.plot(), tmp_path / "out.svg")
    assert "0 of 70 units active" in shown(*diagnosis_page(found))


def test_what_is_no_result_is_refused():
    for view in (pc.plot, html):
        with pytest.raises(InvalidArgumentError, match=r"^result: got ndarray"):
            view(np.zeros(3))
