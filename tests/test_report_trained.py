"""Pages of trained models: their numbers are those found, whatever names come from outside."""

import dataclasses
import itertools
import json
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from commands import collapse
from parsed import HOSTILE, Parsed, check_policy, check_readable
from posterior_collapse.data.about import About, about
from posterior_collapse.diagnosis import diagnose_arrays
from posterior_collapse.diagnosis.conclusions import verdict_parts
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import read_parameters
from posterior_collapse.report.pages.curves import phase_html
from posterior_collapse.report.pages.diagnosis import diagnosis_html, light
from posterior_collapse.report.pages.pictures import signed
from posterior_collapse.report.pages.rendering import words
from posterior_collapse.report.pages.sweep import line_chart, sweep_html
from posterior_collapse.report.text import by_kl, with_error
from posterior_collapse.runs.kept import swept
from seen import large

DIGITS = pc.load("digits")
SPEC = pc.VAESpec(12, beta=2.0, eta_dec=0.3)


@pytest.fixture(scope="module")
def fitted():
    """At the optimum: 7 units live, on the 7 strongest modes."""
    return pc.fit(SPEC, DIGITS, "linear", exact=True)


@pytest.fixture(scope="module")
def found(fitted):
    return pc.diagnose(fitted, DIGITS)


@pytest.fixture(scope="module")
def sweep():
    specs = [SPEC.replace(beta=beta) for beta in (0.5, 1, 2, 4, 8, 16) for _ in (0, 1)]
    return pc.sweep(specs, DIGITS.x[:300], "linear", exact=True, seeds=[0, 1] * 6)


@pytest.fixture(scope="module")
def results(fitted, found, sweep):
    """Everything that has a page, by name."""
    mlp = pc.fit(pc.VAESpec(6, eta_dec=0.3), DIGITS.x[:256], "mlp", hidden=(8,), epochs=4)
    two = pc.fit(pc.HVAESpec((4, 3), sigma_1=0.4, eta_dec=0.3), DIGITS, "linear", exact=True)
    grid = [SPEC.replace(beta=b, eta_dec=e) for b in (1.0, 2.0) for e in (0.3, 0.5, 0.7)]
    forecast = pc.forecast(DIGITS.x, SPEC)
    betas, etas = np.geomspace(0.1, 30, 40), np.geomspace(0.05, 3, 40)
    return {
        "diagnosis": found,
        "diagnosis of a network": pc.diagnose(mlp, DIGITS.x[:256]),
        "diagnosis of a hierarchy": pc.diagnose(two, DIGITS),
        "diagnosis of arrays": diagnose_arrays(np.eye(9)[:, :3], 0.5),
        "run": mlp,
        "exact run": fitted,
        "sweep": sweep,
        "sweep of two": pc.sweep(grid, DIGITS.x[:300], "linear", exact=True),
        "sweep of a hierarchy": pc.sweep([two.spec] * 2, DIGITS.x[:300], "linear", exact=True),
        "tuned": pc.tune(DIGITS.x[:300], SPEC, "linear", active=4, seeds=2, exact=True),
        "map": forecast.phase_diagram(betas, etas),
        "stairs": forecast.phase_diagram(betas),
    }


