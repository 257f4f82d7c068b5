"""Pictures of classified cases: which, where, what they show, and that drawing leaves the network alone."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.networks.nets import resnet18
from monai.transforms import Activationsd
from torch import nn

from metalr_monai import feature_maps
from metalr_monai.errors import EngineError, OptionError
from metalr_monai.evaluation.activation_maps import ActivationMaps
from metalr_monai.handlers.example_pictures import WRONG, ExamplePictures

matplotlib_image = pytest.importorskip("matplotlib.image", reason="needs the extra 'report'")
CLASSES = ["benign", "malig/nant"]


class Corners(nn.Module):
    """Logits from two feature maps: the mean of the left half, and that of the right one."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(1, 2, 1, bias=False)
        self.dropout = nn.Dropout(0.5)
        nn.init.constant_(self.maps.weight, 1.0)

    def forward(self, x):
        left, right = self.dropout(self.maps(x)).unbind(1)
        half = x.shape[-1] // 2
        return torch.stack([left[..., :half].mean((1, 2)), right[..., half:].mean((1, 2))], 1)


def item(name, label, left, right):
    """An image (1, 8, 8), rows before columns, with a bright spot in each half's upper part."""
    image = torch.zeros(1, 8, 8)
    image[:, 1:3, 1:3], image[:, 1:3, 5:7] = left, right
    return {"image": MetaTensor(image), "label": np.int64(label), "case_id": name}


ITEMS = [
    item("sure", 0, 12, 9),
    item("surer", 0, 16, 1),
    item("missed", 0, 1, 9),
    item("hit", 1, 2, 12),
    item("unsure", 0, 5, 4),
]


def evaluate(folder, data=ITEMS, network=None, **options):
    network = Corners() if network is None else network
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=2),
        network=network,
        postprocessing=Activationsd("pred", softmax=True),
        val_handlers=[ExamplePictures(folder, CLASSES, **options)],
    )
    evaluator.run()
    return evaluator


def files(folder):
    return sorted(path.name for path in (folder / "pictures").iterdir())


