"""viscera in speed.py: ``predict_file``, on a runtime, with every slice or with those skipped that hold nothing."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from speed_child import Clock, Order, Segment, measured
from viscera.cli.startup import kept_graphs, starting
from viscera.inference.model import Model, load_model
from viscera.inference.predict import Task, predict_file
from viscera.networks.runners import TorchRunner


def load(order: Order, clock: Clock) -> Segment:
    """Load the network; ``how`` names the runtime, "exact" fp32 on torch, "every_slice" that none is skipped, "weights" others."""
    how = order.how
    exact, weights = "exact" in how, Path(how.get("weights", order.run))
    with starting():
        model = load_model(
            weights,
            accelerator="cpu",
            runtime=None if exact else how["runtime"],  # type: ignore[arg-type]
            graphs=kept_graphs(),
        )
    if exact:
        model = replace(model, network=TorchRunner(model.network, model.device, exact=True), autocast=None)
    if "every_slice" in how:
        model = with_every_slice(model)
    calls = watched(model)

    def segment(scan: str, out: str) -> dict[str, object]:
        """Segment; calls that run at once share the cores, so the network's time is the sum of them over their number."""
        calls.clear()
        facts = predict_file(Task(Path(scan), Path(out)), model)["run"]
        clock.seconds.update(facts["seconds"])  # type: ignore[index]
        streams = getattr(model.network, "streams", 1)
        return {
            "network_s": round(sum(seconds for seconds, _ in calls) / streams, 3),
            "slices_seen": sum(slices for _, slices in calls),
            "runtime": facts["runtime"],  # type: ignore[index]
            "precision": facts["precision"],  # type: ignore[index]
        }

    return segment


def with_every_slice(model: Model) -> Model:
    """Give a model that skips no slice."""
    inference = replace(model.recipe.inference, look_mm=0.0)
    return replace(model, recipe=replace(model.recipe, inference=inference))


def watched(model: Model) -> list[tuple[float, int]]:
    """Give a list that gets (seconds, slices) of every pass through the network."""
    calls: list[tuple[float, int]] = []
    lock, forward = threading.Lock(), model.network.forward

    def timed(image: object, *rest: object) -> object:
        """Pass through the network."""
        start = time.perf_counter()
        found = forward(image, *rest)
        with lock:
            calls.append((time.perf_counter() - start, len(image)))  # type: ignore[arg-type]
        return found

    timed_forward: Callable = timed
    model.network.forward = timed_forward
    return calls


if __name__ == "__main__":
    measured(load)
