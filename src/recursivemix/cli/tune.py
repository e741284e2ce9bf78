"""The command that searches settings."""

from __future__ import annotations

from dataclasses import replace

from recursivemix.tune.settings import TuneSettings

from .errors import Failed, Interrupted, failed_runs, usage_errors


def tune(settings: TuneSettings) -> None:
    """Search the settings of a mixing method, and confirm the best against none on fresh seeds.

    Examples:
        recursivemix tune --data DIR --budget 2h --out tuned
        recursivemix tune --data DIR --trials 27 --epochs 27 --jobs 2 --out tuned
        recursivemix tune --data DIR --budget 2h --space.lr '[0.02,0.2]' --space.mix_stop 1
        recursivemix fit --config tuned/best.yaml
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from recursivemix.compare.processes import GridStoppedError, RunError
    from recursivemix.training.checkpoints import StoppedError
    from recursivemix.tune.tune import tune

    try:
        with usage_errors(MisconfigurationException):
            if settings.data is not None and settings.data.exists():
                settings = replace(settings, data=settings.data.absolute())  # runs may start elsewhere
            record = tune(settings, lambda line: print(line, flush=True))
    except (GridStoppedError, StoppedError, KeyboardInterrupt) as error:
        raise Interrupted("stopped; the same command resumes the search") from error
    except RunError as error:
        raise Failed(str(error)) from error
    print(record["answer"])
    print(f"settings: {settings.out / 'best.yaml'}, page: {settings.out / 'page.html'}")
    problems = (record["confirmation"] or {}).get("problems", {})
    if problems:
        raise failed_runs(problems, " of the confirmation")
