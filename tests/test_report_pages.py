"""The page of a forecast: whole, small, alone, and safe whatever the data are called."""

import base64
import json
import os
import re

import numpy as np
import pytest

import posterior_collapse as pc
from commands import collapse
from parsed import HOSTILE, Parsed, check_policy
from posterior_collapse.errors import InvalidArgumentError, OutputError
from posterior_collapse.report import write_page
from posterior_collapse.report.pages.forecast import forecast_page, spectrum_chart
from posterior_collapse.report.pages.pictures import thumbnails


def digits(spec=None, **about):
    data = pc.load("digits")
    return forecast_page(pc.forecast(data.x, spec or pc.VAESpec(16, eta_dec=0.3)), **about)


@pytest.fixture(scope="module")
def page():
    return digits(name="digits", image_shape=(8, 8))


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))


def test_the_page_says_what_the_forecast_says(page):
    parsed = Parsed(page)
    assert parsed.of("html") == [{"lang": "en"}]
    said = "12 of your 16 units will live; this data supports 12 at this loss."
    assert said in parsed.texts["output"]
    cells = [text for text in parsed.texts["span"] if text in ("active", "collapsed")]
    assert [cells.count("active"), cells.count("collapsed")] == [12, 4]
    assert len(parsed.of("tr")) == 17
    assert any("1,797 rows of 64 features" in text for text in parsed.texts["li"])


def test_nothing_runs_or_is_fetched_but_its_own(page):
    check_policy(page)
    assert [m.get("type") for m in Parsed(page).of("script")] == ["application/json", None]


def test_a_hostile_name_is_a_name():
    page = digits(name=HOSTILE, source=HOSTILE)
    parsed = Parsed(page)
    assert [m.get("type") for m in parsed.of("script")] == ["application/json", None]
    assert not parsed.of("img")
    assert HOSTILE in "".join(parsed.texts["p"])
    assert data_of(page)["name"] == HOSTILE


def test_everything_can_be_read_without_seeing_it(page):
    parsed = Parsed(page)
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in parsed.of("svg"))
    labelled = {label["for"] for label in parsed.of("label") if "for" in label}
    wrapped = {"half", "learn", "count"}
    for field in parsed.of("select") + parsed.of("input"):
        assert field["id"] in labelled | wrapped
    assert all(header["scope"] == "col" for header in parsed.of("th"))
    assert any("aria-live" in output for output in parsed.of("output"))
    assert parsed.of("noscript")


def test_every_unit_that_lives_is_in_the_figure():
    """Also of modes far weaker than the strongest, as of features of unlike scale."""
    f = pc.forecast(pc.Moments.from_matrices(np.diag([1e9, 4.0, 0.5])), pc.VAESpec(3))
    svg = spectrum_chart(f, "")
    assert [svg.count(f'class="pc-{name}"') for name in ("active", "collapsed")] == [2, 1]


def test_how_many_units_a_network_keeps_is_one_number_where_both_are():
    x = np.random.default_rng(0).standard_normal((400, 3)) * [9, 8, 7]
    found = pc.forecast(x, pc.VAESpec(3), network=True)
    assert found.bracket == (3, 3)
    assert "trained to convergence keeps about as many units (3) at" in forecast_page(found)
    assert found.plot().axes[0].get_title().endswith("(a network keeps as many)")
    above = forecast_page(pc.forecast(x, pc.VAESpec(3, beta=99.0), network=True))
    assert "Counts are those of the best linear model." in above


def test_a_page_is_small():
    rng = np.random.default_rng(0)
    rows = np.abs(rng.standard_normal((2000, 784)) * np.exp(rng.uniform(-4, 1, 784)))
    f = pc.forecast(rows / rows.max(), pc.VAESpec(64, beta=0.1, eta_dec=0.1))
    page = forecast_page(f, name="noise")
    assert sum("theta" in law for law in data_of(page)["laws"].values()) == 3
    assert len(page.encode()) < 150_000
    assert len(forecast_page(f, image_shape=(28, 28)).encode()) < 400_000
    assert len(f._repr_html_()) < 100_000


