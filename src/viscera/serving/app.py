"""The application: which route does what. What goes wrong becomes a status and a sentence in {"detail": ...}.

GET  /auth/ · POST /auth/token · GET /auth/token/valid    whether a token is needed, and how to get it: it is the password
GET  /info/                                               models and versions, strategies, how much is labelled
PUT  /session/ · GET, DELETE /session/ID                  a scan that is sent for a while
GET, PUT /datastore/ · GET /datastore/image, /datastore/label, .../info · PUT /datastore/label
POST /activelearning/STRATEGY                             the next scan to look at
POST /infer/MODEL?image=&session_id=&output=              a segmentation
POST /train/, /train/MODEL · GET, DELETE /train/          learn from corrections in the background
POST /rollback/MODEL?version=                             let an earlier version serve
POST /batch/infer/MODEL · GET, DELETE /batch/infer        segment the scans of the datastore in the background
POST /scoring/, /scoring/dice · GET, DELETE /scoring/     what was segmented against what was corrected
GET  /logs/                                               the last requests, without names
GET  /, /metrics, /montage.png, /view                     for this machine only: how the server is
"""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from viscera.errors import VisceraError
from viscera.io.atomic import FULL
from viscera.io.frames import causes, frame_lines
from viscera.serving import routes_data as data
from viscera.serving import routes_infer as infer
from viscera.serving import routes_pages as pages
from viscera.serving import routes_tasks as tasks
from viscera.serving.datastore import NotThereError, TakenError
from viscera.serving.guard import Guard, refusal
from viscera.serving.segmenting import BusyError
from viscera.serving.service import Endpoint, Service


def make_app(service: Service) -> Starlette:
    """Return the application."""

    def route(path: str, endpoint: Endpoint, *methods: str) -> Route:
        """Return a route whose errors are answers."""

        async def answer(request: Request) -> Response:
            return await _answer(service, request, endpoint)

        return Route(path, answer, methods=list(methods), name=f"{methods[0]} {path}")

    routes = [
        (path + end, endpoint, methods)
        for path, endpoint, methods in (
            ("", pages.status, ("GET",)),
            ("/metrics", pages.metrics, ("GET",)),
            ("/montage.png", pages.montage, ("GET",)),
            ("/view", pages.view, ("GET",)),
            ("/logs", pages.logs, ("GET",)),
            ("/auth", data.auth, ("GET",)),
            ("/auth/token", data.auth_token, ("POST",)),
            ("/auth/token/valid", data.auth_valid, ("GET",)),
            ("/info", infer.info, ("GET",)),
            ("/session", data.create_session, ("PUT",)),
            ("/session/{name}", data.session, ("GET", "DELETE")),
            ("/datastore", data.datastore, ("GET",)),
            ("/datastore", data.add_scan, ("PUT",)),
            ("/datastore/image", data.image, ("GET",)),
            ("/datastore/image/info", data.image_info, ("GET",)),
            ("/datastore/label", data.label, ("GET",)),
            ("/datastore/label", data.save_label, ("PUT",)),
            ("/datastore/label/info", data.label_info, ("GET",)),
            ("/activelearning/{strategy}", infer.next_sample, ("POST",)),
            ("/infer/{model}", infer.infer, ("POST",)),
            ("/train", tasks.status, ("GET",)),
            ("/train", tasks.train_all, ("POST",)),
            ("/train", tasks.stop, ("DELETE",)),
            ("/train/{model}", tasks.train, ("POST",)),
            ("/rollback/{model}", tasks.rollback, ("POST",)),
            ("/scoring", tasks.status, ("GET",)),
            ("/scoring", tasks.score, ("POST",)),
            ("/scoring", tasks.stop, ("DELETE",)),
            ("/scoring/{method}", tasks.score, ("POST",)),
            ("/batch/infer", tasks.status, ("GET",)),
            ("/batch/infer", tasks.stop, ("DELETE",)),
            ("/batch/infer/{model}", tasks.batch, ("POST",)),
        )
        for end in (("", "/") if path else ("/",))
    ]
    return Starlette(
        routes=[route(path, endpoint, *methods) for path, endpoint, methods in routes],
        middleware=[Middleware(Guard, limits=service.limits, log=service.log, meter=service.meter)],
        exception_handlers={HTTPException: _http_refusal},
    )


async def _http_refusal(request: Request, error: Exception) -> Response:
    """Answer what starlette or a route refuses."""
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "")
    return refusal(status, detail)


async def _answer(service: Service, request: Request, endpoint: Endpoint) -> Response:
    """Let a route answer, and turn what it raises into an answer."""
    try:
        return await endpoint(service, request)
    except BusyError:
        answer = refusal(503, "too many scans are waiting; try again in a minute")
        answer.headers["Retry-After"] = "60"
        return answer
    except NotThereError as error:
        return refusal(404, str(error))
    except TakenError as error:
        return refusal(409, str(error))
    except VisceraError as error:
        return refusal(400, service.without_folders(str(error)))
    except MemoryError:
        return refusal(413, "the scan does not fit into the server's memory; crop it")
    except ClientDisconnect:
        return refusal(400, "the connection ended before the request did")
    except HTTPException:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            return refusal(507, "the server's disk is full")
        # A fault of ours: its place goes to the log, its message may name a patient.
        for one in causes(error):
            service.log.add(f"fault: {type(one).__module__}.{type(one).__qualname__}")
            for line in frame_lines(one):
                service.log.add(line)
        return refusal(500, "a fault of viscera; /logs/ says where in its code, without any name: please report it")
    finally:
        await request.close()
