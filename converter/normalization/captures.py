"""Bodies of If, Loop and Scan read copies of rectified tensors: onnxruntime's quantizer does not look into bodies.

It lets a rectifier vanish into the range of the layer before it; a body would go on to read the layer's own output.
"""

from __future__ import annotations

from onnx import ModelProto, helper

from converter.families import RECTIFIERS
from converter.graph import captures
from converter.normalization.rewriting import Change, Rewriting

__all__ = ["copy_captures"]


def copy_captures(model: ModelProto) -> tuple[ModelProto, Change]:
    """No body reads what a rectifier of the main graph makes, but an Identity's copy of it."""
    rewriting = Rewriting(model)
    read = set().union(*map(captures, rewriting.nodes))
    count = 0
    for node in rewriting.nodes:
        name = node.output[0]
        if node.op_type in RECTIFIERS and name in read and name not in rewriting.outputs:
            source = rewriting.fresh(f"{name}_rectified")
            for reader in rewriting.readers(name):
                if name in reader.input:
                    rewriting.set_inputs(reader, [source if each == name else each for each in reader.input])
            rewriting.set_output(node, source)
            rewriting.insert(node, after=[helper.make_node("Identity", [source], [name])])
            count += 1
    return rewriting.finish(), Change("copy_captures", count, "Rectified tensors copied for bodies that read them")
