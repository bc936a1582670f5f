"""Figures made of cells (images, matrices, phase diagrams): each value stands in its place."""

import csv
from pathlib import Path

import numpy as np
import pytest

from charts import made
from posterior_collapse.experiments.figures import Chart, cells


@pytest.fixture(scope="module")
def charts() -> dict[str, Chart]:
    return made()


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
    root = np.sqrt(2)  # half a cell: a step per column, up to its borders
    expected = [[0.5 / root, 16], [0.5 * root, 16], [0.5 * root, 4], [root, 4]]
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
