"""Everything that a training run depends on, and the runs that have a name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from spectral.errors import FileContentError, OptionError
from spectral.options import choice, number, whole

Law = Literal["uniform", "squared", "log-uniform", "log-normal", "fixed"]
Schedule = Literal["halvings", "cosine", "constant"]
Objective = Literal["denoise", "consistency"]
Precision = Literal["float32", "bfloat16"]

GENERATED = ("calpha", "calpha-mixed", "disks", "waves", "sines", "ray")
MIXED = (1.0, 2.0, 3.0, 5.0)  # exponents of "calpha-mixed"

LEVELS = (1e-9, 1e6)  # of noise: beyond them float32 has no squares of errors, or no weights of them

# Fields that are read with some values of another alone.
READ_WITH = {
    "alpha": ("data", ("calpha", "ray")),
    "beta": ("data", ("calpha",)),
    "halvings": ("schedule", ("halvings",)),
    "sigma_min": ("noise", ("log-uniform", "log-normal")),
    "log_mean": ("noise", ("log-normal",)),
    "log_sd": ("noise", ("log-normal",)),
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that the weights of a run depend on.

    Attributes:
        data: "photos" (patches of the training photographs), the path of a folder or an .npz file of
            pictures (patches of them; `denoisers.images.pictures_at`), "photos+PATH", both, or one of
            GENERATED, images without end: "calpha" (`released`, exponents alpha of the contour and beta of
            the backgrounds, 0: alpha as well), "calpha-mixed" (alpha 1, 2, 3, 5 in turn), "disks", "waves",
            "sines" (one period a side about 0, not in [0, 1]: through 0, as bias-free networks have it) and
            "ray" (the first "calpha" image of seed 0, times s).
        zoom: patches of pictures averaged over r x r pixels too, r up to zoom (`denoisers.images.Patches`).
        shuffled: whether pixels are in another order, the same for all images (`denoisers.images.Shuffled`).
        images, half: with `images` = N the same N images again and again, of the two disjoint sets of N that
            `denoisers.images.disjoint` makes by data_seed the "first" or the "second"; pictures are
            then taken whole, averaged to `size`.  0: no such set.  A batch may be larger than the
            set, and has its images more than once, each with noise of its own.
        network, network_config: the class and its keyword arguments; two or more channels read pictures in
            colour.
        start: what to go on from, as `denoisers.load` takes it, "" for new weights.
        frozen: norms divide by what they divided by in `start`, in training too, and no calibration follows:
            for a last tuning, in which the spread of each batch would be noise.
        objective: "denoise", weighted squared error at the noise levels of `noise`; "consistency", as
            `denoisers.training.objective.consistency_loss` says.
        size, batch: side of the images in pixels, and how many a step, over all processes.
        steps, learning_rate, schedule, warmup: Adam's step rises for `warmup` steps and then is "constant",
            falls to 0 by a "cosine", or by "halvings": halved `halvings` times at equal distances in the run.
        clip: norm that gradients are cut to, 0 for none.
        ema: decay of the mean of the weights that is written in their place, 0 for none.
        noise: a level for each image, U uniform on [0, 1]: "uniform", sigma_max U (as arXiv 2310.02557 says);
            "squared", sigma_max U^2 (as its code does, favouring small noise); "log-uniform" between
            sigma_min and sigma_max; "log-normal", exp(log_mean + log_sd N(0, 1)) cut to these; "fixed",
            sigma_max.
        emphasis: power by which low noise counts for more: squared errors at level sigma are weighted by
            sigma^-emphasis, besides what the network asks for. At each level alone the best denoiser is the
            same.
        precision: of the network's arithmetic: "bfloat16" by autocast.
        seed: of weights, order and noise; data_seed: of the images.

    Raises:
        OptionError: a field is of another type, or out of range; two contradict each other.
    """

    data: str
    network: str = "UNet"
    network_config: dict[str, Any] | None = None
    start: str = ""
    frozen: bool = False
    objective: Objective = "denoise"
    alpha: float = 2.0
    beta: float = 0.0
    zoom: int = 1
    shuffled: bool = False
    images: int = 0
    half: Literal["first", "second"] = "first"
    size: int = 48
    batch: int = 32
    steps: int = 4000
    learning_rate: float = 1e-3
    schedule: Schedule = "halvings"
    halvings: int = 5
    warmup: int = 0
    clip: float = 0.0
    ema: float = 0.0
    noise: Law = "squared"
    sigma_min: float = 0.001
    sigma_max: float = 1.0
    log_mean: float = -1.9
    log_sd: float = 1.2
    emphasis: float = 0.0
    precision: Precision = "float32"
    seed: int = 1
    data_seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(TrainConfig).items():
            object.__setattr__(self, name, _read(name, getattr(self, name), kind))
        least = dict.fromkeys(("size", "batch", "steps", "zoom"), 1)
        least |= dict.fromkeys(("halvings", "warmup", "images"), 0)
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise OptionError(f"{name} must be >= {bound}, got {getattr(self, name)}")
        if self.frozen and not self.start:
            raise OptionError("frozen norms are those of weights to start from: name them by start=")
        if self.zoom > 1 and (self.images or self.data in GENERATED):
            raise OptionError("zoom is of patches: of photos, or a folder of pictures without images=")
        if not self.learning_rate > 0:
            raise OptionError(f"learning_rate must be positive, got {self.learning_rate:g}")
        least_level, most_level = LEVELS
        if not least_level < self.sigma_max <= most_level:
            raise OptionError(
                f"sigma_max must lie in ({least_level:g}, {most_level:g}], got {self.sigma_max:g}: it is in "
                "the units of images, which lie in [0, 1]"
            )
        if self.emphasis and (self.objective != "denoise" or self.noise in ("uniform", "squared")):
            raise OptionError(
                "emphasis is of the objective 'denoise', and of noise that has a least level: "
                "'log-uniform', 'log-normal' or 'fixed'"
            )
        if not least_level <= self.sigma_min < self.sigma_max:
            raise OptionError(
                f"sigma_min must lie in [{least_level:g}, {self.sigma_max:g}), got {self.sigma_min:g}"
            )
        if not (0 <= self.ema < 1 and self.clip >= 0 and self.log_sd >= 0):
            raise OptionError("ema must lie in [0, 1), clip and log_sd be >= 0")
        if not (0 <= self.seed < 2**31 and 0 <= self.data_seed < 2**31):
            raise OptionError(
                f"seeds must lie in [0, 2^31), got seed={self.seed}, data_seed={self.data_seed}"
            )

    @property
    def channels(self) -> int:
        """Of the images."""
        return int((self.network_config or {}).get("channels", 1))

    def unread(self, name: str) -> str:
        """Why a field does nothing, beside the others as they are; "" where it does something."""
        if name == "half":
            return "" if self.images else "it is of the sets that images= makes"
        other, values = READ_WITH.get(name, ("data", (self.data,)))
        have = getattr(self, other)
        return "" if have in values else f"it is for {other}={' or '.join(values)}, not {have}"

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str, name: str) -> TrainConfig:
        """The configuration in the text of file `name`.

        Raises:
            FileContentError: there is none.
        """
        try:
            values = json.loads(text)
            return cls(**{key: values[key] for key in values if key in {f.name for f in fields(cls)}})
        except (ValueError, TypeError, KeyError) as error:
            raise FileContentError(f"{name} holds no training configuration: {error}") from error


