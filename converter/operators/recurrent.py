"""Recurrent layers: RNN, GRU and LSTM, step by step or, where torch has the very same layer, fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.operators.indexing import reverse_sequence
from converter.operators.signatures import Floats, Function, Ints, Known, Table, refuses

Direction: TypeAlias = Literal["forward", "reverse", "bidirectional"]
Activation: TypeAlias = Callable[[Tensor], Tensor]
State: TypeAlias = tuple[Tensor, ...]  # each batch, hidden
Cell: TypeAlias = Callable[[Tensor, State], State]
Names: TypeAlias = tuple[str, ...]

PLAIN: dict[str, Activation] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softsign": F.softsign,
    "tanh": torch.tanh,
}
SCALED: dict[str, tuple[Floats, Callable[..., Tensor]]] = {  # default alpha (and beta), function
    "hardsigmoid": ((0.2, 0.5), lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1)),
    "leakyrelu": ((0.01,), lambda x, alpha: F.leaky_relu(x, alpha)),
}  # of the others runtimes do not agree on the defaults


def _unknown_function(known: Known) -> bool:
    names = known["activations"]
    return isinstance(names, tuple) and any(name.lower() not in {*PLAIN, *SCALED} for name in names)


def _recurrent(function: Function) -> Function:
    return refuses(
        "activations", _unknown_function, "other than HardSigmoid, LeakyRelu, Relu, Sigmoid, Softsign and Tanh"
    )(function)


@_recurrent
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    activation_alpha: Floats = (),
    activation_beta: Floats = (),
    activations: Names = (),
    clip: float | None = None,
    direction: Direction = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    output_sequence: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    functions = _functions(activations, activation_alpha, activation_beta, ("sigmoid", "tanh", "tanh"), w.shape[0])
    x, h0 = _time_first(x, initial_h, r, layout)
    c0 = _initial(initial_c, h0, layout)
    _check_shapes(x, w, r, b, 4, direction, (h0, c0))
    plain = _defaults(activations, ("sigmoid", "tanh", "tanh")) and clip is None and not input_forget
    if plain and lengths is None and peepholes is None:
        flat = [part for k in range(w.shape[0]) for part in _torch_weights(w[k], r[k], _row(b, k), (0, 2, 3, 1))]
        y, h, c = _fused(torch.lstm, x, (h0, c0), flat, b is not None, direction)
        return _laid_out(y, layout), _states_laid_out(h, layout), _states_laid_out(c, layout)

    def cell_of(k: int) -> tuple[Tensor, Cell]:
        sigma, tanh_c, tanh_h = functions[k]
        wb, rb = _biases(b, k, x, r)
        p_i, p_o, p_f = peepholes[k].chunk(3) if peepholes is not None else (0.0, 0.0, 0.0)

        def cell(projected: Tensor, state: State) -> State:
            h, c = state
            i, o, f, g = (projected + h @ r[k].t() + rb).chunk(4, -1)
            i = sigma(_clipped(i + p_i * c, clip))
            f = 1 - i if input_forget else sigma(_clipped(f + p_f * c, clip))
            c = f * c + i * tanh_c(_clipped(g, clip))
            o = sigma(_clipped(o + p_o * c, clip))
            return o * tanh_h(c), c

        return x @ w[k].t() + wb, cell

    y, (h, c) = _both_ways(cell_of, (h0, c0), lengths, direction)
    return _laid_out(y, layout), _states_laid_out(h, layout), _states_laid_out(c, layout)


@_recurrent
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Floats = (),
    activation_beta: Floats = (),
    activations: Names = (),
    clip: float | None = None,
    direction: Direction = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    output_sequence: int = 1,
) -> tuple[Tensor, Tensor]:
    functions = _functions(activations, activation_alpha, activation_beta, ("sigmoid", "tanh"), w.shape[0])
    x, h0 = _time_first(x, initial_h, r, layout)
    _check_shapes(x, w, r, b, 3, direction, (h0,))
    plain = _defaults(activations, ("sigmoid", "tanh")) and clip is None and linear_before_reset
    if plain and lengths is None:
        flat = [part for k in range(w.shape[0]) for part in _torch_weights(w[k], r[k], _row(b, k), (1, 0, 2))]
        y, h = _fused(torch.gru, x, h0, flat, b is not None, direction)
        return _laid_out(y, layout), _states_laid_out(h, layout)

    def cell_of(k: int) -> tuple[Tensor, Cell]:
        sigma, tanh = functions[k]
        gate_sizes = [2 * r.shape[-1], r.shape[-1]]
        wb, rb = _biases(b, k, x, r)
        r_gates, r_new = torch.split(r[k], gate_sizes)
        rb_gates, rb_new = torch.split(rb, gate_sizes) if b is not None else (rb, rb)

        def cell(projected: Tensor, state: State) -> State:
            (h,) = state
            from_gates, from_new = torch.split(projected, gate_sizes, -1)
            z, reset = sigma(_clipped(from_gates + h @ r_gates.t() + rb_gates, clip)).chunk(2, -1)
            late = reset * (h @ r_new.t() + rb_new) if linear_before_reset else (reset * h) @ r_new.t() + rb_new
            return ((1 - z) * tanh(_clipped(from_new + late, clip)) + z * h,)

        return x @ w[k].t() + wb, cell

    y, (h,) = _both_ways(cell_of, (h0,), lengths, direction)
    return _laid_out(y, layout), _states_laid_out(h, layout)


@_recurrent
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Floats = (),
    activation_beta: Floats = (),
    activations: Names = (),
    clip: float | None = None,
    direction: Direction = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    output_sequence: int = 1,
) -> tuple[Tensor, Tensor]:
    functions = _functions(activations, activation_alpha, activation_beta, ("tanh",), w.shape[0])
    x, h0 = _time_first(x, initial_h, r, layout)
    _check_shapes(x, w, r, b, 1, direction, (h0,))

    def cell_of(k: int) -> tuple[Tensor, Cell]:
        (tanh,) = functions[k]
        wb, rb = _biases(b, k, x, r)

        def cell(projected: Tensor, state: State) -> State:
            return (tanh(_clipped(projected + state[0] @ r[k].t() + rb, clip)),)

        return x @ w[k].t() + wb, cell

    y, (h,) = _both_ways(cell_of, (h0,), lengths, direction)
    return _laid_out(y, layout), _states_laid_out(h, layout)


# ---------------------------------------------------------------- over time


def _both_ways(
    cell_of: Callable[[int], tuple[Tensor, Cell]], initial: State, lengths: Tensor | None, direction: Direction
) -> tuple[Tensor, State]:
    """Outputs (time, direction, batch, hidden) and last states (direction, batch, hidden)."""
    ways = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    outputs, states = [], []
    for k, backward in enumerate(ways):
        projected, cell = cell_of(k)
        output, state = _sweep(projected, cell, tuple(each[k] for each in initial), lengths, backward)
        outputs.append(output)
        states.append(state)
    return torch.stack(outputs, 1), tuple(torch.stack(column) for column in zip(*states, strict=True))


def _sweep(projected: Tensor, cell: Cell, state: State, lengths: Tensor | None, backward: bool) -> tuple[Tensor, State]:
    """One direction; past the end of a sequence the state stays and the output is zero."""
    if backward:
        projected = _reversed(projected, lengths)
    outputs = []
    for time, now in enumerate(projected.unbind(0)):  # now: batch, gates
        following = cell(now, state)
        if lengths is None:
            outputs.append(following[0])
        else:
            alive = (lengths > time)[:, None]
            outputs.append(torch.where(alive, following[0], 0))
            following = tuple(torch.where(alive, new, old) for new, old in zip(following, state, strict=True))
        state = following
    output = torch.stack(outputs)
    return _reversed(output, lengths) if backward else output, state


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    return x.flip(0) if lengths is None else reverse_sequence(x, lengths)


def _fused(
    layer: Callable[..., tuple[Tensor, ...]],
    x: Tensor,
    initial: Tensor | State,
    weights: list[Tensor],
    biased: bool,
    direction: Direction,
) -> tuple[Tensor, ...]:
    """torch's own layer; its output (time, batch, direction * hidden) with the direction as an axis of its own."""
    backward = direction == "reverse"
    both = direction == "bidirectional"
    y, *states = layer(x.flip(0) if backward else x, initial, weights, biased, 1, 0.0, False, both, False)
    y = y.reshape(*y.shape[:2], 2 if both else 1, -1).transpose(1, 2)
    return (y.flip(0) if backward else y, *states)


