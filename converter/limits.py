"""How large a model may be in every respect that its sender decides."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NEWEST_IR", "NEWEST_OPSET", "OLDEST_OPSET", "Limits"]

OLDEST_OPSET = 7
NEWEST_OPSET = 26  # what onnxruntime 1.31 loads
NEWEST_IR = 13


@dataclass(frozen=True)
class Limits:
    """What is refused with TooLarge; each is decided from the bytes before anything of that size is allocated."""

    file_bytes: int = 2**31 - 1  # protobuf's own limit on a message
    weight_bytes: int = 2**31 - 2**20  # of all tensors, external ones included: the result must fit one message
    fields: int = 3_000_000  # protobuf fields in the file; each costs some hundred bytes once parsed
    nesting: int = 90  # messages within messages; protobuf itself stops at 100
    nodes: int = 50_000  # in all bodies, after functions are expanded
    subgraph_depth: int = 12
    functions: int = 2_000  # model-local ones
    function_depth: int = 64  # of calls within calls; onnx's inliner itself stops at 100
    tensor_elements: int = 2**31  # of any tensor in the file
    activation_elements: int = 2**30  # of any tensor that running it makes, as far as shapes are static
    loop_iterations: int = 1_000_000  # of a Loop whose count is constant
    archive_members: int = 4_096
    archive_ratio: int = 200  # unpacked to packed bytes
