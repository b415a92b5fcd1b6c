"""RUN/state.safetensors: where a killed run goes on, on any number of devices."""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from viscera.learning import run_folder
from viscera.learning.progress import Progress
from viscera.learning.setup import Session
from viscera.networks.weights import load_state, save_state

MEASURED = "measured_hu"
"""Where a run's state keeps the organs' HU (ForegroundScore)."""


def save_progress(run: Path, session: Session, progress: Progress) -> None:
    """Write the state from which the run can go on."""
    progress.scaler = session.fabric.strategy.precision.state_dict()
    facts = asdict(progress) | {MEASURED: session.recipe.intensity.measured}
    save_state(run / run_folder.STATE, parts_of(session), session.optimizer, progress=facts)


def resume_from(file: Path, session: Session) -> tuple[Session, Progress]:
    """Load the saved state, if any; return the session with the organs' HU that the run began with, wherever from."""
    if not file.is_file():
        return session, Progress()
    facts = load_state(file, parts_of(session), session.optimizer)
    measured = facts.pop(MEASURED, None)
    progress = Progress(**facts)  # type: ignore[arg-type]
    session.fabric.strategy.precision.load_state_dict(progress.scaler)
    if measured is None:
        return session, progress
    intensity = replace(session.recipe.intensity, measured=tuple(measured))  # type: ignore[arg-type]
    return replace(session, recipe=replace(session.recipe, intensity=intensity)), progress


def parts_of(session: Session) -> dict[str, torch.nn.Module]:
    """Name the networks of a run's state."""
    return {"network": session.network} | ({"average": session.average} if session.average is not None else {})