def _torch_weights(w: Tensor, r: Tensor, b: Tensor | None, order: Ints) -> list[Tensor]:
    """The weights of one direction with torch's order of gates."""
    gates = len(order)

    def ordered(x: Tensor) -> Tensor:
        parts = x.chunk(gates)
        return torch.cat([parts[gate] for gate in order])

    return [ordered(w), ordered(r), *([] if b is None else (ordered(half) for half in b.chunk(2)))]


# ---------------------------------------------------------------- arguments


def _functions(
    names: Names, alphas: Floats, betas: Floats, default: Names, directions: int
) -> list[tuple[Activation, ...]]:
    """The activation functions of each direction; alphas and betas go, in order, to the functions that take them."""
    given = [name.lower() for name in names or default * directions]
    alpha, beta = iter(alphas), iter(betas)
    functions: list[Activation] = []
    for name in given:
        if name in PLAIN:
            functions.append(PLAIN[name])
            continue
        constants, function = SCALED[name]
        chosen = [next(source, constant) for source, constant in zip((alpha, beta), constants, strict=False)]
        functions.append(_with_constants(function, chosen))
    each = len(default)
    return [tuple(functions[k * each : (k + 1) * each]) for k in range(directions)]


def _with_constants(function: Callable[..., Tensor], constants: list[float]) -> Activation:
    return lambda x: function(x, *constants)