NAMES = [
    *("diagnosis", "diagnosis of a network", "diagnosis of a hierarchy", "diagnosis of arrays"),
    *("run", "exact run", "sweep", "sweep of two", "sweep of a hierarchy", "tuned"),
    *("map", "stairs"),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_safe_and_readable_and_small(results, tmp_path, name):
    result = results[name]
    page = result.to_html(tmp_path / "out.html", name=HOSTILE).read_text(encoding="utf-8")
    check_policy(page)
    check_readable(page)
    parsed = Parsed(page)
    assert HOSTILE in "".join(parsed.texts["p"])
    assert len(parsed.of("h1")) == 1
    assert len(parsed.of("script")) == 1
    pictures = sum(len(image["src"]) for image in parsed.of("img"))
    assert len(page.encode()) - pictures < 150_000
    fragment = result._repr_html_()
    check_readable(f'<html lang="en">{fragment}</html>')
    assert not Parsed(fragment).of("script")
    for selector in re.findall(r"([^{}]+)\{", re.sub(r"@media[^{]*\{", "", style_of(fragment))):
        for part in selector.split(","):
            assert re.match(r"[.#]", part.strip()), f"{part!r} reaches the whole notebook"


def style_of(page):
    return "".join(Parsed(page).texts["style"])


def test_a_diagnosis_page_says_what_was_found(found):
    page = diagnosis_html(found)
    parsed = Parsed(page)
    headline, _ = verdict_parts(found)
    assert headline in parsed.texts["h1"]
    (level,) = found.levels
    cards = parsed.near("article")
    assert [card["data-kind"] for card in cards] == ["active"] * 7 + ["collapsed"] * 5
    shown = [text for text in parsed.texts["b"] if text.strip()]
    assert shown == [with_error(level.kl[i], level.kl_error[i]) for i in by_kl(level)]
    assert len(parsed.of("tr")) == 1 + 12 + 1 + len(re.findall('<th scope="row"', page))
    # One action comes first, in large, the others behind it.
    assert found.advice[0].action in "".join(parsed.texts["p"])
    assert page.index(found.advice[0].action) < page.index(found.advice[0].text)


@pytest.mark.parametrize(
    ("conclusion", "name"),
    [
        *(("collapse-optimal", "go"), ("nothing-to-do", "go"), ("more-units-pay", "wait")),
        *(("signal-unclaimed", "stop"), ("diverged", "stop")),
        *(("undecided", "unknown"), ("cannot-tell-yet", "unknown")),
    ],
)
def test_the_light_is_that_of_the_conclusion(found, conclusion, name):
    told = dataclasses.replace(found, conclusion=conclusion, forecast=None, advice=())
    assert light(told).name == name
    assert f"pc-light-{name}" in diagnosis_html(told)


def test_a_loss_that_has_not_arrived_is_not_green(found):
    assert light(found).name == "go"
    assert light(dataclasses.replace(found, loss=found.loss + 10)).name == "wait"


def test_units_of_an_optimum_are_the_data_s_modes(found):
    page = diagnosis_html(found)
    cosines = [float(c) for c in re.findall(r"<small>(\d\.\d\d)</small>", page)]
    modes = [int(n) for n in re.findall(r"<span>mode (\d+)</span>", page)]
    assert cosines == [1.0] * 7
    assert modes == [1, 2, 3, 4, 5, 6, 7]
    # Units that collapsed have no mode, and their pictures do not change.
    assert page.count('class="pc-strip"') == 12


def test_a_traversal_moves_along_the_decoder_s_column(fitted, found):
    columns = read_parameters(fitted.model)["U1"].T
    (level,) = found.levels
    for one in found._shown.traversals[0]:
        expected = columns[one.unit] * level.aggregate_std[one.unit]
        np.testing.assert_allclose(one.move, expected, atol=1e-5)
    # Rows of the data, and what the model makes of them.
    targets, rows = found._shown.targets, DIGITS.x.astype(np.float32)
    assert len(targets) == 8
    assert all((rows == target).all(axis=1).any() for target in targets)
    with torch.no_grad():
        decoded = fitted.model.reconstruct(torch.from_numpy(targets).double())
    np.testing.assert_allclose(found._shown.outputs, decoded, atol=1e-5)


def test_a_histogram_is_that_of_samples():
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((900, 3)) * [0.9, 0.0, 3.0] + [0.5, 0.0, 0.0]
    std = np.array([0.4, 1.0, 0.5])
    (level,) = diagnose_arrays(mean, std).levels
    histogram = level._histogram
    np.testing.assert_allclose(histogram.share.sum(1), 1, atol=1e-3)
    np.testing.assert_allclose(histogram.share[1], histogram.prior[1], atol=1e-12)
    draws = mean[:, None] + std * rng.standard_normal((900, 200, 3))
    for unit in range(3):
        counts, _ = np.histogram(draws[..., unit], histogram.edges[unit])
        np.testing.assert_allclose(histogram.share[unit], counts / 180_000, atol=5e-3)


def test_a_prior_that_is_elsewhere_is_drawn_there():
    mean = np.full((50, 2), 7.0)
    (level,) = diagnose_arrays(mean, 1.0, prior_mean=7.0).levels
    np.testing.assert_allclose(level._histogram.prior, level._histogram.share, atol=1e-12)
    assert level._histogram.edges.mean() == pytest.approx(7.0)


def test_tables_say_which_features_a_unit_moves():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3)) * [3.0, 0.05, 0.05]
    found = pc.diagnose(pc.fit(pc.VAESpec(1), x, "linear", exact=True), x)
    page = diagnosis_html(found, feature_names=["height", HOSTILE, "age"])
    parsed = Parsed(page)
    assert "height" in "".join(parsed.texts["p"])
    assert HOSTILE in "".join(parsed.texts["p"])
    (moved,) = re.findall(r"moves height\u00a0([+-][\d.]+)|moves height&nbsp;([+-][\d.]+)", page)
    assert abs(float("".join(moved))) == pytest.approx(3, rel=0.2)
    assert "moves feature 1" in diagnosis_html(found)


