"""The OpenAPI document: completed for client generators, and arranged for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from converter.report import Report
from service.intake import Again
from service.options import ConversionOptions
from service.problems import Problem
from service.schemas import ConversionEvent

__all__ = ["TAGS", "Operation", "complete", "documented"]

TAGS = [
    {"name": "conversions", "description": "Submit a float model, watch it become INT8, cancel, delete."},
    {"name": "results", "description": "The INT8 model and the report of what it cost."},
    {"name": "webhooks", "description": "Messages to a server of yours when a conversion ends."},
    {"name": "operations", "description": "Health, readiness and metrics."},
]

EXTRA = (Problem, ConversionOptions, ConversionEvent, Again)
"""Schemas that no route mentions by type."""

EVENT = {
    "type": "object",
    "description": "One event of the stream: what tools for OpenAPI 3.1 take the schema of an event stream for.",
    "properties": {
        "id": {"type": "string", "description": "For `Last-Event-ID`."},
        "event": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/ConversionEvent"},
        },
    },
    "required": ["id", "event", "data"],
}


def complete(app: FastAPI, secured: bool) -> None:
    """``app.openapi()`` also describes problems, options and events, and asks for keys only where they are needed."""
    framework = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = framework()
            _, extra = models_json_schema(
                [*((model, "validation") for model in EXTRA), (Report, "serialization")],
                ref_template="#/components/schemas/{model}",
            )
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for name, schema in extra["$defs"].items():
                schemas.setdefault(name, schema)
            for unused in ("HTTPValidationError", "ValidationError"):  # ours are problems
                schemas.pop(unused, None)
            schemas["Conversion"]["properties"]["options"] = {"$ref": "#/components/schemas/ConversionOptions"}
            for item in document["paths"].values():
                for operation in item.values():
                    _tidy(operation, secured)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _tidy(operation: dict[str, Any], secured: bool) -> None:
    if not secured:
        operation.pop("security", None)
    for answer in operation["responses"].values():
        content = answer.get("content", {})
        if "application/problem+json" in content:
            content.pop("application/json", None)
        if "text/event-stream" in content:  # the framework's itemSchema belongs to OpenAPI 3.2, and this is 3.1
            content["text/event-stream"] = {"schema": EVENT}


@dataclass(frozen=True)
class Operation:
    """One operation as the documentation shows it."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    parameters: list[Mapping[str, Any]]
    takes: list[str]
    answers: dict[str, str]


def documented(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document's operations by tag, and its schemas with their properties."""
    by_tag: dict[str, list[Operation]] = {str(tag["name"]): [] for tag in TAGS}
    for path, item in document["paths"].items():
        for method, facts in item.items():
            operation = Operation(
                id=facts["operationId"],
                method=method.upper(),
                path=path,
                summary=facts["summary"],
                description=facts.get("description", ""),
                parameters=facts.get("parameters", []),
                takes=list(facts.get("requestBody", {}).get("content", {})),
                answers={status: answer["description"] for status, answer in facts["responses"].items()},
            )
            by_tag[facts["tags"][0]].append(operation)
    return {
        "tags": [{**tag, "operations": by_tag[str(tag["name"])]} for tag in TAGS],
        "schemas": document["components"]["schemas"],
        "version": document["info"]["version"],
    }
