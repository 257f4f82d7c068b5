"""How much of the class a linear classifier finds: on pixels, histograms, or whatever is given away by accident."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy


def best_accuracy(train, train_labels, test, test_labels):
    """Of L2-regularised logistic regression; the regularisation is the one that is best on the test set."""
    train, test = (torch.as_tensor(np.asarray(part), dtype=torch.float32).flatten(1) for part in (train, test))
    mean, spread = train.mean(0), train.std(0) + 1e-3 * train.std() + 1e-6
    train, test = ((part - mean) / spread / train.shape[1] ** 0.5 for part in (train, test))
    accuracies = []
    for penalty in 10.0 ** np.arange(-5, 2):
        weight, bias = fitted(train, torch.as_tensor(train_labels), float(penalty))
        found = (test @ weight + bias).argmax(1).numpy()
        accuracies.append(float((found == test_labels).mean()))
    return max(accuracies)


def fitted(inputs, labels, penalty):
    weight = torch.zeros(inputs.shape[1], int(labels.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(inputs @ weight + bias, labels) + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def histograms(pictures):
    """(N, 32), of pictures that may differ in size."""
    return np.sqrt([np.histogram(picture, 32, (0, 256))[0] / picture.size for picture in pictures])


def brightness(pictures):
    """(N, 3): mean, standard deviation, share of the pixels that are not black."""
    return np.array([[p.mean(), p.std(), (p > 15).mean()] for p in pictures])


def one_hot_size(sizes, reference, bins=8):
    """(N, bins): in which quantile of the reference sizes each size lies."""
    edges = np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1])
    return np.eye(bins)[np.digitize(sizes, edges)]


def file_size(picture, file_format):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=file_format)
    return len(buffer.getvalue()) / picture.size
