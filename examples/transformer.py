"""A sequence for a sequence: a transformer that sorts eight digits, which it sees all at once."""

import torch
from torch import nn

from fitorch import KerasModel, WarmupCosine

torch.manual_seed(0)
digits = torch.randint(10, (11_000, 8))
answers = digits.sort(dim=1).values
train, test = (digits[:10_000], answers[:10_000]), (digits[10_000:], answers[10_000:])


class Sorter(nn.Module):
    """Gives logits (N, 10, L) for the digit at each of L places, as CrossEntropyLoss wants them."""

    def __init__(self, length=8, width=32):
        super().__init__()
        self.embed = nn.Embedding(10, width)
        self.place = nn.Parameter(torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens) + self.place)).mT


epochs, batch_size = 3, 100
model = KerasModel(
    Sorter(),
    nn.CrossEntropyLoss(),
    {"acc": "acc"},
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=5e-3, fused=True),
    lr_scheduler=WarmupCosine(updates=epochs * 10_000 // batch_size, warmup=30),
)
model.fit(train, test, epochs=epochs, batch_size=batch_size, seed=0)

predicted = model.predict(test[0], verbose=0).argmax(1)
for given, got in zip(test[0][:3].tolist(), predicted[:3].tolist(), strict=True):
    print(*given, "->", *got)
print(f"sorted without a fault: {(predicted == test[1]).all(1).double().mean():.4f}")
