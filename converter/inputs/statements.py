"""What an owner states of an input, obeyed or refused: no statement is ignored."""

from __future__ import annotations

from dataclasses import replace

from converter.errors import InvalidOption
from converter.graph import Value
from converter.inputs.evidence import Evidence, Finding
from converter.inputs.integers import find_index, recognize_integers
from converter.inputs.plans import ADJUSTABLE, SOUND, InputKind, InputPlan, Scaling
from converter.inputs.returning import returning_outputs
from converter.specifications import InputSpec, Layout, StatedKind, input_option

__all__ = ["apply_statement", "finding_of", "question"]

KINDS = {
    StatedKind.PICTURE: InputKind.PICTURE,
    StatedKind.UINT8: InputKind.PICTURE,
    StatedKind.VIDEO: InputKind.VIDEO,
    StatedKind.MAP: InputKind.MAP,
    StatedKind.SOUND: InputKind.SIGNAL,
    StatedKind.SIGNAL: InputKind.SIGNAL,
    StatedKind.SPECTRUM: InputKind.SPECTRUM,
    StatedKind.FEATURES: InputKind.FEATURES,
    StatedKind.EMBEDDINGS: InputKind.EMBEDDINGS,
    StatedKind.TOKENS: InputKind.TOKENS,
    StatedKind.MASK: InputKind.MASK,
    StatedKind.TYPES: InputKind.TYPES,
    StatedKind.POSITIONS: InputKind.POSITIONS,
    StatedKind.LENGTHS: InputKind.LENGTHS,
    StatedKind.SCALAR: InputKind.CONSTANT,
    StatedKind.STATE: InputKind.STATE,
    StatedKind.CACHE: InputKind.CACHE,
}
RANKS = {InputKind.PICTURE: (3, 4), InputKind.VIDEO: (5,), InputKind.MAP: (3, 4, 5), InputKind.SIGNAL: (1, 2, 3)}
WHOLE = frozenset({InputKind.TOKENS, InputKind.TYPES, InputKind.POSITIONS})
REAL = ADJUSTABLE | {InputKind.STATE, InputKind.CACHE}
MOST_CHANNELS = 16  # of a picture: beyond the thirteen bands of satellites
CAFFE = 2.0  # a mean or deviation above it is counted in 0..255


def question(value: Value, why: str, example: str) -> InvalidOption:
    """The refusal that asks for what the model does not tell."""
    return InvalidOption(
        f"What the input {value} is cannot be told: {why}.",
        tensor=value.name,
        field="inputs",
        remedy=f"State it, such as {input_option(value.name, example)}.",
    )


def refused(name: str, problem: str, remedy: str | None = None) -> InvalidOption:
    """The refusal of a statement that cannot be obeyed."""
    return InvalidOption(f"The input {name!r}: {problem}.", field="inputs", remedy=remedy)


