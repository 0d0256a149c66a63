"""Reports of fits, read as a browser reads them."""

from html.parser import HTMLParser
from pathlib import Path

import torch
from torch import nn

from fitorch import KerasModel

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
DATA = (X, X.sum(1, keepdim=True))
EMPTY = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page that was parsed: its tables, its pictures, its facts, and the text of the rest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.marked, self.facts, self.pictures = [], [], [], {}, []
        self.text, self.tags, self._term = "", set(), ""
        self.feed(text)
        assert not self.open, "tags are left open"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attrs = dict(attrs)
        if tag == "img":
            self.pictures.append(attrs)
        if tag == "tr":
            self.rows.append([])
            self.marked.append(attrs.get("class") == "best")
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside in ("td", "th"):
            self.rows[-1][-1] += data.strip()
        elif inside == "dt":
            self._term = data
        elif inside == "dd":
            self.facts[self._term] = data
        elif inside != "style":
            self.text += f"{data.strip()}\n" if data.strip() else ""


def read(history, path):
    written = history.to_html(path)
    assert written == Path(path)
    return Page(written.read_text(encoding="utf-8"))


def make_model(net=None, **changes):
    torch.manual_seed(0)
    net = net or nn.Linear(3, 1)
    return KerasModel(net, **{"loss_fn": "mse", "optimizer": "adam"} | changes)


def fit(model, **arguments):
    return model.fit(DATA, DATA, **{"epochs": 3, "seed": 0, "verbose": 0} | arguments)
