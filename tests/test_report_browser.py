"""The page in a real browser: its sliders are moved, and its numbers are the theory's."""

import json
import re
import shlex

import numpy as np
import pytest

import posterior_collapse as pc
from browser import NEEDS_CHROMIUM
from commands import collapse
from seen import DIGITS, ON_DIGITS, ON_OTHERS

pytestmark = NEEDS_CHROMIUM

SENTENCE = "document.getElementById('sentence').textContent"
ONSET = "(line => (line.hidden ? '' : line.textContent))(document.getElementById('onset'))"
ROWS = "[...document.querySelectorAll('#units tbody tr')].map(r => r.innerText.split('\\t'))"
SHOWN = "e => !e.closest('[hidden]')"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Addresses of pages by name, and the forecasts that they are of."""
    folder = tmp_path_factory.mktemp("pages")
    made = {}
    for name, spec in ON_DIGITS.items():
        f = pc.forecast(DIGITS, spec)
        path = f.to_html(folder / f"{name}.html", name="digits", image_shape=(8, 8))
        made[name] = (path.as_uri(), f)
    for name, (data, spec) in ON_OTHERS.items():
        f = pc.forecast(data, spec)
        made[name] = (f.to_html(folder / f"{name}.html").as_uri(), f)
    raw = pc.forecast(DIGITS, ON_DIGITS["vae"], bias="none")
    made["raw"] = (raw.to_html(folder / "raw.html").as_uri(), raw)
    return made


def counts(browser):
    """Active units per level, as the table has them."""
    rows = browser.value(ROWS)
    levels = [row[0] if row[0].startswith("z") else "z1" for row in rows]
    found = dict.fromkeys(sorted(set(levels)), 0)
    for level, row in zip(levels, rows, strict=True):
        found[level] += any(cell.endswith("active") for cell in row)
    return list(found.values())


@pytest.mark.parametrize(
    "name",
    [
        *("vae", "learned", "shared", "bernoulli", "hvae", "chain"),
        *("explained", "many", "unequal", "counts", "one-hot", "flat", "two", "moments"),
    ],
)
def test_the_script_starts_where_the_page_was_made(browser, pages, name):
    address, f = pages[name]
    browser.open(address, script=False)
    without, onset = (browser.value(SENTENCE), browser.value(ROWS)), browser.value(ONSET)
    # Of a negative binomial moments alone tell no onset that is exact.
    assert not onset or ("in any network" in onset) == (name != "moments")
    browser.open(address)
    assert browser.complaints == []
    assert browser.value(SENTENCE) == without[0]
    assert browser.value(ONSET) == onset
    first = len(without[1][0])
    assert [row[:first] for row in browser.value(ROWS)] == without[1]
    assert counts(browser) == [level.n_active for level in f.levels]
    for form in browser.value(
        "[...document.querySelectorAll('#form option:not([disabled])')].map(o => o.value)"
    ):
        browser.type("#form", form)
        assert not browser.value(
            "/NaN|undefined|Infinity/.test(document.querySelector('main').innerHTML)"
        ), form
        line = browser.value(ONSET)
        trust = browser.value("document.getElementById('trust').textContent")
        # The note of a quadratic approximation, which a Gaussian has not.
        said = re.search(r"exact for (any network.*?);|known as far as moments tell", trust)
        if said and line:
            assert line.endswith(f", in {said[1]}.") if said[1] else "moments tell" in line, form
    assert browser.complaints == []


def test_figures_show_what_the_numbers_are(browser, tmp_path):
    """Modes far weaker than the strongest; no onset where nothing lives; labels on a telephone."""
    stds = [4e4, 2.0, 0.5]
    weak = pc.forecast(pc.Moments.from_matrices(np.diag(np.square(stds))), pc.VAESpec(3))
    browser.open(weak.to_html(tmp_path / "weak.html").as_uri(), width=360)
    for name in ("active", "collapsed"):
        drawn = browser.value(f"document.querySelectorAll('#spectrum circle.pc-{name}').length")
        assert drawn == weak.levels[0].status.count(name)
    outside = """[...document.querySelectorAll('#stairs text')].filter(t => {
      const [own, whole] = [t, t.ownerSVGElement].map(e => e.getBoundingClientRect());
      return own.left < whole.left || own.right > whole.right;
    }).map(t => t.textContent)"""
    assert browser.value(outside) == []
    assert "onset" in browser.value("document.querySelector('#stairs').textContent")
    x = DIGITS[:200, 18:20]
    none = pc.forecast((x, 2 * x), pc.CVAESpec(3, beta=0.1))
    browser.open(none.to_html(tmp_path / "none.html").as_uri())
    assert "onset" not in browser.value("document.querySelector('#stairs').textContent")
    assert "none from" not in browser.value(
        "document.querySelector('#stairs svg').getAttribute('aria-label')"
    )


def test_moving_a_slider_is_a_new_forecast(browser, pages):
    address, f = pages["vae"]
    browser.open(address)
    browser.type("#beta-box", "2.5")
    moved = pc.forecast(DIGITS, f.spec.replace(beta=2.5))
    assert counts(browser) == [moved.n_active]
    assert f"{moved.n_active} of your 16 units" in browser.value(SENTENCE)
    kl = [float(row[4]) for row in browser.value(ROWS)]
    np.testing.assert_allclose(kl, moved.levels[0].kl, rtol=6e-3)  # three digits are shown
    browser.type("#latents-box", "40")
    wider = pc.forecast(DIGITS, pc.VAESpec(40, 2.5, 0.3))
    assert counts(browser) == [wider.n_active]
    # and the native slider, by the keyboard
    browser.value("document.getElementById('beta').focus()")
    before = browser.value("+document.getElementById('beta-box').value")
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="Home", windowsVirtualKeyCode=36)
    browser.settle()
    after = browser.value("+document.getElementById('beta-box').value")
    assert after < before / 10
    assert counts(browser) == [pc.forecast(DIGITS, pc.VAESpec(40, after, 0.3)).n_active]


def test_one_unit_is_told_as_one(browser, pages):
    address, f = pages["vae"]
    browser.open(address)
    said = "document.getElementById('advice').textContent"
    chart = "document.querySelector('#stairs svg').outerHTML"
    first, second = f.spectrum[:2]
    browser.type("#beta-box", str((first + second) / 2 / 0.3**2))
    browser.type("#latents-box", "2")
    assert "Or use 1 latent: the other carries nothing." in browser.value(said)
    assert "1 is active" in browser.value(chart)
    browser.type("#latents-box", "1")
    assert browser.value(SENTENCE).startswith("Your unit will live; ")
    browser.type("#beta-box", str(2 * first / 0.3**2))
    assert browser.value(SENTENCE).startswith("Your unit will not live: this loss is past")
    assert browser.value(said).startswith("The unit lives while ")
    assert "0 are active" in browser.value(chart)


def test_the_address_keeps_what_was_set(browser, pages):
    address, _ = pages["vae"]
    browser.open(address)
    browser.type("#beta-box", "2.5")
    kept = browser.value("new Promise(r => setTimeout(() => r(location.hash), 400))")
    assert kept == "#beta=2.5&latents=16&loss=nll&eta=0.3"
    said = browser.value(SENTENCE)
    browser.open(address + kept)
    assert browser.value(SENTENCE) == said
    browser.open(address + "#beta=-1&latents=1e9&eta=x&loss=constructor&half=<b>")
    assert browser.complaints == []
    assert browser.value("+document.getElementById('beta-box').value") == 1


def test_a_loss_as_it_is_written_is_a_weight(browser, pages):
    address, _ = pages["vae"]
    browser.open(address)
    browser.type("#form", "se-mean")
    # The same threshold of 0.09, as the weight of a mean over 64 features: 2 x 0.09 / 64.
    weight = "+document.getElementById('weight').value"
    assert browser.value(weight) == pytest.approx(2 * 0.09 / 64, rel=1e-3)
    assert counts(browser) == [12]
    browser.type("#weight", "0.01")
    value = pc.effective_beta(0.01, features=64, reconstruction="mean").value
    f = pc.forecast(DIGITS, pc.VAESpec(16, beta=value))
    assert counts(browser) == [f.n_active]
    assert "0.01 * kl" in browser.value("document.getElementById('snippet').textContent")
    # What the advice says holds: just below its weight all live, at the onset none.
    advice = browser.value("document.getElementById('advice').textContent")
    below = float(advice.split("is below ")[1].split()[0].rstrip("."))
    browser.type("#weight", str(below * 0.999))
    assert counts(browser) == [16]
    onset = float(advice.split("weight = ")[1].split()[0])
    browser.type("#weight", str(onset * 1.01))
    assert counts(browser) == [0]
    assert browser.value(SENTENCE).startswith("None of your 16 units")


def test_another_likelihood_is_its_own_forecast(browser, pages):
    address, _ = pages["vae"]
    browser.open(address)
    browser.type("#form", "bce-sum")
    browser.type("#weight", "0.5")
    f = pc.forecast(DIGITS, pc.VAESpec(16, beta=0.5, likelihood="bernoulli"))
    assert counts(browser) == [f.n_active]
    # One weight stays the same weight, however else the loss is written.
    browser.type("#form", "se-sum")
    assert browser.value("+document.getElementById('weight').value") == 0.5
    f = pc.forecast(DIGITS, pc.VAESpec(16, beta=pc.effective_beta(0.5).value))
    assert counts(browser) == [f.n_active]
    options = browser.value(
        "[...document.querySelectorAll('#form option')].map(o => [o.value, o.disabled])"
    )
    assert dict(options)["ce-sum"] is True
    assert dict(options)["poisson-sum"] is False


def test_a_table_s_modes_are_told_by_their_features(browser, tmp_path):
    rng = np.random.default_rng(0)
    height = rng.standard_normal(300)
    x = np.stack([4 * height, 2 * height, 0.1 * rng.standard_normal(300)]).T
    f = pc.forecast(x, pc.VAESpec(2))
    names = ["height", "<b>weight</b>", "age"]
    browser.open(f.to_html(tmp_path / "table.html", feature_names=names).as_uri())
    modes = browser.value("[...document.querySelectorAll('#modes li')].map(l => l.innerText)")
    signs = modes[0].replace("\u2212", "+").split("\n")
    assert signs == ["height +0.89, <b>weight</b> +0.45", "● unit 1 lives"]
    assert browser.value("document.querySelectorAll('#modes b').length") == 0
    faded = browser.value("[...document.querySelectorAll('#modes li')].map(l => l.className)")
    assert faded == ["", "pc-faded"]
    assert browser.violations() == []


def test_the_threshold_is_dragged(browser, pages):
    address, f = pages["vae"]
    browser.open(address)
    grip = "document.querySelector('.pc-grip').getBoundingClientRect()"
    browser.value("document.getElementById('spectrum').scrollIntoView()")
    x, y = browser.value(f"(r => [r.x + 40, r.y + r.height / 2])({grip})")
    browser.mouse("mousePressed", x, y)
    browser.mouse("mouseMoved", x, y - 20)
    browser.settle()
    browser.mouse("mouseMoved", x, y - 40)
    browser.settle()
    browser.mouse("mouseReleased", x, y - 40)
    browser.mouse("mouseMoved", x, y)
    browser.settle()
    beta = browser.value("+document.getElementById('beta-box').value")
    assert beta > 1.2
    assert counts(browser) == [pc.forecast(DIGITS, f.spec.replace(beta=beta)).n_active]
    moved = browser.value(f"(r => r.y + r.height / 2)({grip})")
    assert moved == pytest.approx(y - 40, abs=1.5)


def test_the_threshold_is_dragged_where_sigma_answers(browser, pages):
    address, f = pages["shared"]
    browser.open(address)
    browser.value("document.querySelector('.pc-grip').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="ArrowUp", windowsVirtualKeyCode=38)
    browser.settle()
    beta = browser.value("+document.getElementById('beta-box').value")
    now = pc.forecast(DIGITS, f.spec.replace(beta=beta)).levels[0].threshold[0]
    assert now == pytest.approx(1.1 * f.levels[0].threshold[0], rel=1e-3)


def test_what_has_no_minimum_is_said(browser, pages):
    address, _ = pages["learned"]
    browser.open(address)
    assert "Learned η" in browser.value("document.getElementById('reading').innerText")
    browser.type("#latents-box", "64")
    assert browser.value(SENTENCE) == "There is no forecast here."
    assert "falls without end" in browser.value("document.getElementById('reading').innerText")
    assert browser.value("document.getElementById('results').offsetHeight") == 0
    browser.value("document.getElementById('reset').click()")
    browser.settle()
    assert browser.value(SENTENCE).startswith("16 of your 16")
    assert browser.value("document.querySelector('#kl svg').clientWidth") > 300


def test_a_table_is_sorted_by_any_column(browser, pages):
    address, f = pages["hvae"]
    browser.open(address)
    button = "document.querySelector('th[data-key=\"kl\"] button')"
    column = browser.value(
        "[...document.querySelectorAll('#units th')].findIndex(h => h.dataset.key === 'kl')"
    )
    for ascending in (False, True):
        browser.value(f"{button}.click()")
        found = [float(row[column]) for row in browser.value(ROWS)]
        assert found == sorted(found, reverse=not ascending)
        sort = browser.value(f"{button}.parentElement.getAttribute('aria-sort')")
        assert sort == ("ascending" if ascending else "descending")
    assert len(found) == sum(f.spec.dims)


@pytest.mark.parametrize("name", ["vae", "raw", "learned", "bernoulli", "hvae", "chain"])
def test_what_is_copied_is_this_forecast(browser, pages, name):
    address, f = pages[name]
    browser.open(address)
    box = "#beta-box" if len(f.spec.dims) == 1 else "#beta_1-box"
    browser.type(box, "0.7")
    browser.value("document.getElementById('copy-python').click()")
    said = browser.value("document.getElementById('copied').textContent")
    space = {"data": DIGITS}
    exec(said.replace("print(", "f = ("), space)
    change = {"beta": 0.7} if len(f.spec.dims) == 1 else {"betas": (0.7, *f.spec.betas[1:])}
    assert space["spec"] == f.spec.replace(**change)
    assert counts(browser) == [level.n_active for level in space["f"].levels]
    again = pc.forecast(DIGITS, space["spec"], bias="none" if name == "raw" else "both")
    assert space["f"].loss == again.loss


@pytest.mark.parametrize(
    ("spec", "box"),
    [
        (pc.HVAESpec((8, 6), (1.0, 2.0), 0.3, sigma_1=0.4), "#beta_2-box"),
        (pc.VAESpec(3, eta_dec=0.3, sigma=(0.9, 0.1, 0.5)), "#beta-box"),
        (pc.VAESpec(16, likelihood="bernoulli"), "#beta-box"),
    ],
    ids=["levels", "sigmas", "bernoulli"],
)
def test_a_copied_command_runs(browser, tmp_path, capsys, spec, box):
    from posterior_collapse.cli import main

    page = pc.forecast(DIGITS, spec).to_html(tmp_path / "copied.html", name="digits")
    browser.open(page.as_uri())
    browser.type(box, "3")
    browser.value("document.getElementById('copy-command').click()")
    command = browser.value("document.getElementById('copied').textContent").split()
    with pytest.raises(SystemExit) as status:
        main([*command[1:], "--json"])
    assert status.value.code in (0, None)
    found = json.loads(capsys.readouterr().out)
    assert [level["n_active"] for level in found["levels"]] == counts(browser)


@pytest.mark.parametrize(
    "line",
    [
        "'ä ö/x y.csv' --columns 'b c,ü' --scale 2 --latents 2",
        "digits --task half --latents 4 --eta-dec 0.2",
        "digits --task half --model vae --latents 4 --eta-dec 0.2",
        "digits --task half --cross-fit 2 --latents 4 --eta-dec 0.2",
        "digits --latents 4 --no-biases",
        "digits --latents 4 --likelihood poisson --beta 0.2",
    ],
)
def test_the_command_of_a_page_is_the_one_that_made_it(
    browser, tmp_path, monkeypatch, capsys, line
):
    """It offered the file without its folder, and forgot the columns, the task and the biases."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ä ö").mkdir()
    rows = np.random.default_rng(0).standard_normal((40, 3)) * [9, 2, 1]
    np.savetxt("ä ö/x y.csv", rows, delimiter=",", header="a,b c,ü", comments="", encoding="utf8")
    words = shlex.split(line)
    assert collapse("forecast", *words, "--html", "forecast.html", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    pages = ["forecast.html"]
    if "--cross-fit" not in words:
        assert collapse("explore", *words, "--html", "explore.html") == 0
        pages.append("explore.html")
    for page in pages:
        browser.open((tmp_path / page).as_uri())
        browser.value("document.getElementById('copy-command').click()")
        command = shlex.split(browser.value("document.getElementById('copied').textContent"))
        capsys.readouterr()
        assert collapse(*command[1:], "--json") == 0
        again = json.loads(capsys.readouterr().out)
        assert again["spec"] == made["spec"]
        assert again["data"] == made["data"]
        assert again["loss"] == pytest.approx(made["loss"], rel=1e-9)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_screen_and_can_be_read(browser, pages, width, dark, tmp_path):
    for address, _ in pages.values():
        browser.open(address, width, dark)
        assert browser.value("document.documentElement.scrollWidth <= innerWidth")
        contrast = browser.value(
            """(() => {
              const light = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
                .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
              const style = getComputedStyle(document.querySelector('section'));
              const [a, b] = [light(style.color), light(style.backgroundColor)];
              return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            })()"""
        )
        assert contrast > 7
    browser.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_a_large_page_answers_at_once(browser, tmp_path):
    rng = np.random.default_rng(0)
    spectrum = np.diag(np.exp(np.sort(rng.uniform(-6, 3, 784))))
    f = pc.forecast(pc.Moments.from_matrices(spectrum), pc.VAESpec(64))
    browser.open(f.to_html(tmp_path / "large.html").as_uri())
    took = browser.value(
        """(() => {
          const box = document.getElementById('beta');
          const start = performance.now();
          return new Promise((done) => {
            let left = 20;
            const move = () => {
              if (!left--) return done((performance.now() - start) / 20);
              box.value = 300 + 10 * left;
              box.dispatchEvent(new Event('input'));
              requestAnimationFrame(move);
            };
            move();
          });
        })()"""
    )
    assert took < 250  # milliseconds per move; about 20 on an idle machine


def test_what_relays_noise_is_not_said_to_live(browser, tmp_path):
    """z2 lives below beta = 0.699, and relays noise from there up to 1."""
    f = pc.forecast(DIGITS, pc.HVAESpec((4, 2), (1.0, 0.9)))
    browser.open(f.to_html(tmp_path / "noise.html").as_uri())
    names = browser.value("[...document.querySelectorAll('#units th')].map(h => h.dataset.key)")
    lives, gone = names.index("informedBeta"), names.index("criticalBeta")
    rows = browser.value(ROWS)
    assert [(row[lives], row[gone]) for row in rows if row[0] == "z2"] == [
        ("0.699", "1"), ("0.639", "1")
    ]  # fmt: skip
    advice = browser.value("document.getElementById('advice').textContent")
    assert "None lives from β of z2 = 0.699 on. Below 1 some relay noise." in advice
