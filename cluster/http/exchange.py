"""One request: calling the application, counting, and what is done when it fails. Part of the hot path."""

from __future__ import annotations

from time import monotonic
from typing import Any

from gevent import GreenletExit

from .. import counters as index
from . import response
from .errors import BodyError, ClientGone
from .refusals import REQUEST
from .responding import Responding

#: what is told of a request whose client had gone before its answer began, as in nginx; no response, so never counted
_CLIENT_GONE = 499


class Exchange(Responding):
    """Runs the application for one request."""

    __slots__ = ()

    def run(self) -> None:
        """Call the application and write its response. Never raises."""
        engine = self.engine
        counters = engine.counters
        counters[index.REQUESTS_ACTIVE] += 1
        counters[index.REQUESTS_TOTAL] += 1
        about: dict[str, Any] | None = None
        try:
            if engine.in_flight is not None:
                environ = self.environ
                self.token = engine.in_flight.begin(
                    f"{environ['REQUEST_METHOD']} {environ['REQUEST_URI']} {environ['REMOTE_ADDR']}".encode("latin-1"),
                    self.started,
                )
            if engine.observers:
                about = self._about()
                engine.observe("client request", about)
            result = engine.app(self.environ, self.start_response)
            if type(result) is list and len(result) == 1 and not self.head_sent:
                self._send_whole(result[0])
            else:
                self._send_result(result)
        except BaseException as error:  # noqa: BLE001 - the root of the request's greenlet
            try:
                self._failed(error)
            except BaseException:  # noqa: BLE001 - a kill while the error was answered
                self.broken = True
            del error
        counters = engine.counters  # looked up anew: the application may have forked, and this be the other process
        self.finished = now = monotonic()
        counters[index.REQUESTS_ACTIVE] -= 1
        if self.code:
            counters[index.RESPONSES + self.code // 100] += 1
        else:
            self.code = _CLIENT_GONE
        engine.durations.add(now - self.started, now)
        try:
            if self.token is not None and engine.in_flight is not None:
                engine.in_flight.end(self.token)
            if engine.access_log is not None:
                engine.access_log.add(self)
            if engine.observers:
                engine.observe("client request complete", {
                    **(about or self._about()), "status": self.code, "bytes": self.sent, "seconds": now - self.started,
                })
        except BaseException:  # noqa: BLE001 - who looks on must not keep the connection from going on
            engine.report(self.environ)
        try:
            self.connection.exchange_over(self, now)
        except BaseException:  # noqa: BLE001 - nothing may come out into the greenlet's loop
            engine.report(self.environ)
            self.connection.close()

    def _about(self) -> dict[str, Any]:
        """What observers are told. The application may have changed or emptied the environ."""
        get = self.environ.get
        return {"method": get("REQUEST_METHOD"), "path": get("PATH_INFO"), "query": get("QUERY_STRING"),
                "remote": get("REMOTE_ADDR")}

    # --- what goes wrong ------------------------------------------------------------------------------------------

    def _failed(self, error: BaseException) -> None:
        engine = self.engine
        if isinstance(error, ClientGone) and self.connection.is_gone():
            self.broken = True
            return
        body = self.body
        fault = body.fault if body is not None else None
        if isinstance(fault, BodyError) and not self.head_sent:
            status, text = fault.status, fault.reason
            engine.refusals.count(REQUEST, f"{status} {text}")
        else:
            status, text = 500, ""
            if not isinstance(error, GreenletExit):
                engine.report(self.environ)
        if self.complete:
            return  # it came from close(), after a response in good order
        if self.head_sent:
            self.broken = True
            return
        self.keep_alive = False
        self.code = status
        head, text_body = response.plain(status, text, engine.date())
        self.head_sent = True
        self.transmit(head if self.bodiless else head + text_body)
        self.complete = True
