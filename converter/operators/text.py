"""Text, as far as it comes as integers."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from converter.operators.signatures import Floats, Ints, Table


def tf_idf_vectorizer(
    x: Tensor,
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: Literal["TF", "IDF", "TFIDF"],
    ngram_counts: Ints,
    ngram_indexes: Ints,
    pool_int64s: Ints,
    weights: Floats | None = None,
) -> Tensor:
    """How often each n-gram of the pool occurs in each row, its elements up to ``max_skip_count`` places apart."""
    rows = x.reshape(1, -1) if x.dim() < 2 else x
    found = torch.zeros(rows.shape[0], max(ngram_indexes) + 1, device=x.device)
    number = 0
    for length, (start, end) in enumerate(pairwise((*ngram_counts, len(pool_int64s))), start=1):
        for first in range(start, end, length):
            gram = torch.tensor(pool_int64s[first : first + length], device=x.device)
            if min_gram_length <= length <= max_gram_length:
                distances = range(1, max_skip_count + 2 if length > 1 else 2)
                found[:, ngram_indexes[number]] += sum(_occurrences(rows, gram, each) for each in distances)
            number += 1
    if mode == "IDF":
        found = found.clamp(max=1)
    if mode != "TF" and weights is not None:
        factor = torch.zeros(found.shape[1], device=x.device)
        factor[torch.tensor(ngram_indexes)] = torch.tensor(weights, device=x.device)
        found = found * factor
    return found if x.dim() == 2 else found[0]


def _occurrences(rows: Tensor, gram: Tensor, distance: int) -> Tensor:
    reach = (len(gram) - 1) * distance + 1
    if reach > rows.shape[1]:
        return torch.zeros(rows.shape[0], device=rows.device)
    return (rows.unfold(1, reach, 1)[..., ::distance] == gram).all(-1).sum(-1).float()


TABLE: Table = {
    "TfIdfVectorizer": tf_idf_vectorizer,
}
