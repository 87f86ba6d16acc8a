"""Networks of the package diffusers with one of its schedulers; the package itself is not imported."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from denoisers.adapters.diffusion import Condition, Diffusion
from denoisers.adapters.schedule import Discrete, Exploding, Flow, Schedule
from spectral.errors import OptionError, ShapeError
from spectral.options import number

PROMPT = "encoder_hidden_states"


def from_diffusers(
    model: Any,
    scheduler: Any,
    *,
    prompt: Tensor | None = None,
    negative: Tensor | None = None,
    guidance: float = 1.0,
    streams: str = "together",
    condition: Condition | None = None,
    unconditional: Condition | None = None,
    units: tuple[float, float] | None = (-1.0, 1.0),
    prediction: str | None = None,
    between: str = "interpolate",
    time_scale: float = 1.0,
) -> Diffusion:
    """f(y, sigma) = E[x | y], y = x + sigma n, of a diffusers network: see `Diffusion`.

    What the network predicts and at which levels it was trained are the scheduler's: alphas_cumprod (DDPM,
    DDIM, PNDM, Euler, Heun, DPM-Solver, UniPC, ...), straight flows (FlowMatchEuler and others), or EDM's
    (EDMEuler). `set_timesteps` has no part in it, neither have clipping and thresholds.

    Args:
        model: UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel, or any module with
            model(z, timestep=t, ...) -> prediction.
        scheduler: or any object with its `config`, and `alphas_cumprod` where it has one.
        prompt: embeddings of a text, (1 or N, tokens, width), the network's encoder_hidden_states.
        negative: embeddings where nothing is asked for.
        guidance: 1 for the stream of the prompt alone, 0 for the other alone, else both.
        streams: both "together" in one call, or "apart".
        condition: other keywords of the network: class_labels, added_cond_kwargs, pooled_projections, ...
        unconditional: those of them that differ where nothing is asked for.
        units: what 0 and 1 are to the network; None for latents.
        prediction: instead of the scheduler's.
        between: timesteps of a discrete schedule, "interpolate" or "nearest": see `Discrete`.
        time_scale: what timesteps are multiplied by; 1/1000 for Flux, which counts them from 0 to 1.

    Raises:
        OptionError: an unknown scheduler or prediction; guidance without a negative.
    """
    schedule, found, scale = schedule_of(scheduler, between)
    if units is not None or scale != 1:
        low, high = (0.0, 1.0) if units is None else units
        units = (low / scale, high / scale)
    told = dict(condition or {})
    if prompt is not None:
        told["prompt"] = prompt
    free = None if unconditional is None else dict(unconditional)
    if negative is not None:
        free = (free or {}) | {"prompt": negative}
    return Diffusion(
        TimeKeyword(model, time_scale),
        schedule,
        found if prediction is None else prediction,
        units=units,
        condition=told,
        unconditional=free,
        guidance=guidance,
        streams=streams,
    )


def schedule_of(scheduler: Any, between: str = "interpolate") -> tuple[Schedule, str, float]:
    """Levels of a scheduler, what its network predicts, and what clean images are divided by.

    The last is sigma_data of EDM schedulers, whose network is told ln(sigma) / 4 and predicts
    (x - c_skip y) / c_out: "edm" of images over sigma_data. Everywhere else it is 1.

    Raises:
        OptionError: no schedule is known of it.
    """
    config, name = getattr(scheduler, "config", None), type(scheduler).__name__
    signal = getattr(scheduler, "alphas_cumprod", None)
    kind = config_entry(config, "prediction_type")
    if "FlowMatch" in name or kind == "flow_prediction" or config_entry(config, "use_flow_sigmas"):
        if config_entry(config, "invert_sigmas"):
            raise OptionError(
                f"{name} counts time the other way (invert_sigmas): build a Diffusion of your own"
            )
        return Flow(float(config_entry(config, "num_train_timesteps") or 1000)), "flow", 1.0
    if signal is not None:
        values = signal.double().tolist()
        predicted = kind or "epsilon"
        if config_entry(config, "timestep_type") == "continuous" and predicted == "v_prediction":
            ends = [config_entry(config, "sigma_min"), config_entry(config, "sigma_max")]
            table = Discrete(values)
            low, high = (
                float(end or other) for end, other in zip(ends, (table.lowest, table.highest), strict=True)
            )
            return Exploding(low, high, partial(_quarter_log, 1.0), scaled=True), predicted, 1.0
        return Discrete(values, between), predicted, 1.0
    data = config_entry(config, "sigma_data")
    if data is not None and kind in ("epsilon", "v_prediction"):
        low, high = (float(config_entry(config, end)) / data for end in ("sigma_min", "sigma_max"))
        told = Exploding(low, high, partial(_quarter_log, data), scaled=True)
        return told, "edm" if kind == "epsilon" else "v", float(data)
    raise OptionError(
        f"{name} has neither alphas_cumprod, nor a flow, nor EDM's levels: build a Diffusion with a schedule "
        "of denoisers.adapters.schedule"
    )


class TimeKeyword(nn.Module):
    """F(z, t, prompt=..., **condition) of a network that takes `timestep` and `encoder_hidden_states`.

    Raises:
        OptionError: a keyword that the network needs is not given.
        ShapeError: images have another number of channels than its config says.
    """

    def __init__(self, model: Any, time_scale: float = 1.0) -> None:
        super().__init__()
        self.model, self.time_scale = model, number("time_scale", time_scale)
        self.needs = _needs(model)
        self._wraps = "return_dict" in _parameters(model)

    def forward(self, z: Tensor, t: Tensor, prompt: Tensor | None = None, **condition: Any) -> Any:
        """What the network returns."""
        channels = config_entry(getattr(self.model, "config", None), "in_channels")
        if z.ndim == 4 and isinstance(channels, int) and z.shape[1] != channels:
            raise ShapeError(
                f"{type(self.model).__name__} takes images of shape (N, {channels}, H, W), "
                f"got {tuple(z.shape)}"
            )
        if prompt is not None:
            condition[PROMPT] = prompt
        for name in self.needs:
            if condition.get(name) is None:
                how = "prompt=" if name == PROMPT else f"condition={{{name!r}: ...}}"
                raise OptionError(f"{type(self.model).__name__} needs {name}, which nothing sets: pass {how}")
        if self._wraps:
            condition.setdefault("return_dict", False)
        return self.model(z, timestep=t if self.time_scale == 1 else self.time_scale * t, **condition)


def _needs(model: Any) -> list[str]:
    """Keywords beside image and time that a network cannot do without."""
    parameters = _parameters(model)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind in kinds]
    needed = [name for name in needed[1:] if name != "timestep"]
    config = getattr(model, "config", None)
    if PROMPT in parameters and PROMPT not in needed and config_entry(config, "cross_attention_dim"):
        needed.append(PROMPT)
    labelled = (
        getattr(model, "class_embedding", None) is not None
        or config_entry(config, "norm_type") == "ada_norm_zero"
    )
    if "class_labels" in parameters and "class_labels" not in needed and labelled:
        needed.append("class_labels")
    return needed


def _parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    target = model.forward if isinstance(model, nn.Module) else model
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):  # of functions written in C
        return {}


def config_entry(config: Any, name: str) -> Any:
    """An entry of a config, a mapping or an object; None where it has none."""
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _quarter_log(data: float, ratio: float) -> float:
    return math.log(data * ratio) / 4
