"""The data set `digits` of the sweep language, from scikit-learn: the same images in the same order."""

import numpy as np
from sklearn.datasets import load_digits

TEST_PER_CLASS = 50


def load():
    """Returns training images and labels, then those of the test set."""
    images, labels = load_digits(return_X_y=True)
    is_test = np.zeros(len(labels), bool)
    for digit in range(10):
        # as src/data/digits/convert.py splits them
        members = np.flatnonzero(labels == digit)
        places = (2 * np.arange(TEST_PER_CLASS) + 1) * len(members) // (2 * TEST_PER_CLASS)
        is_test[members[places]] = True
    images = images / 16 - 0.5
    return images[~is_test], labels[~is_test], images[is_test], labels[is_test]
