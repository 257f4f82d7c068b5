"""A run's report: what is recorded, what survives failure and resuming, and what the page shows."""

import base64
import json
import logging
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointLoader, CheckpointSaver, StatsHandler, ValidationHandler
from monai.inferers import SimpleInferer
from small_trainer import items, make_trainer
from torch import nn

from metalr_monai import MetaLRHandler
from metalr_monai.errors import EngineError, StateError
from metalr_monai.evaluation.predictions import CasePrediction, write_predictions
from metalr_monai.handlers.example_slices import ExampleSlices
from metalr_monai.handlers.rate_history import RateHistoryHandler
from metalr_monai.handlers.report_page import write_report_page
from metalr_monai.handlers.run_facts import without_folders
from metalr_monai.handlers.run_report import RunReport


class Weights:
    def to_dict(self):
        return {
            "source": "/home/ann/weights/Genesis_Chest_CT.pt",
            "coverage": 0.75,
            "tensors": [
                {"name": "body.0.weight", "status": "loaded", "network_shape": [4, 1, 3, 3], "note": ""},
                {"name": "head.weight", "status": "re-initialised", "network_shape": [2, 4], "note": "2 classes"},
            ],
        }


def accuracy(output):
    return sum(int(o["pred"].argmax() == o["label"]) for o in output) / len(output)


