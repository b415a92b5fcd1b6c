"""From a series that is complete to its results in the archive: each step is known to the disk before the next.

One thread segments, another one sends: an archive that is slow, or away, keeps no series waiting.
"""

import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from viscera.errors import VisceraError
from viscera.inference.dicom_jobs import find_dicom_jobs
from viscera.inference.dicom_objects import written_objects
from viscera.inference.model import Model
from viscera.inference.predict import PredictOptions, predict_all
from viscera.pacs.address import Node, Web
from viscera.pacs.sending import send_files
from viscera.pacs.spool import Job, Spool, last_change

HELD = 6
"""While a sender is connected a series waits so many times as long: it may pause, and one archive may send many series."""
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 600.0
"""Between tries of sending: each wait is twice the one before."""
PAUSE_S, ENDING_S = 0.2, 5.0
"""Between looks at what is to be sent; how long the end waits for an archive."""


@dataclass(frozen=True)
class Work:
    """What is done with a series.

    Attributes:
        options: Of predicting; its DICOM objects are what is sent.
        to: Where results go; () keeps them in the queue's folder done.
        own_aet: The title to call with.
        quiet_s: A series is complete when none of its images came for so long; HELD times as long while a sender is connected.
        tries: Of sending, before a job fails.
        first_wait_s: After the first try that fails.
        tls: For sending: see ``send_files``.
        shown: Told of each job when its results have been sent, before its images are removed.
    """

    options: PredictOptions
    to: Sequence[Node | Web] = ()
    own_aet: str = "VISCERA"
    quiet_s: float = 10.0
    tries: int = 8
    first_wait_s: float = FIRST_WAIT_S
    tls: ssl.SSLContext | None = None
    shown: Callable[[Job], None] = lambda job: None


def step(
    spool: Spool, model: Model, work: Work, log: Callable[[str], None], *, senders: Callable[[], int] = lambda: 0
) -> bool:
    """Do what is next, if anything: complete series, segment one; return whether anything was done.

    Args:
        spool: The queue.
        model: That segments.
        work: What is to be done.
        log: Told of each step by the key of its job.
        senders: Says how many are connected.
    """
    worked = False
    quiet_s = work.quiet_s * (HELD if senders() else 1)
    for job in spool.jobs("incoming"):
        if time.time() - last_change(job) >= quiet_s:
            became = spool.complete(job)
            if became != "busy":
                log(f"{job.key}: {_SAID[became]}")
                worked = True
    waiting = spool.jobs("waiting")
    if waiting:
        segment(spool.move(waiting[0], "working"), spool, model, work, log)
    return worked or bool(waiting)


def send_due(spool: Spool, work: Work, log: Callable[[str], None]) -> bool:
    """Send the results whose time it is; return whether anything was done."""
    worked = False
    for job in spool.jobs("sending"):
        worked |= send(job, spool, work, log)
    return worked


def start_sending(spool: Spool, work: Work, log: Callable[[str], None]) -> Callable[[], None]:
    """Send results on a thread of its own; return what ends it: what is on its way then is sent again after a restart.

    A fault that nobody foresaw is logged by its kind, and sending goes on with the next try.
    """
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(PAUSE_S):
            try:
                send_due(spool, work, log)
            except Exception as error:
                log(f"sending: a fault in viscera or the system ({type(error).__name__}); it is tried again")
                stop.wait(work.first_wait_s)

    thread = threading.Thread(target=run, name="viscera sends", daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(ENDING_S)

    return end


_SAID = {
    "waiting": "complete",
    "seen": "came again, and was segmented with these weights before",
    "late": "failed: images came after it was segmented",
}


def segment(job: Job, spool: Spool, model: Model, work: Work, log: Callable[[str], None]) -> Job:
    """Segment a series, as ``viscera predict`` does; return the job in its next state."""
    start = time.time()
    job.note(began=start)
    try:
        jobs, problems = find_dicom_jobs(job.images, job.results / f"{job.key}.nii.gz")
        failed = predict_all(jobs, model, options=work.options)
        for error in (*problems.values(), *(error for _, error in failed)):
            raise error
    except VisceraError as error:
        log(f"{job.key}: failed ({type(error).__name__})")
        return spool.fail(job, str(error))
    files = written_objects(jobs, work.options.dicom.kinds)
    job.note(results=[file.name for file in files], segmented_s=round(time.time() - start, 3), sent=[], tries=0)
    log(f"{job.key}: segmented in {time.time() - start:.1f} s")
    return spool.move(job, "sending")


def send(job: Job, spool: Spool, work: Work, log: Callable[[str], None]) -> bool:
    """Send a job's results to where they have not been yet, if it is time; return whether anything was done."""
    facts = job.facts()
    if time.time() < facts.get("not_before", 0):
        return False
    sent, files = list(facts.get("sent", ())), [job.results / name for name in facts.get("results", ())]
    start = time.time()
    for to in work.to:
        if str(to) in sent or not files:
            continue
        try:
            send_files(files, to, own_aet=work.own_aet, tls=work.tls)
        except VisceraError as error:
            tries = int(facts.get("tries", 0)) + 1
            log(f"{job.key}: not sent, try {tries} of {work.tries} ({type(error).__name__})")
            if tries >= work.tries:
                spool.fail(job, str(error))
            else:
                wait_s = min(work.first_wait_s * 2 ** (tries - 1), LONGEST_WAIT_S)
                job.note(tries=tries, not_before=time.time() + wait_s, last_error=str(error))
            return True
        sent.append(str(to))
        job.note(sent=sent)
    job.note(sent_s=round(time.time() - start, 3))
    work.shown(job)
    spool.finish(job)
    log(f"{job.key}: done" if files else f"{job.key}: done; no organ was found, so nothing was sent")
    return True
