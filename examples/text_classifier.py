"""A Hugging Face model from a config, as it comes: does a sentence praise, or not?

It brings its own loss, so that there is no loss_fn; batches are mappings with a key `labels`.
"""

import itertools

import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from fitorch import KerasModel

things = ["soup", "bread", "wine", "room", "bed", "music", "waiter", "garden", "view", "price"]
verbs = {"is": 1, "was": 1, "seemed": 1, "is not": 0, "was never": 0, "was hardly": 0}
adjectives = {"good": 1, "lovely": 1, "perfect": 1, "great": 1, "excellent": 1, "fresh": 1}
adjectives |= {"bad": 0, "ugly": 0, "awful": 0, "poor": 0, "terrible": 0, "boring": 0}
sentences = [
    (f"the {thing} {verb} {adjective}", int(verbs[verb] == adjectives[adjective]))
    for thing, verb, adjective in itertools.product(things, verbs, adjectives)
]
words = ["", *sorted({word for text, _ in sentences for word in text.split()})]  # 0 fills up


def columns(part):
    rows = [[words.index(word) for word in text.split()] for text, _ in part]
    tokens = torch.tensor([row + [0] * (5 - len(row)) for row in rows])
    labels = torch.tensor([label for _, label in part])
    return {"input_ids": tokens, "attention_mask": (tokens > 0).long(), "labels": labels}


torch.manual_seed(0)
order = torch.randperm(len(sentences)).tolist()
train, test = ([sentences[i] for i in part] for part in (order[:480], order[480:]))
config = DistilBertConfig(
    vocab_size=len(words), max_position_embeddings=8, dim=32, n_layers=2, n_heads=4, hidden_dim=64
)
net = DistilBertForSequenceClassification(config)
model = KerasModel(
    net, metrics_dict={"acc": "acc"}, optimizer=torch.optim.AdamW(net.parameters(), 3e-3)
)
model.fit(columns(train), columns(test), epochs=6, batch_size=16, seed=0)

logits = model.predict(columns(test[::48]), verbose=0).logits
for (text, _), praise in zip(test[::48], logits.softmax(1)[:, 1], strict=True):
    print(f"{praise:.2f}  {text}")
print(f"test accuracy {model.evaluate(columns(test), verbose=0)['val_acc']:.4f}")
