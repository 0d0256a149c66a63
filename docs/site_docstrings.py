"""Our docstrings in the words of the site's parser, which reads Google's sections and Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_LITERAL = re.compile(r"(?<=\w)::$", re.MULTILINE)  # "This is the loop::", as in reStructuredText


class Readable(griffe.Extension):
    """Has examples shown as programs, and indented blocks without their double colon."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite an object's docstring, where it has one."""
        if obj.docstring is not None:
            text = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
            obj.docstring.value = _LITERAL.sub(":", text)