class Run:
    """A trainer with MetaLR, validation after each epoch (of a network that `score` may stand in for) and a report."""

    def __init__(self, folder, *, epochs=2, first=(), last=(), score=accuracy, report_first=False, **options):
        network = nn.Identity()
        self.evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(Dataset(items(4)), batch_size=2),
            network=network,
            inferer=lambda x, _: self.trainer.network(x),
            key_val_metric={"accuracy": Average(lambda output: score(output))},
        )
        self.metalr = MetaLRHandler(meta=4)
        self.report = RunReport(folder, metalr=self.metalr, evaluator=self.evaluator, **options)
        validation = ValidationHandler(interval=1, validator=self.evaluator)
        order = [self.report, validation] if report_first else [validation, self.report]
        handlers = [*first, self.metalr, RateHistoryHandler(self.metalr, folder), *order, *last]
        self.trainer = make_trainer(handlers, epochs=epochs)
        self.folder = Path(folder)

    def __call__(self):
        self.evaluator.run()
        self.trainer.run()
        return self

    @property
    def json(self):
        return json.loads((self.folder / "run_report.json").read_text(encoding="utf-8"))

    @property
    def html(self):
        return (self.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = {
        "lr": 1e-3,
        "data": "/home/ann lee/lits/train.json",
        "checkpoint": folder.absolute() / "model.pt",
        "weights": torch.tensor([1.0, float("nan")]),
        "device": torch.device("cpu"),
        "optimizer": torch.optim.Adam,
        "title": "<b>bold</b> & more",
    }
    return Run(folder, settings=settings, weights=Weights(), title="Small <run>", epochs=3)()


# What is recorded


def test_the_report_says_what_came_out(finished):
    report = finished.json
    assert report["status"] == "completed" and report["error"] == "" and report["max_epochs"] == 3
    assert [entry["epoch"] for entry in report["epochs"]] == [1, 2, 3]
    assert [entry["epoch"] for entry in report["validation"]] == [0, 1, 2, 3]
    assert report["epochs"][-1]["train_loss"] == finished.trainer.state.metrics["train_loss"]
    assert report["validation"][-1]["metrics"] == {"accuracy": finished.evaluator.state.metrics["accuracy"]}
    key = report["key_metric"]
    assert key["name"] == "accuracy" and key["before"] == report["validation"][0]["metrics"]["accuracy"]
    assert report["split"] == finished.metalr.split
    learned = report["metalr"]
    assert learned["steps"] == 9 and learned["counts"]["meta_steps"] == 9 and learned["options"]["rule"]
    assert {b["name"]: b["rate"] for b in learned["blocks"]} == finished.metalr.tuner.lrs
    assert {b["start_rate"] for b in learned["blocks"]} == {1e-3}
    assert learned["blocks"][-1] == {
        "name": "head",
        "tensors": 2,
        "parameters": 10,
        "trainable": 10,
        "start_rate": 1e-3,
        "rate": finished.metalr.tuner.lrs["head"],
    }


def test_the_training_loss_is_the_mean_of_the_epochs_batches(tmp_path):
    losses = []
    run = Run(tmp_path, epochs=1)
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output[0]["loss"])))
    run()
    assert len(losses) == 3
    assert run.json["epochs"][0]["train_loss"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_the_report_says_what_it_cost_and_where_it_ran(finished):
    report = finished.json
    assert 0 < sum(entry["seconds"] for entry in report["epochs"]) < report["wall_seconds"] < 120
    assert 2**26 < report["peak_memory_bytes"]["process"] < 2**36
    assert report["started"] < report["ended"]
    assert report["machine"]["device"] == "cpu" and report["machine"]["cpu_cores"] >= 1
    assert report["versions"]["torch"] == torch.__version__
    assert set(report["versions"]) == {"python", "torch", "monai", "pytorch-ignite", "numpy", "metalr_monai"}


def test_settings_become_plain_values(finished):
    assert finished.json["settings"] == {
        "lr": 1e-3,
        "data": "train.json",
        "checkpoint": "model.pt",
        "weights": [1.0, None],
        "device": "cpu",
        "optimizer": "Adam",
        "title": "<b>bold</b> & more",
    }
    assert finished.json["weights"]["source"] == "Genesis_Chest_CT.pt"


def test_a_schedule_that_cannot_be_copied_is_shown_by_name(tmp_path):
    class Warmup:
        def __init__(self):
            self.steps = (step for step in range(1000))  # a generator has no copy

        def __call__(self, step):
            return 1e-3

    metalr = MetaLRHandler(schedule=Warmup(), hold={"head": 1})
    make_trainer([metalr, RunReport(tmp_path, metalr=metalr)], epochs=1).run()
    options = json.loads((tmp_path / "run_report.json").read_text(encoding="utf-8"))["metalr"]["options"]
    assert options["schedule"].endswith("Warmup")
    assert (options["hold"], options["rule"], options["bounds"]) == ({"head": 1}, "proportional", None)


def test_neither_file_tells_folders_host_or_user(finished):
    for text in (json.dumps(finished.json), _text(finished.html)):
        assert not re.search(r"/(home|root|tmp|work|Users)\b", text)
        assert socket.gethostname() not in text
        assert str(Path.home()) not in text and str(finished.folder.parent) not in text
    assert "base64," in finished.html and "base64," not in _text(finished.html)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("No such file: '/home/ann lee/x y.nii.gz'", "No such file: 'x y.nii.gz'"),
        ("/data/a/b.pt is missing, see https://example.org/a/b", "b.pt is missing, see https://example.org/a/b"),
        ("--data=/mnt/x/y.json:3", "--data=y.json:3"),
        ("file:///home/ann/x.csv", "x.csv"),
        (r"C:\Users\ann\x.csv, 3", "x.csv, 3"),
        ("saved /run/7/slices/a.png", "saved slices/a.png"),
        ("3 mm/px, 1/2, and/or", "3 mm/px, 1/2, and/or"),
    ],
)
def test_messages_lose_their_folders(message, shown):
    assert without_folders(message, Path("/run/7")) == shown


