"""What an engine's iteration is given: the same for the same iteration, seed and rank."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor

from metalr_monai import PrepareDeformed
from metalr_monai.errors import EngineError, OptionError

IMAGES = torch.rand(2, 1, 32, 32, 16, generator=torch.Generator().manual_seed(0))


def inputs(prepare: PrepareDeformed, iterations: int = 3, start: int = 0) -> list[Tensor]:
    """What a real engine's iterations get; `start` of them were done before."""
    found = []
    engine = Engine(lambda _, batch: found.append(prepare(batch, torch.device("cpu"))[0]))
    prepare.attach(engine)
    engine.load_state_dict({"iteration": start, "max_epochs": 1, "epoch_length": iterations + start})
    engine.run([{"image": IMAGES}] * (iterations + start))
    return found


def test_each_iteration_has_its_own_deformation_and_a_run_that_goes_on_the_same() -> None:
    whole, resumed = inputs(PrepareDeformed(3)), inputs(PrepareDeformed(3), iterations=1, start=2)
    assert not torch.equal(whole[0], whole[1])
    assert torch.equal(whole[2], resumed[0])
    assert not torch.equal(whole[0], inputs(PrepareDeformed(4))[0])


def test_probabilities_of_zero_leave_the_images_as_they_are() -> None:
    prepare = PrepareDeformed(0, flip=0.0, shuffle=0.0, intensity=0.0, paint=0.0)
    assert all(torch.equal(batch, IMAGES) for batch in inputs(prepare))


def test_misuse_is_told() -> None:
    with pytest.raises(EngineError, match="attached to no engine"):
        PrepareDeformed()({"image": IMAGES})
    with pytest.raises(OptionError, match="paint is 2"):
        PrepareDeformed(paint=2)
    with pytest.raises(OptionError, match="deformations has 'pain'; expected flip, shuffle"):
        PrepareDeformed(pain=0.5)
