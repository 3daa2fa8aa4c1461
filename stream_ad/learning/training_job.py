"""One training in a process of its own: `python -m stream_ad.learning.training_job FOLDER`.

The job comes as files (job.json, window.safetensors) and ends as files (a snapshot in the registry, result.json):
no shared memory, no pickle, and nothing of the parent's program is imported again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stream_ad.records import Context

if TYPE_CHECKING:
    from stream_ad.detector import Detector
    from stream_ad.detector.detector import Device
    from stream_ad.learning.fading import Rows
    from stream_ad.learning.gate import Verdict
    from stream_ad.learning.window import InlierWindow
    from stream_ad.registry import ModelRegistry

JOB_FILE = "job.json"
WINDOW_FILE = "window.safetensors"
RESULT_FILE = "result.json"


@dataclass(frozen=True, slots=True)
class Job:
    """What a training process needs to know beside the window."""

    registry: str
    keep: int
    window_rows: int
    features: list[str]
    fingerprint: str
    context: Context
    false_alarm_rate: float
    device: Device
    seed: int
    threads: int
    trigger: str
    recipe: dict[str, Any]
    reference: str
    """`training.reference`."""
    live: str | None
    """The version that was live, as the worker knows, when the window was taken; None without one."""
    parent: int
    """Process id of the worker; the training ends when the worker is gone."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a training that came to its end ended."""

    version: str
    accepted: bool
    reasons: list[str]
    refused_by: list[str]
    """The gate's checks that refused the model."""
    reference_distance: float | None
    """See `stream_ad.learning.reference`; None without a reference."""
    notes: list[str]
    """What a person should know, whatever became of the model."""
    left_out: list[tuple[int, int, int]]
    """Stretches of the window that should not be learned from: see `InlierWindow.drop`."""


def run(folder: Path) -> Result:
    """Fit, judge and store a model; make it live if the gate lets it through."""
    import torch
    from safetensors.numpy import load_file

    from stream_ad.detector import Detector, Recipe
    from stream_ad.learning import reference
    from stream_ad.learning.data_report import burst_left_out
    from stream_ad.learning.training import train
    from stream_ad.registry import ModelRegistry, Snapshot

    job = Job(**json.loads((folder / JOB_FILE).read_text()))
    registry = ModelRegistry(job.registry, job.keep)
    # A pointer that names no model is mended by the new one.
    live_before = registry.pointer() if registry.live() is None else job.live
    torch.set_num_threads(job.threads)
    started = time.time()
    arrays = load_file(folder / WINDOW_FILE)

    def end_with_parent(share: float) -> None:
        if os.getppid() != job.parent:
            raise SystemExit("the worker is gone")

    detector = Detector(job.false_alarm_rate, job.device, job.seed, Recipe(**job.recipe))
    training = train(
        restored(job, arrays),
        detector,
        partial(live_detector, registry, job),
        trigger=job.trigger,
        features=len(job.features),
        past=job.context["window"],
        anomalies=arrays.get("anomalies.values"),
        progress=end_with_parent,
    )
    verdict = training.verdict
    moved = reference.compare(
        registry, job.reference, job.fingerprint, training.rows, job.false_alarm_rate, detector.device
    )
    stored = restored(job, arrays)
    told = report(job, training.rows, stored.inliers.ordered(), detector.unknown, time.time() - started)
    if training.left_out:
        stored.drop(training.left_out)
        arrays |= stored.state()
    snapshot = Snapshot(
        version="",
        weights=detector.tensors(),
        description=detector.description(),
        schema_fingerprint=job.fingerprint,
        features=job.features,
        report=told | {"recurring_rows": training.recurring} | detector.report() | figures(verdict) | asdict(moved),
        verdict={"accepted": verdict.accepted, "reasons": verdict.reasons, "refused_by": list(verdict.refusals)},
        created_at=time.time(),
        window=arrays,
        context=job.context,
    )
    version = registry.save(snapshot)
    reasons = verdict.reasons
    if verdict.accepted and not registry.publish(version, live_before):
        reasons = [f"{registry.pointer()} was made live while this one trained, by another trainer or by hand"]
        registry.reject_late(version, reasons[0])
    registry.prune(keep_also=registry.reference(job.reference, job.fingerprint))
    notes = [moved.reference_note] if moved.reference_note else []
    notes += burst_left_out(detector.left_out)
    notes += [note for kind in ("counters", "hardly_known", "short_sequences") for note in told[kind]]
    return Result(
        version=version,
        accepted=not reasons,
        reasons=reasons,
        refused_by=list(verdict.refusals),
        reference_distance=moved.reference_distance,
        notes=notes,
        left_out=training.left_out,
    )


def restored(job: Job, arrays: dict[str, Any]) -> InlierWindow:
    """The window as it was when the training was asked for."""
    from stream_ad.learning.window import InlierWindow

    window = InlierWindow(job.window_rows, arrays["inliers.values"].shape[1], job.false_alarm_rate)
    window.restore(arrays)
    return window


def live_detector(registry: ModelRegistry, job: Job) -> Detector | None:
    """The model that is live, to compare the new one with; None if there is none of this schema that can be read."""
    from stream_ad.detector import Detector
    from stream_ad.registry import SnapshotError

    live = registry.live()
    try:
        snapshot = None if live is None else registry.load(live, with_window=False)
    except SnapshotError:
        return None
    if snapshot is None or snapshot.schema_fingerprint != job.fingerprint:
        return None
    return Detector.restore(snapshot.description, snapshot.weights, job.device)


def figures(verdict: Verdict) -> dict[str, Any]:
    """What the gate measured, for the training report."""
    return {"alert_rate": verdict.alert_rate, "auroc": verdict.auroc, "live_auroc": verdict.live_auroc}


def report(
    job: Job, rows: NDArray[np.float64], inliers: Rows, unknown: NDArray[np.bool_], seconds: float
) -> dict[str, Any]:
    """The training report that is stored with the model: on the features themselves, whatever extends them.

    `rows` are those of the training; only the window's `inliers` know which of them follow each other. `unknown` are
    the columns that the detector knows next to nothing of.
    """
    from stream_ad.learning.data_report import findings
    from stream_ad.learning.gate import distinct_rows

    succeeding = inliers.values, inliers.sequence
    found = findings(rows, job.features, unknown, job.context, succeeding)
    rows = rows[:, : len(job.features)]
    return {
        "trigger": job.trigger,
        "rows": len(rows),
        "distinct_rows_share": len(distinct_rows(rows)) / max(1, len(rows)),
        "seconds": seconds,
        "missing_share": dict(zip(job.features, np.isnan(rows).mean(axis=0).tolist(), strict=True)),
    } | found


def main() -> None:
    folder = Path(sys.argv[1])
    result = run(folder)
    partial = folder / (RESULT_FILE + ".part")
    partial.write_text(json.dumps(asdict(result)))
    partial.rename(folder / RESULT_FILE)


if __name__ == "__main__":
    main()
