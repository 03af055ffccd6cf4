import dataclasses

import jsonschema
import pytest

from stylefinetune.serve.openapi import describe_api
from stylefinetune.serve.settings import Settings
from tests.loopback import Answer

pytestmark = pytest.mark.xdist_group("serve")  # with the other tests of a trained run


@pytest.fixture
def api():
    return describe_api(Settings())


def test_all_paths_of_the_api_are_described(api, open_app):
    routes = {
        (route.path.replace(":int", ""), method.lower())
        for route in open_app().routes
        for method in route.methods - {"HEAD"}
        if route.path.startswith(("/api/", "/healthz", "/openapi"))
    }
    assert {(path, method) for path, methods in api["paths"].items() for method in methods} == routes


def check(api, answer, path, method="get"):
    """Check an answer against the schema of its status."""
    described = api["paths"][path][method]["responses"][str(answer.status_code)]
    schema = described["content"]["application/json"]["schema"] | {"components": api["components"]}
    jsonschema.validate(answer.json(), schema, jsonschema.Draft202012Validator)


def test_the_answers_have_the_described_fields(api, open_client, picture, server, trained, tmp_path):
    from stylefinetune.evaluate import evaluate
    from stylefinetune.serve.gallery import Gallery

    evaluate([str(trained), "--workers=0", f"--out={tmp_path}"])
    client = open_client(gallery=Gallery.open(tmp_path, "softmax"), allow_private=True)
    check(api, client.post("/api/predict", content=picture), "/api/predict", "post")
    check(api, client.post("/api/predict", content=b"text"), "/api/predict", "post")
    url = server.add("/a.jpg", Answer(picture))
    for body in ({"url": url}, {"url": url, "thumbnail": True}, {"url": "no"}, {"url": f"{server.url}/gone"}):
        check(api, client.post("/api/predict_url", json=body), "/api/predict_url", "post")
    for path in ("/api/model", "/api/test_set", "/api/test_set/pictures", "/healthz"):
        answer = client.get(path)
        assert answer.status_code == 200
        check(api, answer, path)
    for query in ("show=no", "order=no", "true=4", "predicted=x", "first=-1"):
        answer = client.get(f"/api/test_set/pictures?{query}")
        assert answer.status_code == 400
        check(api, answer, "/api/test_set/pictures")


def test_the_description_names_the_limits(client):
    api = client.get("/openapi.json").json()
    body = api["paths"]["/api/predict"]["post"]["requestBody"]["content"]["image/*"]["schema"]
    assert body["maxLength"] == Settings().max_bytes
    assert (
        dataclasses.asdict(Settings())["top"]
        == api["paths"]["/api/predict"]["post"]["parameters"][0]["schema"]["default"]
    )
