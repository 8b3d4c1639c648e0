"""The codes of a model's weights in its file: each once, however many nodes read it and whichever way around.

A language model often has one table twice: rows of it are picked for the tokens at its start, and it is the matrix of
the scores at its end, transposed. Here the matrix is a Transpose of the table's codes, which onnxruntime computes once,
when it loads the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from onnx import NodeProto, helper

from converter.graph import Array
from converter.normalization.rewriting import Rewriting
from converter.quantization.integer_weights import Codes, codes_on_grid, round_channels
from converter.quantization.qdq_writer import WeightGrid

__all__ = ["Storage", "Stored"]


@dataclass(frozen=True)
class Stored:
    """A tensor of codes, what they stand for, and the nodes that must come before its first reader."""

    tensor: str
    codes: Codes
    nodes: tuple[NodeProto, ...] = ()


class Storage:
    """Hands out codes for the weights of one model under rewriting."""

    def __init__(
        self,
        rewriting: Rewriting,
        tables: Iterable[str] = (),
        matrices: Iterable[str] = (),
        products: Mapping[str, int] = MappingProxyType({}),
        grids: Mapping[str, WeightGrid] = MappingProxyType({}),
        wide: AbstractSet[str] = frozenset(),
    ) -> None:
        """``tables`` are constants whose rows are picked, ``matrices`` those that are multiplied with activations.

        ``products`` has those that integer products read, and the axis that these sum along: whoever else stores such
        a weight shares its codes. ``grids`` has those that lie on one already, whose codes are exact on it,
        ``wide`` those that want 16 bits.
        """
        self._rewriting = rewriting
        self._made: dict[tuple[str, bool, int | None], Stored] = {}
        self._constants: dict[str, str] = {}
        self._products = products
        self._grids = grids
        self._wide = wide
        self._twins = {
            matrix: (table, turned)
            for table in tables
            for matrix in matrices
            if (turned := self._turned(matrix, table)) is not None
        }

    def _turned(self, matrix: str, table: str) -> bool | None:
        """Whether the matrix is the table transposed; None where they are two things."""
        if matrix == table:
            return False
        shapes = self._rewriting.constant_shape(matrix), self._rewriting.constant_shape(table)
        if len(shapes[0]) != 2 or sorted(shapes[0]) != sorted(shapes[1]):
            return None
        one, other = self.value(matrix), self.value(table)
        if shapes[0] == shapes[1] and np.array_equal(one, other):
            return False
        return True if shapes[0] == shapes[1][::-1] and np.array_equal(one, other.T) else None

    def value(self, name: str) -> Array:
        """The float weight of this name."""
        value = self._rewriting.constant(name)
        if value is None:
            raise ValueError(f"{name} is not constant")
        return value

    def rows(self, table: str) -> Stored:
        """The codes of a table with a step for each row, fit for products too if the table is also a matrix."""
        shared = any(table == each for each, _ in self._twins.values())
        return self._place(table, (0,), 1 if shared else None)

    def weight(self, name: str, channels: tuple[int, ...], summed: int | None = None, turned: bool = False) -> Stored:
        """The codes of a weight, or of its last two axes exchanged.

        ``channels`` and ``summed`` (see ``round_channels``) are axes of the weight as it is in the float model.
        """
        table, lies_turned = self._twins.get(name, (None, False))
        if table is None or channels != ((1,) if lies_turned else (0,)):
            return self._place(name, channels, summed, turned)
        stored = self.rows(table)
        if turned == lies_turned:
            return stored
        key = (table, True, None)
        if key in self._made:
            return replace(self._made[key], nodes=())
        name = self._rewriting.fresh(f"{stored.tensor}:t")
        node = helper.make_node("Transpose", [stored.tensor], [name], name=name, perm=[1, 0])
        self._made[key] = Stored(name, _transposed(stored.codes), (node,))
        return self._made[key]

    def _place(self, name: str, channels: tuple[int, ...], summed: int | None, turned: bool = False) -> Stored:
        if summed is None and not turned:
            summed = self._products.get(name)
        key = (name, turned, summed)
        if key not in self._made:
            grid = self._grids.get(name)
            if grid is not None and summed is None and channels == (grid.axis,):
                codes = codes_on_grid(self.value(name), grid.scale, grid.axis)
            else:
                codes = round_channels(self.value(name), channels, summed, wide=name in self._wide and summed is None)
            codes = _transposed(codes) if turned else codes
            self._made[key] = Stored(self._rewriting.add_constant(f"{name}:c", codes.values), codes)
        return self._made[key]

    def constant(self, hint: str, value: Array) -> str:
        """An initializer of this value, one for all who give the same hint."""
        if hint not in self._constants:
            self._constants[hint] = self._rewriting.add_constant(hint, value)
        return self._constants[hint]


def _transposed(codes: Codes) -> Codes:
    return Codes(np.ascontiguousarray(np.swapaxes(codes.values, -1, -2)), np.swapaxes(codes.scale, -1, -2))