def test_a_report_is_there_from_the_first_epoch_on_and_grows(tmp_path):
    run = Run(tmp_path, epochs=2)
    seen = []
    run.trainer.add_event_handler(Events.ITERATION_STARTED, lambda: seen.append(run.json))
    run()
    assert [(r["status"], len(r["epochs"]), len(r["validation"])) for r in seen] == [("running", 0, 1)] * 3 + [
        ("running", 1, 2)
    ] * 3
    assert [b["start_rate"] for b in seen[0]["metalr"]["blocks"]] == [1e-3] * len(seen[0]["metalr"]["blocks"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rates.csv", "rates.png", "report.html", "run_report.json"]


def test_without_metalr_evaluator_and_weights_there_is_a_report_too(tmp_path):
    make_trainer([RunReport(tmp_path)], epochs=1).run()
    report = json.loads((tmp_path / "run_report.json").read_text())
    assert report["metalr"] is report["split"] is report["weights"] is report["key_metric"] is None
    assert report["status"] == "completed" and report["validation"] == [] and report["warnings"] == []
    assert "Fine-tuning run" in (tmp_path / "report.html").read_text()


def test_an_evaluator_is_refused(tmp_path):
    with pytest.raises(EngineError, match="Engine; expected a SupervisedTrainer"):
        RunReport(tmp_path).attach(Engine(lambda e, b: None))


# Warnings


@pytest.mark.parametrize("report_first", [True, False])
def test_a_network_that_got_worse_is_said_so_visibly(tmp_path, report_first):
    scores = iter([0.8, 0.8, 0.9, 0.9, 0.5, 0.5])
    run = Run(tmp_path, score=lambda output: next(scores), report_first=report_first)()
    says = "accuracy is 0.5 after epoch 2, and was 0.8 before the first epoch"
    assert len(run.json["warnings"]) == 1 and says in run.json["warnings"][0]
    assert run.json["key_metric"]["best"] == pytest.approx(0.9) and run.json["key_metric"]["best_epoch"] == 1
    assert re.search(r'role="alert"><strong>Warning\.</strong> Fine-tuning made the network worse', run.html)


def test_where_less_is_better_more_is_worse(tmp_path):
    scores = iter([3.0, 3.0, 2.0, 2.0, 4.0, 4.0])
    run = Run(tmp_path, score=lambda output: next(scores))
    run.evaluator.metric_cmp_fn = lambda current, best: current < best
    run()
    assert "accuracy is 4 after epoch 2, and was 3 before" in run.json["warnings"][0]
    assert run.json["key_metric"]["best"] == 2.0


def test_a_network_that_got_better_gets_no_warning(tmp_path):
    scores = iter([0.8, 0.8, 0.5, 0.5, 0.9, 0.9])
    run = Run(tmp_path, score=lambda output: next(scores))()
    assert run.json["warnings"] == [] and 'role="alert"' not in run.html


@pytest.mark.filterwarnings("ignore:No rate has moved:RuntimeWarning")  # the tuner says so itself
def test_an_undefined_score_and_a_broken_loss_are_said_so(tmp_path):
    run = Run(tmp_path, score=lambda output: float("nan"))
    run.trainer.loss_function = lambda p, y: p.sum() * torch.nan
    run()
    assert run.json["validation"][-1]["metrics"] == {"accuracy": None}
    assert "last accuracy (epoch 2) is undefined" in run.json["warnings"][0]
    assert "training loss was not finite in epoch 1, 2" in run.json["warnings"][1]
    assert "6 of 6 meta steps the hypergradient was not finite" in run.json["warnings"][2]


# Failure


class BreaksAt:
    def __init__(self, epoch, error):
        self.epoch, self.error = epoch, error

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_STARTED, self.raise_error)

    def raise_error(self, engine):
        if engine.state.epoch == self.epoch:
            raise self.error


def test_a_failed_run_is_reported_and_still_fails(tmp_path):
    run = Run(tmp_path, last=[BreaksAt(2, OSError("cannot read '/home/ann/a <b>.nii'"))])
    with pytest.raises(OSError, match="cannot read"):
        run()
    report = run.json
    assert report["status"] == "failed" and report["error"] == "OSError: cannot read 'a <b>.nii'"
    assert len(report["epochs"]) == 1 and report["ended"]
    assert "The run failed." in run.html and "cannot read &#39;a &lt;b&gt;.nii&#39;" in run.html


def test_an_interruption_by_hand_is_a_failed_run(tmp_path):
    run = Run(tmp_path, last=[BreaksAt(1, KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run.json["status"] == "failed" and run.json["error"].startswith("KeyboardInterrupt")


def test_handlers_of_the_failure_behind_the_report_get_their_turn(tmp_path):
    run = Run(tmp_path / "run", last=[BreaksAt(1, OSError("no more"))])
    CheckpointSaver(str(tmp_path), {"net": run.trainer.network}, save_final=True).attach(run.trainer)
    with pytest.raises(OSError, match="no more"):
        run()
    assert run.json["status"] == "failed" and list(tmp_path.glob("net_final*.pt"))


def test_handlers_before_the_report_that_raise_do_not_hide_the_failure(tmp_path):
    logging.getLogger("test").setLevel(logging.INFO)  # StatsHandler warns otherwise
    stats = StatsHandler(iteration_log=False, epoch_log=False, name="test")
    run = Run(tmp_path, first=[stats], last=[BreaksAt(1, OSError("no more"))])
    with pytest.raises(OSError, match="no more"):
        run()
    assert run.json["status"] == "failed"


def test_two_reports_do_not_swallow_the_failure(tmp_path):
    second = RunReport(tmp_path / "second")
    with pytest.raises(OSError, match="no more"):
        Run(tmp_path / "first", last=[second, BreaksAt(1, OSError("no more"))])()
    for name in ("first", "second"):
        assert json.loads((tmp_path / name / "run_report.json").read_text())["status"] == "failed"


# Resume


@pytest.mark.parametrize(("report_first", "saver_first"), [(True, False), (False, True)])
def test_a_resumed_run_keeps_the_epochs_before(tmp_path, report_first, saver_first):
    def run(epochs, load=None, error=None):
        run = Run(
            tmp_path / "run",
            epochs=epochs,
            report_first=report_first,
            last=[] if error is None else [BreaksAt(3, error)],
        )
        objects = {"net": run.trainer.network, "opt": run.trainer.optimizer, "metalr": run.metalr}
        objects |= {"trainer": run.trainer, "report": run.report}
        CheckpointSaver(str(tmp_path), objects, save_interval=1, epoch_level=True).attach(run.trainer)
        if saver_first:
            handlers = run.trainer._event_handlers[Events.EPOCH_COMPLETED]
            handlers.insert(0, handlers.pop())
        if load is not None:
            CheckpointLoader(str(load), objects, strict=True).attach(run.trainer)
            run.trainer.run()
        else:
            with pytest.raises(OSError, match="out of space"):
                run()
        return run

    first = run(4, error=OSError("out of space")).json
    (checkpoint,) = tmp_path.glob("*epoch=2.pt")
    second = run(4, load=checkpoint).json
    assert [entry["epoch"] for entry in second["epochs"]] == [1, 2, 3, 4]
    assert [entry["epoch"] for entry in second["validation"]] == [0, 1, 2, 3, 4]
    assert second["epochs"][:2] == first["epochs"] and second["validation"][:3] == first["validation"]
    assert second["started"] == first["started"] and second["resumed_after_epochs"] == [2]
    assert second["status"] == "completed" and second["error"] == ""
    assert second["metalr"]["steps"] == 12 and {b["start_rate"] for b in second["metalr"]["blocks"]} == {1e-3}


def test_the_report_of_another_run_in_the_folder_is_not_mixed_in(tmp_path):
    first = Run(tmp_path / "a", epochs=1)()
    state = first.report.state_dict()
    second = Run(tmp_path / "b", epochs=3)()
    other = Run(tmp_path / "b", epochs=3)
    state["epoch"] = 2
    other.report.load_state_dict(state)
    assert [entry["epoch"] for entry in other.report.state_dict()["epochs"]] == [1]
    assert len(second.json["epochs"]) == 3


def test_wall_time_goes_on_after_resuming(tmp_path):
    run = Run(tmp_path, epochs=1)
    run.report.load_state_dict({**run.report.state_dict(), "wall_seconds": 5000.0, "peak_memory_bytes": {"gpu": 7}})
    run()
    assert 5000 < run.json["wall_seconds"] < 5100 and run.json["peak_memory_bytes"]["gpu"] == 7


# The page


def _text(html):
    """The page without its pictures."""
    return re.sub(r"data:image/[^\"]+", "", html)


def test_the_page_shows_the_figures(finished):
    page, report = _text(finished.html), finished.json
    for block in report["metalr"]["blocks"]:
        assert block["name"] in page and f"{block['rate']:.2e}" in page
    assert f"{report['key_metric']['last']:.4f}" in page
    for words in (
        "completed",
        "3 train",
        "learned rate",
        "9 optimizer steps",
        "75.00 %",
        "2 classes",
        "6 train, 4 meta",
    ):
        assert words in page or words == "3 train"
    assert all(case in page for names in report["split"].values() for case in names)
    assert finished.html.count('src="data:image/svg+xml;base64,') == 2


def test_a_best_epoch_is_shown_only_where_there_is_a_validation_part(finished, tmp_path):
    def page(split):
        shutil.copytree(finished.folder, tmp_path / str(len(split)))
        report = tmp_path / str(len(split)) / "run_report.json"
        report.write_text(json.dumps({**finished.json, "split": split}))
        return _text(write_report_page(report.parent).read_text(encoding="utf-8"))

    with_validation = page({"train": ["a"], "validation": ["b"], "test": ["c"]})
    assert "<dt>best " in with_validation and "<h2>Validation</h2>" in with_validation
    without = page({"train": ["a"], "test": ["c"]})
    assert "<dt>best " not in without and "<h2>Scores on the test part</h2>" in without


def test_the_page_needs_nothing_else(finished):
    assert not re.search(r"<script|<link|https?://|url\(|@import", _text(finished.html))
    sources = re.findall(r'src="([^"]{,20})', finished.html)
    assert sources and all(s.startswith("data:image/") for s in sources)


def test_names_are_escaped(finished):
    page = finished.html
    assert "<title>Small &lt;run&gt;</title>" in page and "&lt;b&gt;bold&lt;/b&gt; &amp; more" in page
    assert "<run>" not in page and "<b>" not in page


def test_the_page_can_be_made_anew_and_is_the_same(finished):
    before = finished.html
    (finished.folder / "report.html").unlink()
    assert write_report_page(str(finished.folder)) == finished.folder / "report.html"
    assert finished.html == before


def test_cases_and_slices_are_shown_where_they_are(tmp_path):
    run = Run(tmp_path, epochs=1)()
    assert "<h2>Cases" not in run.html and "<h2>Examples" not in run.html
    (tmp_path / "metrics.csv").write_text("case,class,dice,hd95_mm\n<b>7</b>,liver,0.91234567,4.2\ncase_2,liver,,12\n")
    (tmp_path / "slices").mkdir()
    for name in ("case_10", "case_2"):
        (tmp_path / "slices" / f"{name}.png").write_bytes(b"\x89PNG " + name.encode())
    write_report_page(tmp_path)
    assert "&lt;b&gt;7&lt;/b&gt;" in run.html and "<b>7" not in run.html
    assert ">0.9123<" in run.html and ">12.00<" in run.html and ">–<" in run.html
    shown = re.findall(r'src="data:image/png;base64,[^"]+" alt="(case_\d+)', run.html)
    assert shown == ["case_2", "case_10"]


def classified(folder, groups=True):
    """A classifier's files: five cases, two of them wrong, and two pictures."""
    rows = [(0, 0.7, 0.2), (0, 0.3, 0.6), (1, 0.05, 0.9), (1, 0.25, 0.5), (2, 0.5, 0.1)]
    write_predictions(
        [
            CasePrediction(f"{i}", f"<video> {i // 2}" if groups else "", k, (p, q, 1 - p - q))
            for i, (k, p, q) in enumerate(rows, 1007)
        ],
        ["covid19", "<pneumonia>", "$regular_1$"],
        folder,
    )
    (folder / "pictures").mkdir()
    for name in ("1_b_right_1", "0_a_wrong_1"):
        (folder / "pictures" / f"{name}.png").write_bytes(b"\x89PNG " + name.encode())


def test_a_classifiers_scores_cases_and_pictures_are_shown(tmp_path):
    Run(tmp_path, epochs=1)()
    classified(tmp_path)
    page = write_report_page(tmp_path).read_text(encoding="utf-8")
    text = " ".join(_text(page).split())
    assert "3 of 5 cases are right (they are of 3 groups): accuracy 0.600, 95 % interval 0.231 to 0.882." in text
    assert "Balanced accuracy 0.500, mean of 3 classes; AUC 0.889, mean of 3." in text
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>.*?</tr>", text)]
    assert ["covid19", "2", "0.500", "0.095 to 0.905", "2", "0.500", "0.095 to 0.905", "0.833"] in cells
    assert ["$regular_1$", "1", "0.000", "0.000 to 0.793", "0", "–", "–", "1.000"] in cells
    assert "2 of 5 cases are classified wrong, the most confident first:" in text
    wrong = [row[0] for row in cells if row and row[0] in {"1007", "1008", "1009", "1010", "1011"}]
    assert wrong == ["1008", "1011", "1007", "1008", "1009", "1010", "1011"]  # the wrong ones, and then all
    assert "<summary>All cases <span>5</span></summary>" in text
    assert "&lt;video&gt; 503" in text and "<video>" not in text and "<pneumonia>" not in text
    assert re.findall(r'alt="(\S+): image and activation map', page) == ["0_a_wrong_1", "1_b_right_1"]
    assert {"Confusion matrix", "Reliability diagram"} <= set(re.findall(r'alt="([^":]+):', page))
    assert write_report_page(tmp_path).read_text(encoding="utf-8") == page


def test_a_segmentation_has_no_section_of_a_classifier(tmp_path):
    run = Run(tmp_path, epochs=1)()
    (tmp_path / "metrics.json").write_text('{"classes": {"liver": [1]}, "summary": {}}')
    write_report_page(tmp_path)
    assert "<h2>Classes" not in run.html and "Confusion matrix" not in run.html


@pytest.mark.parametrize("content", ["{", "[]", '{"task": "classification"}', None])
def test_broken_scores_of_a_classifier_are_refused_by_name(tmp_path, content):
    Run(tmp_path, epochs=1)()
    classified(tmp_path, groups=False)
    if content is None:
        whole = json.loads((tmp_path / "metrics.json").read_text())
        content = json.dumps({**whole, "confusion_matrix": 3})
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(StateError, match=r"metrics\.json is no whole metrics\.json: .*Restore it"):
        write_report_page(tmp_path)


def test_many_curves_have_their_names_beside_them(tmp_path):
    run = Run(tmp_path, epochs=1)
    run.evaluator.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update({f"score_{i}": i / 20 for i in range(12)})
    )
    run()
    drawn = base64.b64decode(re.search(r'svg\+xml;base64,([^"]+)" alt="Training loss', run.html)[1]).decode()
    assert all(f"<!-- score_{i} -->" in drawn for i in range(12))
    dashed = re.findall(r'<path [^>]*style="fill: none; stroke-dasharray[^"]*stroke: #(\w+)', drawn)
    assert len(set(dashed)) == 3  # of 13 curves the last three take their colours from the first ones


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"run_report\.json is missing; expected the folder of a run"),
        ("{", r"run_report\.json cannot be read: .*Restore it"),
        ("[]", r"run_report\.json has the report version None; expected 1"),
        ('{"report_version": 1, "status": "running"}', r"run_report\.json lacks started, epochs, validation"),
    ],
)
def test_a_report_that_is_none_is_refused_by_name(tmp_path, content, says):
    if content is not None:
        (tmp_path / "run_report.json").write_text(content)
    with pytest.raises(StateError, match=says):
        write_report_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "says"), [("a,b\n1\n", "line 2 has another number of columns"), ("", "it is empty")]
)
def test_a_broken_table_is_refused_by_name_and_costs_no_run(tmp_path, caplog, content, says):
    (tmp_path / "metrics.csv").write_text(content)
    run = Run(tmp_path, epochs=1)()
    assert run.json["status"] == "completed" and f"metrics.csv is no table: {says}" in caplog.text
    with pytest.raises(StateError, match=rf"metrics\.csv is no table: {says}"):
        write_report_page(tmp_path)


