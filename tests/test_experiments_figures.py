"""Figures of the experiments: what they show is what they were given, and it can be read."""

import csv
import itertools
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.transforms import Bbox

from charts import BETAS, made, means, shares, swept
from posterior_collapse.errors import InvalidArgumentError, OutputError
from posterior_collapse.experiments.figures import DPI, Chart, cells, lines, looks, measures
from posterior_collapse.experiments.figures.lines import Approach
from posterior_collapse.experiments.figures.measures import THEORY, Points


@pytest.fixture(scope="module")
def charts() -> dict[str, Chart]:
    return made()


KINDS = (
    *("one panel", "two panels", "three panels", "four panels", "digits", "spectra"),
    *("convergence", "convergence of two", "convergence of three", "sweep", "panels"),
    *("grid of betas", "heat maps", "six heat maps", "ten heat maps"),
    *("grids beside originals", "named rows", "seven measures"),
    *("phase", "spread over words", "spread over values", "scatter", "columns", "answers"),
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
        *("U1 (theory 2 x 0)", "σ₁", "goal of the curve of its colour"),
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


def test_legends_say_which_share_of_units_theory_has_dead() -> None:
    curve = ([0.1, 1.0], [0.5, 1.0])
    panels = {"left": {"beta = 1": curve, "beta = 2": curve}, "right": {"beta = 2": curve}}
    figure = lines.collapse_curves(panels, theory={"left": {"beta = 1": 0.125}}).figure
    told = [[line.get_label() for line in axes.lines] for axes in figure.axes]
    assert told == [["beta = 1 (theory 12.5%)", "beta = 2"], ["beta = 2"]]


def test_panels_keep_their_height_beside_a_longer_legend() -> None:
    curve = ([0.1, 1.0], [0.5, 1.0])
    long, short = ({f"{'curve ' * 5}{i}": curve for i in range(n)} for n in (5, 1))
    heights = []
    for panels in ({"a": long, "b": short}, {"a": short, "b": long}):
        figure = lines.collapse_curves(panels).figure
        figure.draw_without_rendering()
        heights.append(figure.axes[0].get_window_extent().height)
    assert heights[0] == pytest.approx(heights[1], rel=0.01)


def test_curves_that_coincide_are_drawn_apart_and_others_in_their_place() -> None:
    flat = {f"beta = {i}": ([0.01, 10.0], [1.0, 1.0]) for i in range(3)}
    alone = {"beta = 9": ([0.01, 10.0], [0.5, 0.5])}
    figure = lines.collapse_curves({"": flat | alone}).figure
    figure.draw_without_rendering()
    (axes,) = figure.axes
    heights = [line.get_transform().transform((1.0, 100.0))[1] for line in axes.lines]
    assert np.diff(heights[:3]).min() > 0.5 * figure.dpi / 72
    # A point or less is the thickness of a line, 1% of the panel; one that is alone is not moved.
    assert np.abs(np.diff(heights[:3])).max() < 0.012 * axes.get_window_extent().height
    assert heights[3] == pytest.approx(axes.transData.transform((1.0, 100.0))[1])
    assert axes.get_xlim() == (0.01, 10.0)


def test_names_of_points_at_one_place_stand_beside_each_other() -> None:
    chart = lines.scatter({"": ([1, 1, 3], [2, 2, 5])}, x="theory", y="KL", names="abc")
    written = [box for text, box in boxes(chart.figure) if text in "abc"]
    assert len(written) == 3
    common = Bbox.intersection(*written[:2])
    assert common is None or common.width < 1.5
    assert [text.xy for text in chart.figure.axes[0].texts] == [(1, 2), (1, 2), (3, 5)]
    dots, equal = chart.figure.axes[0].lines
    assert dots.get_xdata().tolist() == [1, 1, 3]
    np.testing.assert_array_equal(equal.get_xdata(), equal.get_ydata())  # as theory says


def test_values_that_are_known_one_by_one_are_drawn_so() -> None:
    values = [[1.0, 2.0, 30.0], [4.0]]
    points = Points.of(["a", "b"], values)._replace(each=values)
    theory = Points(["b"], [4.0], [])
    lines_of = {"KL (nats)": {"trained": points, THEORY: theory}}
    axes = measures.spread(lines_of, variable="x").figure.axes[0]
    each, expected = axes.lines
    assert (each.get_xdata().tolist(), each.get_ydata().tolist()) == ([0, 0, 0, 1], [1, 2, 30, 4])
    assert (expected.get_xdata().tolist(), expected.get_ydata().tolist()) == ([1], [4.0])
    assert [line.get_label() for line in axes.lines] == ["trained", THEORY]


def test_upper_bounds_have_an_arrow_and_theory_of_words_a_dash() -> None:
    points = Points(["a", "b"], [5.0, 7.0], [0.5, 0.5], [False, True])
    theory = Points(["a", "b"], [4.0, 6.0], [])
    chart = measures.columns({"pairs": {"NLL (nats)": {"here": points, THEORY: theory}}})
    (axes,) = chart.figure.axes
    (arrows,) = [line for line in axes.lines if "arrow" in str(line.get_marker())]
    assert (list(arrows.get_xdata()), list(arrows.get_ydata())) == ([1], [6.5])  # under its bar
    (dashes,) = [line for line in axes.lines if line.get_label() == THEORY]
    assert (dashes.get_linestyle(), dashes.get_marker()) == ("None", "_")
    assert list(dashes.get_ydata()) == [4, 6]


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


def test_columns_have_the_ticks_of_one_axis_where_they_share_its_labels() -> None:
    whole, mean = Points([0.5, 1], [16, 0], [0, 0]), Points([0.5, 1], [15.6, 1], [0.4, 0])
    of = {"beta": {"active units": {"a": whole}}, "eta": {"active units": {"a": mean}}}
    first, second = measures.columns(of).figure.axes
    assert list(first.get_yticks()) == list(second.get_yticks())
    assert first.get_ylim() == second.get_ylim()


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


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_columns_of_a_figures_numbers_have_one_name(kind: str, charts) -> None:
    columns = charts[kind].table.columns
    assert len(set(columns)) == len(columns)


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