def red(path):
    """Pixels of the colour in which a wrong prediction is written."""
    rgb = np.array([int(WRONG[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((abs(matplotlib_image.imread(path)[..., :3] - rgb).max(-1) < 0.02).sum())


# ---------------------------------------------------------------------- which cases


def test_of_each_class_the_most_confident_right_and_wrong_case_are_drawn(tmp_path, monkeypatch):
    drawn = {}
    from metalr_monai.handlers import example_pictures

    original = example_pictures.draw_example

    def noting(example, map_, classes, path):
        drawn[path.name] = example.prediction.case
        original(example, map_, classes, path)

    monkeypatch.setattr(example_pictures, "draw_example", noting)
    evaluate(tmp_path)
    assert drawn == {
        "0_benign_right_1.png": "surer",
        "0_benign_wrong_1.png": "missed",
        "1_malig_nant_right_1.png": "hit",
    }
    assert files(tmp_path) == sorted(drawn)
    assert red(tmp_path / "pictures" / "0_benign_wrong_1.png") > 50
    assert red(tmp_path / "pictures" / "0_benign_right_1.png") == 0

    drawn.clear()
    evaluate(tmp_path, count=2)
    assert [drawn[f"0_benign_right_{i}.png"] for i in (1, 2)] == ["surer", "sure"]


def test_pictures_of_an_earlier_run_go_and_others_stay(tmp_path):
    evaluate(tmp_path)
    (tmp_path / "pictures" / "mine.png").write_bytes(b"")
    evaluate(tmp_path, data=[ITEMS[3]])
    assert files(tmp_path) == ["1_malig_nant_right_1.png", "mine.png"]


# ---------------------------------------------------------------------- what the network looks at


def test_the_map_is_at_the_place_that_speaks_for_the_class():
    network = Corners()
    image = torch.as_tensor(ITEMS[3]["image"])
    left, right = (ActivationMaps(network)(image, k) for k in range(2))
    # both feature maps are the image; Grad-CAM weights them by their mean gradients, which are equal
    assert left.shape == right.shape == (8, 8)
    assert torch.equal(left, image[0] / 12) and torch.equal(right, left)
    with torch.no_grad():
        network.maps.weight[0] = -1
    assert torch.equal(ActivationMaps(network)(image, 0), torch.zeros(8, 8))  # nothing speaks for it


def test_the_last_map_of_a_resnet_is_that_of_its_last_stage():
    network = small_resnet()
    maps = ActivationMaps(network)
    image = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = maps(image, 0)
    assert found.shape == (32, 32) and float(found.max()) == pytest.approx(1) and float(found.min()) >= 0
    assert torch.equal(found, ActivationMaps(network, "layer4")(image, 0))
    assert not torch.equal(found, ActivationMaps(network, "layer3")(image, 0))


def test_the_map_is_that_of_the_formula():
    network = small_resnet().eval()
    image = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    kept = []
    handle = network.layer3.register_forward_hook(lambda _m, _i, output: kept.append(output))
    logit = network(image[None])[0, 0]
    handle.remove()
    [gradient] = torch.autograd.grad(logit, kept)
    coarse = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()
    fine = nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ActivationMaps(network, "layer3")(image, 0), (fine / fine.max())[0, 0].detach())


def test_the_map_is_that_of_the_predicted_class_not_of_the_true_one(tmp_path, monkeypatch):
    from metalr_monai.handlers import example_pictures

    shown = []
    monkeypatch.setattr(example_pictures, "draw_example", lambda example, map_, *_: shown.append((example, map_)))
    network = small_resnet()
    draws = torch.Generator().manual_seed(0)
    evaluate(tmp_path, [{**one, "image": torch.randn(1, 32, 32, generator=draws)} for one in ITEMS], network)
    assert {example.right for example, _ in shown} == {True, False}
    for example, map_ in shown:
        assert torch.equal(map_, ActivationMaps(network)(example.image, example.prediction.predicted))
        assert not torch.equal(map_, ActivationMaps(network)(example.image, 1 - example.prediction.predicted))


def test_a_layer_before_one_that_works_in_place_has_a_map():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    network = nn.Sequential(*layers)
    assert ActivationMaps(network, "0")(torch.randn(1, 8, 8), 0).shape == (8, 8)
    assert network[1].inplace


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_wrapped_network_has_the_maps_of_the_one_inside(wrap):
    image = torch.as_tensor(ITEMS[3]["image"])
    network = Corners()
    assert torch.equal(ActivationMaps(wrap(network), "maps")(image, 1), ActivationMaps(network)(image, 1))
    assert not image.requires_grad


def test_a_network_without_maps_is_drawn_without(tmp_path):
    data = [{**one, "image": one["image"][:, :1, :2]} for one in ITEMS]
    evaluate(tmp_path, data=data, network=nn.Flatten())
    assert "0_benign_right_1.png" in files(tmp_path)


# ---------------------------------------------------------------------- nothing is disturbed


def small_resnet():
    torch.manual_seed(0)
    return resnet18(spatial_dims=2, n_input_channels=1, num_classes=2, widen_factor=1 / 8, conv1_t_stride=1)


@pytest.mark.parametrize("frozen", [False, True])
def test_state_gradients_modes_hooks_and_random_streams_stay_as_they_are(tmp_path, frozen):
    network = small_resnet()
    network.fc.register_forward_pre_hook(lambda _m, inputs: None)
    network(torch.randn(2, 1, 32, 32)).sum().backward()
    network.bn1.eval()
    network.requires_grad_(not frozen)
    data = [{**one, "image": MetaTensor(torch.randn(1, 32, 32))} for one in ITEMS]

    def state():
        modules = list(network.modules())
        return {
            "tensors": [t.clone() for t in network.state_dict().values()],
            "gradients": [p.grad.clone() for p in network.parameters()],
            "modes": [m.training for m in modules],
            "inplace": [getattr(m, "inplace", None) for m in modules],
            "hooks": [
                [len(hooks) for hooks in (m._forward_hooks, m._backward_hooks, m._forward_pre_hooks)] for m in modules
            ],
            "needs": [p.requires_grad for p in network.parameters()],
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state()[1],
            "python": random.getstate(),
        }

    evaluator = evaluate(tmp_path / "first", data, network)
    [handler] = [
        f.__self__
        for handlers in evaluator._event_handlers.values()
        for f, *_ in handlers
        if isinstance(getattr(f, "__self__", None), ExamplePictures) and f.__name__ == "_draw"
    ]
    network.train()
    network.bn1.eval()
    before, drawn = state(), set(files(tmp_path / "first"))
    for path in (tmp_path / "first" / "pictures").iterdir():
        path.unlink()
    handler._draw(evaluator)  # drawing alone: MONAI's loader takes a seed from the stream
    after = state()
    assert set(files(tmp_path / "first")) == drawn and drawn
    for name, values in before.items():
        for ours, theirs in zip(values, after[name], strict=True):
            assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else np.array_equal(ours, theirs), name


# ---------------------------------------------------------------------- bad input


def refusal(folder, error, says, data=ITEMS, **options):
    logging.getLogger("ignite.engine.engine.SupervisedEvaluator").setLevel(logging.CRITICAL)
    with pytest.raises(error, match=says):
        evaluate(folder, data, **options)
    assert not (folder / "pictures").exists()


def test_a_layer_that_the_network_has_not_is_refused_before_any_case(tmp_path):
    refusal(tmp_path, OptionError, r"no layer 'map'.*Did you mean maps", layer="map", data=[{}])


def test_a_layer_whose_output_is_no_map_is_refused():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(128, 2))
    with pytest.raises(OptionError, match=r"The output of layer '2' is no map \(C, H, W\).*it is of: 0"):
        ActivationMaps(network, "2")(torch.zeros(1, 8, 8), 0)


def test_logits_are_refused(tmp_path):
    handler = ExamplePictures(tmp_path, CLASSES)
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), DataLoader(ITEMS, batch_size=2), Corners(), val_handlers=[handler]
    )
    evaluator.logger.setLevel(logging.CRITICAL)
    with pytest.raises(OptionError, match=r"Case sure: .*softmax=True"):
        evaluator.run()