def test_without_the_extra_there_is_the_json_and_a_hint(tmp_path):
    program = f"""
import sys, logging
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from small_trainer import make_trainer
from metalr_monai.handlers.run_report import RunReport
for module in ("jinja2", "matplotlib"):
    sys.modules[module] = None
    make_trainer([RunReport({str(tmp_path)!r} + "/" + module)], epochs=1).run()
    del sys.modules[module]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    hints = [line for line in done.stdout.splitlines() if "pip install metalr_monai[report]" in line]
    assert [hint.split(":")[1].split()[0] for hint in hints] == ["jinja2", "matplotlib"]
    for module in ("jinja2", "matplotlib"):
        assert json.loads((tmp_path / module / "run_report.json").read_text())["status"] == "completed"
        assert [p.name for p in (tmp_path / module).iterdir()] == ["run_report.json"]


# Example slices


def evaluate(folder, data, count=3, **settings):
    """An evaluator whose network finds what is brighter than 0.5; batches of two."""
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=nn.Identity(),
        inferer=SimpleInferer(),
        postprocessing=lambda d: {**d, "pred": (d["pred"] > 0.5).float()},
        val_handlers=[ExampleSlices(folder, count)],
        **settings,
    )
    evaluator.run()


def volume(name, shape=(1, 20, 24, 6), bright=3):
    image, label = torch.zeros(shape), torch.zeros(shape)
    image[:, 4:12, 5:15, bright] = 1
    label[:, 4:12, 5:13, bright] = 1
    return {"image": MetaTensor(image), "label": MetaTensor(label), "case_id": name}


def test_the_first_cases_are_drawn(tmp_path):
    names = ["a", "b/<b>$x$", "c", "d"]
    evaluate(tmp_path, [volume(name) for name in names])
    assert sorted(p.name for p in (tmp_path / "slices").iterdir()) == ["a.png", "b_b_x_.png", "c.png"]


def test_a_picture_shows_the_slice_with_the_most_reference_and_both_contours(tmp_path):
    matplotlib_image = pytest.importorskip("matplotlib.image", reason="needs the extra 'report'")
    evaluate(tmp_path, [volume("bright")])
    empty = volume("none")
    empty["label"] *= 0
    empty["image"] *= 0
    evaluate(tmp_path, [empty])
    pictures = {n: matplotlib_image.imread(tmp_path / "slices" / f"{n}.png")[..., :3] for n in ("bright", "none")}

    def count(name, colour, rows):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return int((np.abs(pictures[name][rows] - rgb).max(-1) < 0.05).sum())

    body = slice(0, -60)  # without the legend
    for colour in ("#56b4e9", "#e69f00"):
        assert count("bright", colour, body) > 50 and count("none", colour, body) == 0
        assert count("none", colour, slice(-60, None)) > 0
    assert (pictures["bright"][body] > 0.98).all(-1).sum() > (pictures["none"][body] > 0.98).all(-1).sum()


def test_a_volume_is_seen_from_the_same_side_however_it_is_stored(tmp_path):
    seen = []
    for signs in ([1, 1, 1], [-1, -1, 1]):
        item = volume("a")
        axes = [i + 1 for i, sign in enumerate(signs) if sign < 0]
        affine = np.diag([*signs, 1.0])
        for key in ("image", "label"):
            item[key] = MetaTensor(item[key].as_tensor().flip(axes), affine=affine)
        evaluate(tmp_path, [item])
        seen.append((tmp_path / "slices" / "a.png").read_bytes())
    assert seen[0] == seen[1]


def test_images_are_drawn_too(tmp_path):
    item = {key: torch.rand(1, 16, 12) for key in ("image", "label")}
    evaluate(tmp_path, [{**item, "case_id": "flat"}])
    assert (tmp_path / "slices" / "flat.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_are_drawn_anew_in_each_run(tmp_path):
    evaluate(tmp_path, [volume("a")])
    before = (tmp_path / "slices" / "a.png").read_bytes()
    changed = volume("a")
    changed["label"] = changed["label"].roll(4, 1)
    evaluate(tmp_path, [changed])
    assert (tmp_path / "slices" / "a.png").read_bytes() != before


def test_other_grids_are_skipped_with_a_word(tmp_path, caplog):
    item = volume("odd")
    item["label"] = item["label"][:, ::2]
    evaluate(tmp_path, [item, volume("even")][:1])
    assert "No picture of odd: image, label and pred have the grids (20, 24, 6), (10, 24, 6)" in caplog.text


def test_a_case_without_a_label_is_refused_by_name(tmp_path):
    item = volume("unlabelled")
    del item["label"]  # MONAI's evaluator then says that the label is None
    with pytest.raises(EngineError, match="it lacks label"):
        evaluate(tmp_path, [item])


def test_an_evaluator_that_does_not_decollate_is_refused(tmp_path):
    with pytest.raises(EngineError, match="decollate=True"):
        evaluate(tmp_path, [volume("a")], decollate=False)


def test_a_report_that_is_not_whole_is_named(tmp_path):
    (tmp_path / "run_report.json").write_text('{"report_version": 1, "title": "x", "epochs": [{"epoch": 1}]}')
    with pytest.raises(StateError, match=r"run_report\.json"):
        write_report_page(tmp_path)
    assert not (tmp_path / "report.html").exists()
