"""Figures of the experiments: what they show is what they were given, and it can be read."""

import csv
import itertools
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.transforms import Bbox

from posterior_collapse.errors import InvalidArgumentError, OutputError
from posterior_collapse.experiments.figures import DPI, Chart, cells, lines, looks, measures
from posterior_collapse.experiments.figures.lines import Approach
from posterior_collapse.experiments.figures.measures import THEORY, Points

EPS = np.geomspace(1e-4, 10, 60)
BETAS = np.arange(1, 71) / 10


def shares(values: tuple[float, ...], name: str) -> dict[str, Any]:
    return {f"{name} = {v:g}": (EPS, np.clip(v * EPS, 0, 1).round(1)) for v in values}


def swept(noise: float = 0.0, step: int = 1) -> dict[str, Any]:
    at = BETAS[::step]
    return {
        "loss (nats)": {"": (at, 20 + 3 * np.log(at) + noise)},
        "reconstruction (nats)": {"": (at, 15 + at)},
        "KL (nats)": {"z1": (at, 10 - 3 * np.exp(-at)), "z2": (at, 12 * np.exp(-at) + noise)},
        "active units": {"z1": (at, 0 * at + 10), "z2": (at, np.maximum(0, 10 - np.floor(at)))},
    }


def means(settings: Any, labels: tuple[str, ...] = ("",)) -> dict[str, Any]:
    count = len(settings)
    return {
        name: {
            label: Points(settings, np.arange(count) + i, np.ones(count))
            for i, label in enumerate(labels)
        }
        for name in ("NLL (nats)", "KL(z1) (nats)", "active units", "kl_active_share")
    }


