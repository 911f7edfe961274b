"""The predictor's settings, for recipes and Python. Torch-free."""

from ffcore.flow.solver import Solver

PAIRS = 10_000
DELTAS = (1.0,)
SOLVER = Solver(steps=16)
BATCH = 500


def steps_between(solver: Solver, start: float, stop: float) -> int | None:
    """Return the number of a solver's steps from duration `start` to `stop`.

    None if they are not whole steps. dopri5 chooses its own, so that the number means nothing: 1.
    """
    if solver.method == "dopri5":
        return 1
    steps = (stop - start) * solver.steps
    return round(steps) if abs(steps - round(steps)) < 1e-6 else None
