"""A Hugging Face model, built from a config, trained as it comes."""

import os

import pytest
import torch

from fitorch import KerasModel
from fitorch.losses import L1, L2, FocalLoss

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(5, 50, (48, 12), generator=torch.Generator().manual_seed(0))
LABELS = (TOKENS[:, 0] > 27).long()
COLUMNS = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "labels": LABELS}


class Sentences(torch.utils.data.Dataset):
    """A dict per sample, as datasets of Hugging Face give."""

    def __len__(self):
        return len(TOKENS)

    def __getitem__(self, index):
        return {name: column[index] for name, column in COLUMNS.items()}


def classifier():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)


@pytest.mark.parametrize("data", [Sentences(), COLUMNS], ids=["dataset", "columns"])
def test_its_own_loss_goes_down(data):
    net = classifier()
    model = KerasModel(
        net, None, {"acc": "acc"}, torch.optim.AdamW(net.parameters(), 1e-2), lr_scheduler=None
    )
    frame = model.fit(data, data, epochs=15, batch_size=16, seed=0, verbose=0)
    assert frame["train_loss"].iloc[-1] < 0.5 * frame["train_loss"].iloc[0]
    assert frame["val_acc"].iloc[-1] > 0.9


def test_its_figures_are_those_of_the_model_called_by_hand():
    net = classifier()
    scores = KerasModel(net, None, {"acc": "acc"}).evaluate(COLUMNS, batch_size=7, verbose=0)
    net.eval()
    with torch.no_grad():
        output = net(**COLUMNS)
    assert scores["val_loss"] == pytest.approx(output.loss.item(), rel=1e-5)
    assert scores["val_acc"] == pytest.approx((output.logits.argmax(1) == LABELS).float().mean())


def test_predict_leaves_labels_out_and_keeps_the_output_structure():
    net = classifier()
    output = KerasModel(net).predict(COLUMNS, batch_size=7, verbose=0)
    net.eval()
    with torch.no_grad():
        expected = net(input_ids=TOKENS, attention_mask=COLUMNS["attention_mask"]).logits
    assert type(output).__name__ == "SequenceClassifierOutput"
    assert torch.allclose(output.logits, expected, atol=1e-6)


def test_batches_with_weights_keep_the_weights_from_the_net():
    weighted = {**COLUMNS, "sample_weight": torch.rand(48)}

    def forward(net, batch):
        return net(input_ids=batch["input_ids"]).logits, batch["labels"], batch["sample_weight"]

    scores = KerasModel(classifier(), "cross_entropy", forward=forward).evaluate(
        weighted, verbose=0
    )
    net = classifier().eval()
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(
            net(input_ids=TOKENS).logits, LABELS, reduction="none"
        )
    expected = (losses * weighted["sample_weight"]).sum() / weighted["sample_weight"].sum()
    assert scores["val_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("size", [48, 7])
def test_a_loss_of_ones_own_gets_the_logits(size):
    net = classifier()
    model = KerasModel(net, "cross_entropy", {"acc": "acc"})
    scores = model.evaluate(COLUMNS, batch_size=size, verbose=0)
    net.eval()
    with torch.no_grad():
        expected = net(**COLUMNS).loss
    assert scores["val_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert len(model.fit(COLUMNS, epochs=1, batch_size=size, verbose=0)) == 1


@pytest.mark.parametrize("objective", [1e-2 * L2(), L1(1e-3) + 1e-2 * L2()])
def test_penalties_alone_are_added_to_its_own_loss(objective):
    net, twin = classifier(), classifier()
    model = KerasModel(net, objective, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    frame = model.fit(COLUMNS, COLUMNS, epochs=2, batch_size=12, shuffle=False, verbose=0)

    def penalty(net):  # by name: all but biases and the normalization's weights
        weights = [
            p
            for name, p in net.named_parameters()
            if "bias" not in name and "LayerNorm" not in name
        ]
        l2 = 0.5e-2 * sum(weight.square().sum() for weight in weights)
        l1 = 1e-3 * sum(weight.abs().sum() for weight in weights)
        return {"l2": l2, "l1": l1} if "L1" in repr(objective) else {"l2": l2}

    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(2):
        for at in torch.arange(48).split(12):
            optimizer.zero_grad()
            loss = twin(**{name: column[at] for name, column in COLUMNS.items()}).loss
            (loss + sum(penalty(twin).values())).backward()
            optimizer.step()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    row = frame.iloc[-1]
    twin.eval()
    assert row["val_own"] == pytest.approx(twin(**COLUMNS).loss.item(), rel=1e-4)
    for name, value in penalty(twin).items():
        assert row[f"val_{name}"] == pytest.approx(value.item(), rel=1e-4)
    assert row["val_loss"] == pytest.approx(
        row["val_own"] + sum(row[f"val_{n}"] for n in penalty(twin))
    )


def test_penalties_alone_need_a_net_with_a_loss():
    net = torch.nn.Linear(2, 1)
    model = KerasModel(net, 1e-2 * L2())
    before = net.weight.detach().clone()
    message = r"has only penalties, and the net's output \(float32 \(8, 1\)\) does not have a .loss"
    with pytest.raises(TypeError, match=message):
        model.fit((torch.randn(8, 2), torch.randn(8, 1)), verbose=0)
    assert torch.equal(net.weight, before)


def test_a_formula_of_ones_own_gets_the_logits():
    net = classifier()
    objective = FocalLoss(gamma=0.0, alpha=None, from_logits=True) + 1e-2 * L2()
    scores = KerasModel(net, objective).evaluate(COLUMNS, batch_size=7, verbose=0)
    net.eval()
    with torch.no_grad():
        expected = net(**COLUMNS).loss  # the focal loss without focus is cross entropy
    assert scores["val_focal"] == pytest.approx(expected.item(), rel=1e-5)
    assert list(scores) == ["val_loss", "val_focal", "val_l2"]


def test_a_loss_for_the_output_called_logits_finds_it():
    net = classifier()
    columns = {**COLUMNS, "labels": LABELS}
    objective = {"logits": torch.nn.CrossEntropyLoss()}

    def forward(net, batch):
        return net(batch["input_ids"], batch["attention_mask"]), {"logits": batch["labels"]}

    scores = KerasModel(net, objective, forward=forward).evaluate(columns, verbose=0)
    net.eval()
    with torch.no_grad():
        assert scores["val_loss"] == pytest.approx(net(**COLUMNS).loss.item(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_figures_of_a_causal_language_model_leave_out_padding_and_the_first_token(batch_size):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    net = transformers.LlamaForCausalLM(config).double()
    tokens = torch.randint(20, (8, 12))
    labels = tokens.where(torch.arange(12) < torch.arange(3, 11)[:, None], -100)
    data = {"input_ids": tokens, "labels": labels}
    scores = KerasModel(net, None, {"acc": "acc"}).evaluate(data, batch_size=batch_size, verbose=0)
    with torch.no_grad():
        output = net(**data)
    predicted, targets = output.logits[:, :-1].argmax(-1), labels[:, 1:]
    counted = targets != -100
    assert scores["val_loss"] == pytest.approx(output.loss.item(), rel=1e-6)
    assert scores["val_acc"] == pytest.approx(
        (predicted == targets)[counted].double().mean().item(), rel=1e-10
    )
