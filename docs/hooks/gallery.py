"""What mkdocs adds when it builds the site: real pages, and what lies outside `docs`.

The pages are written by the package's own `to_html`, so that they are always those of this version.
"""

from __future__ import annotations

import posixpath
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import posterior_collapse as pc

HOOKS = Path(__file__).parent
sys.path.insert(0, str(HOOKS))
from mnist import moments  # noqa: E402

OUTWARD = re.compile(r"\]\(\.\./([^)#]+)\)")
"""A link from a page of `docs` to a file of the repository."""
FOLDER = re.compile(r"\[[^\]]+\]\(\.\./(\w+(?:/[\w-]+)*)\)")
"""A link to one of its folders, which no site can show."""


def forecasts() -> dict[str, tuple[Any, pc.Spec, dict[str, Any]]]:
    """Return data, spec and words of each forecast page, by its file's name."""
    digits = pc.load("digits")
    hvae = pc.HVAESpec((8, 8), betas=(1.0, 2.0), eta_dec=0.3, sigma_1=0.3)
    return {
        "digits": (digits, pc.VAESpec(16, eta_dec=0.3), {}),
        "mnist": (
            moments(),
            pc.VAESpec(32, eta_dec=1.0),
            {"name": "mnist", "image_shape": (28, 28)},
        ),
        "hierarchy": (digits, hvae, {}),
        "cross-entropy": (digits, pc.VAESpec(16, likelihood="bernoulli"), {}),
    }


def trained() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Train what the other pages show: a minute at most, on any machine."""
    x = pc.load("digits")
    spec = pc.VAESpec(8, beta=0.32, sigma="input")
    fitted = pc.fit(x, spec, "mlp", hidden=(64,), epochs=200)
    yield "run", fitted, {}
    yield "diagnosis", pc.diagnose(fitted, x), {}
    specs = [spec.replace(beta=beta) for beta in (0.08, 0.16, 0.32, 0.64)]
    seeds = [seed for seed in (0, 1, 2) for _ in specs]
    swept = pc.sweep(specs * 3, x, "mlp", seeds=seeds, hidden=(64,), epochs=20)
    yield "sweep", swept, {"image_shape": x.image_shape, "data": x.x[:8]}
    tuned = pc.tune(x, pc.VAESpec(8), "linear", active=6, exact=True, seeds=2)
    yield "tuned", tuned, {}


@cache
def pages() -> dict[str, bytes]:
    """Return the pages of the gallery by their names."""
    made: list[tuple[str, Any, dict[str, Any]]] = [
        (name, pc.forecast(x, spec), words) for name, (x, spec, words) in forecasts().items()
    ]
    steps = np.geomspace(0.05, 20, 60)
    made.append(("phases", made[0][1].phase_diagram(steps, steps / 10), {}))
    with tempfile.TemporaryDirectory() as folder:
        return {
            name: result.to_html(Path(folder) / f"{name}.html", **words).read_bytes()
            for name, result, words in [*made, *trained()]
        }


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the gallery's pages, and the repository's files to which the documents link."""
    for name, content in pages().items():
        files.append(File.generated(config, f"gallery/{name}.html", content=content))
    root = Path(config.config_file_path).parent
    for page in files.documentation_pages():
        for path in OUTWARD.findall(page.content_string):
            if (root / path).is_file() and path not in files.src_uris:
                files.append(File.generated(config, path, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Let links to the repository's files lead to their copies, and name its folders."""
    markdown = FOLDER.sub(r"`\1`", markdown)
    above = posixpath.relpath(".", posixpath.dirname(page.file.src_uri) or ".")
    return OUTWARD.sub(lambda link: f"]({posixpath.join(above, link[1])})", markdown)
