"""The head trains alone until it fits the pre-trained features; then all blocks do."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer

from .options import checked_count, checked_number
from .scheme import Scheme


class ProbeThenTune(Scheme):
    """LP-FT, linear probing and then fine-tuning: the first steps train the head alone, the others all blocks.

    Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", 2022. The paper
    tunes at a rate of its own; here each block has the rate that the optimizer was built with. Batch norms of frozen
    blocks see the batches as those of the other schemes do.

    Args:
        epochs: of the run, 1 or more.
        probe: share of their steps that train the head alone, above 0 and below 1; in steps, so that a run of one epoch
            has both halves.

    Raises:
        OptionError: an argument is outside of its range.
    """

    def __init__(self, epochs: int, probe: float) -> None:
        super().__init__()
        self._epochs = checked_count("epochs", epochs, 1)
        self._probe = checked_number("probe", probe, "a number above 0 and below 1", lambda value: 0 < value < 1)
        self._probing: bool | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, as `Scheme.attach` does."""
        super().attach(engine)
        engine.add_event_handler(Events.ITERATION_STARTED, self._choose)

    def _choose(self, engine: SupervisedTrainer) -> None:
        """Train the head, or all; told by the trainer's iteration alone, so that resuming needs no state."""
        steps = round(self._probe * self._epochs * engine.state.epoch_length)
        probing = engine.state.iteration <= steps
        if probing != self._probing:
            self._probing = probing
            self.tune(self.names[-1:] if probing else self.names)