def made() -> dict[str, Chart]:
    """Return every kind of figure at the sizes in which the experiments need it."""
    rng = np.random.default_rng(0)
    four = (0.1, 0.5, 1.0, 2.0)
    digits = {f"digit {d}": (EPS, np.clip(EPS * (d + 1), 0, 1)) for d in range(10)}
    words = ["identical", "1/2", "1/4", "1/8", "random", "quadratic"]
    images = rng.random((10, 10, 28, 28))
    grid = ["0.1", "1", "2", "4", "6"]
    steps = np.arange(1, 201)
    falling = {
        "singular values of U1": Approach((steps, np.exp(-steps / 20)), goal=1e-4),
        "sigma": Approach((steps, 1 / steps**3), goal=1e-4),
    }
    counts = rng.integers(0, 17, (7, 6)).astype(float)
    betas, etas = np.geomspace(0.25, 16, 7), np.geomspace(0.25, 4, 6)
    matrix = rng.normal(size=(12, 5))
    return {
        "one panel": lines.collapse_curves({"": shares(four, "beta")}),
        "two panels": lines.collapse_curves(
            {"a": shares(four, "beta"), "b": shares(four, "eta_dec")}
        ),
        "three panels": lines.collapse_curves(
            {n: shares(four, n) for n in ("beta_1", "beta_2", "eta_dec")}
        ),
        "four panels": lines.collapse_curves(
            {n: shares(four, n) for n in ("beta_1", "beta_2", "eta_dec", "eta_enc")}
        ),
        "digits": lines.collapse_curves(dict.fromkeys(("linear", "relu", "cnn"), digits)),
        "spectra": lines.spectra(
            {f"digit {d}": 9 / np.arange(1, 49) ** (1 + d / 9) for d in range(10)},
            threshold=0.25,
            name="beta eta_dec^2",
        ),
        "convergence": lines.convergence({"": falling}),
        "convergence of two": lines.convergence({"matrix problem": falling, "MNIST": falling}),
        "convergence of three": lines.convergence(
            {
                title: {
                    label: one._replace(note=f"(theory {shown})", goal=goal * i, exact=exact)
                    for i, (label, one) in enumerate(falling.items(), 1)
                }
                for title, shown, goal, exact in (
                    ("matrix", "0.453 to 0.286, 2 x 0", 1e-3, None),
                    ("second matrix", "0.623, 2 x 1.25", 1e-3, None),
                    ("MNIST", "0.481 to 0.0773, 4 x 0.5", 1e-2, 1e-8),
                )
            }
        ),
        "sweep": measures.sweep(
            swept(), {"exact training": swept(), "minibatches": swept(0.3, 14)}, variable="beta_2"
        ),
        "panels": cells.images({"original": images, "beta = 0.1": images, "beta = 2": images}),
        "grid of betas": cells.images(
            {"": images[:5, :5]}, rows=grid, columns=grid, row_name="beta_1", column_name="beta_2"
        ),
        "grids beside originals": cells.images(
            {f"image {i}": images[:5, :5] for i in (1, 2, 3)} | {"originals": images[:3, :1]},
            rows=grid,
            columns=grid,
            row_name="beta_1",
            column_name="beta_2",
            notes={"image 1": [["16"] * 5] * 5},
        ),
        "named rows": cells.images({"": images[:4]}, rows=["original", *("beta = 0.1",) * 3]),
        "six heat maps": cells.heat_maps(
            {f"{m}, sigma = (8, 4, 2, 1, {i})": matrix * i for m in "UV" for i in (0.5, 1e-9, 1)}
        ),
        "ten heat maps": cells.heat_maps(
            {f"{m}, Sigma learned, beta = {i}": matrix for i in range(5) for m in "UV"}
        ),
        "heat maps": cells.heat_maps(
            dict.fromkeys(("U, learned", "U, sigma = 1"), matrix)
            | dict.fromkeys(("V', learned", "V', sigma = 1"), matrix / 10),
            y="data mode",
        ),
        "phase": cells.phase(
            betas,
            etas,
            {"mlp": counts, "cnn": counts},
            {"mlp": 5 / etas**2, "cnn": 4 / etas**2},
            {"mlp": 6 / etas**2, "cnn": np.full(6, np.nan)},
        ),
        "spread over words": measures.spread(means(words), variable="relation of x and y"),
        "spread over values": measures.spread(
            means([0.25, 0.5, 1, 2, 3], ("beta_1", "beta_2", "eta")), variable="value"
        ),
        "columns": measures.columns(
            {
                variable: {
                    name: {
                        "no warm-up": Points(list(four), range(4), four),
                        "warm-up": Points(list(four), range(1, 5), four),
                        THEORY: Points(list(four), range(2, 6), []),
                    }
                    for name in ("NLL (nats)", "KL of z2 (nats)", "active units of z2")
                }
                for variable in ("beta_1", "beta_2", "eta_dec", "eta_enc")
            },
            own=["NLL (nats)"],
        ),
        "seven measures": measures.spread(
            {f"kl_active_share of z{i}": {"beta": Points(four, range(4), four)} for i in range(7)},
            variable="value",
        ),
        "scatter": lines.scatter(
            {n: (np.arange(10.0), rng.normal(size=10)) for n in ("linear", "relu", "cnn")},
            x="active units, theory",
            y="active units, measured",
            names="0123456789",
            notes={"relu": "rank correlation -0.87"},
        ),
    }


@pytest.fixture(scope="module")
def charts() -> dict[str, Chart]:
    return made()


