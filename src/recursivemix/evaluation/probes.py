"""The registry of probes, in the order in which they run and are shown."""

from __future__ import annotations

from . import accuracy, calibration, corruption, localization, multiple, occlusion, scale
from .probe import Metric, Probe

PROBES: tuple[Probe, ...] = (
    accuracy.PROBE,
    calibration.PROBE,
    corruption.PROBE,
    occlusion.PROBE,
    scale.PROBE,
    multiple.PROBE,
    localization.PROBE,
)


def select_probes(names: str) -> list[Probe]:
    """Return the probes of a comma-separated list of names, or all; accuracy always runs, and first.

    Raises:
        ValueError: an unknown name.
    """
    known = [probe.name for probe in PROBES]
    wanted = known if names == "all" else [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"--probes must be all or some of {','.join(known)}, got {','.join(unknown)}")
    return [probe for probe in PROBES if probe is accuracy.PROBE or probe.name in wanted]


def compared_metrics() -> list[Metric]:
    """Return the summary numbers by which a comparison tests methods."""
    return [metric for probe in PROBES for metric in probe.metrics if metric.compared]
