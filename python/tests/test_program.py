"""Programs that use the package, seen as a worker and as a user see them."""

import gzip
import json
import signal
import unittest
from typing import Any, Dict

from worker import PROGRAM, Folder, Worker


def in_loop(line: str, program: str = PROGRAM) -> str:
    """The program with a line at the beginning of each epoch."""
    return program.replace('print("epoch", epoch)', line)


def undisturbed(**settings: Any) -> Dict[str, Any]:
    with Folder() as folder, Worker(folder) as worker:
        worker.ready()
        worker.run(folder.request(**settings))
        return worker.finished()


def lasting(result: Dict[str, Any]) -> Dict[str, Any]:
    """What of a result must not depend on disturbances."""
    return {name: value for name, value in result.items() if name != "timing"}


class Served(unittest.TestCase):
    def test_a_trial_is_reported_and_a_second_one_follows_in_the_same_process(self) -> None:
        with Folder() as folder, Worker(folder, devices="cuda:0,1") as worker:
            ready = worker.ready()
            self.assertEqual((ready["protocol"], ready["devices"]), (1, ["cuda:0", "cuda:1"]))
            self.assertIn("train.py (Python 3.", ready["build"])
            worker.run(folder.request(learning_rate=0.5))
            first = worker.finished()
            self.assertEqual(len(first["epochs"]), 4)
            self.assertEqual((first["last_accuracy"], first["best_epoch"]), (0.28, 3))
            self.assertEqual(first["classes"], {"images": [2, 1], "correct": [1, 1]})
            self.assertEqual(first["last_balanced_accuracy"], 0.75)
            self.assertEqual(first["provenance"]["subset"], "all")
            hashes = {epoch["state_hash"] for epoch in first["epochs"]}
            self.assertEqual({len(text) for text in hashes}, {16})
            self.assertEqual(len(hashes), 4)
            worker.run(folder.request(attempt=2))
            self.assertEqual(lasting(worker.finished()), lasting(first))
            self.assertEqual(worker.wait(), 0)

    def test_the_fields_of_a_sweeps_program_are_its_settings(self) -> None:
        text = in_loop("print(sorted(trial.settings.items()))")
        with Folder(text) as folder, Worker(folder) as worker:
            worker.ready()
            own = {"learning_rate": 0.5, "loss": "mse"}
            # beside them are settings of the built-in trainer, which mean nothing here
            common = {"dataset": "", "samples_per_class": "all", "holdout": None, "evaluate_every": 1}
            worker.run(folder.request(program=own, loss="xent", momentum=0.9, **common))
            worker.finished()
            expected = {**common, **own, "epochs": 4}
            self.assertIn(str(sorted(expected.items())), worker.log())

    def test_what_a_program_prints_goes_to_its_log(self) -> None:
        text = 'print("before the import")\nimport sys\n' + in_loop(
            'print("in the loop"); import os, subprocess; os.write(1, b"raw\\n"); '
            'subprocess.run(["echo", "a child"]); assert sys.stdin.read() == ""'
        )
        with Folder(text) as folder, Worker(folder) as worker:
            worker.ready()
            worker.run(folder.request())
            worker.finished()
            for part in ["before the import", "in the loop", "raw", "a child"]:
                self.assertIn(part + "\n", worker.log())

    def test_exceptions_are_failures_with_a_class_and_a_traceback(self) -> None:
        cases = [
            ('raise ValueError("what it was")', "crashed", "ValueError: what it was\n"),
            ("raise MemoryError", "out_of_memory", "MemoryError\n"),
            ('raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA")', "out_of_memory", "OutOfMemoryError: CUDA"),
            ('raise OSError(28, "No space left")', "node", "OSError: [Errno 28] No space left"),
            ('raise orchestrator.BadInput("no such data")', "bad_input", "no such data\n"),
            ("trial.settings.learning_rates", "crashed", "AttributeError"),
            ('trial.settings["learning_rat"]', "bad_input", "no setting `learning_rat`; did you mean `learning_rate`?"),
            ('trial.epoch(float("nan"), 0.5)', "non_finite", "the training loss of epoch 0 is nan"),
            ("trial.epoch(1.0, 55.0)", "crashed", "accuracy is 55.0; a fraction from 0 to 1 was expected"),
            ("trial.epoch(1.0, 0.5, state=object())", "crashed", "cannot hash a object"),
            ("continue", "crashed", "ended epoch 0 without trial.epoch(...)"),
            ("break", "crashed", "ended the trial after 0 of 4 epochs"),
            ("raise SystemExit(3)", "crashed", "ended the trial after 0 of 4 epochs"),
        ]
        for line, failure_class, beginning in cases:
            with self.subTest(line), Folder(in_loop(line)) as folder, Worker(folder) as worker:
                worker.ready()
                worker.run(folder.request())
                failure = worker.failed()
                self.assertEqual(failure["class"], failure_class)
                self.assertIn(beginning, failure["message"])
                self.assertLess(len(failure["message"]), 16 << 10)
                if line.startswith("raise ValueError"):
                    self.assertIn("train.py", failure["message"])
                    self.assertIn("ValueError: what it was", worker.log())
                self.assertIsNone(worker.end())

    def test_a_result_that_ignores_the_sweep_is_refused(self) -> None:
        cases = [
            ({"samples_per_class": 5}, "sets samples_per_class to 5, and the program did not call trial.split(labels)"),
            ({"holdout": 0.5}, "sets holdout to 0.5"),
            ({"keep": ["predictions"]}, "did not call trial.predictions(...)"),
        ]
        for settings, part in cases:
            with self.subTest(part), Folder() as folder, Worker(folder) as worker:
                worker.ready()
                worker.run(folder.request(**settings))
                failure = worker.failed()
                self.assertEqual(failure["class"], "bad_input")
                self.assertIn(part, failure["message"])

    def test_a_split_is_recorded_and_predictions_are_written(self) -> None:
        labels = "[index % 7 % 3 for index in range(300)]"
        text = in_loop(
            f"chosen, held_out = trial.split({labels}); assert len(held_out) == 3; "
            "trial.predictions([1, 0], [[0.25, 0.75], [0.5, 0.25]], ['a, b', 'c'])"
        )
        with Folder(text) as folder, Worker(folder) as worker:
            worker.ready()
            worker.run(folder.request(samples_per_class=2, holdout=0.5, keep=["predictions"]))
            result = worker.finished()
            self.assertEqual(len(result["provenance"]["subset"]["indices"]), 3)
            written = gzip.decompress((folder.path / "checkpoints/predictions.attempt-1.csv.gz").read_bytes())
            lines = written.decode().splitlines()
            self.assertEqual(lines[0], "image,label,label_name,predicted,predicted_name,score_0,score_1")
            self.assertEqual(lines[1:], ["0,1,c,1,c,0.25,0.75", '1,0,"a, b",0,"a, b",0.5,0.25'])

    def test_the_subset_of_a_pair_of_seeds_is_that_of_its_own_seed(self) -> None:
        text = in_loop("trial.split([index % 3 for index in range(300)])")
        chosen = []
        for seed in [2, 2 + 1 << 32 | 1, 2 + 1 << 32 | 7, 3]:
            with Folder(text) as folder, Worker(folder) as worker:
                worker.ready()
                request = folder.request(samples_per_class=5, holdout=0.4)
                request["spec"]["seed"] = seed
                worker.run(request)
                chosen.append(worker.finished()["provenance"]["subset"]["indices"])
        self.assertEqual(chosen[0], chosen[1])
        self.assertEqual(chosen[0], chosen[2])
        self.assertNotEqual(chosen[0], chosen[3])

    def test_the_folds_of_a_pair_of_seeds_are_parts_of_one_subset(self) -> None:
        text = in_loop("trial.split([index % 3 for index in range(300)])")
        chosen = []
        for init, holdout in [(0, None), (0, {"folds": 2}), (1, {"folds": 2})]:
            with Folder(text) as folder, Worker(folder) as worker:
                worker.ready()
                request = folder.request(samples_per_class=4, holdout=holdout)
                request["spec"]["seed"] = 2 + 1 << 32 | init
                worker.run(request)
                chosen.append(worker.finished()["provenance"]["subset"]["indices"])
        self.assertEqual([len(indices) for indices in chosen], [12, 6, 6])
        self.assertEqual(chosen[0], sorted(chosen[1] + chosen[2]))

    def test_a_stopped_trial_continues_where_it_was(self) -> None:
        text = in_loop("while epoch == 1 and trial.attempt == 1 and not trial.should_stop: time.sleep(0.01)")
        with Folder(text) as folder:
            with Worker(folder) as worker:
                worker.ready()
                worker.run(folder.request())
                self.assertIn("progress", worker.reply())
                worker.send("stop")
                self.assertEqual(worker.end(), "stopped")
                # the process is ready for another trial: a stop belongs to the run before it
                worker.run(folder.request(attempt=2))
                result = worker.finished()
            self.assertGreaterEqual(result["timing"]["resumed_from_epoch"], 1)
            self.assertNotIn("departed_at_epoch", result["timing"])
            self.assertEqual(lasting(result), lasting(undisturbed()))

    def test_a_killed_trial_continues_from_its_newest_sound_checkpoint(self) -> None:
        text = in_loop(
            "trial.checkpoint_interval = 0.0\n            while epoch == 3 and trial.attempt == 1: time.sleep(0.01)"
        )
        with Folder(text) as folder:
            with Worker(folder) as worker:
                worker.ready()
                worker.run(folder.request())
                worker.reply(), worker.reply(), worker.reply()
                worker.process.send_signal(signal.SIGKILL)
            checkpoints = folder.path / "checkpoints"
            newest = sorted(checkpoints.glob("*.json"))[-1]
            sound = int(newest.name[6:11])
            self.assertGreaterEqual(sound, 2)
            newest.with_suffix(".state").write_bytes(b"torn")
            (checkpoints / "epoch-00009.attempt-1.json.partial").write_text("half")
            with Worker(folder) as worker:
                worker.ready()
                worker.run(folder.request(attempt=2))
                result = worker.finished()
            self.assertEqual(result["timing"]["resumed_from_epoch"], sound - 1)
            self.assertEqual(lasting(result), lasting(undisturbed()))
            # of older attempts nothing is left but the newest two, and the trial can be trained again
            states = sorted(path.name for path in checkpoints.glob("*.state"))
            self.assertEqual(len(states), 2)
            with Worker(folder) as worker:
                worker.ready()
                worker.run(folder.request(attempt=3, since=3))
                self.assertEqual(worker.finished()["timing"]["resumed_from_epoch"], 0)

    def test_another_state_after_the_same_epoch_is_noticed(self) -> None:
        text = in_loop("state += trial.attempt")
        with Folder(text) as folder:
            for attempt, departed in [(1, None), (2, 0)]:
                with Worker(folder) as worker:
                    worker.ready()
                    worker.run(folder.request(attempt=attempt))
                    result = worker.finished()
                    self.assertEqual(result["timing"].get("departed_at_epoch"), departed)
                for path in (folder.path / "checkpoints").glob("epoch-*"):
                    path.unlink()

    def test_an_attempt_that_was_given_to_others_ends(self) -> None:
        with Folder() as folder:
            for attempt in (2, 1):
                with Worker(folder) as worker:
                    worker.ready()
                    worker.run(folder.request(attempt=attempt))
                    if attempt == 2:
                        worker.finished()
                    else:
                        self.assertIn("attempt 2 of this trial runs elsewhere", worker.failed()["message"])

    def test_a_program_ends_with_its_worker_and_its_children_do_not_hide_its_end(self) -> None:
        text = in_loop(
            "import os, sys; sys.stdout.flush(); child = os.fork(); "
            "time.sleep(600) if child == 0 else open(os.environ['CHILD'], 'w').write(str(child)); os._exit(9)"
        )
        with Folder(text) as folder:
            import os

            os.environ["CHILD"] = str(folder.path / "child")
            with Worker(folder) as worker:
                worker.ready()
                worker.run(folder.request())
                self.assertIsNone(worker.end())
                os.kill(int((folder.path / "child").read_text()), signal.SIGKILL)
        with Folder(in_loop("time.sleep(600)")) as folder, Worker(folder) as worker:
            worker.ready()
            worker.run(folder.request())
            self.assertEqual(worker.wait(), 0)

    def test_a_worker_of_another_version_is_refused(self) -> None:
        with Folder() as folder, Worker(folder, protocol="0") as worker:
            self.assertIsNone(worker.reply())
            self.assertNotEqual(worker.wait(), 0)
            self.assertIn("this worker has version 0 of the trainer protocol", worker.log())


