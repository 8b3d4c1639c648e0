"""The report that the small converter of ``child`` writes: the least that the schema takes."""

REPORT = {
    "model": {"name": "m", "sha256": "0" * 64, "bytes": 1, "ir_version": 8, "opset": 17, "nodes": 1, "parameters": 1},
    "options": {},
    "environment": {"command": "convert", "seed": 0, "threads": 1, "isolation": {"level": "of its own invention"}},
    "inputs": [],
    "synthesis": {"method": "auto", "samples": 8, "seconds": 0.1, "seed": 0},
    "quantization": {
        "precision": "int8", "target": "x64", "weight_type": "int8", "activation_type": "uint8",
        "nodes_quantized": 1, "nodes_float": 0,
    },
    "fidelity": {"distribution": "noise", "samples": 8, "outputs": []},
    "predicted": {"basis": "nothing", "reason": "it was told what to say"},
    "verdict": {"advice": "use", "sentence": "As it was told."},
    "layers": [],
    "kernels": {
        "optimizer": "extended", "nodes": 1, "integer": 1, "float_compute": 0, "conversions": 0, "other": 0,
    },
    "size": {"float32_bytes": 4, "int8_bytes": 1, "ratio": 4.0},
    "timings": {"stages": {}, "total_seconds": 0.1},
}  # fmt: skip