KINDS = (
    *("one panel", "two panels", "three panels", "four panels", "digits", "spectra"),
    *("convergence", "convergence of two", "convergence of three", "sweep", "panels"),
    *("grid of betas", "heat maps", "six heat maps", "ten heat maps"),
    *("grids beside originals", "named rows", "seven measures"),
    *("phase", "spread over words", "spread over values", "scatter", "columns"),
)


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Return where all that is written on a figure stands, in dots."""
    figure.draw_without_rendering()
    written = []
    for axes in figure.axes:
        written += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            written += [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
        legend = axes.get_legend()
        written += legend.get_texts() if legend else []
    for legend in figure.legends:
        written += legend.get_texts()
    shown = [text for text in written if text.get_text() and text.get_visible()]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_written_is_cut_off_or_written_over(kind: str, charts: dict[str, Chart]) -> None:
    figure = charts[kind].figure
    written = boxes(figure)
    page = figure.bbox.padded(1)
    for text, box in written:
        assert page.containsx(box.x0), text
        assert page.containsx(box.x1), text
        assert page.containsy(box.y0), text
        assert page.containsy(box.y1), text
    for (one, here), (other, there) in itertools.combinations(written, 2):
        common = Bbox.intersection(here, there)
        if common is not None and kind != "spread over words":  # boxes of tilted words are large
            assert min(common.width, common.height) < 1.5, (one, other)
    curves = [axes.get_window_extent().height for axes in figure.axes if axes.lines]
    assert min(curves, default=np.inf) > 1.2 * figure.dpi
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    for legend, axes in itertools.product(filter(None, legends), figure.axes):
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_curves_are_told_apart_in_grey() -> None:
    for count in (2, 4, 10):
        grey = [np.dot(to_rgb(look["color"]), (0.299, 0.587, 0.114)) for look in looks(count)]
        assert np.diff(grey).min() > 0.04
        assert max(grey) < 0.75
        neighbours = itertools.pairwise(look["linestyle"] for look in looks(count))
        assert all(one != other for one, other in neighbours)


def test_collapse_curves_show_the_shares_given(charts: dict[str, Chart]) -> None:
    left, right = charts["two panels"].figure.axes
    assert [line.get_label() for line in right.lines] == [
        f"eta_dec = {v}" for v in (0.1, 0.5, 1, 2)
    ]
    assert left.get_xscale() == "log"
    for line, value in zip(left.lines, (0.1, 0.5, 1.0, 2.0), strict=True):
        eps, share = shares((value,), "beta")[f"beta = {value:g}"]
        np.testing.assert_array_equal(line.get_xdata(), eps)
        np.testing.assert_allclose(line.get_ydata(), 100 * share)
        assert line.get_drawstyle() == "steps-post"  # the share changes where a unit's KL lies


def test_spectra_count_what_exceeds_the_threshold() -> None:
    chart = lines.spectra({"a": [4.0, 0.5, 0.5000001, 0.0], "b": [0.1]}, threshold=0.5, name="t")
    labels = [text.get_text() for text in chart.figure.legends[0].get_texts()]
    assert labels == ["a (2 above)", "b (0 above)", "t"]
    axes = chart.figure.axes[0]
    assert np.isnan(axes.lines[0].get_ydata()[3])  # no zero on a log scale
    assert list(axes.lines[2].get_ydata()) == [0.5, 0.5]
    assert chart.table.rows[3] == ["a", 4, 0.0]


def test_convergence_draws_positive_errors_their_end_and_the_goal() -> None:
    falling = Approach(([1, 2, 3], [0.1, 0.0, 1e-6]), goal=1e-3)
    chart = lines.convergence({"": {"U1": falling}})
    curve, end, goal = chart.figure.axes[0].lines
    np.testing.assert_array_equal(curve.get_ydata(), [0.1, np.nan, 1e-6])
    assert (end.get_xdata().tolist(), end.get_ydata().tolist()) == ([3], [1e-6])
    assert set(goal.get_ydata()) == {1e-3}
    assert [row[3] for row in chart.table.rows] == [0.1, 0.0, 1e-6]


def test_convergence_draws_each_curve_s_goal_in_its_colour_and_the_end_of_exact_training() -> None:
    first = Approach(([1, 9], [0.1, 1e-4]), 1e-3, note="(theory 2 x 0)", exact=1e-8)
    second = Approach(([1, 9], [0.2, 1e-5]), 1e-2, exact=1e-9)
    chart = lines.convergence({"MNIST": {"U1": first, "sigma_1": second}})
    (axes,) = chart.figure.axes
    (curve, *_, exact, other, _, _, goal, wider, _, _) = axes.lines
    assert (exact.get_xdata().tolist(), exact.get_ydata().tolist()) == ([9], [1e-8])
    for line, bar, value in ((curve, goal, 1e-3), (other, wider, 1e-2)):
        assert set(bar.get_ydata()) == {value}
        assert bar.get_color() == line.get_color()
    (legend,) = chart.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("U1 (theory 2 x 0)", "sigma_1", "goal of the curve of its colour"),
        "end of exact training",
    ]


def test_a_sweep_draws_theory_as_lines_and_all_measurements_as_markers() -> None:
    kinds = {f"kind {i}": swept(float(i), 10) for i in range(4)}
    chart = measures.sweep(swept(), kinds, variable="beta_2")
    for axes, (quantity, expected) in zip(chart.figure.axes, swept().items(), strict=True):
        assert axes.get_title() == quantity
        lines = [line for line in axes.lines if line.get_linestyle() != "None"]
        markers = [line for line in axes.lines if line.get_linestyle() == "None"]
        assert len(markers) == 4 * len(lines)
        for line, (values, height) in zip(lines, expected.values(), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), values)
            np.testing.assert_array_equal(line.get_ydata(), height)
        given = [y for kind in kinds.values() for _, y in kind[quantity].values()]
        drawn = [line.get_ydata() for line in markers]
        assert all(any(np.array_equal(y, d) for d in drawn) for y in given)
    legend = [text.get_text() for text in chart.figure.legends[0].get_texts()]
    assert legend == ["theory", *kinds, "z1", "z2"]
    assert sum(row[0] == "theory" for row in chart.table.rows) == 6 * len(BETAS)


def test_labels_stand_at_blocks_of_their_shape_alone(charts: dict[str, Chart]) -> None:
    first, second, _, originals = charts["grids beside originals"].figure.axes
    labels = ["0.1", "1", "2", "4", "6"]
    assert [label.get_text() for label in first.get_yticklabels()] == labels
    assert [label.get_text() for label in second.get_xticklabels()] == labels
    assert not [*second.get_yticks(), *originals.get_xticks(), *originals.get_yticks()]
    heights = [axes.get_window_extent().height for axes in (first, originals)]
    assert heights[0] / heights[1] == pytest.approx((5 * 29 - 1) / (3 * 29 - 1), rel=1e-3)


def test_a_grid_of_images_puts_each_image_in_its_place(tmp_path: Path) -> None:
    images = np.zeros((2, 3, 4, 5))
    images[1, 2] = np.linspace(-0.5, 1.5, 20).reshape(4, 5)  # what lies outside is clipped
    keys = [["k"], ["l"]]
    blocks = {"a": images, "b": np.ones((1, 1, 2, 2))}
    chart = cells.images(blocks, rows=["0.1", "1"], runs={"a": keys})
    drawn = chart.figure.axes[0].images[0].get_array()
    assert drawn.shape == (2 * 5 - 1, 3 * 6 - 1)
    np.testing.assert_array_equal(drawn[5:, 12:], np.clip(images[1, 2], 0, 1))
    _, *rows = csv.reader(chart.table.csv().splitlines())
    assert [row[1:] for row in rows[:6]] == [
        [str(i), str(j), name, "", key]
        for i, name, key in ((1, "0.1", "k"), (2, "1", "l"))
        for j in (1, 2, 3)
    ]
    assert rows[6:] == [["b", "1", "1", "", "", ""]]
    *_, index, pixels = chart.save(tmp_path, "panel")
    assert (index.suffix, pixels.suffix) == (".csv", ".npz")
    with np.load(pixels) as kept:
        expected = np.clip(np.linspace(-0.5, 1.5, 20), 0, 1).reshape(4, 5) * 255
        np.testing.assert_allclose(kept["a"][1, 2], expected, atol=0.5)
        assert not kept["a"][0].any()
        assert kept["b"].tolist() == [[[[255, 255], [255, 255]]]]


def test_pixels_are_square(charts: dict[str, Chart]) -> None:
    for kind in ("panels", "grid of betas", "grids beside originals", "named rows"):
        for axes in charts[kind].figure.axes:
            box, image = axes.get_window_extent(), axes.images[0].get_array()
            assert box.width / image.shape[1] == pytest.approx(
                box.height / image.shape[0], rel=1e-3
            )


@pytest.mark.parametrize("shape", [(784,), (2, 28, 28), (0, 5, 28, 28)])
def test_images_of_another_shape_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"blocks\['mean'\]"):
        cells.images({"mean": np.zeros(shape)})


def test_heat_maps_share_one_scale_around_zero() -> None:
    matrices = {"U": np.array([[3.0, 0.0], [-4.0, 0.0]]), "V": np.array([[0.5]])}
    chart = cells.heat_maps(matrices)
    images = [axes.images[0] for axes in chart.figure.axes[:2]]
    assert {image.get_clim() for image in images} == {(-4.0, 4.0)}
    norms = [label.get_text().split("\n")[1] for label in chart.figure.axes[0].get_xticklabels()]
    assert norms == ["5.0", "0.0"]
    assert chart.table.rows == [["U", 1, 3.0, 0.0], ["U", 2, -4.0, 0.0], ["V", 1, 0.5, None]]
    cells.heat_maps({"nothing": np.zeros((3, 2))}).figure.draw_without_rendering()


def test_phase_puts_theory_on_the_grid_of_the_runs() -> None:
    betas, etas = np.array([0.5, 2.0, 8.0]), np.array([0.5, 1.0])
    counts = np.array([[16, 9], [8, np.nan], [1, 0]])
    chart = cells.phase(betas, etas, {"mlp": counts}, {"mlp": 4 / etas**2}, {"mlp": [9.0, np.nan]})
    axes = chart.figure.axes[0]
    mesh = axes.collections[0]
    np.testing.assert_allclose(mesh.get_coordinates()[:, 0, 1], [0.25, 1, 4, 16])  # geometric
    np.testing.assert_array_equal(mesh.get_array().filled(-1), np.nan_to_num(counts, nan=-1))
    assert mesh.get_clim() == (0, 16)
    written = {text.get_position(): float(text.get_text()) for text in axes.texts}
    for i, j in np.ndindex(counts.shape):
        here = [n for at, n in written.items() if np.allclose(at, (etas[j], betas[i]))]
        assert here == [counts[i, j]] * bool(np.isfinite(counts[i, j]))
    theory = next(line for line in axes.lines if "theory" in str(line.get_label()))
    root = np.sqrt(2)  # half a cell: the line is straight on log scales up to the borders
    expected = [[0.5 / root, 32], [0.5, 16], [1, 4], [root, 2]]
    np.testing.assert_allclose(theory.get_xydata(), expected)
    assert chart.table.rows[4] == ["mlp", 8.0, 0.5, 1.0, 16.0, 9.0]
    both = {"mlp": counts, "cnn": counts}
    onsets = {"mlp": 4 / etas**2, "cnn": 1 / etas**2}
    chart = cells.phase(betas, etas, both, onsets, trained=onsets)
    own = [
        line.get_ydata()[1]
        for a in chart.figure.axes[:2]
        for line in a.lines
        if line.get_ls() == "--"
    ]
    assert own == pytest.approx([16, 4])
    alone = cells.phase([1], [1], {"cnn": [[np.nan]]}, {"cnn": [1]}, {"cnn": [np.nan]})
    alone.figure.draw_without_rendering()


def test_numbers_are_sorted_and_counts_have_whole_ticks() -> None:
    points = {"beta": Points([2.0, 0.5], [3, 3], [0, 0]), "eta": Points([0.7], [3], [0])}
    axes = measures.spread({"active units": points}, variable="value").figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.5", "0.7", "2"]
    np.testing.assert_allclose(axes.lines[0].get_xdata().astype(float), [2, 0], atol=0.1)
    low, high = axes.get_ylim()
    assert all(tick == round(tick) for tick in axes.get_yticks() if low <= tick <= high)


def test_spread_draws_means_and_stds_at_their_settings() -> None:
    points = {
        "relu": Points([0.1, 1], [5.0, 7.0], [0.5, np.nan]),
        "cnn": Points([1], [6.0], [1.0]),
    }
    axes = measures.spread({"KL (nats)": points}, variable="beta").figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1", "1"]
    relu, cnn = axes.containers
    np.testing.assert_array_equal(relu[0].get_ydata(), [5, 7])
    assert round(cnn[0].get_xdata()[0]) == 1
    low, high = relu[2][0].get_segments()[0][:, 1]
    assert (low, high) == (4.5, 5.5)
    assert (
        measures.spread(means(["a", "b"]), variable="x").figure.axes[0].lines[0].get_ls() == "None"
    )


def test_bands_reach_from_the_least_to_the_most_of_the_seeds() -> None:
    eps, share = [0.1, 1.0, 10.0], [0.0, 0.5, 1.0]
    band = ([0.0, 0.25, 1.0], [0.0, 0.75, 1.0])
    chart = lines.collapse_curves({"": {"a": (eps, share)}}, bands={"": {"a": band}})
    (axes,) = chart.figure.axes
    corners = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert {0, 25, 75, 100} <= set(corners)
    assert [row[3:] for row in chart.table.rows] == [[0, 0, 0], [0.5, 0.25, 0.75], [1, 1, 1]]


def test_curves_at_one_height_are_drawn_apart() -> None:
    flat = {f"beta = {i}": ([0.01, 10.0], [1.0, 1.0]) for i in range(3)}
    figure = lines.collapse_curves({"": flat}).figure
    figure.draw_without_rendering()
    (axes,) = figure.axes
    heights = [line.get_transform().transform((1.0, 100.0))[1] for line in axes.lines]
    assert np.diff(heights).min() > 0.5 * figure.dpi / 72
    assert axes.get_xlim() == (0.01, 10.0)


def test_columns_draw_theory_beside_the_means_and_share_scales_within_a_measure(
    charts: dict[str, Chart],
) -> None:
    figure = charts["columns"].figure
    nll, kl = figure.axes[:4], figure.axes[4:8]
    assert len({axes.get_ylim() for axes in kl}) == 1
    for axes in (*nll, *kl):
        theory = [line for line in axes.lines if line.get_label() == THEORY]
        assert [list(line.get_ydata()) for line in theory] == [[2, 3, 4, 5]]
        assert len(axes.containers) == 2
    assert figure.axes[8].get_xlabel() == "β₁"


def test_a_note_stands_in_the_cell_of_its_image(charts: dict[str, Chart]) -> None:
    first, second, *_ = charts["grids beside originals"].figure.axes
    assert len(first.texts) == 25
    assert not second.texts
    places = [text.get_position() for text in first.texts]
    assert [(round(x) // 29, round(y) // 29) for x, y in places] == [
        (j, i) for i in range(5) for j in range(5)
    ]


def test_heat_maps_side_by_side_share_a_scale_and_others_do_not() -> None:
    one, other = np.eye(2), 100 * np.eye(2)
    figure = cells.heat_maps({"U, a": one, "V', a": one / 10, "U, b": other, "V', b": one}).figure
    limits = [axes.images[0].get_clim()[1] for axes in figure.axes[:4]]
    assert limits == [1, 1, 100, 100]


def test_columns_of_which_nothing_ran_are_left_away() -> None:
    counts = np.array([[np.nan, 3.0], [np.nan, 0.0]])
    line = [4.0, 1.0]
    chart = cells.phase([0.5, 2.0], [0.8, 1.25], {"cnn": counts}, {"cnn": line}, {"cnn": line})
    axes = chart.figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1.25"]
    assert [text.get_text() for text in axes.texts] == ["3", "0"]


def test_scatter_names_its_points(charts: dict[str, Chart]) -> None:
    axes = charts["scatter"].figure.axes[0]
    x, y = axes.lines[0].get_data()
    assert [(t.get_text(), *t.xy) for t in axes.texts] == [
        (str(digit), *point) for digit, point in enumerate(zip(x, y, strict=True))
    ]


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="at least one panel"):
        lines.collapse_curves({})


def test_files_hold_the_figure_and_its_numbers(tmp_path: Path, charts: dict[str, Chart]) -> None:
    pdf, png, data = charts["sweep"].save(tmp_path, "sweep")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "sweep.csv",
        "sweep.pdf",
        "sweep.png",
    ]
    assert pdf.read_bytes().startswith(b"%PDF")
    assert imread(png).shape[1] == round(5.5 * DPI)
    head, *rows = csv.reader(data.read_text().splitlines())
    assert head == ["source", "quantity", "curve", "beta_2", "value"]
    given = [[*r[:3], *map(float, r[3:])] for r in charts["sweep"].table.rows]
    assert [[*row[:3], *map(float, row[3:])] for row in rows] == given  # to the last bit


def test_the_same_numbers_give_the_same_files(tmp_path: Path) -> None:
    files = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        swept_chart = measures.sweep(swept(), {"exact": swept()}, variable="beta_2")
        panel = cells.images({"original": np.eye(4).reshape(1, 1, 4, 4)})
        paths = [*swept_chart.save(folder, "sweep"), *panel.save(folder, "panel")]
        files.append([path.read_bytes() for path in paths])
    assert files[0] == files[1]


def test_the_user_s_matplotlib_neither_changes_nor_is_changed() -> None:
    given = {"": {"U1": Approach(([1, 2], [0.1, 0.2]), goal=1e-4)}}
    plain = lines.convergence(given).figure.axes[0]
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True}):
        before = dict(matplotlib.rcParams)
        styled = lines.convergence(given).figure.axes[0]
        assert dict(matplotlib.rcParams) == before
    assert styled.xaxis.label.get_size() == plain.xaxis.label.get_size() == 8


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, charts: dict[str, Chart]) -> None:
    with pytest.raises(OutputError, match="no such folder"):
        charts["one panel"].save(tmp_path / "none", "curves")
