"""The ways of forming products with a Jacobian, and the choice of the first that is right.

frozen             the program of a record (`spectral.jacobians.program`)
jvp                torch's forward mode, afresh
double-backward    two passes back through a graph that is kept
differences        central differences of the model
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from spectral.errors import AmbiguousError, NotFiniteError, OptionError, SpectralError
from spectral.jacobians import autograd
from spectral.jacobians.evidence import CLOSE, DIFFERENCES
from spectral.jacobians.keywords import advised
from spectral.jacobians.model import Model, parameters_of
from spectral.jacobians.program import Program, Recorder
from spectral.jacobians.program.trials import inner, size_of

if TYPE_CHECKING:
    from spectral.jacobians.jacobian import Jacobian

Method = Literal["auto", "frozen", "jvp", "double-backward", "differences"]
ADJOINT_PAIRS = 4
WAYS: tuple[Method, ...] = ("frozen", "jvp", "double-backward", "differences")
_PAIRS = {"jvp": autograd.forward, "double-backward": autograd.reverse, "differences": autograd.differences}


def called(
    model: Model, y: Tensor, note: Callable[[str], None]
) -> tuple[Recorder | SpectralError, Tensor, Tensor]:
    """Call the model once, recorded; where that cannot be, plainly.

    Returns:
        The record, or why there is none; y, in the precision that the model takes; the output.
    """
    failure: Exception | None = None
    for precision in (None, model.precision()):
        if precision is not None:
            if failure is None or precision == y.dtype:
                break
            y = y.to(precision)
        for recorded in (True, False):
            try:
                with model.ready():
                    record = Recorder.of(model, y) if recorded else None
                    output = model(y).detach() if record is None else record.output
            except Exception as reason:
                failure = failure if isinstance(failure, SpectralError) else reason
                continue
            if precision is not None:
                note(f"y was taken to {precision}, the precision of {model.name}")
            if model.label is not None:
                note(model.label)
            if record is None:
                return SpectralError(_first_line(failure)), y, output
            return SpectralError(record.failure) if record.opaque else record, y, output
    assert failure is not None
    places = {p.device for p in parameters_of(model.modules)}
    if places and y.device not in places:
        where = ", ".join(sorted(map(str, places)))
        raise OptionError(
            f"{model.name} is on {where} and y on {y.device}: move one to the other"
        ) from failure
    told = advised(failure, model.function, model.name, y, model.keywords)
    if told is failure:
        raise failure
    raise told from failure


def first_right(
    J: Jacobian, record: Recorder | SpectralError, methods: tuple[Method, ...], reasons: list[str]
) -> Method:
    """Set up the first of some ways that is right; `reasons` say why none before them was."""
    for method in methods:
        try:
            if method == "frozen":
                program, Jv = _recorded(J, record)
                J._adopt(program)
                J._evidence.check_differences(Jv)
            else:
                _differentiate(J, method)
        except (NotFiniteError, AmbiguousError):
            raise
        except Exception as failure:
            # What torch cannot differentiate it reports in many exception types, all to the same effect.
            reasons.append(f"not {method} ({_first_line(failure)})")
            if isinstance(failure, torch.OutOfMemoryError):
                break
        else:
            for reason in reasons:
                J._note(reason)
            return method
    raise SpectralError(f"no derivative of {J.name} is to be had: {'; '.join(reasons)}")


def _recorded(J: Jacobian, record: Recorder | SpectralError) -> tuple[Program, Tensor]:
    """The recorded program, unless the model declares another derivative; and J v, v the shift."""
    at = J._evidence
    if isinstance(record, SpectralError):
        raise record
    if record.integers:
        raise SpectralError(record.integers[0])
    assert at.trial is not None  # until J is made
    program, Jv = record.program(at.trial.shift)
    J.eps = at.eps = max(J._arithmetic.eps, record.rounding)
    at.graph_bytes = record.bytes
    if record.jumps or at.functions:
        program = _settled(J, program, record)
    for name in dict.fromkeys(record.jumps):
        J._note(f"{name} is constant but for jumps: its derivative is 0")
    for name in dict.fromkeys(record.declared):
        at.declared = True
        at.jumps.append(name)
        J._note(f"{name} rounds: its derivative is the one that torch declares, straight through")
    return program.in_faster_layout(), Jv


def _settled(J: Jacobian, program: Program, record: Recorder) -> Program:
    """The program of the derivative that is meant: autograd may have been told another.

    Of what jumps the true derivative is 0, and another is declared by x + (q(x) - x).detach() or by a
    function of the model's own.  A detached part anywhere else only hides a derivative that is there.
    Where q has a derivative too, nothing tells a rounding in steps made of x from a denoiser x - noise(x)
    whose noise is detached.

    Raises:
        SpectralError: autograd's is the one that is meant.
        AmbiguousError: autograd's is meant in one place, or hides some, or both.
    """
    at = J._evidence
    u = J._random(J.shape[0], seed=1).reshape(at.output.shape).to(at.output.dtype)
    try:
        with at.model.ready():
            pull = autograd.backwards(at.model, at.y)
            declared = pull(u)
    except Exception:
        return program  # there is no other

    def agrees(with_program: Program) -> bool:
        ours = with_program.transpose(u.unsqueeze(0))[0]
        return size_of(ours - declared) <= J._tolerance * max(size_of(ours), size_of(declared))

    if agrees(program):
        return program
    by = ", ".join(at.functions) or "a detached part"
    if not record.jumps:
        _hold_against_differences(J, program, pull, by)
        return program
    if J._ways == ("frozen",):
        at.hidden = True
        return program
    straight, loose = record.straight_through()
    if straight is not None and not loose and agrees(straight):
        at.declared = True
        J._note(f"straight through: J is the derivative that autograd declares for {record.jumps[0]}")
        return straight
    cut = record.detached or at.model.plain.cut
    if straight is None and record.jumps_inside and not cut:
        at.declared = True
        raise SpectralError(f"{record.jumps[0]} is constant but for jumps, and {by} declares a derivative")
    if straight is not None or record.jumps_inside:
        raise AmbiguousError(
            f"the derivative of {J.name} is ambiguous: with {record.jumps[0]} in it autograd's is "
            "another than that of what is computed, as a straight-through estimator means it, or else as "
            'a part is detached or under no_grad: choose method="double-backward" (autograd) or "frozen" '
            "(computed)"
        )
    at.hidden = True
    J._note(f"autograd does not see all of the derivative ({by}): not used")
    return program


def _hold_against_differences(J: Jacobian, program: Program, pull: autograd.Function, by: str) -> None:
    """Whether a smooth model's differences agree with the program, and not with what is declared.

    In low precision they tell nothing, and the derivative of what is computed stands.

    Raises:
        SpectralError: they agree with what is declared.
    """
    at = J._evidence
    if at.grain > 1e-4:
        at.hidden = True
        J._note(f"autograd's derivative is another, by {by}, the precision too low to try it: not used")
        return
    v = J._random(J.shape[1]).reshape(at.y.shape)
    with at.model.ready():
        D = autograd.difference(at.model, at.y, v)
        size, wide = size_of(D) ** 2, D.to(at.output.dtype)
        true = [abs(inner(g, v) - size) for g in (program.transpose(wide.unsqueeze(0))[0], pull(wide))]
    if true[0] > true[1]:
        raise SpectralError(f"differences of the model agree with the derivative that {by} declares")
    J._note(f"differences of the model contradict the derivative that {by} declares: not used")


def _differentiate(J: Jacobian, method: Method) -> None:
    """Set up J v and J' u by torch, checked by each other and by differences of the model."""
    at = J._evidence
    with at.model.ready():
        pair = _PAIRS[method](at.model, at.y)
    J._push, J._pull = J._one_by_one(pair.push), J._by_graph(pair.pull)
    at.graph_bytes = 0
    J.eps = at.eps = at.coarsest
    v = J._random(J.shape[1]).reshape(at.y.shape)
    rough = at.coarsest > 1e-4
    if method == "differences":
        if rough or at.jumps:
            raise SpectralError("the model is too rough for differences")
        with at.model.ready():
            near, far = (autograd.difference(at.model, at.y, v, step) for step in (2e-3, 8e-3))
        error = size_of(near - far) / max(size_of(near), 1e-300)
        if not error <= DIFFERENCES:
            raise SpectralError(f"two differences of the model differ by {error:.1e}, relative")
        J.eps = at.eps = max(J.eps, error / 10)
        # J' u is autograd's, and each pair of vectors tells of another part of it.
        for further in range(1, ADJOINT_PAIRS):
            J._check_adjoint(min(10 * error + 1e3 * at.coarsest, J._tolerance), 2 * further)
    J._check_adjoint()
    at.declared = at.declared or (bool(at.jumps) and len(J._ways) == 1)
    if at.jumps and at.declared:
        J._note(f"{at.jumps[0]} is constant but for jumps: J is the derivative that autograd declares")
    elif rough and at.model.plain.functions:
        J._note("the precision is too low to confirm what the model's own functions declare")
    elif not rough and method != "differences":
        with at.model.ready():
            Jv = pair.push(v)
        off = at.off_differences(v, Jv, size_of(Jv), min(at.finest, CLOSE))
        if off or (off is None and not at.jumps):
            raise SpectralError(
                "differences of the model are too rough to confirm J v"
                if off is None
                else f"J v is off by {off:.1e} |J v| from differences of the model"
            )


def _first_line(failure: Exception | None) -> str:
    text = str(failure).strip().split("\n")[0][:200]
    return text or type(failure).__name__
