"""The HTTP application: from a request to what the core is asked, and from its answer to a response."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, TypeVar, get_args

import msgspec
from aiohttp import web
from msgspec import Struct

from sensor.control import arguments, routes, wire
from sensor.control.arguments import Level, Ref, Word, complaint
from sensor.control.collector import render
from sensor.control.core import Admitted, Core, Refused, Unanswered
from sensor.control.gate import Place, Places
from sensor.control.routes import Route, Streamed
from sensor.control.showing import Showing
from sensor.control.streams import Reader, Streams, Wanted
from sensor.errors import UsageError
from sensor.metriclist import PATHS
from sensor.metrics import Metrics, Snapshot, decode

Kind = TypeVar("Kind", bound=Struct)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STATUS = {"usage": 400, "not_found": 404, "denied": 403, "conflict": 409, "busy": 429, "failed": 500}
OPENAPI = files("sensor.control").joinpath("openapi.json").read_bytes()  # now: later it may be out of reach
STUCK_S = 60.0  # a stream that is not read for so long is ended
JSON = "application/json"
NDJSON = "application/x-ndjson"


class StreamQuery(Struct, frozen=True, forbid_unknown_fields=True):
    sandbox: Ref | None = None
    level: Level | None = None  # and above
    rule: Word | None = None  # its id or title


class EventQuery(StreamQuery, frozen=True, forbid_unknown_fields=True):
    category: Word | None = None


class Pages:
    """What there is to read and to do, each as the core tells it."""

    def __init__(self, core: Core, metrics: Metrics) -> None:
        self._core = core
        self._metrics = metrics
        self._of: bytes = b""
        self._snapshot: Snapshot | None = None
        self._rendered: dict[str, tuple[bytes, str]] = {}
        self._showing = Showing()
        self._streams = Streams(core)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        answer = await self._core.answer("metrics")
        if self._snapshot is None or answer is not self._of:
            self._of, self._snapshot = answer, decode(answer)
            self._rendered = {}
        accept = request.headers.get("Accept", "")
        page = self._rendered.get(accept)
        if page is None:
            own = decode(self._metrics.snapshot())
            page = render(accept, self._snapshot, own)
            if len(self._rendered) < 8:
                self._rendered[accept] = page
        return web.Response(body=page[0], headers={"Content-Type": page[1]})

    async def openapi(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=OPENAPI, content_type=JSON)

    def provided(self, name: str) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            _query(request, arguments.Nothing)
            return web.Response(body=await self._core.answer(name), content_type=JSON)

        return answer

    def operation(self, route: Route) -> Handler:
        changes = arguments.changes(route.operation)

        async def answer(request: web.Request) -> web.StreamResponse:
            asked = await _asked(request, route)
            body = msgspec.json.encode(asked)
            by = _admitted(request)
            if changes or route.method != "GET":
                found = await self._core.call(by, route.operation, body)
            else:
                found = await self._core.read(by, route.operation, body)
            if changes:
                self._core.forget()
            shown = self._showing(route.operation, body, found)
            dry = getattr(asked, "dry_run", False)
            return web.Response(status=200 if dry else route.status, body=shown, content_type=JSON)

        return answer

    def stream(self, streamed: Streamed) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            query = _query(request, StreamQuery if streamed.detections else EventQuery)
            by = _admitted(request)
            wanted = await self._wanted(by, query, streamed.detections)
            reader = await self._streams.join(wanted, by.uid)
            if reader is None:
                return refused("busy", "there are enough streams: end one of them")
            try:
                return await _pour(request, reader)
            finally:
                self._streams.leave(reader)

        return answer

    async def _wanted(self, by: Admitted, query: StreamQuery, detections: bool) -> Wanted:
        sandbox = 0
        if query.sandbox is not None:
            body = msgspec.json.encode(arguments.OfSandbox(query.sandbox))
            sandbox = msgspec.json.decode(await self._core.read(by, "resolve", body))["id"]
        category = getattr(query, "category", None)
        return Wanted(detections, sandbox, query.level or "", query.rule or "", category or "")


PLACES: web.AppKey[Places] = web.AppKey("places", Places)


def application(kind: str, pages: Pages, metrics: Metrics, places: Places) -> web.Application:
    """`metrics` has /metrics alone and one request a connection, `control` everything."""

    @web.middleware
    async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await _response(request, handler)
        place = places.of(request.transport)
        if kind != "control" or place is None:
            response.force_close()
        elif not place.streaming:
            places.rests(place)
        metrics.count("pinfold_api_requests_total", (_label(request), str(response.status)))
        return response

    app = web.Application(middlewares=[answered], client_max_size=wire.MOST_BODY)
    app[PLACES] = places
    # allow_head: one place would then have two names for the same.
    app.router.add_get("/metrics", pages.metrics, allow_head=False)
    if kind == "control":
        app.router.add_get("/v1/openapi.json", pages.openapi, allow_head=False)
        for provided in routes.PROVIDED:
            app.router.add_get(provided.path, pages.provided(provided.name), allow_head=False)
        for streamed in routes.STREAMED:
            app.router.add_get(streamed.path, pages.stream(streamed), allow_head=False)
        for route in routes.ROUTES:
            app.router.add_route(route.method, route.path, pages.operation(route))
    return app


def refused(code: str, why: str, status: int = 0) -> web.Response:
    body = msgspec.json.encode({"error": why.encode("utf-8", "replace").decode(), "code": code})
    return web.Response(status=status or STATUS[code], body=body, content_type=JSON)


async def _response(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except UsageError as error:
        return refused("usage", str(error))
    except Refused as error:
        return refused(error.code, msgspec.json.decode(error.body).get("error", "no reason given"))
    except Unanswered as error:
        return refused(error.code, str(error), 503 if error.code == "busy" else 0)
    except msgspec.DecodeError as error:
        return refused("failed", str(error))
    except web.HTTPException as error:
        code = {403: "denied", 404: "not_found"}.get(error.status, "usage" if error.status < 500 else "failed")
        response = refused(code, error.reason, error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response


def _admitted(request: web.Request) -> Admitted:
    place = _place(request)
    if place is None or place.by is None:
        raise web.HTTPForbidden(reason="the connection is closed")
    return place.by


def _place(request: web.Request) -> Place | None:
    return request.app[PLACES].of(request.transport)


async def _asked(request: web.Request, route: Route) -> Struct:
    """:raises UsageError:"""
    named: dict[str, Any] = dict(request.match_info)
    if route.method != "POST":
        return _query(request, route.arguments, named)
    if request.query_string:
        raise UsageError("what is asked stands in the body, not in the query")
    body = await request.read()
    try:
        members = msgspec.json.decode(body) if body else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the body is no JSON: {error}") from error
    if not isinstance(members, dict):
        raise UsageError("the body is no JSON object")
    if twice := named.keys() & members.keys():
        raise UsageError(f"{min(twice)} stands in the path already")
    return _converted(members | named, route.arguments)


def _query(request: web.Request, kind: type[Kind], named: dict[str, Any] | None = None) -> Kind:
    """:raises UsageError:"""
    members: dict[str, Any] = dict(named or {})
    for name, value in request.query.items():
        if name in members:
            raise UsageError(f"{name[:64]!a} is given twice")
        members[name] = value
    for field in msgspec.structs.fields(kind):
        if isinstance(text := members.get(field.encode_name), str):
            members[field.encode_name] = _typed(text, get_args(field.type)[0] if get_args(field.type) else field.type)
    return _converted(members, kind)


def _typed(text: str, kind: Any) -> str | int | bool:
    """What a query's text stands for. Not msgspec's own lax reading, to which `null` is nothing."""
    if kind is int and re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
        return int(text)
    return {"0": False, "false": False, "1": True, "true": True}.get(text, text) if kind is bool else text


def _converted(members: dict[str, Any], kind: type[Kind]) -> Kind:
    try:
        return msgspec.convert(members, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise UsageError(complaint(error)) from error


async def _pour(request: web.Request, reader: Reader) -> web.StreamResponse:
    """Until the reader at the other end hangs up, or does not read any more."""
    place = _place(request)
    if place is not None:
        request.app[PLACES].streams(place)
    response = web.StreamResponse(headers={"Content-Type": NDJSON})
    response.force_close()
    await response.prepare(request)
    await response.write(b"\n")  # the head goes out with it
    while taken := await reader.take():
        if request.transport is None or request.transport.is_closing():
            break
        try:
            async with asyncio.timeout(STUCK_S):
                await response.write(taken)
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
            break
    return response


def _label(request: web.Request) -> str:
    """Bounded: of a path with names in it the beginning."""
    beginning = "/".join(request.path.split("/", 3)[:3])
    return next((path for path in (request.path, beginning) if path in PATHS), "other")