def finding_of(evidence: Evidence, spec: InputSpec) -> Finding | None:
    """What its owner says it is, or None where that is not stated; raises InvalidOption for what it cannot be."""
    kind = _stated_kind(evidence, spec)
    if kind is None:
        return None
    name, rank = evidence.value.name, len(evidence.shape)
    real = evidence.value.dtype.startswith("float")
    if kind in REAL and not real and kind is not InputKind.PICTURE:
        raise refused(name, f"kind={spec.kind} needs real numbers, and it holds {evidence.value.dtype}")
    if kind in WHOLE and (evidence.value.dtype == "bool" or (real and _recognized_tokens(evidence) is None)):
        raise refused(name, f"{kind} are whole numbers, and it holds {evidence.value.dtype}")
    if kind in RANKS and rank not in RANKS[kind]:
        axes = " or ".join(map(str, RANKS[kind]))
        raise refused(name, f"kind={spec.kind or kind} needs {axes} axes, and it has {rank}")
    if kind is InputKind.CONSTANT and any(size != 1 for size in evidence.shape):
        raise refused(name, "kind=scalar is one number, and it has room for more")
    words = "its owner says so"
    if kind in (InputKind.STATE, InputKind.CACHE):
        return Finding(kind, words, returned=_returned(evidence, spec, kind))
    if kind is InputKind.MASK:
        return Finding(
            kind, words, value=0.0 if spec.value == 0 else 1.0, choices=(0.0, 1.0) if spec.value == 0 else ()
        )
    last = _channels_last(evidence, spec, kind)
    tokens = spec.tokens or _bounds(kind)
    if spec.tokens is not None and (known := _recognized_tokens(evidence)) is not None and known[1] < spec.tokens[1]:
        raise refused(name, f"tokens={spec.tokens[0]}:{spec.tokens[1]} goes beyond a table of {known[1]} rows")
    if kind is InputKind.TOKENS and tokens is None:
        raise question(evidence.value, "kind=tokens needs to know how many there are", "tokens=0:30522")
    batched = kind is not InputKind.CONSTANT and not (kind in (InputKind.PICTURE, InputKind.MAP) and rank == 3)
    return Finding(kind, words, last, tokens, 1.0 if spec.value is None else spec.value, batched=batched)


def _stated_kind(evidence: Evidence, spec: InputSpec) -> InputKind | None:
    if spec.kind is not None:
        if spec.kind is StatedKind.TOKENS and spec.tokens is None:
            return None if _recognized_tokens(evidence) is not None else InputKind.TOKENS
        return KINDS[spec.kind]
    if spec.tokens is not None:
        return InputKind.TOKENS
    if spec.value is not None:
        return InputKind.CONSTANT
    if spec.layout is not None or spec.order is not None:
        return InputKind.PICTURE
    return None


def _recognized_tokens(evidence: Evidence) -> tuple[int, int] | None:
    """The tokens that the graph's own tables have room for; None where it has none."""
    found = find_index(evidence) or recognize_integers(evidence)
    return found.tokens if found is not None and found.kind is InputKind.TOKENS else None


def _bounds(kind: InputKind) -> tuple[int, int] | None:
    return {InputKind.TYPES: (0, 2), InputKind.POSITIONS: (0, 1 << 30)}.get(kind)


def _returned(evidence: Evidence, spec: InputSpec, kind: InputKind) -> str | None:
    """The output that comes back as the state, as stated or as the only one of its shape."""
    names = [each.name for each in evidence.graph.outputs]
    if spec.output is None:
        fitting = returning_outputs(evidence.value, evidence.graph)
        return fitting[0] if fitting else None
    if spec.output not in names:
        raise refused(
            evidence.value.name, f"there is no output {spec.output!r}", f"The outputs are {', '.join(names)}."
        )
    if kind is InputKind.STATE and spec.output not in returning_outputs(evidence.value, evidence.graph):
        raise refused(evidence.value.name, f"the output {spec.output!r} has not its type and shape")
    return spec.output


def _channels_last(evidence: Evidence, spec: InputSpec, kind: InputKind) -> bool:
    if kind not in (InputKind.PICTURE, InputKind.MAP, InputKind.VIDEO):
        return False
    if spec.layout is not None:
        size = evidence.shape[-1 if spec.layout is Layout.NHWC else 1 - (len(evidence.shape) == 3)]
        if isinstance(size, int) and size > MOST_CHANNELS and kind is not InputKind.MAP:
            raise refused(evidence.value.name, f"layout={spec.layout} would give it {size} channels")
        return spec.layout is Layout.NHWC
    first, last = evidence.shape[-3], evidence.shape[-1]
    return last in (1, 3, 4) and first not in (1, 3, 4)


