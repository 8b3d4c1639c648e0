"""The result as the folder that a serving system expects: of Triton, of KServe, or with Hugging Face's names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

__all__ = ["Layout", "members"]


class Layout(StrEnum):
    """Whose names the files of a bundle have."""

    PLAIN = "plain"
    TRITON = "triton"
    KSERVE = "kserve"
    HUGGINGFACE = "huggingface"


Member = tuple[str, str | bytes]  # a path, and the artefact's name or the bytes themselves


def members(layout: Layout, name: str, options: Mapping[str, Any]) -> list[Member]:
    """Paths in the bundle, each with an artefact (``model``, ``report``, ``html``) or its content in bytes."""
    match layout:
        case Layout.TRITON:
            # the inputs are left to Triton, which reads them from the model itself
            config = f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: 0\n'
            return [
                (f"{name}/config.pbtxt", config.encode()),
                (f"{name}/1/model.onnx", "model"),
                (f"{name}/1/report.json", "report"),
            ]
        case Layout.KSERVE:
            service = {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {"name": name.replace("_", "-").replace(".", "-").lower()},
                "spec": {
                    "predictor": {
                        "model": {"modelFormat": {"name": "onnx"}, "storageUri": f"s3://YOUR-BUCKET/models/{name}"}
                    }
                },
            }
            return [
                (f"models/{name}/model.onnx", "model"),
                (f"models/{name}/report.json", "report"),
                ("inferenceservice.json", (json.dumps(service, indent=2) + "\n").encode()),
            ]
        case Layout.HUGGINGFACE:
            settings = {
                "quantization": {
                    "activations_dtype": "QUInt8",
                    "weights_dtype": "QInt8",
                    "per_channel": True,
                    "format": "QDQ",
                    "is_static": options.get("precision") not in ("dynamic", "weights"),
                    "made_by": "zsq",
                    "options": dict(options),
                },
            }
            return [
                ("onnx/model_quantized.onnx", "model"),
                ("ort_config.json", (json.dumps(settings, indent=2) + "\n").encode()),
                ("report.json", "report"),
                ("report.html", "html"),
            ]
        case Layout.PLAIN:
            return [("model.int8.onnx", "model"), ("report.json", "report"), ("report.html", "html")]
