"""Follow a training in TensorBoard: figures of epochs and of batches, weights as histograms.

Needs `pip install tensorboard`. Look at it, also while it runs, with `tensorboard --logdir runs`.
`Tracker("wandb")` and `Tracker("mlflow")` send the same figures there.
"""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import TensorBoardCallback, Tracker

features, target = load_breast_cancer(return_X_y=True)
features = StandardScaler().fit_transform(features)
x_train, x_val, y_train, y_val = train_test_split(
    features,
    target.reshape(-1, 1).astype("float32"),
    test_size=0.3,
    stratify=target,
    random_state=0,
)

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))
model = KerasModel(net, "bce_with_logits", {"acc": "acc", "auc": "auc"}, "adamw")
weights = TensorBoardCallback("runs", "cancer", log_weight=True, log_weight_freq=5)
batches = Tracker("tensorboard", "cancer_batches", every_n_steps=5, config={"hidden": 16})
model.fit(
    (x_train, y_train), (x_val, y_val), epochs=20, batch_size=16, callbacks=[weights, batches]
)

(folder,) = {file.parent for file in weights.logging_dir.glob("cancer/*/events.*")}
events = EventAccumulator(str(folder)).Reload()  # what TensorBoard will show
for event in events.Scalars("val_acc")[::5]:
    print(f"epoch {event.step:2d}  {event.value:.3f}")
print(f"val_auc {events.Scalars('val_auc')[-1].value:.4f}")
