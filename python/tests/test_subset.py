"""The subsets of the Python package against golden values of the built-in trainer's."""

import json
import pathlib
import unittest

from orchestrator import BadInput, hold_out, subset
from orchestrator._subset import philox

GOLDEN = pathlib.Path(__file__).with_name("subsets.json")


class Subsets(unittest.TestCase):
    def test_philox_gives_the_published_answers(self) -> None:
        self.assertEqual(philox([0] * 4, [0] * 2), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])
        ones = 0xFFFFFFFF
        self.assertEqual(philox([ones] * 4, [ones] * 2), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD])

    def test_subsets_are_those_of_the_built_in_trainer(self) -> None:
        # src/data/src/batches/subset.rs writes and reads the same file
        cases = json.loads(GOLDEN.read_text())
        labels = [index % 7 % 3 for index in range(300)]
        self.assertGreater(len(cases), 3)
        for case in cases:
            chosen = subset(labels, case["samples_per_class"], case["seed"])
            if case["holdout"] is not None:
                chosen, held_out = hold_out(chosen, labels, case["holdout"], case["seed"], case.get("fold", 0))
                self.assertEqual(held_out, case["held_out"], case)
            self.assertEqual(chosen, case["chosen"], case)

    def test_a_class_with_too_few_images_is_named(self) -> None:
        with self.assertRaisesRegex(BadInput, "class 1 has 1 training images, and samples_per_class is 2"):
            subset([0, 0, 1], 2, 0)
        for holdout, fewest in [(0.5, 2), ({"fraction": 0.1, "at_least_per_class": 2}, 3), ({"folds": 3}, 3)]:
            with self.assertRaisesRegex(BadInput, f"class 0 has 1 chosen images, and holdout needs {fewest}"):
                hold_out([0, 1, 2], [0, 1, 1], holdout, 0)


if __name__ == "__main__":
    unittest.main()
