"""Score a classifier: accuracy, sensitivity, PPV and AUC by class, confusion matrix, calibration.

What a class scores that is absent ("–" is NaN: left out of means, and counted):

| the class has              | sensitivity | PPV    | AUC, one against the rest |
|----------------------------|-------------|--------|---------------------------|
| no case, was not predicted | –           | –      | –                         |
| no case, was predicted     | –           | 0      | –                         |
| cases, was not predicted   | 0           | –      | as always                 |
| all the cases              | as always   | 1 or – | –                         |

So balanced accuracy is the mean sensitivity of the classes that have cases, and the macro AUC the mean of those that
have an AUC: read both with the number of classes beside them. Where several classes are equally probable, the first of
them is the predicted one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_roc_auc
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from scipy.stats import binomtest

from ..errors import OptionError, first_few
from .calibration import Bin, expected_calibration_error, reliability

LEAST_PROBABILITY = float(np.finfo(np.float32).eps)
"""The log loss takes a true class to be at least this probable: softmax gives 0 in float32, whose logarithm is −∞."""

_SUM_TOLERANCE = 1e-2  # of K probabilities in bfloat16


@dataclass(frozen=True)
class Share:
    """`count` of `n` cases."""

    count: int
    n: int

    @property
    def value(self) -> float:
        """In [0, 1]; NaN of no cases."""
        return self.count / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, for independent cases: frames of one video are none, and it is too narrow then."""
        if not self.n:
            return math.nan, math.nan
        low, high = binomtest(self.count, self.n).proportion_ci(0.95, method="wilson")
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {"value": self.value, "count": self.count, "n": self.n, "interval_95": list(self.interval)}


@dataclass(frozen=True)
class ClassResult:
    """One class: `sensitivity.n` are its cases, `ppv.n` how often it was predicted; `auc` is against all the others."""

    name: str
    sensitivity: Share
    ppv: Share
    auc: float


@dataclass(frozen=True)
class Classification:
    """What `score_classification` found; `confusion` is int64 (K, K), a row a true class, a column a predicted one."""

    accuracy: Share
    classes: tuple[ClassResult, ...]
    confusion: NDArray[np.int64]
    reliability: tuple[Bin, ...]
    log_loss: float

    @property
    def metrics(self) -> dict[str, float]:
        """Name → value, as `metric_names` orders them."""
        summary = {
            "accuracy": self.accuracy.value,
            "balanced_accuracy": _mean(c.sensitivity.value for c in self.classes),
            "auc": _mean(c.auc for c in self.classes),
            "ece": expected_calibration_error(self.reliability),
            "log_loss": self.log_loss,
        }
        for c in self.classes:
            summary |= {f"{c.name}_sensitivity": c.sensitivity.value, f"{c.name}_ppv": c.ppv.value}
        return summary

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        found = self.metrics
        counted = {
            "balanced_accuracy": [c.sensitivity.value for c in self.classes],
            "auc": [c.auc for c in self.classes],
        }
        means = {
            name: {"value": found[name], "classes": sum(not math.isnan(value) for value in values)}
            for name, values in counted.items()
        }
        return {
            "cases": self.accuracy.n,
            "accuracy": self.accuracy.to_dict(),
            **means,
            "ece": found["ece"],
            "log_loss": self.log_loss,
            "by_class": {
                c.name: {"sensitivity": c.sensitivity.to_dict(), "ppv": c.ppv.to_dict(), "auc": c.auc}
                for c in self.classes
            },
            "confusion_matrix": self.confusion.tolist(),
            "reliability": [dataclasses.asdict(b) for b in self.reliability],
        }


def metric_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of the scores, in the order of all tables."""
    by_class = (f"{name}_{score}" for name in classes for score in ("sensitivity", "ppv"))
    return ("accuracy", "balanced_accuracy", "auc", "ece", "log_loss", *by_class)


def read_class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names, checked; a label is a place among them.

    Raises:
        OptionError: fewer than two, not text, empty, or one of them twice.
    """
    names = () if isinstance(classes, str) else tuple(classes)
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(n, str) and n for n in names):
        raise OptionError(
            f"classes is {classes!r}; expected two or more names, each once, in the order of the labels from 0 on, "
            f"such as ['benign', 'malignant']."
        )
    return names


