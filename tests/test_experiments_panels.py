"""Panels of images: what is drawn and what is kept beside the figure."""

import csv
from pathlib import Path

import numpy as np

from posterior_collapse.experiments import figures


def test_a_panel_puts_each_image_in_its_place(tmp_path: Path) -> None:
    images = np.zeros((2, 3, 4, 5))
    images[1, 2] = np.linspace(-0.5, 1.5, 20).reshape(4, 5)  # what lies outside is clipped
    keys = [["k"], ["l"]]
    blocks = {"a": images, "b": np.ones((1, 1, 2, 2))}
    chart = figures.panel(blocks, rows=["0.1", "1"], runs={"a": keys})
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
