"""The first steps: 569 tumours, 30 measurements of each; is it benign?"""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

from fitorch import KerasModel

x, y = load_breast_cancer(return_X_y=True)
y = y.reshape(-1, 1).astype("float32")  # one logit for each sample wants one target for each
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0)

torch.manual_seed(0)
net = nn.Sequential(nn.BatchNorm1d(30), nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))
model = KerasModel(
    net, nn.BCEWithLogitsLoss(), {"acc": "acc"}, torch.optim.Adam(net.parameters(), lr=0.01)
)
history = model.fit(
    (x_train, y_train), validation_split=0.2, epochs=20, patience=5, monitor="val_acc"
)
probability = torch.sigmoid(model.predict(x_test, verbose=0))  # in the order of x_test
print(f"most likely benign: number {probability.argmax()}, {probability.max():.3f}")
print(f"test accuracy {model.evaluate((x_test, y_test), verbose=0)['val_acc']:.4f}")
