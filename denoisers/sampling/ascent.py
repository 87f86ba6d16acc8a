"""Coarse-to-fine stochastic ascent: Algorithm 1 of Kadkhodaie and Simoncelli (NeurIPS 2021)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from denoisers.sampling.noise import Noise
from denoisers.sampling.result import Samples
from denoisers.sampling.start import Caller, begin, every_of, levels_of
from spectral.errors import NotFiniteError, OptionError
from spectral.options import number, whole
from spectral.progress import bar
from spectral.solvers.control import Progress
from spectral.solvers.search import INTERRUPTED

STALLED = math.log(4)  # sigma_t was to fall by this in logarithm, and did not fall
FALLEN = 0.9  # to this part of itself
Project = Callable[[Tensor, Tensor, Tensor], Tensor]


class Ascent:
    """How the ascent is run; the formulae are those of `sample`.

    Attributes:
        h0, beta: step and share of the noise removed.
        sigma_start, sigma_end: levels of noise.
        max_steps: a bound on the steps of each image.
        every: keep a frame at every so many steps; 0 for none.
        grows: whether the step grows.

    Raises:
        OptionError: one is out of range.
    """

    def __init__(
        self,
        h0: Any,
        beta: Any,
        sigma_start: Any,
        sigma_end: Any,
        max_steps: Any,
        every: Any,
        grows: bool = True,
    ) -> None:
        self.h0, self.beta, self.grows = number("h0", h0), number("beta", beta), grows
        if not (0 < self.h0 <= 1 and 0 < self.beta <= 1):
            raise OptionError(f"h0 and beta lie in (0, 1], got h0={self.h0:g}, beta={self.beta:g}")
        self.max_steps = whole("max_steps", max_steps)
        if self.max_steps < 1:
            raise OptionError(f"max_steps must be >= 1, got {self.max_steps}")
        self.sigma_start, self.sigma_end = levels_of(sigma_start, sigma_end)
        self.every = every_of(every)

    def step(self, t: int) -> float:
        """h_t = h0 t / (1 + h0 (t - 1)), t = 1, 2, ...: from h0 towards 1; or h0 always."""
        return self.h0 * t / (1 + self.h0 * (t - 1)) if self.grows else self.h0

    def noise(self, h: float) -> float:
        """gamma / sigma_t at step h."""
        return math.sqrt(max((1 - self.beta * h) ** 2 - (1 - h) ** 2, 0.0))


def sample(
    model: Callable[..., Any],
    shape: Sequence[int],
    count: int = 4,
    *,
    h0: float = 0.01,
    beta: float = 0.1,
    sigma_start: float = 1.0,
    sigma_end: float = 0.01,
    mean: float = 0.5,
    max_steps: int = 5000,
    seed: int = 0,
    first: int = 0,
    every: int = 0,
    growing: bool = True,
    progress: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Samples:
    """Images from the prior in a blind denoiser, by stochastic ascent of log p, coarse to fine.

        y_0 ~ N(mean, sigma_start^2 I), and for t = 1, 2, ... with N = C H W:
        d = f(y) - y,   sigma_t = |d| / sqrt(N),   h = h0 t / (1 + h0 (t - 1)),
        y <- y + h d + gamma z,   gamma^2 = ((1 - beta h)^2 - (1 - h)^2) sigma_t^2,

    until sigma_t <= sigma_end; the image is then f(y). d is sigma^2 times the score (Miyasawa 1961), and the
    noise falls by 1 - beta h a step whatever its level was: no schedule is given. Each image stops by itself
    and costs nothing more. One whose noise was to fall fourfold and fell by less than a tenth is stalled: the
    denoiser's own error is larger than sigma_end, and its least noisy image is returned. (Kadkhodaie and
    Simoncelli 2021, arXiv 2007.13640.)

    Args:
        model: the denoiser f, (B, C, H, W) -> the same; it is not told the noise level.
        shape: of one image, (C, H, W).
        count: B, how many images.
        h0: the first step, in (0, 1]; smaller ones follow the score more closely.
        beta: in (0, 1], the share of noise that a step h = 1 removes: 1 adds none, and is deterministic;
            small ones take more steps and give likelier images.
        sigma_start, sigma_end: levels of noise, in the units of the images.
        mean: of the images to start from, in the same units.
        max_steps: a bound for each image; those that reach it are returned as they are, with a note.
        seed, first: images first, ..., first + count - 1 of the sequence `seed`, each the same in any batch
            (but for the rounding of the model, which may depend on how many it is given).
        every: keep the images denoised in one shot at every so many steps; 0 for none.
        growing: h as above; False for h = h0 at every step, as Algorithm 1 of arXiv 2310.02557 is printed,
            log(sigma_start / sigma_end) / (beta h0) of them.
        progress: show a progress bar.
        model_kwargs: keywords for the model, {name: value}, the same for all images.

    Returns:
        The images; after Ctrl-C those there are, with the note "interrupted".

    Raises:
        OptionError: an option is out of range, or the model is one that is told sigma.
        ShapeError: the model changes the shape, or does not take it.
        NotFiniteError: it returned NaN or infinity.
    """
    run = Ascent(h0, beta, sigma_start, sigma_end, max_steps, every, growing)
    caller = blind(model, model_kwargs)
    sides, many, noise = begin(caller, shape, count, seed, first)
    centre = torch.full((many, *sides), number("mean", mean), dtype=caller.dtype, device=caller.device)
    return ascend(caller, noise, centre, run, None, "coarse-to-fine ascent", (seed, first), progress)


def blind(model: Callable[..., Any], model_kwargs: Mapping[str, Any] | None) -> Caller:
    """The model as a blind denoiser.

    Raises:
        OptionError: it is one that is told sigma.
    """
    caller = Caller(model, None, model_kwargs)
    if caller.told:
        raise OptionError(
            "the ascent reads the noise level off a blind denoiser, and this model is told sigma: use "
            'denoisers.sampling.heun, ddim or langevin, or fix it by model_kwargs={"sigma": ...}'
        )
    return caller


def ascend(
    caller: Caller,
    noise: Noise,
    centre: Tensor,
    run: Ascent,
    project: Project | None,
    method: str,
    origin: tuple[int, int],
    progress: bool,
) -> Samples:
    """The loop of `sample`, with P(f, sigma, numbers of the images) in place of f where there is such a P."""
    began = time.perf_counter()
    state = _State(caller, noise, centre, run, project)
    with caller.ready(), bar(progress, "sampling", unit="evaluations") as report:
        try:
            while state.active.numel() and state.t < run.max_steps:
                state.advance()
                if report is not None:
                    worst = float(state.history[-1].nan_to_num(0).max())
                    stopped = len(centre) - state.active.numel()
                    report(Progress("solve", caller.evaluations, len(centre), stopped, worst, run.sigma_end))
        except KeyboardInterrupt:
            if not state.history:
                raise
            state.notes.append(INTERRUPTED)
    return state.result(method, origin, time.perf_counter() - began)


@dataclass(frozen=True)
class _Images:
    """What is known of every image: f at its lowest sigma, and at the last step; levels; steps taken.

    `mark` is sigma when it last fell by a tenth, `due` by how much log sigma was to fall since.
    """

    best: Tensor
    shown: Tensor
    lowest: Tensor
    mark: Tensor
    due: Tensor
    steps: Tensor

    def copy(self) -> _Images:
        """The same in memory of its own."""
        return _Images(**{name: tensor.clone() for name, tensor in vars(self).items()})


def _level(d: Tensor) -> Tensor:
    """|d| / sqrt(N) of each image."""
    return d.flatten(1).norm(dim=1) / math.sqrt(d[0].numel())


class _State:
    """All images on their way; `active` are the numbers of those that have not stopped, `y` these."""

    def __init__(
        self, caller: Caller, noise: Noise, centre: Tensor, run: Ascent, project: Project | None
    ) -> None:
        self.caller, self.noise, self.run, self.project = caller, noise, run, project
        count, device = len(centre), centre.device
        self.active = torch.arange(count, device=device)
        self.y = centre + run.sigma_start * noise()
        far, none = torch.full((count,), math.inf).to(centre), torch.zeros(count).to(centre)
        self.images = _Images(centre, centre, far, far, none, none.long())
        self.t = 0
        self.history: list[Tensor] = []
        self.frames: list[tuple[int, Tensor]] = []
        self.notes: list[str] = []

    def advance(self) -> None:
        """One step of every active image."""
        run, active, y = self.run, self.active, self.y
        f = self.caller(y)
        if self.project is not None:
            f = self.project(f, _level(f - y), active)
        d = f - y
        sigma = _level(d)
        if not sigma.isfinite().all():
            raise NotFiniteError(
                f"the noise grew without bound by step {self.t + 1}: start from a lower sigma_start=, or "
                "take a smaller h0="
            )
        h, now = run.step(self.t + 1), self.images.copy()
        better, fallen = sigma < now.lowest[active], sigma < FALLEN * now.mark[active]
        now.best[active[better]], now.lowest[active[better]] = f[better], sigma[better]
        now.shown[active] = f
        now.mark[active[fallen]] = sigma[fallen]
        due = -math.log1p(-min(run.beta * h, 0.999))
        now.due[active] = torch.where(fallen, 0.0, now.due[active]) + due
        now.steps[active] += 1
        going = (sigma > run.sigma_end) & (now.due[active] <= STALLED + due)
        left, y, gamma = active[going], y[going] + h * d[going], run.noise(h)
        if gamma and len(left):
            y = y + gamma * sigma[going].view(-1, 1, 1, 1) * self.noise(left.tolist())
        levels = torch.full_like(now.lowest, math.nan)
        levels[active] = sigma
        # At once, so that Ctrl-C finds a step either taken or not.
        self.t, self.active, self.y, self.images, self.history = (
            self.t + 1,
            left,
            y,
            now,
            [*self.history, levels],
        )
        if run.every and (self.t - 1) % run.every == 0:
            self.frames.append((self.t, now.shown.cpu()))

    def result(self, method: str, origin: tuple[int, int], seconds: float) -> Samples:
        """What there is now."""
        run, images, count = self.run, self.images, len(self.images.best)
        converged = images.lowest <= run.sigma_end
        going = torch.zeros_like(converged)
        going[self.active] = True
        stalled = ~converged & ~going
        if stalled.any():
            self.notes.insert(
                0,
                f"{int(stalled.sum())} of {count} stalled at sigma up to {images.lowest[stalled].max():.2g}: "
                f"the denoiser's own error is above sigma_end={run.sigma_end:g}; raise it",
            )
        if going.any() and self.t >= run.max_steps:
            self.notes.insert(
                0,
                f"{int(going.sum())} of {count} stopped at max_steps={run.max_steps}, sigma up to "
                f"{images.lowest[going].max():.2g}: raise max_steps=, beta= or sigma_end=",
            )
        if run.every:
            # The last frame is what is returned, also where that is of an earlier step.
            self.frames = [frame for frame in self.frames if frame[0] < self.t]
            self.frames.append((self.t, images.best.cpu()))
        return Samples(
            images=images.best.cpu(),
            sigmas=torch.stack(self.history, 1).cpu(),
            steps=images.steps.cpu(),
            converged=converged.cpu(),
            sigma_end=run.sigma_end,
            method=f"{method}, {'h0' if run.grows else 'h'} {run.h0:g}, beta {run.beta:g}",
            seed=origin[0],
            first=origin[1],
            evaluations=self.caller.evaluations,
            seconds=seconds,
            trajectory=torch.stack([x for _, x in self.frames], 1) if run.every else None,
            frames=[t for t, _ in self.frames],
            notes=self.notes,
        )
