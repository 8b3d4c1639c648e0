"""INT8 measured against FP32: fidelity, layers, kernels, latency, validation, prediction."""
