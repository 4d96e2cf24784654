"""The training images of a trial: nested, class-stratified, seeded; the same as the built-in trainer's.

Each class has one permutation of its images, drawn from (seed, class). A subset of n per class is
the first n of every permutation, so that 10 samples contain the 5 of the same seed. Held-out images
are the last of the chosen ones in a permutation of their own.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

from ._failure import BadInput

# Purposes of the streams of random numbers: part of the meaning of a seed.
SUBSET = 1
HOLD_OUT = 2
WORD = 0xFFFFFFFF


def philox(counter: Sequence[int], key: Sequence[int]) -> List[int]:
    """Returns 128 random bits as four words: Philox4x32-10 (Salmon et al. 2011)."""
    a, b, c, d = counter
    first, second = key
    for _ in range(10):
        product_0, product_1 = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (
            product_1 >> 32 ^ b ^ first,
            product_1 & WORD,
            product_0 >> 32 ^ d ^ second,
            product_0 & WORD,
        )
        first, second = first + 0x9E3779B9 & WORD, second + 0xBB67AE85 & WORD
    return [a, b, c, d]


class Stream:
    """One stream of draws, a pure function of (seed, purpose, class)."""

    def __init__(self, seed: int, purpose: int, label: int) -> None:
        self.key = (seed & WORD, seed >> 32 & WORD)
        self.counter = [0, label, 0, purpose]
        self.block: List[int] = []

    def next_word(self) -> int:
        if not self.block:
            self.block = philox(self.counter, self.key)[::-1]
            self.counter[0] = self.counter[0] + 1 & WORD
        return self.block.pop()

    def below(self, bound: int) -> int:
        """Draws uniformly from 0..bound, without bias (Lemire 2019)."""
        product = self.next_word() * bound
        if product & WORD < bound:
            threshold = (-bound & WORD) % bound
            while product & WORD < threshold:
                product = self.next_word() * bound
        return product >> 32

    def shuffle(self, items: List[int]) -> None:
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


def _permutations(indices: Sequence[int], labels: Sequence[int], seed: int, purpose: int) -> Dict[int, List[int]]:
    classes: Dict[int, List[int]] = {}
    for index in sorted(indices):
        classes.setdefault(int(labels[index]), []).append(index)
    for label, members in classes.items():
        Stream(seed, purpose, label).shuffle(members)
    return classes


def subset(labels: Sequence[int], samples_per_class: Union[int, str], seed: int) -> List[int]:
    """Returns the indices of the training images, ascending: `samples_per_class` of each class, or all.

    `labels` are those of the whole training set, in its order, counted from 0.
    """
    if samples_per_class == "all":
        return list(range(len(labels)))
    wanted = int(samples_per_class)
    if wanted < 1:
        raise BadInput(f"samples_per_class is {wanted}; at least 1, or all, was expected")
    classes = _permutations(range(len(labels)), labels, seed, SUBSET)
    for label in range(max(classes, default=-1) + 1):
        available = len(classes.get(label, ()))
        if available < wanted:
            raise BadInput(f"class {label} has {available} training images, and samples_per_class is {wanted}")
    return sorted(index for members in classes.values() for index in members[:wanted])


Holdout = Union[float, Mapping[str, Any]]


def hold_out(
    indices: Sequence[int], labels: Sequence[int], holdout: Holdout, seed: int, fold: int = 0
) -> Tuple[List[int], List[int]]:
    """Splits chosen training images into those to train on and those held out, both ascending.

    `holdout` is a fraction of each class, rounded to the nearest: at least one image is held out,
    and at least one stays. `{"fraction": 0.1, "at_least_per_class": 3}` has a floor, and of
    `{"folds": 5}` it is the part of that number, which counts on beyond the last one.
    """
    kept: List[int] = []
    held_out: List[int] = []
    for label, members in sorted(_permutations(indices, labels, seed, HOLD_OUT).items()):
        start, end = _places(label, len(members), holdout, fold)
        kept += members[:start] + members[end:]
        held_out += members[start:end]
    return sorted(kept), sorted(held_out)


def _places(label: int, available: int, holdout: Holdout, fold: int) -> Tuple[int, int]:
    """Returns the range of the held-out images among the shuffled ones of a class."""
    split = dict(holdout) if isinstance(holdout, Mapping) else {"fraction": holdout}
    folds = split.get("folds")
    least = split.get("at_least_per_class", 1)
    fewest = least + 1 if folds is None else folds
    if available < fewest:
        raise BadInput(f"class {label} has {available} chosen images, and holdout needs {fewest}")
    if folds is not None:
        part = fold % folds
        return part * available // folds, (part + 1) * available // folds
    exact = available * split["fraction"]
    rounded = math.floor(exact) + (exact - math.floor(exact) >= 0.5)
    return available - min(max(rounded, least), available - 1), available
