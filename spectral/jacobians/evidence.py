"""What tells whether products with a Jacobian are right: the model itself, elsewhere and by torch.

A record is held against the model (`Evidence.examine`), J v against differences of it, J' u against autograd.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spectral.ambient import float32_as, on_host
from spectral.errors import SpectralError
from spectral.jacobians import autograd
from spectral.jacobians.free_memory import free_bytes
from spectral.jacobians.model import Model, same_random_numbers
from spectral.jacobians.program import Recorder, Repeat
from spectral.jacobians.program.trials import inner, size_of

# Differences of the model are the last word on a derivative; those that differ by more, relative, say none.
DIFFERENCES = 0.05
# What is asked of them where no operation was tried by itself: a float32 model's rounding over a short step.
CLOSE = 2e-3
NEAR = 2e-4  # of y's size: how far off the model is run again, for its difference too
FAR = 0.03  # of y's size: how far off the record is played, for what is kept constant to show
# Up to so much memory of a graph, vectors that are returned are multiplied once by autograd.
GRAPH_BYTES = 1 << 30


@dataclass
class Trial:
    """Where a model and its record are tried, while J is made.

    Attributes:
        shift: the direction from y.
        near, away: inputs a short and a long step along it.
        generator: for further ones.
        value: the model at `near`, with a graph; None where there can be none.
        difference: of the model along the shift, from y to `near`; None in half precision.
        unplayed: the record, where `near` alone has proved it.
    """

    shift: Tensor
    near: Tensor
    away: Tensor
    generator: torch.Generator
    value: Tensor | None = None
    difference: Tensor | None = None
    unplayed: Recorder | None = None


class Evidence:
    """A model at one input, and what is known of it there.

    Attributes:
        model, y, output: the model, its input, model(y).
        eps: the relative rounding of a product, that of the coarsest number inside the model.
        coarsest: that of the coarsest number that y reaches.
        functions: of the model's own, in autograd's graph.
        jumps: operations that are constant but for jumps.
        declared: whether J is a derivative that the model declares, and not its own.
        hidden: whether autograd's derivative is another, and settled not to be the one.
        no_graph: whether autograd was found to see no way from the output to y.
        doubtful: an operation whose derivative differences of the model alone can confirm.
        cut: whether the model takes something made from y off autograd's graph, outside of such functions.
        draws: whether the model draws random numbers that no seed of its own fixes.
        graph_bytes: about what a graph of the model would hold.
        trial: where the model and its record are tried, until J is made.
    """

    def __init__(self, model: Model, y: Tensor, output: Tensor, eps: float) -> None:
        self.model, self.y, self.output, self.eps = model, y, output, eps
        self.coarsest = max(torch.finfo(output.dtype).eps, eps)
        self.functions: list[str] = []
        self.jumps: list[str] = []
        self.declared = self.hidden = self.draws = self.cut = self.no_graph = False
        self.doubtful: str | None = None
        self.graph_bytes = 0
        self.trial: Trial | None = None

    def of(self, model: Model, index: Tensor) -> Evidence:
        """What is known of some of the inputs that the first axis counts, of the model for these."""
        part = copy.copy(self)
        part.model, part.y, part.output = model, self.y[index], self.output[index]
        return part

    @property
    def fine(self) -> bool:
        """Whether y is of single precision at least."""
        return torch.finfo(self.y.dtype).eps < 1e-4

    @property
    def differences_tell(self) -> bool:
        """Whether J is the model's own derivative, and the model fine enough for differences to tell it."""
        return not self.declared and self.grain <= 1e-4

    @property
    def grain(self) -> float:
        """The rounding of the model, relative."""
        return max(torch.finfo(self.output.dtype).eps, self.eps)

    @property
    def finest(self) -> float:
        """What is not asked of differences: rounding and kinks of a deep network take as much in float32."""
        return 1e-5 if self.grain < 1e-12 else CLOSE if self.doubtful else DIFFERENCES

    # The record against the model

    def examine(self, record: Recorder | SpectralError) -> str | None:
        """Find out what the model does beside what was recorded; why no derivative is right, if none is.

        Raises:
            NotDeterministicError: another call at y gives something else.
        """
        generator = torch.Generator().manual_seed(2)
        size = autograd.rms(self.y)
        shift = 1 + torch.randn(self.y.shape, generator=generator, device="cpu").to(self.y)
        # Short, for few units to switch on the way; rounding in float32 is some 1e-3 of the difference.
        step, far = ((NEAR if self.fine else 0.02) * size, (FAR if self.fine else 0.05) * size)
        with self.model.ready():
            if self.model.draws:
                self.draws = not self.model.fixes_its_draws(self.y, self.output)
            if isinstance(record, SpectralError):
                self.model.check_deterministic(self.y, self.output)
                return None
            self.coarsest = max(self.coarsest, record.rounding)
            self.jumps, self.doubtful, self.cut = record.jumps, record.doubtful, record.detached
            trial = Trial(shift, self.y + step * shift, self.y + far * shift, generator)
            self.trial = trial
            repeat = Repeat()
            trial.value, proved = self._repeated(repeat, record, trial.near)
            # Where differences tell nothing, another input does.
            sure = proved and self.coarsest <= 1e-4 and not self.model.plain.asked
            trial.unplayed = record if sure else None
            if not sure:
                lost = self._played(record, trial, proved)
                # In half precision much can be lost within rounding.
                if lost is None and not proved and self.coarsest > 1e-4 and repeat.moved(record):
                    lost = self._lost(record, "constants of it are others at another input")
                if lost is not None:
                    return lost
            if repeat.unseen:  # played, it does the same unseen
                record.failure = record.failure or "something is written to by no operation that says so"
            if self.fine:
                value = self.model(trial.near) if trial.value is None else trial.value
                trial.difference = (value - self.output) / step
        if record.contradicted is not None:
            return record.contradicted
        if record.integers and (record.bits or not (self.functions or record.detached)):
            return f"{record.integers[0]}: they have no derivative"
        return None

    def _repeated(self, repeat: Repeat, record: Recorder, near: Tensor) -> tuple[Tensor | None, bool]:
        """The model at an input close to y, with a graph, and whether what it does there is the record.

        None where a graph cannot be: it works in ways that one does not allow, and needs none.
        """
        try:
            output = repeat.run(self.model, near)
        except Exception:
            self.functions = []
            return None, False
        self.functions = autograd.declared_functions(output)
        plain = self.model.plain
        proved = not (plain.left or plain.looked) and repeat.is_that_of(record)
        return output.detach(), proved

    def _played(self, record: Recorder, trial: Trial, proved: bool = False) -> str | None:
        """Hold the record against the model at inputs that are not near; what it has lost, if anything.

        Where it was `proved` near y, it may do other things there: not the same with other numbers.

        Raises:
            NotDeterministicError: another call at y gives something else.
        """
        played = record.play(trial.away)
        within = (10 if self.fine else 0.3) * torch.finfo(played.dtype).eps
        apart = distance(self.model(trial.away), played)
        if apart <= within and trial.value is not None:
            played = record.play(trial.near)
            if distance(trial.value, played) > within:
                # With a graph some go another way than without, and what alternates comes back now.
                apart = distance(self.model(trial.near), played)
        if apart <= within and self._reads_numbers(record):
            apart = self._furthest(record, trial.generator)
        if apart <= within:
            return None
        if not self._reads_numbers(record):
            counts = set(self.model.plain.left)
            if counts and counts <= {"item", "__int__"}:  # which jump within a step so long
                away = self.y + (trial.away - self.y) * (1e-6 / FAR)
                apart = distance(self.model(away), record.play(away))
        self.model.check_deterministic(self.y, self.output)
        if apart <= within or (proved and self.model.plain.asked and self._turns(record, trial.away)):
            return None
        return self._lost(
            record, f"the record gives at another input something else, by {apart:.1e}, relative"
        )

    def _turns(self, record: Recorder, x: Tensor) -> bool:
        """Whether the model carries out other operations at x than were recorded."""
        there = Repeat()
        there.run(self.model, x)
        return [call.function for call in there.calls] != [call.function for call in record.calls]

    def _lost(self, record: Recorder, reason: str) -> str | None:
        """Give a record up, and what is lost, if there is no other way to have it."""
        record.failure = reason
        left = self.model.plain.left
        if not left and self.model.plain.functions:
            return None  # which may tell their derivative
        if self.model.plain.asked and not left:
            return (
                "at inputs nearby it has other constants, found by questions about values, or kept from call "
                "to call, so that their part of the derivative is lost: keep them tensors, made of y"
            )
        how = f" ({', '.join(left)})" if left else ", or is kept from call to call,"
        return (
            f"a value made from y leaves torch{how} and comes back as a constant, so that its part of the "
            "derivative is lost: keep it a tensor, or write a torch.autograd.Function"
        )

    def _reads_numbers(self, record: Recorder) -> bool:
        """Whether numbers that depend on y were read out of torch, and may have come back as constants."""
        return record.taken or not {"numpy", "__array__", "tolist", "__dlpack__"}.isdisjoint(
            self.model.plain.left
        )

    def _furthest(self, record: Recorder, generator: torch.Generator) -> float:
        """How far the record is from the model, relative, at inputs that change what is read most.

        A deviation, a mean or a largest entry hardly changes along a direction at random.
        """
        y, size = self.y, autograd.rms(self.y)
        noise = torch.randn(y.shape, generator=generator, device="cpu").to(y)
        moved = [y + move for move in (0.01 * y, 0.01 * size * torch.ones_like(y), 0.03 * size * noise)]
        return max(distance(self.model(x), record.play(x)) for x in moved)

    def check_differences(self, Jv: Tensor) -> None:
        """Hold J v, v the shift, against differences of the model: rules and torch's own may be wrong alike.

        Raises:
            SpectralError: it is off, and differences by several steps agree with one another.
        """
        trial = self.trial
        assert trial is not None  # until J is made
        D, off = trial.difference, None
        if D is not None and self.differences_tell:
            scale = max(size_of(Jv), size_of(D), 1e-300)
            if size_of(Jv - D) <= self.finest * scale:
                return
            off = self.off_differences(trial.shift, Jv, scale)
        if off:
            raise SpectralError(f"J v is off by {off:.1e} |J v| from differences of the model")
        if off is None and self.doubtful:
            raise SpectralError(self.doubtful)
        if off is None and trial.unplayed is not None:
            with self.model.ready():
                lost = self._played(trial.unplayed, trial)
            if lost is not None:
                raise SpectralError(lost)

    # Products against the model

    def off_differences(
        self, v: Tensor, Jv: Tensor, scale: float, finest: float | None = None
    ) -> float | None:
        """How far J v is off, over `scale`, where differences of the model contradict it; 0 where not.

        None where they cannot tell: those by different steps h differ, as across jumps.  Units that switch
        within a step show in (f(y + h v) - 2 f(y) + f(y - h v)) / h, those that do at y itself for every h.
        Up to `finest`, by default `self.finest`, the first difference that comes is taken to agree.

        Raises:
            NotDeterministicError: the model at y is another than it was.
        """
        finest = self.finest if finest is None else finest
        if not self.differences_tell:
            return None
        # Units and thresholds switch within a large step, rounding shows in a small one; longer ones are for
        # inputs, or derivatives, that are small beside what the model adds to them.
        steps = (2e-5, 2e-3, 2e-7) if self.grain < 1e-12 else (2e-4, 2e-3, 2e-2)
        scale = max(scale, 1e-300)  # of J = 0
        tried: list[tuple[float, Tensor, float]] = []
        for at, step in enumerate((*steps, *(max(steps) * 30**more for more in range(1, 6)))):
            ahead, behind, h = autograd.either_side(self._afresh, self.y, v, step)
            D, bend = (ahead - behind) / (2 * h), size_of(ahead - 2 * self.output + behind) / h / scale
            off, rounding = size_of(Jv - D) / scale, self.grain * size_of(self.output) / h / scale
            if off <= finest:
                return 0.0
            if not at:  # all that follows rests on it
                self.model.compare(self._afresh(self.y), self.output)
            if rounding <= DIFFERENCES:
                tried.append((step, D, max(bend, rounding)))
            if len(tried) == len(steps):
                break
        if len(tried) < 2:
            return None
        pairs = itertools.combinations(tried, 2)
        apart, one, other = min(
            ((size_of(one[1] - other[1]) / scale, one, other) for one, other in pairs),
            key=lambda pair: pair[0],
        )
        if not apart <= DIFFERENCES:
            return None
        _, D, least = min(one, other, key=lambda one: one[0])
        off = size_of(Jv - D) / scale
        return off if off > max(5 * apart, least, finest) else 0.0

    def _afresh(self, x: Tensor) -> Tensor:
        """The model at x, what it keeps from call to call put back before and after."""
        with self.model.ready():
            return self.model(x)

    def off_autograd(self, u: Tensor, Ju: Tensor, v: Tensor, Jv: Tensor, norm: float) -> float | None:
        """How far J' u is from autograd's, and <w, J v> from <J' w, v> by that, w along J v, over |J|.

        None where there is no such other way, or no room.
        """
        if self.hidden or self.too_large:
            return None
        try:
            with self.model.ready():
                pull = autograd.backwards(self.model, self.y)
                w = Jv / (size_of(Jv) or 1.0)  # J' J v may be too small for its precision
                declared, ahead = pull(u.to(self.output.dtype)), pull(w.to(self.output.dtype))
        except autograd.NoGraphError:
            self.no_graph = True
            return None
        except Exception:  # torch cannot, which is why there is a program
            return None
        apart = abs(inner(w, Jv) - inner(ahead, v)) / (size_of(v) or 1.0)
        return max(size_of(Ju - declared), apart) / max(norm, size_of(Ju), 1e-300)

    @property
    def too_large(self) -> bool:
        """Whether a graph of the model takes more memory than it may."""
        return self.graph_bytes > min(GRAPH_BYTES, free_bytes(self.y.device) // 4)


@contextlib.contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Outside of inference mode and TensorFloat-32, no random number used up, no warning of torch's shown."""
    calm = warnings.catch_warnings()
    with on_host(), torch.inference_mode(False), float32_as(), same_random_numbers(device), calm:
        warnings.simplefilter("ignore")
        yield


def distance(value: Tensor, played: Tensor) -> float:
    """How far what was played is from the model's value, relative."""
    return size_of((value - played).nan_to_num()) / max(size_of(value.nan_to_num()), 1e-300)
