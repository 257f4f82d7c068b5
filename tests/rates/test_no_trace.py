"""What the meta pass leaves behind: nothing. With β = 0 training is plain training, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import metalr_monai
from metalr_monai import MetaLR

OPTIMIZERS = {
    "sgd": lambda g: torch.optim.SGD(g, momentum=0.9, weight_decay=1e-3),
    "adam": lambda g: torch.optim.Adam(g),
    "adam not foreach": lambda g: torch.optim.Adam(g, foreach=False),
    "adam fused": lambda g: torch.optim.Adam(g, fused=True),
}


class Net(nn.Module):
    """Batch norm, dropout, and a buffer that is replaced rather than written into."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
        self.norm = nn.BatchNorm1d(4, momentum=None)
        self.head = nn.Linear(4, 2)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes = self.passes + 1
        return self.head(self.norm(self.body(x).mean((2, 3))))


def build(make_optimizer):
    torch.manual_seed(0)
    network = Net()
    return network, make_optimizer(metalr_monai.param_groups(network, "auto", 1e-3))


def losses(network, t):
    generator = torch.Generator().manual_seed(t)

    def loss():
        x = torch.randn(6, 1, 8, 8, generator=generator)
        return nn.functional.cross_entropy(network(x), torch.randint(0, 2, (6,)))  # labels from the global stream

    return loss


def everything(network, optimizer):
    states = [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
    return [*network.state_dict().values(), *states, torch.get_rng_state()]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("options", [{}, {"lookahead": "sgd"}, {"one_pass": True}, {"meta_every": 2}], ids=str)
def test_training_with_beta_zero_equals_plain_training_bit_for_bit(name, options):
    plain, optimizer = build(OPTIMIZERS[name])
    tuned, tuned_optimizer = build(OPTIMIZERS[name])
    tuner = MetaLR(tuned_optimizer, tuned, beta=0.0, **options)

    torch.manual_seed(1)
    expected = []
    for t in range(6):
        loss = losses(plain, t)()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.detach())
    end = everything(plain, optimizer)

    torch.manual_seed(1)
    for t in range(6):
        meta = () if options.get("one_pass") else (losses(tuned, 100 + t),)
        assert torch.equal(tuner.step(losses(tuned, t), *meta), expected[t])
    for ours, theirs in zip(everything(tuned, tuned_optimizer), end, strict=True):
        assert torch.equal(ours, theirs)
    assert [p.grad is None for p in tuned.parameters()] == [p.grad is None for p in plain.parameters()]
    assert tuner.counts["meta_steps"] > 0 and tuner.history.hypergradients[-2:].nansum() != 0


def test_training_gradients_outlive_the_meta_pass_where_the_loop_steps_the_optimizer_itself():
    network, optimizer = build(OPTIMIZERS["sgd"])
    tuner = MetaLR(optimizer, network)
    tuner.meta_loss = losses(network, 7)
    losses(network, 0)().backward()
    before = [p.grad.clone() for p in network.parameters()]
    optimizer.step()
    assert tuner.counts["meta_steps"] == 1
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), before, strict=True))


def test_dropout_in_the_meta_pass_has_a_stream_of_its_own():
    draws = []
    network, optimizer = build(OPTIMIZERS["sgd"])
    tuner = MetaLR(optimizer, network, seed=5)

    def meta():
        draws.append(torch.rand(()))
        return losses(network, 1)()

    for t in range(2):
        torch.manual_seed(t)
        tuner.step(losses(network, 0), meta)
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(draws[0], torch.rand((), generator=generator))
    assert not torch.equal(draws[0], draws[1])


def test_a_meta_loss_that_fails_leaves_a_plain_step_and_clean_statistics():
    network, optimizer = build(OPTIMIZERS["sgd"])
    twin, twin_optimizer = build(OPTIMIZERS["sgd"])
    tuner = MetaLR(optimizer, network)

    def failing():
        losses(network, 1)()
        raise RuntimeError("out of memory")

    torch.manual_seed(3)
    with pytest.raises(RuntimeError, match="out of memory"):
        tuner.step(losses(network, 0), failing)
    torch.manual_seed(3)
    losses(twin, 0)().backward()
    twin_optimizer.step()
    for ours, theirs in zip(everything(network, optimizer), everything(twin, twin_optimizer), strict=True):
        assert torch.equal(ours, theirs)
    assert tuner.lrs == dict.fromkeys(tuner.names, 1e-3)


class OddBuffers(nn.Module):
    """An expanded buffer, and one that is filled at the first pass."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.register_buffer("expanded", torch.ones(1).expand(3))
        self.register_buffer("seen", None)

    def forward(self, x):
        self.seen = torch.ones(())
        return self.layer(x * self.expanded)


def test_odd_buffers_are_put_back_too():
    network = OddBuffers()
    tuner = MetaLR(torch.optim.SGD(metalr_monai.param_groups(network, "auto", 1e-3)), network)
    tuner.meta_loss = lambda: network(torch.ones(2, 3)).sum()
    network.layer(torch.ones(2, 3)).sum().backward()
    tuner.optimizer.step()
    assert network.seen is None and tuner.counts["meta_steps"] == 1


class TransfersToTheHost(TorchDispatchMode):
    """Counts what would make the host wait for a device: single numbers and lists taken out of tensors."""

    def __enter__(self):
        self.count, self._tolist = 0, torch.Tensor.tolist

        def tolist(tensor):
            self.count += 1
            return self._tolist(tensor)

        torch.Tensor.tolist = tolist
        return super().__enter__()

    def __exit__(self, *error):
        torch.Tensor.tolist = self._tolist
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"one_pass": True}, {"scale": "cosine"}, {"lookahead": "sgd"}], ids=str)
def test_transfers_to_the_host_do_not_grow_with_the_number_of_blocks(options):
    counts = []
    for depth in (2, 12):
        network = nn.Sequential(*[nn.Linear(3, 3) for _ in range(depth)])
        groups = metalr_monai.param_groups(network, {str(i): str(i) for i in range(depth)}, 1e-3)
        tuner = MetaLR(torch.optim.SGD(groups), network, **options)
        x = torch.ones(2, 3)
        meta = () if options.get("one_pass") else (lambda n=network, x=x: n(x).square().mean(),)
        for _ in range(2):
            tuner.step(lambda n=network, x=x: n(x).square().mean(), *meta)
        with TransfersToTheHost() as transfers:
            tuner.step(lambda n=network, x=x: n(x).square().mean(), *meta)
        counts.append(transfers.count)
    assert counts[0] == counts[1] > 0