def test_an_engine_without_a_network_is_refused(tmp_path):
    from ignite.engine import Engine

    engine = Engine(lambda engine, batch: None)
    engine.logger.setLevel(logging.CRITICAL)
    ExamplePictures(tmp_path, CLASSES).attach(engine)
    with pytest.raises(EngineError, match="Engine has no network; expected a SupervisedEvaluator"):
        engine.run([0])


def test_a_network_that_cannot_be_copied_costs_a_warning_not_the_run(tmp_path, caplog):
    network = Corners()
    network.kept = network.maps.weight * 1  # torch copies no tensor that was computed with gradients
    evaluator = evaluate(tmp_path, network=network)
    assert evaluator.state.epoch == 1 and files(tmp_path) == []
    assert "Not all example pictures of Corners: " in caplog.text


# ---------------------------------------------------------------------- feature maps


def test_feature_maps_of_two_networks_are_drawn_side_by_side(tmp_path):
    before, after = small_resnet().train(), small_resnet()
    with torch.no_grad():
        after.conv1.weight.mul_(-1)
    statistics = before.bn1.running_mean.clone()
    image = torch.rand(1, 32, 32)
    path = feature_maps(before, after, image, tmp_path / "maps.png", classes=CLASSES, label=0)
    picture = matplotlib_image.imread(path)[..., :3]
    width = picture.shape[1] // 3
    assert (picture[:, width : 2 * width] != picture[:, 2 * width : 3 * width]).any()
    assert before.training and torch.equal(before.bn1.running_mean, statistics)
    assert len(before.conv1._forward_hooks) == 0
    same = matplotlib_image.imread(feature_maps(before, before, image, tmp_path / "same.png", titles=("a", "a")))
    assert (picture.shape[1], [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]) == (same.shape[1], [])


def test_networks_whose_first_convolutions_differ_are_refused(tmp_path):
    with pytest.raises(OptionError, match="expected two networks of one architecture"):
        feature_maps(small_resnet(), Corners(), torch.rand(1, 32, 32), tmp_path / "maps.png")
    with pytest.raises(OptionError, match="Flatten has run no 2D convolution"):
        feature_maps(nn.Flatten(), nn.Flatten(), torch.rand(1, 2, 2), tmp_path / "maps.png")
    assert list(tmp_path.iterdir()) == []
