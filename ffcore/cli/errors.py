"""The exit code of each error. Only this module maps the library's errors to exit codes."""

from ffcore.cli.exit_codes import ExitCode

EXPECTED = {
    "ffcore.recipe.diagnostics:RecipeError": ExitCode.USAGE,
    "ffcore.plugins.errors:PluginError": ExitCode.PLUGIN,
    "ffcore.training.distillation:WrongAnswer": ExitCode.PLUGIN,
    "ffcore.recipe.components:BuildError": ExitCode.USAGE,
    "ffcore.run.directory:RunDirectoryError": ExitCode.USAGE,
    "ffcore.training.checkpoint.manifest:CheckpointError": ExitCode.USAGE,
    "ffcore.export.sources:SourceError": ExitCode.USAGE,
    "ffcore.sample.sampler:SampleError": ExitCode.USAGE,
    "ffcore.evaluate.stored:EvaluationError": ExitCode.USAGE,
    "ffcore.report.record:ReportError": ExitCode.USAGE,
    "ffcore.sample.sampler:NotFinite": ExitCode.FAILED,
    "ffcore.flow.ode:FlowError": ExitCode.FAILED,
    "ffcore.training.finite:Diverged": ExitCode.FAILED,
    "ffcore.system.distributed:LostProcess": ExitCode.FAILED,
    "ffcore.system.weights:WeightsError": ExitCode.USAGE,
    "ffcore.interfaces:DataError": ExitCode.USAGE,
    "ffcore.system.files:MissingFile": ExitCode.ENVIRONMENT,
    "ffcore.system.faults:OutOfMemory": ExitCode.ENVIRONMENT,
    "builtins:OSError": ExitCode.ENVIRONMENT,
    "torch:OutOfMemoryError": ExitCode.ENVIRONMENT,
}
"""Errors that a user can fix, by name: this imports none of their modules."""


def verdict(error: BaseException) -> ExitCode | None:
    """Return the exit code of an error that a user can fix; None for a bug in ffcore.

    If plugins alone cause the errors of a recipe, the exit code is PLUGIN.
    """
    names = (f"{kind.__module__}:{kind.__qualname__}" for kind in type(error).__mro__)
    code = next((EXPECTED[name] for name in names if name in EXPECTED), None)
    if code is ExitCode.USAGE:
        from ffcore.recipe import RecipeError

        if isinstance(error, RecipeError) and error.about == "plugin":
            return ExitCode.PLUGIN
    return code
