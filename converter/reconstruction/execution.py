"""Running a graph of operators in torch: what is needed, in order, each tensor freed after its last use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from converter.operators.signatures import Body, Operator, Reader, Value, is_floating

__all__ = ["Edits", "Operation", "Plan", "Program", "Step", "Watch"]

Edits: TypeAlias = Mapping[str, Callable[[Tensor], Tensor]]
Watch: TypeAlias = Callable[[int, Sequence[Value], Sequence[Value]], None]

ABSENT, UNWANTED = 0, 1  # the slots of inputs that are not given and of outputs that nobody asked for
FOLDED_WEIGHT = 4096  # float constants up to this many elements take part in constant folding
FOLDED_RESULT = 1 << 20


@dataclass(frozen=True)
class Operation:
    """One node, its function chosen and its attributes read."""

    name: str
    operator: str
    function: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, object]
    readers: tuple[Reader | None, ...]
    bodies: Mapping[str, Program] = field(default_factory=dict)
    differentiable: bool = True

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Every tensor it reads, those inside its subgraphs included."""
        captured = (name for body in self.bodies.values() for name in body.captured)
        return tuple(dict.fromkeys((*(name for name in self.inputs if name), *captured)))


@dataclass(frozen=True)
class Program:
    """A graph: inputs, constants, operations in an order that can be run, outputs."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Value]
    operations: tuple[Operation, ...]
    nothing: tuple[Tensor, ...] = ()  # a subgraph's outputs stacked over no runs
    plans: dict[object, Plan] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def captured(self) -> tuple[str, ...]:
        """The tensors of surrounding graphs that it reads."""
        known = {*self.inputs, *self.constants, *(name for each in self.operations for name in each.outputs)}
        wanted = (*(name for each in self.operations for name in each.needs), *self.outputs)
        return tuple(dict.fromkeys(name for name in wanted if name and name not in known))

    @cached_property
    def producers(self) -> Mapping[str, int]:
        return {name: index for index, each in enumerate(self.operations) for name in each.outputs if name}

    @cached_property
    def folded(self) -> Mapping[str, Value]:
        """What follows from constants alone, large weights left out: shapes, scales, masks."""
        planner = _Planner(self, (), frozenset())
        for each in self.operations:
            planner.fold(each)
        return planner.static

    def plan(self, feeds: Iterable[str], fetch: Sequence[str], edited: Iterable[str] = ()) -> Plan:
        """How to get these tensors from those, kept for the next time."""
        feeds, edited = tuple(feeds), frozenset(edited)
        key = (feeds, tuple(fetch), edited)
        if key not in self.plans:
            self.plans[key] = _Planner(self, feeds, edited).plan(fetch)
        return self.plans[key]

    def as_body(self, captured: Sequence[Value]) -> Body:
        """The graph as a function of its inputs."""
        return Body(self.plan((*self.inputs, *self.captured), self.outputs).execute, captured, self.nothing)

    def moved(self, move: Callable[[Tensor], Tensor]) -> Program:
        """The same program with its constants moved."""
        return Program(
            self.inputs,
            self.outputs,
            {name: move(value) for name, value in self.constants.items()},
            tuple(
                replace(each, bodies={name: body.moved(move) for name, body in each.bodies.items()})
                for each in self.operations
            ),
            self.nothing,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One operation with the slots it reads and writes."""

    operation: Operation
    function: Operator
    inputs: tuple[int, ...]
    readers: tuple[tuple[int, Reader], ...]
    attributes: dict[str, object]
    bodies: tuple[tuple[str, Program, tuple[int, ...]], ...]
    outputs: tuple[int, ...]
    edits: tuple[tuple[int, str], ...]
    release: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps over slots: the constants are in the template, the fed tensors come to the first slots."""

    template: list[Value]
    feeds: tuple[int, ...]
    edits: tuple[tuple[int, str], ...]
    steps: tuple[Step, ...]
    fetch: tuple[int, ...]

    def execute(self, values: Sequence[Value], edit: Edits | None = None, watch: Watch | None = None) -> list[Value]:
        """The fetched tensors; ``watch`` sees the arguments and results of each step by its number."""
        slots = self.template.copy()
        for slot, value in zip(self.feeds, values, strict=True):
            slots[slot] = value
        if edit:
            for slot, name in self.edits:
                slots[slot] = edit[name](slots[slot])
        for number, step in enumerate(self.steps):
            arguments = [slots[slot] for slot in step.inputs]
            for position, read in step.readers:
                if arguments[position] is not None:
                    arguments[position] = read(arguments[position])
            attributes = step.attributes
            if step.bodies:
                bound = {name: body.as_body([slots[slot] for slot in captured]) for name, body, captured in step.bodies}
                attributes = {**attributes, **bound}
            try:
                result = step.function(*arguments, **attributes)
            except Exception as problem:
                problem.add_note(f"in node {step.operation.name!r} ({step.operation.operator})")
                raise
            if type(result) is not tuple:
                result = (result,)
            for slot, value in zip(step.outputs, result, strict=False):
                slots[slot] = value
            if watch:
                watch(number, arguments, result)
            if step.edits and edit:
                for slot, name in step.edits:
                    slots[slot] = edit[name](slots[slot])
            for slot in step.release:
                slots[slot] = None
        return [slots[slot] for slot in self.fetch]

    def with_functions(self, functions: Mapping[int, Operator]) -> Plan:
        """The plan with other functions at some of its steps."""
        steps = (
            replace(step, function=functions[number]) if number in functions else step
            for number, step in enumerate(self.steps)
        )
        return replace(self, steps=tuple(steps))


class _Planner:
    """Assigns slots, folds what is constant, and finds each tensor's last use."""

    def __init__(self, program: Program, feeds: tuple[str, ...], edited: frozenset[str]) -> None:
        self.program = program
        self.feeds = feeds
        self.edited = edited
        self.template: list[Value] = [None, None]
        self.slots: dict[str, int] = {}
        self.read: dict[tuple[str, Reader], int] = {}
        self.static: dict[str, Value] = {}  # values known now, which no feed and no edit can change
        for name, value in program.constants.items():
            if name not in feeds and name not in edited and _foldable(value):
                self.static[name] = value

    def plan(self, fetch: Sequence[str]) -> Plan:
        if not self.edited.union(self.feeds).intersection(self.program.folded):
            self.static = dict(self.program.folded)
        needed = self._needed(fetch)
        fed = tuple(self._slot(name) for name in self.feeds)
        steps = [step for index in needed if (step := self._step(self.program.operations[index]))]
        fetched = tuple(self._slot(name) for name in fetch)
        made = {slot for step in steps for slot in step.outputs}
        early = tuple((slot, name) for name, slot in self.slots.items() if name in self.edited and slot not in made)
        return Plan(self.template, fed, early, tuple(self._released(steps, fed, fetched)), fetched)

    def _needed(self, fetch: Sequence[str]) -> list[int]:
        """The operations on the way from the feeds to the fetched tensors, in order."""
        given = {*self.feeds, *self.program.constants}
        needed: set[int] = set()
        waiting = [name for name in fetch if name not in given]
        while waiting:
            name = waiting.pop()
            index = self.program.producers.get(name)
            if index is None:
                raise ValueError(f"the tensor {name!r} is needed, is not fed, and no node makes it")
            if index not in needed:
                needed.add(index)
                waiting.extend(each for each in self.program.operations[index].needs if each not in given)
        return sorted(needed)

    def _slot(self, name: str) -> int:
        if name not in self.slots:
            self.slots[name] = len(self.template)
            static = self.static.get(name)
            self.template.append(self.program.constants.get(name) if static is None else static)
        return self.slots[name]

    def _read_slot(self, name: str, reader: Reader) -> int:
        """The slot of a constant in the form in which the operator wants it."""
        key = (name, reader)
        if key not in self.read:
            self.read[key] = len(self.template)
            self.template.append(reader(self.static[name]))
        return self.read[key]

    def _step(self, operation: Operation) -> Step | None:
        """The operation as a step; None if its results are known already."""
        if all(name in self.static for name in operation.outputs) or self.fold(operation):
            return None
        inputs: list[int] = []
        readers: list[tuple[int, Reader]] = []
        for position, (name, reader) in enumerate(zip(operation.inputs, operation.readers, strict=True)):
            if not name:
                inputs.append(ABSENT)
            elif reader and self.static.get(name) is not None:
                inputs.append(self._read_slot(name, reader))
            else:
                inputs.append(self._slot(name))
                if reader:
                    readers.append((position, reader))
        outputs = tuple(self._slot(name) if name and name not in self.feeds else UNWANTED for name in operation.outputs)
        return Step(
            operation=operation,
            function=operation.function,
            inputs=tuple(inputs),
            readers=tuple(readers),
            attributes=dict(operation.attributes),
            bodies=tuple(
                (name, body, tuple(self._slot(each) for each in body.captured))
                for name, body in operation.bodies.items()
            ),
            outputs=outputs,
            edits=tuple(
                (slot, name)
                for slot, name in zip(outputs, operation.outputs, strict=True)
                if name in self.edited and slot != UNWANTED
            ),
            release=(),
        )

    def fold(self, operation: Operation) -> bool:
        """Whether the results follow from constants alone; then they are static from now on."""
        if operation.bodies or self.edited.intersection(operation.outputs):
            return False
        if any(name and name not in self.static for name in operation.inputs):
            return False
        arguments = [
            reader(self.static[name]) if name and reader else self.static.get(name)
            for name, reader in zip(operation.inputs, operation.readers, strict=True)
        ]
        with torch.no_grad():
            result = operation.function(*arguments, **operation.attributes)
        values = result if type(result) is tuple else (result,)
        if any(isinstance(value, Tensor) and value.numel() > FOLDED_RESULT for value in values):
            return False
        for name, value in zip(operation.outputs, values, strict=False):
            if name not in self.feeds:
                self.static[name] = value
        return True

    def _released(self, steps: list[Step], fed: tuple[int, ...], fetched: tuple[int, ...]) -> list[Step]:
        """The steps, each freeing what nobody reads after it."""
        kept = {ABSENT, *fetched}
        result = []
        for step in reversed(steps):
            touched = {*step.inputs, *step.outputs, *(slot for _, _, captured in step.bodies for slot in captured)}
            result.append(replace(step, release=tuple(sorted(touched - kept))))
            kept |= touched
        return result[::-1]


def _foldable(value: Value) -> bool:
    return not is_floating(value) or value.numel() <= FOLDED_WEIGHT
