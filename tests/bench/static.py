"""onnxruntime's own static U8/S8 model, made as its documentation says: what zsq's is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["build_static"]


def build_static(source: Path, target: Path, feeds: Iterable[dict[str, Any]]) -> None:
    """Writes ``target``: QDQ, weights by channel, ranges from these feeds."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        left = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared))
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
