"""What figures and pages make of few values, of holes, and of numbers of any size."""

import re

import numpy as np
import pytest

import posterior_collapse as pc
from posterior_collapse.report.comparison import comparison_sentences
from posterior_collapse.report.pages.curves import phase_html, phase_sentence
from posterior_collapse.report.pages.diagnosis import diagnosis_html
from posterior_collapse.report.pages.rendering import number
from posterior_collapse.report.pages.sweep import sweep_html
from posterior_collapse.report.pages.timeline import timeline

TWO_MODES = pc.Moments.from_matrices(np.diag([4.0, 1.0]))
X = np.random.default_rng(0).standard_normal((200, 4)) * [3, 2, 1, 0.1]
STAIRS = re.compile(r'<path d="([^"]*)" class="pc-stairs"|<path class="pc-stairs" d="([^"]*)"')


def stairs(diagram):
    """The points of the line that a page draws, in pixels."""
    path = "".join(STAIRS.search(phase_html(diagram)).groups(default=""))
    return [tuple(map(float, pair.split())) for pair in re.split("[ML]", path) if pair]


def test_one_beta_is_drawn_and_told_as_one():
    one = pc.phase_diagram(TWO_MODES, pc.VAESpec(2), [2.0])
    assert phase_sentence(one) == "1 of 2 units is active for β = 2."
    (start, height), (end, same) = stairs(one)
    assert end - start > 100
    assert height == same
    (line,) = one.plot().axes[0].get_lines()
    assert line.get_marker() not in (None, "", "None")
    assert list(line.get_ydata()) == [1]
    row = pc.phase_diagram(TWO_MODES, pc.VAESpec(2), [2.0], [1.0, 9.0])
    assert phase_sentence(row) == "0 to 1 of 2 units are active for β = 2 and η_dec from 1 to 9."


def test_a_count_is_drawn_half_way_to_the_next_beta_on_page_and_figure():
    diagram = pc.phase_diagram(TWO_MODES, pc.VAESpec(2), [5.0, 0.5, 2.0])
    points = stairs(diagram)
    heights = [y for _, y in points]
    assert heights[0] == heights[1] < heights[2] == heights[3] < heights[4] == heights[5]
    # The first and the last of three cells begin and end a sixth of the width beyond their betas.
    left, right = points[0][0], points[-1][0]
    share = 1 / 6 + 2 / 3 * np.log(1.0 / 0.5) / np.log(5.0 / 0.5)
    assert points[1][0] == pytest.approx(left + share * (right - left), abs=0.2)
    (line,) = diagram.plot().axes[0].get_lines()
    assert line.get_drawstyle() == "steps-mid"
    assert line.get_xydata().tolist() == [[0.5, 2], [2, 1], [5, 0]]


def test_where_a_loss_has_no_minimum_is_said():
    spec = pc.HVAESpec((3, 3), (1.0, 1.0), sigma_1="learned")
    diagram = pc.phase_diagram(TWO_MODES, spec, [0.5, 1.0, 2.0])
    assert repr(diagram) == (
        "PhaseDiagram(3 betas x 1 eta_dec; 0 active units; unbounded in 1 cell)"
    )
    assert phase_sentence(diagram) == (
        "0 of 3 units are active for β₂ from 0.5 to 2, where the loss has a minimum (2 of 3 cells)."
    )


def test_runs_that_fill_no_grid_are_no_map():
    specs = [pc.VAESpec(2, beta=b, eta_dec=e) for b, e in ((1, 1), (1, 1), (2, 2), (1, 2))]
    found = pc.sweep(specs, X, "linear", exact=True, seeds=[0, 1, 0, 0])
    assert "Measured over forecast" in sweep_html(found)
    assert len(found.plot().axes) == 2
    assert 'class="pc-cell"' not in found._repr_html_()
    assert repr(found).startswith("Sweep(4 runs; beta, eta_dec, seed vary; 4 of 4 ")


def test_names_that_would_hide_what_is_drawn_are_left_out():
    """Names of 20 series, or one of a line's length, covered figures and their pages."""
    grid = [pc.VAESpec(k, b, e) for k in (1, 2) for b in (1, 2, 3, 4) for e in (0.5, 1, 2)]
    levels = [pc.VAESpec(2), pc.HVAESpec((2, 2), (1.0, 1.0), sigma_1=0.5)]
    for specs, axis in ((grid, "latent units"), (levels, "run")):
        found = pc.sweep(specs, X, "linear", exact=True, from_forecast=True)
        figure = found.plot()
        figure.canvas.draw()
        for axes in figure.axes:
            assert axes.get_xlabel() == axis
            assert axes.get_position().height > 0.6
            said = [text.get_text() for text in axes.get_legend().get_texts()]
            assert said == ["measured", "linear optimum"]
            inside = axes.get_legend().get_window_extent()
            assert inside.height < 0.3 * axes.get_window_extent().height
        (loss,) = re.findall("<svg[^>]*aria-label=.Loss.*?</svg>", sweep_html(found), re.DOTALL)
        assert "= " not in "".join(re.findall("<text[^>]*>([^<]*)", loss))
    few = pc.sweep(grid[:9], X, "linear", exact=True, from_forecast=True).plot()
    assert len(few.axes[0].get_legend().get_texts()) == 4  # three of beta, and theory


