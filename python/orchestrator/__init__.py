"""Your own training code in an orchestrator sweep.

    import orchestrator

    for trial in orchestrator.trials(learning_rate=0.1, epochs=10):
        saved = trial.resume()
        ...                                       # build the model, load `saved` if it is not None
        for epoch in trial.epochs():
            ...                                   # train for one epoch, then evaluate
            trial.epoch(train_loss=loss, accuracy=accuracy)
            trial.checkpoint(lambda file: torch.save(state, file))

As `orchestrator run SWEEP --trainer ./train.py` this trains trial after trial of a sweep. As
`python train.py --learning-rate 0.3` it trains one trial by hand. Import this module before any
that prints: from then on everything that the program prints goes to the trial's log.
docs/your-own-code.md is the guide, docs/trainer-protocol.md what is sent.
"""

from __future__ import annotations

from ._failure import BadInput, Failure, NonFinite
from ._program import trials
from ._subset import hold_out, subset
from ._trial import Settings, Trial

__all__ = ["BadInput", "Failure", "NonFinite", "Settings", "Trial", "hold_out", "subset", "trials"]
