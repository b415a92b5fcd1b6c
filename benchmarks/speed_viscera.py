"""viscera in speed.py: ``predict_file``, on a runtime, with every slice or with those skipped that hold nothing."""

from dataclasses import replace
from pathlib import Path

from speed_child import Clock, Order, Segment, measured
from viscera.cli.startup import kept_graphs, starting
from viscera.deployment.flops import NotedRunner
from viscera.inference.jobs import ScanJob
from viscera.inference.model import Model, load_model
from viscera.inference.predict import predict_file
from viscera.networks.runners import folded_runner


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
        model = replace(model, network=folded_runner(model.module, model.device, exact=True))
    if "every_slice" in how:
        model = with_every_slice(model)

    def segment(scan: str, out: str) -> dict[str, object]:
        """Segment; calls that run at once share the cores, so the network's time is the sum of them over their number."""
        noted = NotedRunner(model.network)
        facts = predict_file(ScanJob(Path(scan), Path(out)), replace(model, network=noted))["run"]
        clock.seconds.update(facts["seconds"])  # type: ignore[index]
        return {
            "network_s": round(noted.calls.seconds / noted.streams, 3),
            "slices_seen": sum(times * shape[0] for shape, times in noted.calls.shapes.items()),
            "runtime": facts["runtime"],  # type: ignore[index]
            "precision": facts["precision"],  # type: ignore[index]
        }

    return segment


def with_every_slice(model: Model) -> Model:
    """Give a model that skips no slice."""
    inference = replace(model.recipe.inference, look_mm=0.0)
    return replace(model, recipe=replace(model.recipe, inference=inference))


if __name__ == "__main__":
    measured(load)
