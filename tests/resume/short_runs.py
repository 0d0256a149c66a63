"""Short fits of a small net, with the checkpoints that they leave."""

import torch

from fitorch import KerasModel
from fitorch.callbacks import Callback
from resume.resume_worker import Net, tensors


class Cut(Callback):
    """Raises behind an update."""

    def __init__(self, step=3):
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.model.updates == self.step:
            raise ZeroDivisionError("on purpose")  # noqa: EM101


def adam(parameters):
    return torch.optim.Adam(parameters, 0.01)


def make_model(net=None, optimizer=adam, loss="bce_with_logits", schedule=None):
    torch.manual_seed(0)
    return KerasModel(net or Net(lambda samples: None), loss, None, optimizer, schedule)


def train(model, path, callbacks=(), data=None, **options):
    defaults = {"epochs": 2, "batch_size": 4, "seed": 3, "verbose": 0, "ckpt_path": path}
    return model.fit(data or tensors(), callbacks=list(callbacks), **{**defaults, **options})


def checkpoints(run):
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def resume(run, model=None, **options):
    model = model or make_model()
    return train(model, run, resume=True, **options)
