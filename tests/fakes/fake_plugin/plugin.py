"""A plugin that brings one small component of every role."""

from collections.abc import Iterator

from ffcore.plugins import Component, hookimpl

CLASSES = {
    ("teacher", "point"): "Point",
    ("student", "line"): "Line",
    ("student", "curve"): "Curve",
    ("predictor", "identity"): "Identity",
    ("predictor", "fit"): "Fit",
    ("corrector", "online"): "Online",
    ("data", "stored"): "Stored",
    ("data", "made"): "Raw",
    ("balancer", "adaptive"): "Adaptive",
    ("balancer", "even"): "Even",
    ("network", "small"): "Small",
    ("decoder", "identity"): "Raw",
    ("features", "raw"): "Raw",
    ("features", "deep"): "Deep",
    ("tracker", "lines"): "Raw",
}


@hookimpl
def ffcore_components() -> Iterator[Component]:
    for (role, name), table in CLASSES.items():
        yield Component(role, name, f"fake_plugin.tables:{table}", f"A {role} for tests")
