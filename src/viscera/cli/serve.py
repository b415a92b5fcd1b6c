"""viscera serve: MONAI Label's protocol, so that 3D Slicer segments with viscera."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Interval
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import counted, say
from viscera.config import Accelerator
from viscera.errors import SettingError

if TYPE_CHECKING:
    from viscera.serving.service import Service

PACKAGES = ("starlette", "uvicorn", "python_multipart")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LEAST_TOKEN = 12


@dataclass(frozen=True)
class Options:
    """Let 3D Slicer segment with viscera: a server that its MONAI Label module connects to.

    In 3D Slicer: module MONAI Label, server address http://127.0.0.1:8000, load a CT, Run. Corrected segmentations that are
    submitted there are kept in STUDIES/labels, each as a new version; nothing is ever replaced. From three of them on the model can
    learn (Update Model in Slicer). The address itself, in a browser on this machine, shows how the server is. Ctrl-C ends it. It
    needs pip install "viscera[serve]". Not for diagnosis.
    """

    studies: Annotated[Positional[Path], arg(metavar="STUDIES")] = Path("viscera-studies")
    """Folder of scans (.nii.gz, .nii) that clients may fetch one by one; it is made where it is missing. What they send is
    written there, and nowhere else."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own needs --token: whoever reaches the port can otherwise see the scans."""
    port: Annotated[int, Interval(ge=0, le=65535)] = 8000
    """To listen on; 0 takes a free one."""
    weights: tuple[Path, ...] = ()
    """Runs, .safetensors files or exports to offer beside the bundled weights, each under its own name."""
    token: str = ""
    """A secret of at least 12 characters, which 3D Slicer asks for as the password (any user name)."""
    origin: tuple[str, ...] = ()
    """Address of a web page that may ask, such as OHIF's: http://localhost:3000. None can without."""
    max_upload: Annotated[float, arg(metavar="MB"), Interval(gt=0)] = 2048.0
    """The most that one request may send."""
    device: Accelerator = "auto"
    """Where networks run; auto takes a GPU where there is one."""
    jobs: int = 0
    """Cores to compute on; 0: all that there are."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera serve", config=(FlagCreatePairsOff,))
    require_token(options)
    require_packages()
    from tempfile import TemporaryDirectory

    from viscera.serving.app import make_app
    from viscera.serving.running import listen, serve

    listening = listen(options.host, options.port)
    try:
        with TemporaryDirectory(prefix="viscera-serve-") as folder:
            service = service_of(options, Path(folder))
            say(
                f"models: {', '.join(service.models)}; {counted(len(service.datastore.scans()), 'scan')} in {options.studies}"
            )
            host, port = listening.getsockname()[:2]
            say(
                f"server address for 3D Slicer's MONAI Label: http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)"
            )
            try:
                serve(make_app(service), listening)
            finally:
                service.close()
    except KeyboardInterrupt:
        pass  # not where the signal is ignored, as in what a shell starts by &: then uvicorn ends, and raises nothing
    finally:
        listening.close()
    say("the server has ended")
    return 0


def require_token(options: Options) -> None:
    """Refuse to be reached from elsewhere without a token, and tokens that can be guessed.

    Raises:
        SettingError: Either.
    """
    if options.token and len(options.token) < LEAST_TOKEN:
        raise SettingError(
            f"--token must have at least {LEAST_TOKEN} characters",
            "Make one: python -c 'import secrets; print(secrets.token_urlsafe())'.",
        )
    if options.host not in LOOPBACK and not options.token:
        raise SettingError(
            f"--host {options.host} can be reached from other machines, which could then see and store scans",
            "Pass --token SECRET, or leave --host out.",
        )


def require_packages() -> None:
    """Say what to install where the extra is missing.

    Raises:
        SettingError: It is.
    """
    from importlib.util import find_spec

    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise SettingError(
            f"viscera serve needs {', '.join(missing)}, not installed here",
            "Install them: pip install 'viscera[serve]'.",
        )


def service_of(options: Options, folder: Path) -> "Service":
    """Load the networks, and make what the routes work with.

    Args:
        options: The verb's.
        folder: For sessions; private.
    """
    from viscera.cli.startup import kept_graphs, starting
    from viscera.serving.datastore import Datastore

    datastore = Datastore(options.studies)
    with starting():
        from viscera.networks.device import use_cores
        from viscera.reports.viewer.last import last_page
        from viscera.serving.guard import Limits
        from viscera.serving.segmenting import load_models, load_served
        from viscera.serving.service import Service
        from viscera.serving.sessions import Sessions
        from viscera.serving.versions import Versions, first_weights

        use_cores(options.jobs)
        models = load_models(options.weights, accelerator=options.device, graphs=kept_graphs())
        usual = {name: model.default_organs for name, model in models.items()}
        versions = Versions(datastore.folder, first_weights(models, options.weights), usual)
        load_served(models, versions, accelerator=options.device)
    limits = Limits(options.token, options.host in LOOPBACK, int(options.max_upload * 2**20), origins=options.origin)
    return Service(models, datastore, Sessions(folder), limits, versions=versions, draw_page=last_page)