def _defaults(names: Names, default: Names) -> bool:
    return all(name.lower() == default[k % len(default)] for k, name in enumerate(names))


def _time_first(x: Tensor, initial_h: Tensor | None, r: Tensor, layout: int) -> tuple[Tensor, Tensor]:
    """The input as (time, batch, features) and the initial state as (direction, batch, hidden)."""
    if layout:
        x = x.transpose(0, 1)
    shape = (r.shape[0], x.shape[1], r.shape[-1])
    return x, _initial(initial_h, x.new_zeros(shape), layout)


def _initial(state: Tensor | None, zeros: Tensor, layout: int) -> Tensor:
    if state is None:
        return torch.zeros_like(zeros)
    return state.transpose(0, 1).contiguous() if layout else state


def _check_shapes(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, gates: int, direction: Direction, states: State
) -> None:
    """Raises ValueError where shapes do not go together: torch's fused layers would read past the end of a tensor."""
    ways, hidden = 2 if direction == "bidirectional" else 1, r.shape[-1]
    wanted: list[tuple[Tensor, Ints]] = [
        (w, (ways, gates * hidden, x.shape[-1])),
        (r, (ways, gates * hidden, hidden)),
        *((state, (ways, x.shape[1], hidden)) for state in states),
    ]
    if b is not None:
        wanted.append((b, (ways, 2 * gates * hidden)))
    for tensor, shape in wanted:
        if tuple(tensor.shape) != shape:
            raise ValueError(f"a recurrent layer needs a tensor of shape {shape}, and is given {tuple(tensor.shape)}")


def _laid_out(y: Tensor, layout: int) -> Tensor:
    return y.permute(2, 0, 1, 3) if layout else y


def _states_laid_out(state: Tensor, layout: int) -> Tensor:
    return state.transpose(0, 1) if layout else state


def _row(b: Tensor | None, k: int) -> Tensor | None:
    return None if b is None else b[k]


def _biases(b: Tensor | None, k: int, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    if b is None:
        none = x.new_zeros(())
        return none, none
    first, second = b[k].chunk(2)
    return first, second


def _clipped(x: Tensor, clip: float | None) -> Tensor:
    return x if clip is None else x.clamp(-clip, clip)


TABLE: Table = {
    "GRU": gru,
    "LSTM": lstm,
    "RNN": rnn,
}
