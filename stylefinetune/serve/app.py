"""The routes of the server: the page, and the API."""

from importlib import metadata, resources
from typing import Any, get_args
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from stylefinetune.serve.access import Access, AccessMiddleware
from stylefinetune.serve.classifier import PictureClassifier
from stylefinetune.serve.errors import ApiError, handle_api_error, handle_crash, handle_http_error, rate_error
from stylefinetune.serve.gallery import Gallery, Shown
from stylefinetune.serve.openapi import API_VERSION, describe_api
from stylefinetune.serve.rate_limit import RateLimit, client_address
from stylefinetune.serve.settings import Model, Settings
from stylefinetune.serve.upload import Uploads

_PAGE_PICTURES = 48  # of the test set at a time
_SIDES = (112, 512)  # of the pictures of the test set, in pixels


class Routes:
    """Answers the requests."""

    def __init__(
        self, model: Model, classifier: PictureClassifier, gallery: Gallery | None, access: Access, settings: Settings
    ) -> None:
        self._model = model
        self._classifier = classifier
        self._gallery = gallery
        self._access = access
        self._settings = settings
        self._uploads = Uploads(settings)
        self._rate = RateLimit(settings.rate)
        self._templates = Environment(
            loader=PackageLoader("stylefinetune.serve"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    async def show_page(self, request: Request) -> Response:
        """Show the page, or the form that asks for the token. A link with the right token sets the cookie."""
        given = request.query_params.get("token")
        if not self._access.is_allowed(request, given):
            return self._render("login.html", 401, is_wrong=given is not None)
        if given is not None:
            return self._log_in(request)
        return self._render(
            "page.html",
            classes=self._classifier.classes,
            labels=[("", "any"), *enumerate(self._classifier.classes)],
            gallery=self._gallery.summarize() if self._gallery else None,
            has_url_fetch=self._settings.url_fetch,
        )

    async def log_in(self, request: Request) -> Response:
        """Take the token of the form."""
        self._count(request)
        form = parse_qs((await self._uploads.read_small(request)).decode("latin-1"))
        if not self._access.is_allowed(request, form.get("token", [""])[0]):
            return self._render("login.html", 401, is_wrong=True)
        return self._log_in(request)

    async def predict(self, request: Request) -> Response:
        """Classify the picture in the body."""
        self._count(request)
        top = self._top(request.query_params.get("top"))
        async with self._uploads.read_picture(request) as (name, body):
            return JSONResponse({"picture": name, "classes": await self._classifier.classify(body, top)})

    async def predict_url(self, request: Request) -> Response:
        """Fetch and classify the picture at the URL in the body."""
        self._count(request)
        asked = await self._uploads.read_json(request)
        url, with_thumbnail = asked.get("url"), asked.get("thumbnail", False)
        if not isinstance(url, str) or not isinstance(with_thumbnail, bool):
            raise ApiError(400, 'the body must be {"url": "https://...", "top": 5, "thumbnail": false}')
        top = self._top(asked.get("top"))
        classes, thumbnail = await self._classifier.fetch_and_classify(url, top, with_thumbnail=with_thumbnail)
        return JSONResponse({"picture": url, "classes": classes, "thumbnail": thumbnail})

    async def show_model(self, _: Request) -> Response:
        """Describe the network."""
        settings = self._settings
        limits = {name: getattr(settings, name) for name in ("top", "max_bytes", "max_pixels", "url_fetch")}
        versions = {"api_version": API_VERSION, "version": metadata.version("stylefinetune")}
        return JSONResponse(self._model.facts | {"classes": self._classifier.classes} | limits | versions)

    async def show_test_set(self, _: Request) -> Response:
        """Describe the predictions of the test set."""
        return JSONResponse(self._find_gallery().summarize())

    async def find_pictures(self, request: Request) -> Response:
        """Return some of the pictures of the test set with their predictions."""
        gallery, query = self._find_gallery(), request.query_params
        shown: Shown = _choice(query.get("show", "mistakes"), "show", get_args(Shown))  # pyright: ignore[reportAssignmentType] -- one of these
        order = _choice(query.get("order", "most_sure"), "order", ("most_sure", "least_sure"))
        true, predicted = (
            _number(text, name, 0, len(gallery.classes) - 1) if (text := query.get(name)) else None
            for name in ("true", "predicted")
        )
        first = _number(query.get("first", "0"), "first", 0, max(len(gallery), 1))
        least_sure = order == "least_sure"
        return JSONResponse(gallery.find(shown, true, predicted, first, _PAGE_PICTURES, least_sure=least_sure))

    async def show_picture(self, request: Request) -> Response:
        """Return a picture of the test set."""
        side = _number(request.query_params.get("side", str(_SIDES[0])), "side", 1, max(_SIDES))
        given: str = request.path_params["number"]
        number = int(given) if given.isdecimal() and len(given) < 10 else -1  # that of no picture
        jpeg = await run_in_threadpool(self._find_gallery().picture, number, side)
        if not jpeg:
            raise ApiError(404, "the picture can't be read from its shards")
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    async def check_health(self, _: Request) -> Response:
        """Say that the server runs."""
        return JSONResponse({"status": "ok"})

    async def show_api(self, _: Request) -> Response:
        """Return the description of the API."""
        return JSONResponse(describe_api(self._settings))

    async def show_style(self, _: Request) -> Response:
        """Return the style of the page, which begins as that of `stylefinetune report`."""
        report = resources.files("stylefinetune.run_report") / "templates" / "runs.css"
        return Response(report.read_text(encoding="utf-8") + _template("serve.css"), media_type="text/css")

    async def show_script(self, _: Request) -> Response:
        """Return the script of the page."""
        return Response(_template("serve.js"), media_type="text/javascript")

    def _render(self, template: str, status: int = 200, **values: Any) -> Response:  # noqa: ANN401 -- of a template
        return HTMLResponse(self._templates.get_template(template).render(model=self._model, **values), status)

    def _log_in(self, request: Request) -> Response:
        response = RedirectResponse("/", 303)
        self._access.set_cookie(request, response)
        return response

    def _count(self, request: Request) -> None:
        """Count a request against the limit of its client."""
        if seconds := self._rate.take(client_address(request)):
            raise rate_error("requests", self._settings.rate, seconds)

    def _top(self, given: Any) -> int:  # noqa: ANN401 -- from JSON
        count = len(self._classifier.classes)
        return min(self._settings.top, count) if given is None else _number(str(given), "top", 1, count)

    def _find_gallery(self) -> Gallery:
        if self._gallery is None:
            raise ApiError(404, f"there are no predictions of a test set; {self._model.evaluate_command} writes them")
        return self._gallery


def build_app(
    model: Model, classifier: PictureClassifier, gallery: Gallery | None, access: Access, settings: Settings
) -> Starlette:
    """Return the application."""
    routes = Routes(model, classifier, gallery, access, settings)
    return Starlette(
        routes=[
            Route("/", routes.show_page),
            Route("/login", routes.log_in, methods=["POST"]),
            Route("/serve.css", routes.show_style),
            Route("/serve.js", routes.show_script),
            Route("/api/predict", routes.predict, methods=["POST"]),
            Route("/api/predict_url", routes.predict_url, methods=["POST"]),
            Route("/api/model", routes.show_model),
            Route("/api/test_set", routes.show_test_set),
            Route("/api/test_set/pictures", routes.find_pictures),
            Route("/api/test_set/pictures/{number}", routes.show_picture),
            Route("/healthz", routes.check_health),
            Route("/openapi.json", routes.show_api),
        ],
        middleware=[Middleware(AccessMiddleware, access=access)],
        exception_handlers={ApiError: handle_api_error, HTTPException: handle_http_error, Exception: handle_crash},
    )


def _template(name: str) -> str:
    return (resources.files("stylefinetune.serve") / "templates" / name).read_text(encoding="utf-8")


def _number(text: str, name: str, lowest: int, highest: int) -> int:
    if not (text.isdecimal() and len(text) < 10 and lowest <= int(text) <= highest):
        raise ApiError(400, f"{name} is {text[:20]!r}; it must be a number from {lowest} to {highest}")
    return int(text)


def _choice(text: str, name: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ApiError(400, f"{name} is {text[:20]!r}; it must be {', '.join(choices[:-1])} or {choices[-1]}")
    return text