def score_classification(
    probabilities: Any,  # noqa: ANN401 - a Tensor or array
    labels: Any,  # noqa: ANN401
    classes: Sequence[str],
) -> Classification:
    """Score the cases of a classifier.

    Args:
        probabilities: of each case and class, shape (N, K); a row's sum is 1.
        labels: true classes, ints from 0 to K − 1, shape (N,).
        classes: K names.

    Raises:
        OptionError: what `read_class_names` and `read_predictions` refuse.

    Example:
        >>> found = score_classification([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [0, 1, 1], ["benign", "malignant"])
        >>> found.confusion.tolist()
        [[1, 0], [1, 1]]
        >>> found.metrics["balanced_accuracy"]
        0.75
    """
    names = read_class_names(classes)
    p, truth = read_predictions(probabilities, labels, names)
    predicted, k = p.argmax(axis=1), len(names)
    confusion = np.bincount(k * truth + predicted, minlength=k * k).reshape(k, k).astype(np.int64)
    hits, cases, calls = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    of_true_class = p[np.arange(len(truth)), truth]
    return Classification(
        accuracy=Share(int(hits.sum()), len(truth)),
        classes=tuple(
            ClassResult(
                name,
                sensitivity=Share(int(hits[j]), int(cases[j])),
                ppv=Share(int(hits[j]), int(calls[j])),
                auc=_auc(p[:, j], truth == j),
            )
            for j, name in enumerate(names)
        ),
        confusion=confusion,
        reliability=reliability(p.max(axis=1), predicted == truth),
        log_loss=float(-np.log(np.clip(of_true_class, LEAST_PROBABILITY, 1)).mean()),
    )


def read_predictions(
    probabilities: Any,  # noqa: ANN401 - a Tensor or array
    labels: Any,  # noqa: ANN401
    classes: Sequence[str],
    cases: Sequence[str] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities (N, K) and labels (N,), checked; `cases` are the names for messages, their numbers if None.

    Raises:
        OptionError: no case, shapes that do not fit, values that are no probabilities, or a label of no class.
    """
    p, truth = _as_array(probabilities), _as_array(labels)
    if p.ndim != 2 or p.shape[1] != len(classes) or truth.shape != p.shape[:1] or not len(truth):
        raise OptionError(
            f"{_of(cases)}The probabilities have shape {p.shape}, the labels {truth.shape}; expected (N, K) and (N,), "
            f"N at least 1 and K = {len(classes)}, for the classes {', '.join(classes)}. Labels are class numbers: "
            f"leave out what makes them one-hot."
        )
    names = [f"number {i}" for i in range(len(p))] if cases is None else cases
    diverged = np.flatnonzero(~np.isfinite(p).all(axis=1)).tolist()
    if diverged:
        raise OptionError(
            f"Case {first_few([names[i] for i in diverged])}: a probability is not finite. Has the training diverged?"
        )
    bad = np.flatnonzero((p < 0).any(axis=1) | (abs(p.sum(axis=1) - 1) > _SUM_TOLERANCE)).tolist()
    if bad:
        raise OptionError(
            f"Case {first_few([names[i] for i in bad])}: {', '.join(f'{v:.3g}' for v in p[bad[0]])} are not the "
            f"probabilities of {len(classes)} classes, whose sum is 1. Postprocess logits with "
            f"Activationsd('pred', softmax=True)."
        )
    unknown = np.flatnonzero(~np.isin(truth, np.arange(len(classes)))).tolist()
    if unknown:
        raise OptionError(
            f"Case {first_few([names[i] for i in unknown])}: the label is {truth[unknown[0]]:g}; expected 0 to "
            f"{len(classes) - 1}, for the classes {', '.join(classes)}."
        )
    return p, truth.astype(np.int64)


def _as_array(values: Any) -> NDArray[np.float64]:  # noqa: ANN401 - a Tensor, MetaTensor, array or sequence
    tensor = convert_to_tensor(values, dtype=torch.float64, device="cpu", wrap_sequence=True, track_meta=False)
    array: NDArray[np.float64] = tensor.detach().numpy()
    return array


def _auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    if positive.all() or not positive.any():  # MONAI warns and returns NaN
        return math.nan
    return float(compute_roc_auc(torch.from_numpy(scores.copy()), torch.from_numpy(positive).int()))


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _of(cases: Sequence[str] | None) -> str:
    return "" if cases is None else f"Case {first_few(cases)}: "
