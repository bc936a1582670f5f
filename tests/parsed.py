"""Pages taken apart: what is in them, closed in order, and what may run."""

import base64
import hashlib
import re
from html.parser import HTMLParser

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&\u2028"
VOID = {"meta", "input", "img", "br", "link"}


class Parsed(HTMLParser):
    """Elements of a page in order, checked for being closed in order."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(text)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def near(self, tag, **attributes):
        """The attributes of those elements that have such attributes."""
        return [one for one in self.of(tag) if attributes.items() <= one.items()]


def check_policy(page):
    """Nothing runs but the page's own script, and nothing is fetched."""
    parsed = Parsed(page)
    (policy,) = [m["content"] for m in parsed.of("meta") if "http-equiv" in m]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    script, style = parsed.texts["script"][-1], parsed.texts["style"][0]
    for rule, content in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not parsed.of("link")
    for _, attributes in parsed.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("data:", "#"))
    for address in re.findall(r"https?://[^\s\"'`]+", page):
        assert address == "http://www.w3.org/2000/svg"  # a namespace's name, which is not fetched


def check_readable(page):
    """Everything has a name for those who do not see it."""
    parsed = Parsed(page)
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert parsed.of("html") == [{"lang": "en"}]
    for figure in parsed.of("svg"):
        assert figure.get("aria-hidden") == "true" or figure["aria-label"]
    assert all(image["alt"] for image in parsed.of("img"))
    assert all(header["scope"] in ("col", "row") for header in parsed.of("th"))
    assert not {"NaN", "nan", "inf", "None"} & set(re.findall(r"\w+", str(parsed.of("path"))))
