"""Zero padding before a convolution, which Keras writes as a node, as the convolution's own."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, helper

from converter.graph import attribute, copied
from converter.normalization.rewriting import Change, Rewriting

__all__ = ["absorb_padding"]


def absorb_padding(model: ModelProto) -> tuple[ModelProto, Change]:
    """A Pad with zeros around positions that only one convolution reads is in that convolution's attributes."""
    rewriting = Rewriting(model)
    count = 0
    for node in rewriting.nodes:
        if node.op_type == "Pad" and (pads := _spatial_zeros(node, rewriting)) is not None:
            reader = rewriting.sole_reader(node.output[0])
            if reader is not None and _takes(reader, node.output[0], len(pads) // 2):
                rewriting.replace(reader, _padded(reader, node.input[0], pads))
                rewriting.remove(node)
                count += 1
    change = Change("absorb_padding", count, "Pads written as attributes of the convolutions after them")
    return rewriting.finish(), change


def _spatial_zeros(node: NodeProto, rewriting: Rewriting) -> list[int] | None:
    """Begins and ends per spatial axis, if the node adds zeros there and nowhere else."""
    pads, value = rewriting.constant_input(node, 1), rewriting.constant_input(node, 2)
    has_value, has_axes = (len(node.input) > index and node.input[index] != "" for index in (2, 3))
    if pads is None or attribute(node, "mode", "constant") != "constant" or has_axes:
        return None
    if pads.ndim != 1 or pads.size < 6 or pads.size % 2 or (has_value and (value is None or value.any())):
        return None
    rank = pads.size // 2
    begins, ends = pads[:rank].tolist(), pads[rank:].tolist()
    if any(begins[:2] + ends[:2]) or min(begins + ends) < 0:
        return None
    return [*begins[2:], *ends[2:]]


def _takes(reader: NodeProto, tensor: str, axes: int) -> bool:
    own = attribute(reader, "pads", [0] * 2 * axes)
    plain = attribute(reader, "auto_pad", "NOTSET") == "NOTSET" or (
        attribute(reader, "auto_pad", "NOTSET") == "VALID" and not any(own)
    )
    return reader.op_type == "Conv" and reader.input[0] == tensor and plain and len(own) == 2 * axes


def _padded(reader: NodeProto, source: str, pads: list[int]) -> NodeProto:
    own = attribute(reader, "pads", [0] * len(pads))
    wider = copied(reader)
    del wider.attribute[:]
    wider.attribute.extend(each for each in reader.attribute if each.name not in ("pads", "auto_pad"))
    wider.attribute.append(helper.make_attribute("pads", [a + b for a, b in zip(own, pads, strict=True)]))
    wider.input[0] = source
    return wider
