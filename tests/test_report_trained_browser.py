"""Pages in a real browser: for all eyes, by pointer and by keyboard, on screen and paper."""

import dataclasses

import numpy as np
import pytest

import posterior_collapse as pc
from browser import NEEDS_CHROMIUM
from seen import large

pytestmark = NEEDS_CHROMIUM

DIGITS = pc.load("digits")
CARDS = "[...document.querySelectorAll('.pc-card')].filter(c => c.offsetHeight)"
ROWS = "[...document.querySelectorAll('tbody tr[data-kind]')].filter(r => r.offsetHeight)"
FOCUS = "document.activeElement.textContent.trim().replace(/\\s+/g, ' ')"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Addresses of pages by name."""
    folder = tmp_path_factory.mktemp("pages")
    spec = pc.VAESpec(8, beta=4.0, eta_dec=0.3)
    options = {"hidden": (16,), "epochs": 40, "learning_rate": 0.01}
    network = pc.fit(spec, DIGITS, "mlp", **options)
    two = pc.fit(pc.HVAESpec((4, 3), sigma_1=0.4, eta_dec=0.3), DIGITS, "linear", exact=True)
    betas = [spec.replace(beta=beta) for beta in (0.5, 1, 2, 4, 8, 16) for _ in (0, 1)]
    grid = [spec.replace(beta=b, eta_dec=e) for b in (1.0, 2.0) for e in (0.3, 0.5, 0.7)]
    some = DIGITS.x[:300]
    forecast = pc.forecast(DIGITS.x, spec)
    results = {
        "diagnosis": pc.diagnose(network, DIGITS),
        "hierarchy": pc.diagnose(two, DIGITS),
        "run": network,
        "sweep": pc.sweep(betas, some, "linear", exact=True, seeds=[0, 1] * 6),
        "grid": pc.sweep(grid, some, "linear", exact=True),
        "tuned": pc.tune(some, spec, "linear", active=4, seeds=2, exact=True),
        "map": forecast.phase_diagram(np.geomspace(0.1, 30, 20), np.geomspace(0.05, 3, 20)),
        "large": large(),
        "forecast": forecast,
        "forecast of two": pc.forecast(DIGITS.x, two.spec),
        "cross-entropy": pc.forecast(DIGITS.x, pc.VAESpec(8, likelihood="bernoulli")),
    }
    made = {}
    for name, result in results.items():
        about = {"name": "digits", "image_shape": (8, 8)} if name != "large" else {}
        about |= {"data": DIGITS.x} if name == "sweep" else {}
        path = result.to_html(folder / f"{name.replace(' ', '-')}.html", **about)
        assert path.stat().st_size < 2_000_000
        made[name] = path.as_uri()
    return made


NAMES = [
    *("diagnosis", "hierarchy", "run", "sweep", "grid", "tuned", "map", "large"),
    *("forecast", "forecast of two", "cross-entropy"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_for_all_readers(browser, pages, name):
    for width in (1280, 390):
        for dark in (False, True):
            browser.open(pages[name], width, dark)
            assert browser.complaints == []
            assert browser.value("document.documentElement.scrollWidth <= innerWidth")
            if dark == (width == 390):
                # Axe looks at contrast, names, roles, landmarks and the order of headings.
                assert browser.violations() == []


OVERLAPS = """
[...document.querySelectorAll('svg')].filter(s => s.getClientRects().length).flatMap(svg => {
  const [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
  const words = [...svg.querySelectorAll('text')];
  const boxes = words.map(text => text.getBBox());
  const cut = words.filter((text, i) => boxes[i].x < -1 || boxes[i].y < -1 ||
    boxes[i].x + boxes[i].width > width + 1 || boxes[i].y + boxes[i].height > height + 1);
  const meets = (a, b) => Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x) > 1 &&
    Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y) > 4;
  const both = boxes.flatMap((a, i) => boxes.slice(i + 1).flatMap((b, j) =>
    meets(a, b) ? [`${words[i].textContent} on ${words[i + 1 + j].textContent}`] : []));
  return [...cut.map(text => `${text.textContent} is cut`), ...both];
})
"""
CUT_TABLES = """
[...document.querySelectorAll('.pc-scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.querySelector('caption').innerText)
"""


@pytest.mark.parametrize("name", NAMES)
def test_no_words_lie_on_others_and_none_are_cut(browser, pages, name):
    for width in (1280, 390):
        browser.open(pages[name], width)
        found = browser.value(OVERLAPS)
        assert found == [], found
    browser.open(pages[name])
    assert browser.value(CUT_TABLES) == []


def test_a_hierarchy_s_thresholds_are_told_apart(browser, pages):
    browser.open(pages["forecast of two"])
    said = browser.value("document.getElementById('reading').innerText")
    assert "A unit of z1 lives while" in said
    assert "A unit of z2 lives while" in said


@pytest.mark.parametrize("name", NAMES)
def test_paper_shows_all_and_no_controls(browser, pages, name):
    browser.open(pages[name], media="print", dark=True)
    assert browser.complaints == []
    light = browser.value("getComputedStyle(document.body).backgroundColor")
    assert light == "rgb(255, 255, 255)"
    scrolled = "[...document.querySelectorAll('.pc-scroll')].filter(e => e.scrollHeight > "
    assert browser.value(f"{scrolled}e.clientHeight + 1).length") == 0
    buttons = "[...document.querySelectorAll('.pc-filter, .pc-row button')].filter(e => "
    assert browser.value(f"{buttons}e.offsetHeight).length") == 0
    assert len(browser.paper()) > 5_000


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_the_same_without_a_script(browser, pages, name):
    words = "document.querySelector('h1').innerText"
    browser.open(pages[name])
    said = browser.value(words), browser.value(f"{CARDS}.length"), browser.value(f"{ROWS}.length")
    browser.open(pages[name], script=False)
    assert browser.value("document.querySelectorAll('svg').length") > 0
    found = browser.value(words), browser.value(f"{CARDS}.length"), browser.value(f"{ROWS}.length")
    assert found == said


def test_units_are_filtered_by_keyboard_alone(browser, pages):
    browser.open(pages["diagnosis"])
    dead = "document.querySelectorAll('article[data-kind=collapsed]').length"
    assert 0 < browser.value(dead) < 8
    reach(browser, "collapsed")
    browser.key("Enter", 13)
    assert browser.value(f"{CARDS}.map(c => c.dataset.kind)") == ["collapsed"] * browser.value(dead)
    assert browser.value("document.activeElement.ariaPressed") == "true"
    # What is beside the cards stays.
    assert browser.value(f"{ROWS}.length") == 8
    browser.value("document.querySelector('.pc-filter button').focus()")
    browser.key("Enter", 13)
    assert browser.value(f"{CARDS}.length") == 8


def reach(browser, words):
    """Move the focus on until it is on something with such words."""
    for _ in range(60):
        browser.key("Tab", 9)
        if words in browser.value(FOCUS):
            return
    raise AssertionError(f"{words!r} is not reached")


@pytest.mark.parametrize("script", [True, False])
def test_a_word_is_explained_by_keyboard_alone(browser, pages, script):
    browser.open(pages["diagnosis"], script=script)
    opened = "document.querySelector('.pc-pop:popover-open')?.innerText"
    assert browser.value(opened) is None
    browser.value("document.querySelector('#kl-title .pc-term').focus()")
    browser.key("Enter", 13)
    assert browser.value(opened).startswith("KL How far the posterior of a row is from the prior")
    box = browser.value(
        "(r => [r.left, r.top, r.right, r.bottom])"
        "(document.querySelector('.pc-pop:popover-open').getBoundingClientRect())"
    )
    left, top, right, bottom = box
    assert left >= 0
    assert right <= 1280
    if script:  # beside its word
        word = browser.value("document.activeElement.getBoundingClientRect().bottom")
        assert top == pytest.approx(word + 6, abs=2)
    assert bottom > top + 20
    browser.key("Escape", 27)
    assert browser.value(opened) is None


def test_a_run_is_gone_to_from_a_figure(browser, pages):
    browser.open(pages["sweep"])
    assert browser.value(f"{CARDS}.length") == 12
    browser.value("document.querySelector('svg a[href=\"#run-3\"]').focus()")
    browser.key("Enter", 13)
    assert browser.value("location.hash") == "#run-3"
    assert browser.value("document.activeElement.id") == "run-3"
    seen = "(r => r.top >= 0 && r.top < innerHeight)"
    assert browser.value(f"{seen}(document.getElementById('run-3').getBoundingClientRect())")
    # And by the address that someone was sent.
    browser.open(f"{pages['sweep']}#run-11")
    assert browser.value("document.activeElement.id") == "run-11"
    x, y = browser.value(
        "(r => [r.x + r.width / 2, r.y + r.height / 2])((e => (e.scrollIntoView({block: "
        "'center'}), e))(document.querySelector('svg a[href=\"#run-5\"] circle'))"
        ".getBoundingClientRect())"
    )
    browser.mouse("mousePressed", x, y)
    browser.mouse("mouseReleased", x, y)
    browser.settle()
    assert browser.value("location.hash") in ("#run-5", "#run-6")  # two seeds in one place


def test_runs_are_filtered_and_a_link_brings_them_back(browser, pages, tmp_path):
    spec = pc.VAESpec(4, eta_dec=0.3)
    found = pc.sweep([spec, spec.replace(beta=8.0)], DIGITS.x[:200], "linear", exact=True)
    first, second = found.runs
    lost = pc.Sweep((first, dataclasses.replace(second, stopped="non-finite: loss at step 3")))
    browser.open(lost.to_html(tmp_path / "lost.html").as_uri())
    browser.value("document.querySelector('[data-show=stopped]').click()")
    assert browser.value(f"{CARDS}.map(c => c.id)") == ["run-2"]
    assert browser.value(f"{ROWS}.length") == 1
    browser.value("location.hash = '#run-1'")
    browser.settle()
    assert browser.value(f"{CARDS}.length") == 2


def test_a_table_of_runs_is_sorted(browser, pages):
    browser.open(pages["sweep"])
    losses = "[...document.querySelectorAll('.pc-sortable tbody tr')].map(r => parseFloat("
    header = "document.querySelectorAll('.pc-sortable th[scope=col] button')[1]"
    for down in (True, False):
        browser.value(f"{header}.click()")
        found = browser.value(f"{losses}r.cells[1].textContent))")
        assert found == sorted(found, reverse=down)
        sort = browser.value(f"{header}.parentElement.ariaSort")
        assert sort == ("descending" if down else "ascending")


def test_a_large_page_opens_at_once(browser, pages):
    browser.open(pages["large"])
    took = "performance.getEntriesByType('navigation')[0].domComplete"
    assert browser.value(took) < 3000  # milliseconds; about 150 on an idle machine
    assert browser.value(f"{CARDS}.length") == 32
    assert browser.value(f"{ROWS}.length") == 64


def test_only_active_units_bear_colour_alone_nowhere(browser, pages):
    """Shapes say what colours say: each mark of a status has its own."""
    browser.open(pages["diagnosis"])
    marks = browser.value("[...document.querySelectorAll('.pc-card h3')].map(h => h.innerText)")
    assert {(mark[0], mark.split()[-1]) for mark in marks} == {("●", "active"), ("○", "collapsed")}


def test_long_names_of_features_stay_within_their_cards(browser, tmp_path):
    names = [f"{letter}_concentration_of_diluted_samples" for letter in "abcd"]
    pandas = pytest.importorskip("pandas")
    x = np.random.default_rng(0).standard_normal((60, 4)) * [4, 3, 2, 1]
    frame = pandas.DataFrame(x, columns=names)
    fitted = pc.fit(frame, pc.VAESpec(2), "linear", exact=True)
    browser.open(pc.diagnose(fitted, frame).to_html(tmp_path / "page.html").as_uri(), width=390)
    assert browser.value("document.querySelector('.pc-card').textContent").count("diluted") == 4
    assert browser.value(
        "[...document.querySelectorAll('.pc-card p')].every(e => e.scrollWidth <= e.clientWidth)"
    )