def test_laws_are_those_that_the_data_allow(page):
    laws = data_of(page)["laws"]
    assert list(laws) == ["gaussian", "bernoulli", "poisson", "categorical"]
    assert "one-hot" in laws["categorical"]["reason"]
    x = pc.load("digits").x
    for likelihood in ("bernoulli", "poisson"):
        f = pc.forecast(x, pc.VAESpec(16, likelihood=likelihood))
        theta = np.asarray(laws[likelihood]["theta"])
        np.testing.assert_allclose(theta**2, f.spectrum[: len(theta)], rtol=1e-9)
        # and from there back to the data's own units
        back = data_of(forecast_page(f))["laws"]["gaussian"]["theta"]
        np.testing.assert_allclose(back, laws["gaussian"]["theta"], rtol=1e-9)


def test_a_condition_has_the_one_law():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    f = pc.forecast((x, x + rng.standard_normal((200, 3))), pc.CVAESpec(2))
    laws = data_of(forecast_page(f))["laws"]
    assert [name for name, law in laws.items() if "theta" in law] == ["gaussian"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (pc.VAESpec(3, beta=1e4), "None of your 3 units will live"),
        (pc.HVAESpec((4, 3), sigma_1=0.4, eta_dec=0.3), "Units that will live: z1: 4 of 4, z2: 3"),
        (pc.ChainSpec((3, 2, 2), (1, 2, 3), (0.3, 0.4, 0.5)), "z1: 3 of 3, z2: 0 of 2"),
        (pc.VAESpec(4, eta_dec="learned"), "4 of your 4 units will live"),
        (pc.VAESpec(3, sigma=(0.1, 0.2, 0.3), eta_dec=0.3), "3 of your 3 units will live"),
        (pc.VAESpec(1, likelihood="bernoulli", beta=0.1), "Your unit will live"),
        (pc.VAESpec(1, beta=1e4), "Your unit will not live: this loss is past the onset"),
    ],
    ids=repr,
)
def test_every_model_has_a_page(spec, said):
    parsed = Parsed(digits(spec))
    assert any(said in text for text in parsed.texts["output"])
    assert "NaN" not in str(parsed.of("svg") + parsed.of("circle") + parsed.of("polyline"))


def test_moments_alone_call_no_onset_of_a_learned_dispersion_exact():
    counts = np.random.default_rng(0).negative_binomial(0.5, 0.2, (500, 4))
    spec = pc.VAESpec(3, likelihood="negative-binomial")
    for data, given, exact in [
        (counts, spec, True),
        (pc.Moments.from_arrays(counts), spec, False),
        (pc.Moments.from_arrays(counts), spec.replace(dispersion=2.0), True),
    ]:
        f = pc.forecast(data, given)
        page = forecast_page(f)
        (said,) = [text for text in Parsed(page).texts["li"] if text.startswith("Onset")]
        assert ("in any network" in said) == exact == ("exact for any network" in f.notes[0])
        assert data_of(page)["laws"]["negative-binomial"]["exact"] == exact


def test_a_network_s_bracket_is_said():
    f = pc.forecast(pc.load("digits").x, pc.VAESpec(16, eta_dec=0.3), network=True)
    fewest, most = f.bracket
    assert f"keeps between {fewest} and {most} units" in forecast_page(f)


def test_a_notebook_shows_the_same_without_a_script():
    f = pc.forecast(pc.load("digits").x, pc.VAESpec(16, eta_dec=0.3))
    parsed = Parsed(f._repr_html_())
    assert not parsed.of("script")
    assert len(parsed.of("tr")) == 17
    (style,) = parsed.texts["style"]
    rules = re.findall(r"([^{}]+)\{", re.sub(r"@media[^{]*\{", "", style))
    for selector in (part for rule in rules for part in rule.split(",")):
        assert re.match(r"[.#]", selector.strip()), f"{selector!r} reaches the whole notebook"


