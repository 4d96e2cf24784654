#!/usr/bin/env python3
"""The script of bare.py in a sweep: the same training, with ten lines for the orchestrator."""

import orchestrator
import pickle
import numpy as np
from digits import load
from sklearn.linear_model import SGDClassifier

train_images, train_labels, test_images, test_labels = load()
classes = np.unique(train_labels)
for trial in orchestrator.trials(epochs=20, learning_rate=0.01, samples_per_class="all"):
    chosen, held_out = trial.split(train_labels)
    eval_images, eval_labels = (test_images, test_labels) if held_out is None else (train_images[held_out], train_labels[held_out])
    rate, saved = trial.settings["learning_rate"], trial.resume()
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=rate, random_state=trial.seed)
    model = pickle.loads(saved.read_bytes()) if saved else model
    for epoch in trial.epochs():
        order = np.random.default_rng([trial.seed, epoch]).permutation(chosen)
        model.partial_fit(train_images[order], train_labels[order], classes)
        chances = model.predict_proba(train_images[chosen])[np.arange(len(chosen)), train_labels[chosen]]
        loss = -np.log(np.maximum(chances, 1e-12)).mean()
        accuracy = model.score(eval_images, eval_labels)
        trial.epoch(loss, accuracy, state=[model.coef_, model.intercept_])
        trial.checkpoint(lambda file: pickle.dump(model, file))
