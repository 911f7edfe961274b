"""A teacher with a condition of your own: the hand of an arm, given its six joint angles.

Run it in this folder; it takes half a minute on one CPU core:

    ffd run own_conditions.toml
    ffd sample runs/own_conditions --condition reach --condition fold -n 200 -o hands.npz
"""

import math
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ffcore import Condition, ConditionSource, Context, Draws, Teacher, digest_of, expand_like
from ffcore.keys import key

JOINTS = 6
NAMED = {
    "reach": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    "fold": [0.8, 0.8, 0.8, 0.8, 0.8, 0.8],
    "point": [1.2, -0.4, -0.4, 0.0, 0.0, 0.0],
}


class Poses(ConditionSource):
    """Six joint angles. Training draws them from N(0, spread² I); samples may name them."""

    def __init__(self, spread: float) -> None:
        self.spread = spread
        self.names = tuple(NAMED)

    def draw(self, draws: Draws) -> Condition:
        """Return a pose for each sample; all randomness comes from `draws`."""
        return Condition(size=len(draws), pooled=self.spread * draws.normal("pose", (JOINTS,)))

    def null(self, condition: Condition) -> Condition:
        """Raise ValueError: there is no arm without a pose, so nothing can be guided."""
        raise ValueError("poses have no null condition and cannot be guided")

    def of(self, names: Sequence[str]) -> Condition:
        """Return the poses with these names; six numbers with spaces are a name too."""
        return Condition(size=len(names), pooled=torch.tensor([*map(self._angles, names)]))

    def texts(self, condition: Condition) -> Sequence[str]:
        """Return the name of each pose, or its angles."""
        assert condition.pooled is not None
        names = {tuple(torch.tensor(angles).tolist()): name for name, angles in NAMED.items()}
        poses = map(tuple, condition.pooled.tolist())
        return [names.get(pose) or " ".join(f"{angle:.2f}" for angle in pose) for pose in poses]

    def fingerprint(self) -> str:
        """Return a digest of everything that the poses depend on."""
        return digest_of(f"poses {self.spread} {NAMED}")

    def _angles(self, name: str) -> list[float]:
        if name in NAMED:
            return NAMED[name]
        try:
            angles = [float(each) for each in name.split()]
        except ValueError:
            angles = []
        if len(angles) != JOINTS or not all(map(math.isfinite, angles)):
            raise ValueError(
                f"must be {', '.join(NAMED)} or {JOINTS} angles, as in "
                f"'0.1 0 0 0 0 0', found {name!r}"
            )
        return angles


class Arm(Teacher):
    """The exact velocity of the hand, or of its mirror image below the axis, each blurred.

    Your trained network would stand here, wrapped in ffcore.FrozenTeacher.
    """

    blur: Tensor

    def __init__(self, conditions: ConditionSource, blur: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("blur", torch.tensor(blur))
        self.sample_shape = (2,)
        self.conditions = conditions

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return u(x_t, t | pose)."""
        assert condition.pooled is not None
        angle = condition.pooled.to(x_t.dtype).cumsum(1)
        x, y = angle.cos().sum(1, keepdim=True) / 3, angle.sin().sum(1, keepdim=True) / 3
        t, blur = expand_like(t, x_t).to(x_t.dtype), self.blur.to(x_t.dtype)
        variance = (1 - t) ** 2 * blur**2 + t**2
        side = torch.tanh((1 - t) * x_t[:, 1:] * y / variance)  # above the axis or below
        mean = torch.cat([x, side * y], 1)
        velocity: Tensor = mean - (t - (1 - t) * blur**2) / variance * (x_t - (1 - t) * mean)
        return velocity

    def trainable_copy(self, *, takes_guidance: bool = False) -> None:
        """Return None: a formula has nothing to train."""
        del takes_guidance


@attrs.frozen(kw_only=True)
class PosesTable:
    """The recipe table [conditions]."""

    spread: float = key(0.5, help="standard deviation of the angles in training", above=0)
    offers = frozenset({"pose"})

    def build(self, context: Context) -> ConditionSource:
        """Return the poses."""
        return Poses(self.spread)


@attrs.frozen(kw_only=True)
class ArmTable:
    """The recipe table [teacher]. It needs poses, and does not bring its own."""

    sample_shape = (2,)
    guidable = False
    needs = frozenset({"pose"})

    def build(self, context: Context) -> Teacher:
        """Return the teacher, with the recipe's conditions."""
        assert context.conditions is not None
        return Arm(context.conditions).eval()
