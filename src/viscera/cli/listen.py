"""viscera listen: a DICOM node that segments the CT series it is sent, and sends the results back."""

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import tyro
from annotated_types import Interval
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import say
from viscera.cli.serve import LOOPBACK
from viscera.config import Accelerator
from viscera.errors import SettingError

if TYPE_CHECKING:
    from ssl import SSLContext

    from viscera.pacs.receiving import Door

PAUSE_S = 0.2


@dataclass(frozen=True)
class Options:
    """Be a DICOM node: CT series that are sent to it are segmented, and the results sent back. Ctrl-C ends it.

    The queue is on the disk: after a crash the same command goes on, and nothing is done twice. What fails stays in QUEUE/failed
    with its reason. It needs pip install "viscera[pacs]". Research only, not for diagnosis.
    """

    queue: Annotated[Positional[Path], arg(metavar="QUEUE")] = Path("viscera-queue")
    """Folder of the queue. It holds patients' images until they are segmented."""
    send_to: Annotated[tuple[str, ...], arg(metavar="AET@HOST:PORT")] = ()
    """Where results go: a DICOM node, or http://HOST:PORT/dicom-web; else they stay in QUEUE/done."""
    write: tuple[Literal["seg", "rtstruct", "report", "capture"], ...] = ("seg",)
    """What to send: seg (DICOM SEG), rtstruct, report (DICOM SR) or capture (a picture)."""
    aet: str = "VISCERA"
    """AE title of this node, which callers must name."""
    port: Annotated[int, Interval(ge=0, le=65535)] = 11112
    """To listen on; 0 takes a free one."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own needs --callers."""
    callers: tuple[str, ...] = ()
    """AE titles that may call; others are refused."""
    tls_cert: Path | None = None
    """Own certificate (PEM): callers must speak TLS then."""
    tls_key: Path | None = None
    """Its key."""
    tls_ca: Path | None = None
    """Callers need a certificate that this authority has signed."""
    send_tls_ca: Path | None = None
    """Results go by TLS: this authority (PEM) has signed the archive's certificate. --tls-cert is shown to it, where given."""
    quiet: Annotated[float, arg(metavar="S"), Interval(gt=0)] = 10.0
    """A series is complete when none of its images came for so many seconds."""
    max_image: Annotated[float, arg(metavar="MB"), Interval(gt=0)] = 1024.0
    """The most that one image may have."""
    max_associations: Annotated[int, Interval(ge=1)] = 10
    """At a time."""
    timeout: Annotated[float, arg(metavar="S"), Interval(gt=0)] = 60.0
    """After which an association ends that says nothing."""
    status_port: Annotated[int | None, Interval(ge=0, le=65535)] = None
    """Page of the queue, /status.json and /metrics (Prometheus) on this port of 127.0.0.1; 0 takes a free one."""
    weights: Path | None = None
    """As of viscera predict; without it, the bundled weights."""
    device: Accelerator = "auto"
    """Where the network runs."""
    status: bool = False
    """Only say what the queue holds, as JSON."""
    retry_failed: bool = False
    """Before all else, put back what has failed, but for parts of series, and what came again since then."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera listen", config=(FlagCreatePairsOff,))
    if options.status:
        from viscera.pacs.spool import Spool
        from viscera.pacs.status import status

        sys.stdout.write(json.dumps(status(Spool(options.queue)), indent=2) + "\n")
        return 0
    require_packages()
    from viscera.io.locks import locked
    from viscera.pacs.address import parse_address

    for text in options.send_to:
        parse_address(text)
    door = door_of(options)
    sending_tls(options)
    options.queue.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(options.queue, what="queue"):
        return listen(options, door)


def listen(options: Options, door: "Door") -> int:
    """Listen and work until Ctrl-C."""
    from viscera.cli.startup import kept_graphs, starting

    with starting():
        from viscera.figures.capture import draw_capture
        from viscera.inference.dicom_objects import DicomOptions, kinds_of
        from viscera.inference.model import load_model
        from viscera.inference.predict import PredictOptions
        from viscera.networks.cards import as_shipped, find_shipped
        from viscera.pacs.address import parse_address
        from viscera.pacs.node import Work, start_sending, step
        from viscera.pacs.picture import draw_last
        from viscera.pacs.receiving import Counts, series_uid, start_node
        from viscera.pacs.spool import Spool
        from viscera.pacs.status import start_status

        weights = options.weights and (as_shipped(options.weights) or options.weights)
        model = load_model(weights or find_shipped(), accelerator=options.device, runtime="auto", graphs=kept_graphs())
    spool, counts, kinds = Spool(options.queue, model.weights_sha256), Counts(), kinds_of(options.write)
    put_back = spool.open(series_uid, retry_failed=options.retry_failed)
    if options.retry_failed:
        say(f"put back: {put_back}")
    objects = DicomOptions(kinds, draw=draw_capture if "capture" in kinds else None)
    predict = PredictOptions(model.default_organs, statistics=False, overwrite=True, dicom=objects)
    to = [parse_address(text) for text in options.send_to]
    work = Work(predict, to, options.aet, options.quiet, tls=sending_tls(options))
    if options.status_port is not None:
        work = replace(work, shown=lambda job: draw_last(job, options.queue))
    server = start_node(door, spool, counts, log)
    page, end_sending = None, start_sending(spool, work, log)
    try:
        say(f"listening: {options.aet}@{options.host}:{server.server_address[1]} (Ctrl-C ends it)")
        if options.status_port is not None:
            page = start_status(spool, counts, options.status_port)
            say(f"status: http://127.0.0.1:{page.server_address[1]}/")
        while True:
            if not step(spool, model, work, log, senders=lambda: len(server.active_associations)):
                time.sleep(PAUSE_S)
    finally:
        server.shutdown()
        end_sending()
        if page is not None:
            page.shutdown()
            page.server_close()


def log(text: str) -> None:
    """Write a line with the time before it."""
    say(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}")


def door_of(options: Options) -> "Door":
    """Return where to listen, and for whom.

    Raises:
        SettingError: Options contradict each other, or others could come who were not named.
    """
    from viscera.pacs.address import require_aet
    from viscera.pacs.receiving import Door, server_tls

    require_aet(options.aet, option="--aet")
    callers = tuple(require_aet(caller, option="--callers") for caller in options.callers)
    if options.host not in LOOPBACK and not callers:
        raise SettingError(
            f"--host {options.host} can be reached from other machines", "Name who may call: --callers AET ..."
        )
    if (options.tls_cert is None) != (options.tls_key is None) or (options.tls_ca and not options.tls_cert):
        raise SettingError("TLS needs both a certificate and its key", "Pass --tls-cert FILE --tls-key FILE.")
    tls = None
    if options.tls_cert is not None and options.tls_key is not None:
        tls = server_tls(options.tls_cert, options.tls_key, options.tls_ca)
    limits = (options.max_associations, int(options.max_image * 2**20), options.timeout)
    return Door(options.aet, options.host, options.port, callers, tls, *limits)


def sending_tls(options: Options) -> "SSLContext | None":
    """Return how results travel.

    Raises:
        SettingError: A file cannot be used, or results would go to another machine without TLS.
    """
    from viscera.pacs.sending import client_tls

    if options.send_tls_ca is None:
        return None
    for text in options.send_to:
        if text.startswith("http://") and urlsplit(text).hostname not in LOOPBACK:
            raise SettingError(
                f"--send-to: '{text}' is without TLS, which --send-tls-ca asks for", "Give https://HOST:PORT/dicom-web."
            )
    return client_tls(options.send_tls_ca, options.tls_cert, options.tls_key)


def require_packages() -> None:
    """Say what to install where the extra is missing.

    Raises:
        SettingError: It is.
    """
    from importlib.util import find_spec

    missing = [name for name in ("pydicom", "highdicom", "pynetdicom") if find_spec(name) is None]
    if missing:
        raise SettingError(
            f"viscera listen needs {', '.join(missing)}, not installed here", "Install it: pip install 'viscera[pacs]'."
        )
