"""Batches of a form of our own: an autoencoder, told by `forward=` what to predict from what."""

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader

from fitorch import KerasModel

x = torch.tensor(load_diabetes(return_X_y=True)[0], dtype=torch.float32)
x = x / x.std(0)


def reconstruct(net, batch):
    return net(batch), batch  # predictions, targets


torch.manual_seed(0)
net = nn.Sequential(nn.Linear(10, 4), nn.Tanh(), nn.Linear(4, 10))
model = KerasModel(
    net, "mse", optimizer=torch.optim.Adam(net.parameters(), 1e-2), forward=reconstruct
)
history = model.fit(DataLoader(x, batch_size=32, shuffle=True), epochs=60, verbose=0)

history = model.fit(DataLoader(x, batch_size=32, shuffle=True), epochs=5)  # goes on, and shows it
print(f"explained {1 - history['train_loss'].iloc[-1]:.2f}")