def apply_statement(plan: InputPlan, spec: InputSpec) -> InputPlan:
    """The plan with the scale, order and numbers that its owner stated; raises InvalidOption where they cannot be."""
    _check_meaning(plan, spec)
    plan = replace(plan, order=spec.order, stated=bool(spec.stated))
    if spec.kind is StatedKind.UINT8:
        return replace(plan, scaling=Scaling("stated: 0..255", (255.0,), (0.0,)), settled=True)
    if plan.kind is InputKind.CONSTANT:
        if spec.value_range is not None:
            return replace(
                plan,
                choices=tuple(
                    spec.value_range[0] + share * (spec.value_range[1] - spec.value_range[0])
                    for share in (0.5, 0.0, 1.0, 0.25, 0.75)
                ),
            )
        return plan if spec.value is None else replace(plan, value=spec.value, choices=())
    if plan.kind is InputKind.LENGTHS and spec.value is not None:
        return replace(plan, value=spec.value, choices=(spec.value,))
    if spec.mean is not None or spec.std is not None:
        return _normalized(plan, spec)
    if spec.value_range is not None:
        low, high = spec.value_range
        if plan.kind in (InputKind.PICTURE, InputKind.VIDEO):
            return replace(plan, scaling=Scaling("stated: range", (high - low,), (low,)), settled=True)
        spread = (high - low) / 6  # three deviations to either side
        return replace(plan, scaling=Scaling("stated: range", (spread,), ((low + high) / 2,)), settled=True)
    if spec.kind is StatedKind.SOUND:
        return replace(plan, scaling=SOUND, settled=True)
    return plan


def _check_meaning(plan: InputPlan, spec: InputSpec) -> None:
    """Raises InvalidOption for keys that mean nothing for what the input turned out to be."""
    scaled = plan.kind in ADJUSTABLE and plan.dtype.kind == "f"
    coloured = plan.kind in (InputKind.PICTURE, InputKind.VIDEO)
    meant = {
        "range": scaled or plan.kind in (InputKind.CONSTANT,),
        "mean": scaled,
        "std": scaled,
        "tokens": plan.kind is InputKind.TOKENS,
        "value": plan.kind in (InputKind.CONSTANT, InputKind.LENGTHS, InputKind.MASK),
        "order": coloured,
        "layout": coloured or plan.kind is InputKind.MAP,
    }
    for key in spec.stated:
        if not meant.get(key, True):
            raise refused(
                plan.name,
                f"{key} means nothing for what it is taken for, {plan.kind} ({plan.reason})",
                f"Leave {key} out, or say with kind=... what it is.",
            )
    if spec.order is not None and plan.channels != 3:
        raise refused(plan.name, f"order={spec.order} needs 3 channels, and it has {plan.channels}")
    if plan.kind is InputKind.CONSTANT and plan.dtype.kind in "iu" and spec.value is not None and spec.value % 1:
        raise refused(plan.name, f"value={spec.value:g} is not whole, and it holds {plan.dtype}")


def _normalized(plan: InputPlan, spec: InputSpec) -> InputPlan:
    """The plan with a mean taken away and divided by a deviation."""
    mean, std = spec.mean or (0.0,), spec.std or (1.0,)
    width = max(len(mean), len(std))
    mean, std = mean * width if len(mean) == 1 else mean, std * width if len(std) == 1 else std
    wanted = plan.channels if plan.shape else 1
    if len(mean) != len(std) or width not in (1, wanted):
        raise refused(plan.name, f"mean and std need one number, or one a channel, of which there are {wanted}")
    if plan.kind in (InputKind.PICTURE, InputKind.VIDEO):
        low, high = spec.value_range or (0.0, 255.0 if max(*mean, *std) > CAFFE else 1.0)  # what the mean is counted in
        scaling = Scaling(
            "stated: mean and deviation",
            tuple((high - low) / s for s in std),
            tuple((low - m) / s for m, s in zip(mean, std, strict=True)),
        )
    elif spec.value_range is not None:
        raise refused(plan.name, "range and mean say the same of what is no picture", "State one of them.")
    else:
        scaling = Scaling("stated: mean and deviation", std, mean)
    return replace(plan, scaling=scaling, settled=True)
