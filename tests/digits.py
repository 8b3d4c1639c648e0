"""A small classifier that was really trained, on handwritten digits, and the pictures that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from converter.demo import digits, to_onnx, train
from converter.sessions import open_session


@dataclass(frozen=True)
class Digits:
    """The model, batch normalization and all, with pictures [N, 1, 8, 8] held out and what they show."""

    model: ModelProto
    pictures: NDArray[np.float32]
    labels: NDArray[np.int64]

    def classify(self, model: ModelProto) -> NDArray[np.int64]:
        """The digit that a model sees in each picture."""
        (scores,) = open_session(model).run(None, {"image": self.pictures})
        return np.asarray(scores.argmax(1), np.int64)

    def agreement(self, model: ModelProto) -> float:
        """The share of pictures in which a model sees what the float model sees."""
        return float((self.classify(model) == self.classify(self.model)).mean())


@cache
def trained() -> Digits:
    """The classifier, trained once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seen, held_out = digits()
    model = to_onnx(train(*seen))
    torch.set_num_threads(threads)
    return Digits(model, *held_out)