def test_thumbnails_are_the_modes():
    matplotlib_image = pytest.importorskip("matplotlib.image")
    import io

    f = pc.forecast(pc.load("digits").x, pc.VAESpec(16))
    images = thumbnails(f._modes, (8, 8), 4)
    assert len(images) == 4
    kind, content = images[0].split(",")
    assert kind == "data:image/png;base64"
    pixels = matplotlib_image.imread(io.BytesIO(base64.b64decode(content)))
    assert pixels.shape[:2] == (8, 8)
    pattern = f._modes.vectors.write[0].reshape(8, 8)
    # Orange for one sign, purple for the other: red against blue tells them apart.
    clear = np.abs(pattern) > 0.3 * np.abs(pattern).max()
    assert np.array_equal((pixels[..., 0] < pixels[..., 2])[clear], (pattern > 0)[clear])


def test_images_with_channels_are_flattened():
    rng = np.random.default_rng(0)
    f = pc.forecast(rng.random((50, 4 * 5 * 3)), pc.VAESpec(2))
    assert len(thumbnails(f._modes, (4, 5, 3), 3)) == 3
    assert thumbnails(f._modes, (3, 4, 5), 3) != thumbnails(f._modes, (4, 5, 3), 3)


@pytest.mark.parametrize("shape", [(7, 8), (64,), (8, 8, 1, 1)])
def test_a_wrong_image_shape_is_refused(shape):
    f = pc.forecast(pc.load("digits").x, pc.VAESpec(16))
    with pytest.raises(InvalidArgumentError, match="image_shape: got"):
        forecast_page(f, image_shape=shape)


def test_a_file_is_written_whole_or_refused(tmp_path):
    f = pc.forecast(pc.load("digits").x, pc.VAESpec(16))
    written = f.to_html(tmp_path / "out.html", name="digits")
    assert written.read_text(encoding="utf-8") == forecast_page(f, name="digits")
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]
    foreign = f.to_html(tmp_path / "out.html", name=os.fsdecode(b"r\xe9sum\xe9.npy"))
    assert r"r\udce9sum\udce9.npy" in foreign.read_text(encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match="expected one of"):
        f.to_html(tmp_path / "out.txt")
    with pytest.raises(OutputError):
        f.to_html(tmp_path / "missing" / "out.html")
    with pytest.raises(InvalidArgumentError, match="expected a Forecast"):
        write_page("text", tmp_path / "out.html")


def test_explore_writes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["digits", "--latents", 16, "--eta-dec", 0.3, "--label", 3, "--html", "out.html"]
    assert collapse("explore", *arguments) == 0
    assert capsys.readouterr().out == "Page: out.html\n"
    data = data_of((tmp_path / "out.html").read_text(encoding="utf-8"))
    assert data["source"] == "digits --label 3"
    assert len(data["images"]) == 32
    assert data["spec"]["etas"] == [0.3]
    assert collapse("explore", "digits", "--html", "out.pdf") == 2
    assert "the ending '.pdf'" in capsys.readouterr().err


def test_parts_of_images_are_shown_as_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task, images in (("half", 30), ("quarter", 32)):
        arguments = ["digits", "--task", task, "--eta-dec", 0.3, "--html", "out.html"]
        assert collapse("explore", *arguments) == 0
        data = data_of((tmp_path / "out.html").read_text(encoding="utf-8"))
        assert len(data["images"]) == images
        assert data["source"] == f"digits --task {task}"


def test_forecast_writes_a_page_beside_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert collapse("forecast", "digits", "--eta-dec", 0.3, "--html", "out.html", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    data = data_of((tmp_path / "out.html").read_text(encoding="utf-8"))
    assert data["spec"]["betas"] == [found["spec"]["beta"]]
    assert collapse("forecast", "digits", "--html", tmp_path / "no" / "out.html") == 2
