"""What INT8 costs a sentence encoder of the BERT family, with onnxruntime's own one-liner beside.

    python -m tests.bench.text ENCODER.onnx VOCAB.txt [INT8.onnx ...] [--sentences 200] [--length 128]

The sentences are those of the docstrings of Python's standard library: English that is on every machine. Each file is
judged by the cosine between its sentence vectors and FP32's, by how many sentences keep their nearest neighbour, by its
size and by its time on one sentence of full length.
"""

from __future__ import annotations

import argparse
import ast
import re
import sysconfig
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from converter.evaluation.kernels import count_kernels
from converter.normalization import normalize
from converter.sessions import open_session
from tests.bench.clock import medians

UNKNOWN, FIRST, LAST = "[UNK]", "[CLS]", "[SEP]"


def sentences(count: int) -> list[str]:
    """The first sentence of 6 to 30 words of as many docstrings, in the order of file names."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(errors="replace"))):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                continue
            for sentence in re.split(r"(?<=\.)\s+", " ".join((ast.get_docstring(node) or "").split())):
                if 6 <= len(sentence.split()) <= 30 and sentence.endswith(".") and sentence[0].isupper():
                    found.setdefault(sentence)
                    break
    chosen = list(found)
    return chosen[:: max(len(chosen) // count, 1)][:count]


def tokenize(text: str, vocabulary: dict[str, int]) -> list[int]:
    """BERT's WordPiece, uncased: the longest known piece first, over words and single marks."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    ids = [vocabulary[FIRST]]
    for word in re.findall(r"\w+|[^\w\s]", plain.replace("_", " _ ")):
        start, pieces = 0, list[int]()
        while start < len(word):
            ends = range(len(word), start, -1)
            names = ((end, word[start:end] if start == 0 else f"##{word[start:end]}") for end in ends)
            end, piece = next(((end, name) for end, name in names if name in vocabulary), (0, UNKNOWN))
            pieces.append(vocabulary[piece])
            if piece == UNKNOWN:
                pieces = [vocabulary[UNKNOWN]]
                break
            start = end
        ids += pieces
    return [*ids, vocabulary[LAST]]


def feeds_of(path: Path, vocabulary: dict[str, int], count: int, length: int) -> list[dict[str, NDArray[np.int64]]]:
    """One feed a sentence; padded to the model's own length where that is fixed."""
    session = open_session(onnx.load(path))
    names = {entry.name: entry.shape for entry in session.get_inputs()}
    fixed = next((shape[1] for shape in names.values() if isinstance(shape[1], int)), None)
    feeds = []
    for sentence in sentences(count):
        ids = tokenize(sentence, vocabulary)[: fixed or length]
        padding = [0] * ((fixed or len(ids)) - len(ids))
        columns = {"ids": ids + padding, "mask": [1] * len(ids) + padding, "type": [0] * (len(ids) + len(padding))}
        kinds = {name: next(key for key in ("mask", "type", "ids") if key in name) for name in names}
        feeds.append({name: np.array([columns[kind]], np.int64) for name, kind in kinds.items()})
    return feeds


def embed(session: Any, feeds: list[dict[str, NDArray[np.int64]]]) -> NDArray[np.float64]:
    """[sentences, values]: the mean over real tokens, of length one."""
    rows = []
    for feed in feeds:
        hidden = session.run(None, feed)[0][0].astype(np.float64)
        mask = next(value for name, value in feed.items() if "mask" in name)[0] > 0
        mean = hidden[mask].mean(0)
        rows.append(mean / np.linalg.norm(mean))
    return np.array(rows)


def neighbours(vectors: NDArray[np.float64]) -> NDArray[np.int64]:
    """The nearest other sentence of each."""
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    return np.asarray(near.argmax(1))


def main() -> None:
    """Prints a row a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("vocabulary", type=Path)
    parser.add_argument("int8", type=Path, nargs="*")
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--length", type=int, default=128)
    given = parser.parse_args()
    vocabulary = {word: index for index, word in enumerate(given.vocabulary.read_text().splitlines())}
    feeds = feeds_of(given.model, vocabulary, given.sentences, given.length)
    source = onnx.load(given.model)
    before = open_session(source)
    expected = embed(before, feeds)
    full = {name: np.ones((1, given.length), np.int64) for name in feeds[0]}
    normalized = normalize(source).model
    print(f"{'file':32} cosine  least  neighbour kept  smaller  time  products on integers")
    with tempfile.TemporaryDirectory() as folder:
        baseline = Path(folder, "quantize_dynamic.onnx")
        quantize_dynamic(given.model, baseline, per_channel=True, weight_type=QuantType.QInt8)
        for path in (baseline, *given.int8):
            session = open_session(onnx.load(path))
            vectors = embed(session, feeds)
            cosines = (vectors * expected).sum(1)
            kept = (neighbours(vectors) == neighbours(expected)).mean()
            slow, fast = medians([before, session], full, 3.0, 10)
            kernels = count_kernels(normalized, onnx.load(path))
            products = sum(kernels.integer_operators.get(each, 0) for each in PRODUCTS)
            ratio = given.model.stat().st_size / path.stat().st_size
            print(
                f"{path.name:32} {cosines.mean():.4f} {cosines.min():.4f} {kept:14.1%} {ratio:8.2f} {fast / slow:5.2f}"
                f"  {products}"
            )


PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "QLinearMatMul")

if __name__ == "__main__":
    main()
