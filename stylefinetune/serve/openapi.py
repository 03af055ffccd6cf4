"""Describes the API in OpenAPI 3.1, whose schemas are JSON Schema."""

from importlib import metadata
from typing import Any

from stylefinetune.serve.settings import Settings

API_VERSION = 1  # of the paths and the fields; fields may be added, and a change of another kind gets new paths


def describe_api(settings: Settings) -> dict[str, Any]:
    """Return the description of the API of a server with these settings."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "stylefinetune serve",
            "version": f"{API_VERSION}.0.0",
            "description": f"Classifies pictures; stylefinetune {metadata.version('stylefinetune')}. "
            "A request whose Host header has an unknown name gets status 421.",
        },
        "paths": {
            "/api/predict": {"post": _predict(settings)},
            "/api/predict_url": {"post": _predict_url()},
            "/api/model": {"get": _get("Describe the network and the limits", "Model")},
            "/api/test_set": {"get": _get("Describe the predictions of the test set", "TestSet", 404)},
            "/api/test_set/pictures": {"get": _find_pictures()},
            "/api/test_set/pictures/{number}": {"get": _picture()},
            "/healthz": {"get": _get("Say that the server runs", "Health") | {"security": []}},
            "/openapi.json": {"get": {"summary": "This description", "responses": {"200": {"description": "OpenAPI"}}}},
        },
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _predict(settings: Settings) -> dict[str, Any]:
    binary = {"type": "string", "format": "binary", "maxLength": settings.max_bytes}
    form = {"type": "object", "properties": {"picture": binary}, "required": ["picture"]}
    return {
        "summary": "Classify a picture: the body, or a file in a form",
        "parameters": [_query("top", {"type": "integer", "minimum": 1, "default": settings.top})],
        "requestBody": {
            "required": True,
            "content": {"image/*": {"schema": binary}, "multipart/form-data": {"schema": form}},
        },
        "responses": _responses("Prediction", 400, 401, 403, 408, 413, 415, 422, 429, 503),
    }


def _predict_url() -> dict[str, Any]:
    return {
        "summary": "Fetch and classify the picture at a URL, whose server must have a public address",
        "requestBody": {"required": True, "content": _json("UrlRequest")},
        "responses": _responses("UrlPrediction", 400, 401, 403, 408, 413, 415, 422, 429, 502, 503, 504),
    }


def _find_pictures() -> dict[str, Any]:
    label = {"type": "integer", "minimum": 0}
    parameters = [
        _query("show", {"enum": ["mistakes", "correct", "all"], "default": "mistakes"}),
        _query("true", label),
        _query("predicted", label),
        _query("order", {"enum": ["most_sure", "least_sure"], "default": "most_sure"}),
        _query("first", {"type": "integer", "minimum": 0, "default": 0}),
    ]
    return {
        "summary": "Return pictures of the test set, 48 at a time, with their predictions",
        "parameters": parameters,
        "responses": _responses("Pictures", 400, 401, 404),
    }


def _picture() -> dict[str, Any]:
    path = {"name": "number", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    side = _query("side", {"type": "integer", "minimum": 1, "maximum": 512, "default": 112})
    jpeg = {"description": "a JPEG", "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
    return {
        "summary": "Return a picture of the test set",
        "parameters": [path, side],
        "responses": {"200": jpeg} | _errors(400, 401, 404),
    }


def _get(summary: str, schema: str, *statuses: int) -> dict[str, Any]:
    return {"summary": summary, "responses": _responses(schema, *statuses)}


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def _responses(schema: str, *statuses: int) -> dict[str, Any]:
    return {"200": {"description": "done", "content": _json(schema)}} | _errors(*statuses)


def _errors(*statuses: int) -> dict[str, Any]:
    return {str(status): {"description": _MEANINGS[status], "content": _json("Error")} for status in statuses}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_MEANINGS = {
    400: "a parameter or the body is wrong",
    401: "the token is missing or wrong",
    403: "a page of another site makes the request, or the URL has no public address, or URLs aren't fetched",
    404: "there are no predictions of a test set, or the picture is not there",
    408: "the body was not complete in time",
    413: "the picture has too many bytes or pixels",
    415: "it is no picture of a known format, or the Content-Type of a JSON body is another one",
    422: "the picture doesn't decode",
    429: "the client makes too many requests; Retry-After has the seconds to wait",
    502: "the URL can't be fetched",
    503: "too many pictures are waiting; Retry-After has the seconds to wait",
    504: "the URL didn't answer in time",
}
_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_CLASSES = _list({"$ref": "#/components/schemas/Class"})
_SCHEMAS: dict[str, Any] = {
    "Class": _object({"class": _TEXT, "label": _COUNT, "probability": {"type": "number", "minimum": 0, "maximum": 1}}),
    "Prediction": _object({"picture": {"type": ["string", "null"]}, "classes": _CLASSES}),
    "UrlRequest": _object({"url": _TEXT}, {"top": {"type": "integer", "minimum": 1}, "thumbnail": {"type": "boolean"}}),
    "UrlPrediction": _object({"picture": _TEXT, "classes": _CLASSES, "thumbnail": {"type": ["string", "null"]}}),
    "Model": _object(
        {
            "checkpoint": _TEXT,
            "arch": _TEXT,
            "iteration": _COUNT,
            "loss": _TEXT,
            "input_size": _list(_COUNT),
            "classes": _list(_TEXT),
            "top": _COUNT,
            "max_bytes": _COUNT,
            "max_pixels": _COUNT,
            "url_fetch": {"type": "boolean"},
            "api_version": _COUNT,
            "version": _TEXT,
        }
    ),
    "TestSet": _object(
        {
            "checkpoint": _TEXT,
            "shards": _TEXT,
            "split": _TEXT,
            "pictures": _COUNT,
            "correct": _COUNT,
            "has_pictures": {"type": "boolean"},
        }
    ),
    "Pictures": _object(
        {
            "found": _COUNT,
            "pictures": _list(
                _object(
                    {
                        "number": _COUNT,
                        "key": _TEXT,
                        "true": _list(_TEXT),
                        "correct": {"type": "boolean"},
                        "classes": _CLASSES,
                    }
                )
            ),
        }
    ),
    "Health": _object({"status": {"const": "ok"}}),
    "Error": _object({"error": _TEXT}),
}