def _read(name: str, value: Any, kind: Any) -> Any:
    """A field's value as its annotation says, numbers as Python's own, which JSON takes.

    Raises:
        OptionError: it is of another type.
    """
    if kind is int:
        return whole(name, value)
    if kind is float:
        return number(name, value)
    if get_origin(kind) is Literal:
        choice(name, value, get_args(kind))
    elif kind in (str, bool):
        if not isinstance(value, kind):
            raise OptionError(f"{name} is {'text' if kind is str else 'True or False'}, got {value!r}")
    elif not (value is None or (isinstance(value, dict) and _in_json(value))):
        raise OptionError(f"{name} is a dictionary of what JSON can hold, or None; got {value!r}")
    return value


def _in_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


# The networks that ship: a few minutes of a GPU with --precision bfloat16, days of two CPU cores.
SHIPPED = TrainConfig(
    data="photos",
    size=64,
    batch=128,
    steps=9500,
    learning_rate=2e-3,
    schedule="cosine",
    warmup=300,
    ema=0.999,
    noise="log-uniform",
    sigma_min=0.01,
    sigma_max=0.6,
    emphasis=1.0,
)

# Of one smoothness, at a size where a network learns how far to average: nearer the optimum than "calpha".
OF_ONE_ALPHA = replace(
    SHIPPED,
    data="calpha",
    network_config={"blocks": 3, "width": 20},
    size=80,
    batch=64,
    steps=15900,
    sigma_max=1.0,
)

RECIPES = {
    "photos": replace(SHIPPED, network_config={"blocks": 2, "width": 32}, zoom=2, steps=16000),
    "photos-colour": replace(SHIPPED, network_config={"blocks": 2, "width": 32, "channels": 3}),
    "calpha": replace(
        SHIPPED,
        data="calpha-mixed",
        network_config={"blocks": 3, "width": 16},
        size=48,
        steps=7000,
        sigma_max=1.0,
    ),
    # As sigma^-2 slope, PSNR out against PSNR in, so that each level counts about the same.
    "calpha-2": replace(OF_ONE_ALPHA, alpha=2.0, emphasis=1.2),
    "calpha-3": replace(
        OF_ONE_ALPHA,
        alpha=3.0,
        emphasis=1.5,
        network_config={"blocks": 3, "width": 20, "flips": True},
    ),
    # The paper's network, 7.7 M parameters: too many to ship, a quarter of an hour to a denoiser of use.
    "unet": TrainConfig(
        data="photos",
        network_config={"blocks": 3, "width": 64},
        size=40,
        batch=8,
        steps=1500,
        sigma_max=0.5,
    ),
    # Told the noise level, and to be tuned into a consistency function.
    "edm": TrainConfig(
        data="calpha",
        network="EDM",
        network_config={"width": 32, "scales": 3},
        size=32,
        batch=16,
        steps=3000,
        schedule="cosine",
        warmup=100,
        clip=1.0,
        ema=0.999,
        noise="log-normal",
        sigma_max=40.0,
    ),
    "consistency": TrainConfig(
        data="calpha",
        network="Consistency",
        network_config={"width": 32, "scales": 3},
        start="runs/edm",
        objective="consistency",
        size=32,
        batch=16,
        steps=1500,
        learning_rate=3e-4,
        schedule="cosine",
        warmup=50,
        clip=1.0,
        ema=0.999,
        noise="log-normal",
        sigma_max=40.0,
    ),
}
