#!/usr/bin/env python3
"""A training script as one writes it: a linear classifier of handwritten digits, epoch by epoch."""

import numpy as np
from digits import load
from sklearn.linear_model import SGDClassifier

EPOCHS, LEARNING_RATE = 20, 0.01


train_images, train_labels, test_images, test_labels = load()
classes = np.unique(train_labels)
chosen = np.arange(len(train_labels))
model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=LEARNING_RATE, random_state=1)
for epoch in range(EPOCHS):
    order = np.random.default_rng([1, epoch]).permutation(chosen)
    model.partial_fit(train_images[order], train_labels[order], classes)
    chances = model.predict_proba(train_images[chosen])[np.arange(len(chosen)), train_labels[chosen]]
    loss = -np.log(np.maximum(chances, 1e-12)).mean()
    accuracy = model.score(test_images, test_labels)
    print(f"epoch {epoch + 1}: loss {loss:.4f}, accuracy {100 * accuracy:.2f} %")
