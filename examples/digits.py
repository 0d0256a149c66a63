"""Train a small convolutional net on scikit-learn's digits: 1,797 scans of 8 x 8 pixels."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from fitorch import KerasModel

# Split 60/20/20: train on the first part, choose the best epoch on the second, test on the third.
digits = load_digits()
x, y = digits.images[:, None] / 16.0, digits.target
x_train, x_rest, y_train, y_rest = train_test_split(x, y, test_size=0.4, stratify=y, random_state=0)
x_val, x_test, y_val, y_test = train_test_split(
    x_rest, y_rest, test_size=0.5, stratify=y_rest, random_state=0
)

torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.Conv2d(32, 64, 3, padding=1),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Dropout(0.3),
    nn.Flatten(),
    nn.Linear(64 * 4 * 4, 10),
)

model = KerasModel(
    net,
    loss_fn=nn.CrossEntropyLoss(),
    metrics_dict={"acc": "acc"},
    optimizer=torch.optim.Adam(net.parameters(), lr=1e-3),
)
model.fit(
    (x_train, y_train),
    (x_val, y_val),
    epochs=50,
    patience=10,
    monitor="val_acc",
    ckpt_path="runs/digits",
    plot="history.png",
)

scores = model.evaluate((x_test, y_test))
print(f"test accuracy {scores['val_acc']:.4f}")
print(f"all about the run: {model.history.to_html('runs/digits/report.html')}")
