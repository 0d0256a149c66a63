"""What a batch counts, in every way that it reaches a loss, beside one large batch by hand."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from fitorch import KerasModel

SAMPLES, TOKENS, CLASSES, RATE = 24, 5, 4, 0.5
_GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(SAMPLES, 6, generator=_GENERATOR, dtype=torch.float64)
Y = torch.randint(CLASSES, (SAMPLES,), generator=_GENERATOR)
SOME = Y.clone()
SOME[2:11] = -100  # a batch of 8 has little to learn from, another one all
WEIGHT = torch.linspace(0.1, 3, SAMPLES, dtype=torch.float64)
CLASS_WEIGHT = {0: 9.0, 1: 0.1}
SEQUENCES = torch.randn(SAMPLES, TOKENS, 6, generator=_GENERATOR, dtype=torch.float64)
LENGTHS = torch.randint(1, TOKENS + 1, (SAMPLES, 1), generator=_GENERATOR)
TAGS = torch.randint(CLASSES, (SAMPLES, TOKENS), generator=_GENERATOR)
TAGS[torch.arange(TOKENS) >= LENGTHS] = -100

COUNTS = ["plain", "ignored", "sample weights", "class weights", "own loss", "own causal loss"]
WAYS = ["pairs", "mapping", "forward"]


class Classifier(nn.Linear):
    """Returns logits, or a loss of its own beside them as Hugging Face's nets do."""

    def __init__(self, counts):
        torch.manual_seed(1)
        super().__init__(6, CLASSES, dtype=torch.float64)
        self.shift = 1 if "causal" in counts else 0
        self.counts = counts

    def forward(self, x, labels=None):
        logits = super().forward(x)
        if "own" not in self.counts:
            return logits
        return SimpleNamespace(loss=own_loss(logits, labels, self.shift), logits=logits)


def own_loss(logits, labels, shift):
    predicted = logits[:, : TOKENS - shift]
    return F.cross_entropy(predicted.flatten(0, 1), labels[:, shift:].flatten())


def by_hand(counts):
    """Return the weights after one update by all samples at once, and the loss before it."""
    net = Classifier(counts)
    if counts == "plain":
        loss = F.cross_entropy(net(X), Y)
    elif counts == "ignored":
        loss = F.cross_entropy(net(X), SOME)
    elif "own" in counts:
        loss = net(SEQUENCES, TAGS).loss
    else:
        classes = [CLASS_WEIGHT.get(number, 1.0) for number in range(CLASSES)]
        of_classes = torch.tensor(classes, dtype=torch.float64)[Y]
        weight = WEIGHT if counts == "sample weights" else of_classes
        losses = F.cross_entropy(net(X), Y, reduction="none")
        loss = (losses * weight).sum() / weight.sum()
    loss.backward()
    assert net.weight.grad is not None
    with torch.no_grad():
        return net.weight - RATE * net.weight.grad, loss.item()


def data_of(way, counts):
    x, y = (SEQUENCES, TAGS) if "own" in counts else (X, SOME if counts == "ignored" else Y)
    weight = (WEIGHT,) if counts == "sample weights" else ()
    if way == "mapping":
        return {"x": x, "labels": y, **({"sample_weight": weight[0]} if weight else {})}
    return (x, y, *weight)


def model_of(way, counts):
    def forward(net, batch):
        x, y, *weight = batch
        return net(x, y), y, *weight

    loss = None if "own" in counts else "cross_entropy"
    hook = forward if way == "forward" else None
    return KerasModel(
        Classifier(counts), loss, None, lambda p: torch.optim.SGD(p, RATE), forward=hook
    )


def trained(way, counts, window, processes=1, **options):
    """Return the weights after one update, and the losses of training and of an evaluation."""
    model = model_of(way, counts)
    if counts == "class weights":
        options["class_weight"] = CLASS_WEIGHT
    batch_size = SAMPLES // window // processes
    data = data_of(way, counts)
    before = model.evaluate(data, batch_size=5, verbose=0)["val_loss"]
    frame = model.fit(
        data,
        epochs=1,
        batch_size=batch_size,
        gradient_accumulation_steps=window,
        shuffle=False,
        verbose=0,
        **options,
    )
    return model.net.weight.detach().clone(), frame["train_loss"][0], before


def possible(way, counts):
    """Return whether a net can get its labels like this: its own loss needs them as an argument."""
    return not ("own" in counts and way == "pairs")