def test_a_caution_is_told_of_runs_whose_numbers_differ():
    """How many modes are noise goes by beta: of a sweep over it, nothing was said."""
    few = np.random.default_rng(0).standard_normal((30, 10))
    found = pc.sweep([pc.VAESpec(2, beta=b) for b in (0.5, 0.7, 9.0)], few, "linear", exact=True)
    summaries = [(f"run {n}", run.summary()) for n, run in enumerate(found.runs)]
    cautions = [summary["forecast"].get("cautions", [""])[0] for _, summary in summaries]
    assert cautions[0] != cautions[1]
    assert cautions[0].startswith("only 30 rows for 10 features")
    assert cautions[2] == ""
    told = [line for line in comparison_sentences(summaries) if line.startswith("Note")]
    assert told == [f"Note on run 0, and alike on 1 other run: {cautions[0]}."]
    (alone,) = [line for line in comparison_sentences(summaries[:1]) if line.startswith("Note")]
    assert alone == f"Note: {cautions[0]}."


def test_a_run_is_not_named_by_what_only_other_models_have():
    specs = [pc.VAESpec(2), pc.HVAESpec((2, 2), (1.0, 1.0), sigma_1=0.5)]
    page = sweep_html(pc.sweep(specs, X, "linear", exact=True))
    assert "None" not in page
    assert "model = vae, latent units = 2, β = 1" in page
    clips = pc.sweep([pc.VAESpec(2)] * 2, X, "linear", clips=[None, 1.0], epochs=1)
    assert "clip = none" in sweep_html(clips)


def test_no_number_is_longer_than_an_axis_has_room_for():
    # Of 0.000001 and 1000000 an axis showed 000001 and 000000.
    for power in range(-12, 13):
        for digit in (1, 2, 5):
            shown = number(float(f"{digit}e{power}"))
            assert len(shown) <= 6
            assert float(shown) == float(f"{digit}e{power}")
    assert number(-0.0) == "0"  # as the page's script has it


def test_runs_without_a_forecast_are_not_counted_as_unlike_theirs():
    specs = [pc.VAESpec(2, beta=b) for b in (1.0, 2.0)]
    found = pc.sweep(specs, X, "linear", epochs=1, free_bits=0.5)
    assert "<h1>No closed form is known to compare these 2 runs with." in sweep_html(found)
    stopped = dict(found.runs[0].summary(), stopped="non-finite loss")
    told = comparison_sentences([("one", stopped), ("other", found.runs[1].summary())], few=0)
    assert "No closed form is known to compare these 2 runs with." in told
    (with_one,) = pc.sweep([pc.VAESpec(2)], X, "linear", exact=True).runs
    page = sweep_html(pc.Sweep((*found.runs, with_one)))
    assert "1 of 1 run with a forecast has as many active units as its forecast." in page


def history(losses, **columns):
    epochs = [*range(1, len(losses) + 1)]
    same = [1.0] * len(losses)
    return {"epoch": epochs, "loss": losses, "kl_1": same, "active_1": same, **columns}


def loss_chart(*told):
    title, chart = list(timeline(*told))[-1]
    return title, str(chart)


def test_the_numbers_of_an_axis_differ():
    # Losses that rounding tells apart had five ticks of 11.7183.
    _, chart = loss_chart(history([11.71830, 11.71830002, 11.71830001]), None)
    ticks = re.findall(r'text-anchor="end">([\d.]+)<', chart)
    assert len(ticks) == len(set(ticks)) > 1


def test_losses_at_a_smaller_beta_are_not_drawn_beside_the_optimum():
    optimum = {"loss": 5.0, "levels": [{"kl": [1.0], "n_active": 1}], "theory": "linear optimum"}
    losses = [9.0, 3.0, 4.0, 5.5, 5.2]
    title, whole = loss_chart(history(losses, beta_factor=[0.3, 0.6, 0.9, 1.0, 1.0]), optimum)
    assert title == "Loss with beta in full"
    (line,) = re.findall(r'd="([^"]*)" class="pc-line pc-s0"', whole)
    assert len(re.split("[ML]", line)[1:]) == 2
    assert float(line.split()[1].split("L")[0]) < float(line.split()[-1])  # it falls to the optimum
    title, all_of_it = loss_chart(history(losses), optimum)
    (line,) = re.findall(r'd="([^"]*)" class="pc-line pc-s0"', all_of_it)
    assert title == "Loss"
    assert len(re.split("[ML]", line)[1:]) == 5


def test_buttons_count_the_units_of_a_level_and_not_its_cards():
    found = pc.diagnose_arrays(np.random.default_rng(0).standard_normal((200, 60)), 0.5)
    page = " ".join(diagnosis_html(found).split())
    assert "60 of 60 units active" in page
    assert "60 active</button>" in page
    assert "28 more units are in the table below" in page


@pytest.mark.parametrize(("steps", "unit"), [([10, 20], "iteration"), ([80, 160], "epoch")])
def test_exact_training_has_iterations_and_no_epochs(steps, unit) -> None:
    """The axes of its cards said epoch, beside a figure over the same steps."""
    course = {"epoch": [10, 20], "step": steps, "loss": [3.0, 2.0], "kl_1": [1.0, 1.0]}
    figures = [str(figure) for _, figure in timeline({**course, "active_1": [1, 1]}, None)]
    assert len(figures) == 3
    for figure in figures:
        assert f"over 20 {unit}s; " in figure
        assert f">{unit}</text>" in figure
