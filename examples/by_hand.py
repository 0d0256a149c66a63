"""A loop of one's own, and scikit-learn's, with the display and the history of `fit`."""

from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from fitorch import VLog

x, y = load_breast_cancer(return_X_y=True)
x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=0.3, random_state=0)
scale = StandardScaler().fit(x_train)
x_train, x_val = scale.transform(x_train), scale.transform(x_val)

classifier = SGDClassifier(loss="log_loss", alpha=0.01, random_state=0)
log = VLog(epochs=10, monitor_metric="val_loss", save_path="by_hand.png")
log.log_start()
for _ in range(10):
    for begin in range(0, len(x_train), 50):
        batch = slice(begin, begin + 50)
        classifier.partial_fit(x_train[batch], y_train[batch], classes=[0, 1])
        log.log_step({"train_acc": classifier.score(x_train[batch], y_train[batch])})
    log.log_epoch(
        {
            "train_loss": log_loss(y_train, classifier.predict_proba(x_train)),
            "val_loss": log_loss(y_val, classifier.predict_proba(x_val)),
            "val_acc": classifier.score(x_val, y_val),
        }
    )
frame = log.log_end()
print(f"best val_loss {log.history.best['val_loss']:.3f} with val_acc "
      f"{log.history.best['val_acc']:.4f}")  # fmt: skip
