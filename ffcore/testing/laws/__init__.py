"""The laws, one module for each role. Importing this module registers them all."""

from ffcore.testing.law import ANY, LAWS, Law
from ffcore.testing.laws import (  # noqa: F401 - each registers its laws
    balancer,
    component,
    conditions,
    data,
    decoder,
    features,
    network,
    objective,
    student,
    teacher,
    tracker,
)


def laws_of(role: str) -> list[Law]:
    """Return the laws of a component of this role: those of every component, then the role's."""

    def numbered(role: str) -> list[Law]:
        return sorted((each for each in LAWS if each.role == role), key=lambda each: each.number)

    return numbered(ANY) + numbered(role)
