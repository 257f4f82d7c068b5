"""A penalty for leaving the pre-trained weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from scheme_runs import assert_resuming_changes_nothing, train

from metalr_monai import L2SP
from metalr_monai.errors import OptionError, StateError

ALPHA, BETA = 0.5, 0.25


class LossGradients:
    """The gradients of the loss alone, by step and block."""

    def __init__(self):
        self.found = []

    def attach(self, engine):
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._record)

    def _record(self, engine):
        groups = engine.optimizer.param_groups
        self.found.append({group["name"]: [p.grad.clone() for p in group["params"]] for group in groups})


def test_each_step_has_the_penalty_s_gradient_by_hand():
    losses = LossGradients()
    _, steps = train(L2SP(ALPHA, BETA), losses, lr=0.1, optimizer=torch.optim.SGD)
    first = steps.before[0]
    for number, gradients in enumerate(losses.found):
        for name, of_loss in gradients.items():
            for place, gradient in enumerate(of_loss):
                weight = steps.before[number][name][place]
                penalty = BETA * weight if name == "head" else ALPHA * (weight - first[name][place])
                expected = weight.add(gradient + penalty, alpha=-0.1)
                torch.testing.assert_close(steps.after[number][name][place], expected, rtol=0, atol=1e-7)
    drift = steps.before[-1]["conv"][0] - first["conv"][0]
    assert (0.1 * ALPHA * drift).abs().max() > 1e-5  # far above the tolerance


def test_the_stronger_the_pull_the_nearer_the_body_stays_to_its_pre_trained_weights():
    def distance(alpha):
        _, steps = train(L2SP(alpha, 0), lr=0.05, epochs=4, optimizer=torch.optim.SGD)
        return sum((a - b).norm() for a, b in zip(steps.after[-1]["conv"], steps.before[0]["conv"], strict=True))

    assert distance(10.0) < distance(1.0) < distance(0.0)


def test_weights_that_a_handler_loads_at_the_start_are_the_pre_trained_ones():
    class Load:
        def attach(self, engine):
            engine.add_event_handler(Events.STARTED, lambda e: [p.data.fill_(0.5) for p in e.network.parameters()])

    scheme = L2SP(ALPHA, BETA)
    train(scheme, Load(), epochs=1)
    assert all((w == 0.5).all() for weights in scheme.state_dict()["pretrained"].values() for w in weights)


def test_frozen_parameters_and_those_without_a_gradient_are_left_alone():
    class Freeze:
        def attach(self, engine):
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.drop)

        def drop(self, engine):
            engine.network.head.bias.grad = None

    def optimizer(groups):
        for p in groups[0]["params"]:
            p.requires_grad_(False)
        return torch.optim.SGD(groups)

    _, steps = train(L2SP(ALPHA, BETA), Freeze(), lr=0.1, optimizer=optimizer)
    for name, place in (("conv", 0), ("conv", 1), ("head", 1)):
        assert all(gradients[name][place] is None for gradients in steps.gradients)
        assert torch.equal(steps.after[-1][name][place], steps.before[0][name][place])
    assert not torch.equal(steps.after[-1]["head"][0], steps.before[0]["head"][0])


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp.*:FutureWarning")  # MONAI 1.6 still calls it
@pytest.mark.filterwarnings("ignore:.*CUDA is not available.*:UserWarning")  # and autocasts to "cuda" everywhere
@pytest.mark.parametrize("fused", [False, True])
def test_a_scaled_loss_changes_nothing(fused):
    class Scaler:
        def attach(self, engine):
            engine.add_event_handler(Events.STARTED, self.start)

        def start(self, engine):
            engine.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def weights(amp):
        scaling = [Scaler()] if amp else []
        optimizer = partial(torch.optim.SGD, fused=fused)
        _, steps = train(L2SP(ALPHA, BETA), *scaling, lr=0.1, amp=amp, optimizer=optimizer)
        return [p for block in steps.after[-1].values() for p in block]

    for scaled, plain in zip(weights(True), weights(False), strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, partial(torch.optim.SGD, momentum=0.9)])
def test_resuming_changes_nothing(optimizer, tmp_path):
    assert_resuming_changes_nothing(lambda: L2SP(ALPHA, BETA), tmp_path, lr=0.05, after=2, optimizer=optimizer)


def test_a_resumed_run_is_pulled_to_the_weights_of_the_first_epoch(tmp_path):
    first = L2SP(ALPHA, BETA)
    _, steps = train(first, epochs=1, folder=tmp_path)
    second = L2SP(ALPHA, BETA)
    train(second, epochs=2, folder=tmp_path)
    pretrained = second.state_dict()["pretrained"]
    assert list(pretrained) == ["conv", "norm"]
    assert all(torch.equal(w, p) for n, ws in pretrained.items() for w, p in zip(ws, steps.before[0][n], strict=True))


def test_a_state_of_other_blocks_is_refused():
    scheme = L2SP(ALPHA, BETA)
    scheme.load_state_dict({"pretrained": {"stem": [torch.zeros(2)]}})
    with pytest.raises(StateError, match=r"blocks stem; the network's are conv, norm"):
        train(scheme)


@pytest.mark.parametrize("arguments", [(-1, 0), (0, float("inf")), ("0.1", 0)])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(OptionError, match=r"(alpha|beta) is .*; expected a number, 0 or more\."):
        L2SP(*arguments)
