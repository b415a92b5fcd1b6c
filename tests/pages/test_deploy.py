"""What deploy/ starts exists: verbs, options and extras, bound to this machine or guarded; no image is built here."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import tyro
import yaml
from tyro.conf import FlagCreatePairsOff

from viscera.cli import listen, serve

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
UNITS = sorted(DEPLOY.glob("*.service"))


def _options(words: list[str]):
    """Parse a command as the verb does."""
    verb = {"listen": listen, "serve": serve}[words[0]]
    words = [re.sub(r"\$\{.*\}", "a-token-of-the-user", word) for word in words[1:]]
    return tyro.cli(verb.Options, args=words, prog="viscera", config=(FlagCreatePairsOff,))


@pytest.mark.parametrize("name", ["listen", "serve"])
def test_a_container_starts_what_there_is_and_nobody_else_reaches_it_unasked(name):
    service = COMPOSE["services"][name]
    options = _options(service["command"])
    assert options.callers if name == "listen" else options.token
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert service["read_only"] is True
    assert service["volumes"][0].endswith(":/data")


def test_the_node_and_the_archive_know_each_other():
    environment = COMPOSE["services"]["orthanc"]["environment"]
    options = _options(COMPOSE["services"]["listen"]["command"])
    title, host, port = yaml.safe_load(environment["ORTHANC__DICOM_MODALITIES"])["viscera"]
    assert (title, host, port) == (options.aet, "listen", options.port)
    assert options.callers == (environment["ORTHANC__DICOM_AET"],)
    assert options.send_to == (f"{environment['ORTHANC__DICOM_AET']}@orthanc:4242",)
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert COMPOSE["services"]["listen"]["networks"] == ["inside"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_what_there_is_on_this_machine_only(unit):
    text = unit.read_text()
    [start] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    words = shlex.split(start)
    options = _options(words[1:])
    assert options.host == "127.0.0.1"
    folder = options.queue if words[1] == "listen" else options.studies
    assert folder.is_relative_to("/var/lib/viscera")  # what ProtectSystem=strict leaves writable: StateDirectory
    for needed in ("StateDirectory=viscera", "UMask=0077", "KillSignal=SIGINT", "SuccessExitStatus=130"):
        assert needed in text.splitlines()


def test_the_image_installs_extras_that_there_are_and_runs_as_nobody_special():
    text = (DEPLOY / "Dockerfile").read_text()
    [listed] = re.findall(r'"\.\[(.*)\]"', text)
    extras = listed.split(",")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= set(known)
    assert {"pacs", "serve"} <= set(extras)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001"]
    for source in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / one).exists() for one in source.split())