class ByHand(unittest.TestCase):
    def test_a_trial_by_hand_takes_flags_and_prints_its_result(self) -> None:
        with Folder() as folder:
            result = folder.path / "result.json"
            done = folder.by_hand("--learning-rate", "0.5", "--epochs", "3", "--seed", "5", "--result", str(result))
            self.assertEqual((done.returncode, done.stderr.count("epoch ")), (0, 3), done.stderr)
            self.assertIn("epoch 3/3   loss 0.0002   accuracy 21.00 %", done.stderr)
            self.assertIn("accuracy 21.00 % after 3 epochs, best 21.00 % after epoch 3", done.stdout)
            expected = undisturbed(epochs=3)
            self.assertEqual(lasting(json.loads(result.read_text()))["epochs"], expected["epochs"])

    def test_by_hand_a_trial_resumes_from_the_folder_that_is_given(self) -> None:
        with Folder() as folder:
            arguments = ["--checkpoint-dir", str(folder.path / "here"), "--result", str(folder.path / "result.json")]
            for expected in (0, 4):
                self.assertEqual(folder.by_hand(*arguments).returncode, 0)
                timing = json.loads((folder.path / "result.json").read_text())["timing"]
                self.assertEqual(timing["resumed_from_epoch"], expected)

    def test_wrong_flags_are_named(self) -> None:
        with Folder() as folder:
            for arguments, part in [
                (["--learning", "1"], "--learning"),
                (["--learning-rate", "x"], "invalid float value: 'x'"),
            ]:
                done = folder.by_hand(*arguments)
                self.assertEqual(done.returncode, 2)
                self.assertIn(part, done.stderr)
            self.assertIn("--learning-rate", folder.by_hand("--help").stdout)


if __name__ == "__main__":
    unittest.main()