def test_names_of_columns_reach_the_pages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile = HOSTILE.strip()  # as cells of tables are
    rng = np.random.default_rng(0)
    height = rng.standard_normal(200)
    columns = np.stack([3 * height, 3 * height, rng.standard_normal(200), np.arange(200) % 2]).T
    np.savetxt("people.csv", columns, delimiter=",", header=f"height,{hostile},age,label",
               comments="", fmt="%.6f")  # fmt: skip
    named = ("height", hostile, "age")
    data = pc.load("people.csv")
    assert data.names == data.standardized().names == data.select(0).names == named
    assert pc.load("people.csv", drop="age").names == named[:2]
    frame = pytest.importorskip("pandas").DataFrame(data.x, columns=named)
    fitted = pc.fit(pc.VAESpec(1), frame, "linear", exact=True)
    for rows in (data, frame):
        page = diagnosis_html(pc.diagnose(fitted, rows))
        assert "moves height" in page
        assert hostile in "".join(Parsed(page).texts["p"])
    assert collapse("explore", "people.csv", "--latents", 2, "--html", "out.html") == 0
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    (told,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    first, second, *_ = json.loads(told)["named"]
    assert {name for name, _ in first} == {"height", hostile}
    assert all(abs(share) == pytest.approx(0.5**0.5, abs=0.01) for _, share in first)
    assert second[0][0] == "age"


def test_pictures_are_those_of_the_shape(found, tmp_path):
    assert "pc-strip" in diagnosis_html(found)  # the data said their shape
    plain = dataclasses.replace(found, _shown=dataclasses.replace(found._shown, image_shape=None))
    assert not Parsed(diagnosis_html(plain)).of("img")
    assert Parsed(diagnosis_html(plain, image_shape=(4, 16))).of("img")
    with pytest.raises(InvalidArgumentError, match="image_shape: got"):
        diagnosis_html(found, image_shape=(7, 8))
    colours = pc.diagnose(
        pc.fit(pc.VAESpec(2), np.random.default_rng(0).random((50, 4, 5, 3)), "linear", exact=True),
        np.random.default_rng(0).random((50, 4, 5, 3)),
    )
    assert colours._shown.image_shape == (4, 5, 3)
    assert Parsed(diagnosis_html(colours)).of("img")


def test_pages_know_what_their_data_said(tmp_path):
    """Name, pictures and features reach a page without being passed."""
    digits = pc.load("digits")
    page = pc.forecast(digits, SPEC).to_html(tmp_path / "f.html").read_text(encoding="utf-8")
    assert "VAE on digits" in page
    assert '"images":["data:image/png' in page
    run = pc.fit(SPEC, digits, "linear", exact=True)
    assert "VAE on digits, linear" in run.to_html(tmp_path / "r.html").read_text(encoding="utf-8")
    # What is no image, or not what is decoded, is not shown as one.
    video = np.random.default_rng(0).random((40, 5, 6, 7))
    assert about(video).image_shape is None
    quarter = pc.load("digits", task="quarter")
    assert about(quarter, conditional=True).image_shape == (8, 8)
    assert about(quarter) == About("digits")
    for data in (video, quarter):
        pc.forecast(data, pc.VAESpec(2)).to_html(tmp_path / "f.html")
    whole = signed(np.ones(48), (8, 8))
    assert whole != signed(np.ones(64), (8, 8))


def test_a_unit_of_several_modes_is_no_mode(found):
    (level,) = found._shown.traversals
    several = sum(one.outputs / np.linalg.norm(one.move) for one in level[:3])
    mixed = [dataclasses.replace(level[0], outputs=several), *level[1:]]
    shown = dataclasses.replace(found._shown, traversals=(tuple(mixed),))
    page = diagnosis_html(dataclasses.replace(found, _shown=shown))
    assert page.count("mixes modes, the most of") == 1
    assert "mixes modes" not in diagnosis_html(found)


def test_words_name_the_information_from_which_a_unit_is_active():
    from posterior_collapse.theory import ACTIVE_INFORMATION

    said = words(["active"])["active"]
    assert float(said.split()[-2]) == ACTIVE_INFORMATION


def test_a_model_without_a_decoder_has_a_page_without_pictures():
    found = diagnose_arrays(np.random.default_rng(0).standard_normal((100, 3)), 0.5)
    parsed = Parsed(diagnosis_html(found))
    assert len(parsed.of("article")) == 3
    assert not parsed.of("img")


def test_many_rows_and_units_are_still_a_small_page_at_once():
    found = large()
    start = time.perf_counter()
    page = diagnosis_html(found)
    assert time.perf_counter() - start < 10  # seconds; about 0.1 on an idle machine
    assert len(page.encode()) < 300_000
    assert len(Parsed(page).near("article")) == 32
    assert len(Parsed(page).near("tr", **{"data-kind": "collapsed"})) == 24


def test_the_course_of_training_is_shown_where_it_is_known(results):
    page = diagnosis_html(results["diagnosis of a network"])
    assert "KL, stacked by unit" in page
    assert "KL, stacked by unit" not in diagnosis_html(results["diagnosis of arrays"])


def test_a_law_that_approximates_is_called_so_and_bounds_no_loss(tmp_path):
    """Of bits the linear forecast is no optimum: its loss is none that training goes down to."""
    data = (DIGITS.x[:200] > 0.5).astype(float)
    specs = [pc.VAESpec(3, beta=beta, likelihood="bernoulli") for beta in (1.0, 4.0)]
    sweep = pc.sweep(specs, data, "linear", epochs=2)
    fitted = pc.fit(specs[0], data, "linear", epochs=2)
    for result in (sweep, fitted, pc.diagnose(fitted, data)):
        result.to_html(tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert "quadratic approximation" in page
        assert "linear optimum" not in page
        legends = [axes.get_legend_handles_labels()[1] for axes in result.plot().axes]
        labels = list(itertools.chain(*legends))
        assert "quadratic approximation" in labels
        assert "linear optimum" not in labels
    loss, active = sweep.plot().axes
    assert all(not len(line.get_xdata()) for line in loss.lines if line.get_linestyle() == "--")
    assert "quadratic approximation" in active.get_legend_handles_labels()[1]
    assert "quadratic approximation" not in loss.get_legend_handles_labels()[1]


def test_a_sweep_page_has_every_run_and_where_it_stands(sweep):
    page = sweep_html(sweep, data=DIGITS.x, image_shape=(8, 8))
    parsed = Parsed(page)
    assert "12 of 12 runs have as many active units as their forecasts." in parsed.texts["h1"]
    cards = [a["id"] for a in parsed.of("article")]
    assert cards == [f"run-{n}" for n in range(1, 13)]
    links = [a["href"] for a in parsed.of("a")]
    for n in range(1, 13):
        assert links.count(f"#run-{n}") >= 4  # two figures, the course and the table
    for run in sweep.runs:
        pair = f"{run.measured['levels'][0]['n_active']}/{run.forecast['levels'][0]['n_active']}"
        assert f"<td>{pair}</td>" in page
    assert len(parsed.of("img")) == 13  # the rows, and each run's reconstructions of them
    with pytest.raises(InvalidArgumentError, match="data: got 3 features"):
        sweep_html(sweep, data=DIGITS.x[:, :3], image_shape=(1, 3))


def test_kinds_of_outcomes_are_counted_and_marked(sweep):
    runs = list(sweep.runs)
    more = dataclasses.replace(runs[0], forecast=runs[6].forecast)
    forecast = {**runs[0].forecast, "loss": runs[6].forecast["loss"]}
    fewer = dataclasses.replace(runs[6], forecast=forecast)
    high = {**runs[5].measured, "loss": runs[5].measured["loss"] + 50}
    under = dataclasses.replace(runs[5], measured=high)
    none = dataclasses.replace(runs[2], forecast=None)
    lost = dataclasses.replace(runs[3], stopped=f"non-finite: {HOSTILE}")
    page = sweep_html(pc.Sweep((more, fewer, none, lost, under, runs[4])))
    for kind in ("1 more units", "1 fewer units", "1 no forecast", "1 stopped", "1 undertrained"):
        assert kind in " ".join(page.split())
    assert "Undertrained, with a loss far above: 1 of 6 runs." in " ".join(page.split())
    kinds = [card["data-kind"] for card in Parsed(page).of("article")]
    told = ["more units", "fewer units", "no forecast", "stopped", "undertrained", "as forecast"]
    assert kinds == told
    assert f"Stopped, non-finite: {HOSTILE}" in "".join(Parsed(page).texts["p"])
    check_policy(page)


def test_a_run_that_is_no_number_any_more_has_a_card():
    level = {"n_active": None, "kl": [None] * 12, "information": [None] * 12}
    nothing = {"loss": None, "reconstruction": None, "levels": [level]}
    (run,) = pc.sweep([SPEC], DIGITS.x[:100], "linear", exact=True).runs
    lost = dataclasses.replace(run, measured=nothing, stopped="non-finite: loss at step 3")
    page = sweep_html(pc.Sweep((run, lost)))
    check_readable(page)
    assert "nothing was measured" in page
    pc.Sweep((run, lost)).plot()


def test_losses_that_differ_by_rounding_have_an_axis_within_the_figure():
    loss = 0.34537412685926533
    measured = {"loss": loss * (1 + 4e-16), "levels": []}
    forecast = {"loss": loss, "levels": []}
    run = SimpleNamespace(measured=measured, forecast=forecast, run=SimpleNamespace(spec=SPEC))
    chart = line_chart(SimpleNamespace(labels=[{"beta": 1.0}], runs=[run]), 0, "Loss")
    heights = [float(at) for at in re.findall(r"M52 (-?[\d.]+)H500", chart)]
    assert len(heights) > 1
    assert all(0 <= at <= 290 for at in heights)


def test_a_phase_diagram_of_a_fine_grid_is_small(results):
    fine = pc.forecast(DIGITS.x, SPEC).phase_diagram(
        np.geomspace(0.1, 30, 121), np.geomspace(0.05, 3, 121)
    )
    page = phase_html(fine)
    assert len(page.encode()) < 150_000
    assert "0 to 12 of 12 units are active for β from 0.1 to 30" in page
    diagram = results["stairs"]
    assert f"<td>{diagram.active[0, 0]}</td>" in phase_html(diagram)


def test_commands_write_pages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ["digits", "--latents", 4, "--eta-dec", 0.3, "--architecture", "linear", "--exact"]
    one, many = [*short, "--out", "one"], [*short, "--beta", "1,2", "--out", "many"]
    assert collapse("train", *one, "--html", "one.html") == 0
    assert capsys.readouterr().out.endswith("Page: one.html\n")
    text = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert "4 of 4 units active" in text
    assert "KL, stacked by unit" in text
    assert "pc-strip" in text
    assert collapse("train", *many, "--html", "many.html", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    text = (tmp_path / "many.html").read_text(encoding="utf-8")
    assert "2 of 2 runs have as many active units" in text
    assert len(Parsed(text).of("article")) == 2
    assert len(Parsed(text).of("img")) == 3
    for folder in ("one", "many"):
        assert collapse("diagnose", folder, "--html", "again.html") == 0
        assert capsys.readouterr().out.endswith("Page: again.html\n")
        again = (tmp_path / "again.html").read_text(encoding="utf-8")
        assert again == (tmp_path / f"{folder}.html").read_text(encoding="utf-8")
    np.savez("posterior.npz", mean=np.eye(9)[:, :3], std=np.full((9, 3), 0.5))
    assert collapse("diagnose", "posterior.npz", "--html", "arrays.html") == 0
    assert "on posterior.npz, 9 rows" in (tmp_path / "arrays.html").read_text(encoding="utf-8")
    arguments = [*short, "--active", 2, "--seeds", 1, "--html", "tuned.html"]
    assert collapse("tune", *arguments) == 0
    assert "Active units over β" in (tmp_path / "tuned.html").read_text(encoding="utf-8")
    capsys.readouterr()
    for command in (["train", *short], ["diagnose", "one"], ["tune", *short]):
        assert collapse(*command, "--html", "out.pdf") == 2
        assert "the ending '.pdf'" in capsys.readouterr().err


def test_a_folder_is_read_back_as_its_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--architecture", "mlp", "--hidden", "4", "--epochs", 2, "--latents", 3]
    assert collapse("train", "digits", *options, "--beta", "1,2", "--out", "out") == 0
    found = swept(tmp_path / "out")
    assert [one["beta"] for one in found.labels] == [1.0, 2.0]
    for one in found.runs:
        assert [len(column) for column in one.history.values()] == [2] * len(one.history)
        assert one.history["kl_1"][-1] == pytest.approx(
            sum(one.history[f"kl_1_{unit}"][-1] for unit in (1, 2, 3)), rel=1e-4
        )
    (tmp_path / "out" / "beta=1" / "history.csv").write_text("epoch,kl_1\n1")
    with pytest.raises(pc.DataError, match="history of a run"):
        swept(tmp_path / "out")
    (tmp_path / "out" / "beta=1" / "summary.json").unlink()
    with pytest.raises(pc.DataError, match="--resume"):
        swept(tmp_path / "out")
