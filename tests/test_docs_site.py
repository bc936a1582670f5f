"""The site is built without a warning, has real pages in it, and needs no network."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

import posterior_collapse as pc
from browser import NEEDS_CHROMIUM, SECONDS, Browser

ROOT = Path(__file__).parents[1]
GALLERY = {
    "cross-entropy", "diagnosis", "digits", "hierarchy", "mnist", "phases", "run", "sweep", "tuned",
}  # fmt: skip
LOADING = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "unrecognized relative link" not in done.stderr
    return folder


class Loads(HTMLParser):
    """What a page loads when it is opened."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        relation = dict(attributes).get("rel")
        for name, value in attributes:
            if (tag, name) in LOADING and value and relation not in {"canonical", "prev", "next"}:
                self.found.append(value)


def test_pages_load_nothing_from_the_network_and_all_is_there(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(GALLERY) + 10
    for page in pages:
        for address in Loads(page).found:
            if not address.startswith(("data:", "#", "/")):  # 404.html goes by the server's root
                assert "//" not in address, f"{page.name} loads {address}"
                assert (page.parent / address.partition("?")[0]).exists(), (page, address)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8"))


def test_the_gallery_is_made_by_the_package(site: Path) -> None:
    made = {page.stem: page.read_text(encoding="utf-8") for page in site.glob("gallery/*.html")}
    assert set(made) == GALLERY
    assert all("default-src" in page for page in made.values())
    assert "12 of your 16 units will live" in made["digits"]
    linked = (site / "gallery.html").read_text(encoding="utf-8")
    assert all(f"gallery/{name}.html" in linked for name in GALLERY)


def test_what_documents_link_to_is_on_the_site(site: Path) -> None:
    page = (site / "reproduction.html").read_text(encoding="utf-8")
    linked = re.findall(r'(?:href|src)="(results/[^"]+)"', page)
    assert len(linked) > 50
    assert all((site / path).is_file() for path in linked)


def test_the_reference_explains_what_it_names(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    assert "Returns" in page
    assert "Say which latent units the global optimum of a linear model keeps" in page
    assert "Example:" not in page  # a section of its own, not a sentence


def test_the_reference_explains_every_property() -> None:
    lines = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    own_library = re.compile("adapters.(lightning|metrics)")
    names = [name for name in re.findall("^::: (.+)$", lines, re.M) if not own_library.search(name)]
    seen = 0
    for name in names:
        family = [
            vars(kind)
            for kind in getattr(pkgutil.resolve_name(name), "__mro__", ())
            if kind.__module__.startswith(pc.__name__)
        ]
        for key in {key for kind in family for key in kind if not key.startswith("_")}:
            first, *others = [kind[key] for kind in family if key in kind]
            if isinstance(first, property):
                assert any(one.__doc__ for one in (first, *others)), f"{name}.{key} says nothing"
                assert "return" in getattr(first.fget, "__annotations__", {}), f"{name}.{key}"
                seen += 1
    assert seen > 40


@NEEDS_CHROMIUM
def test_the_front_page_opens_from_its_folder_without_a_complaint(
    site: Path, browser: Browser
) -> None:
    browser.open((site / "index.html").as_uri())
    shown = browser.value("document.querySelectorAll('iframe.explorer')[0].clientHeight")
    assert shown > 500
    assert browser.complaints == []


@NEEDS_CHROMIUM
def test_the_search_needs_no_server(site: Path, browser: Browser) -> None:
    browser.open((site / "start.html").as_uri())
    browser.value("document.querySelector('.md-search__input').focus()")
    browser.type(".md-search__input", "phase_diagram", "keyup")
    found = "[...document.querySelectorAll('.md-search-result__link')].map(a => a.href)"
    until = time.monotonic() + SECONDS
    while not browser.value(found):
        assert time.monotonic() < until, "nothing is found"
        time.sleep(0.1)
    pages = {address.rpartition("/")[2].partition(".html")[0] for address in browser.value(found)}
    assert "api" in pages
    assert browser.complaints == []


@NEEDS_CHROMIUM
def test_the_site_is_as_light_as_the_system(site: Path, browser: Browser) -> None:
    """Explorer included: what it is embedded in tells it."""
    schemes = {True: ("slate", "dark"), False: ("default", "light")}
    scheme = "document.body.getAttribute('data-md-color-scheme')"
    explorer = "getComputedStyle(document.querySelector('iframe.explorer')).colorScheme"
    for dark in (True, False, True):
        browser.open((site / "index.html").as_uri(), dark=dark)
        assert (browser.value(scheme), browser.value(explorer)) == schemes[dark]
