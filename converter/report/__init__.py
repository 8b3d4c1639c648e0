"""The report of a conversion: data with a schema, and one page for people.

Imports neither torch, onnx nor onnxruntime; ``tests/report/test_report.py`` holds it to that.
"""

from converter.report.schema import SCHEMA_VERSION, Report

__all__ = ["SCHEMA_VERSION", "Report"]
