"""Docstrings as the reference shows them."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(\s*)Example:$", flags=re.MULTILINE)


class Examples(griffe.Extension):
    """Read `Example:` as the section of doctests that it is, which is called `Examples:` there."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of a module, class or function."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
