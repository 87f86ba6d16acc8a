"""The ways of forming products with a Jacobian, and the choice of the first that is right.

frozen             the program of a record (`spectral.jacobians.program`)
jvp                torch's forward mode, afresh
double-backward    two passes back through a graph that is kept
differences        central differences of the model
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from spectral.errors import AmbiguousError, NotDeterministicError, NotFiniteError, OptionError, SpectralError
from spectral.jacobians import autograd
from spectral.jacobians.evidence import CLOSE, DIFFERENCES, Evidence, aside
from spectral.jacobians.keywords import advised
from spectral.jacobians.model import Model, parameters_of, same_random_numbers
from spectral.jacobians.program import Program, Recorder
from spectral.jacobians.program.program import Product
from spectral.jacobians.program.trials import half_along, inner, size_of

if TYPE_CHECKING:
    from spectral.jacobians.jacobian import Jacobian

Method = Literal["auto", "frozen", "jvp", "double-backward", "differences"]
ADJOINT_PAIRS = 4
WAYS: tuple[Method, ...] = ("frozen", "jvp", "double-backward", "differences")
_CUT = (
    "a part is detached or under no_grad, which autograd leaves out, and nothing finer than the model's own "
    "differences tells how much that is: give model and y in float64"
)
_LONG = 0.1  # a step, of y's size, over which numbers of half precision move
_PAIRS: dict[str, Callable[..., autograd.Pair]] = {
    "jvp": autograd.forward,
    "double-backward": autograd.reverse,
}


def called(
    model: Model, y: Tensor, note: Callable[[str], None], recorded: bool = True
) -> tuple[Recorder | SpectralError, Tensor, Tensor]:
    """Call the model once, recorded; where that cannot be, or is not asked for, plainly.

    Returns:
        The record, or why there is none; y, in the precision that the model takes; the output.
    """
    failure: Exception | None = None
    told: Exception | None = None
    try:
        for refused in (False, True):
            if refused:
                precision = model.precision()  # also of modules that were met in the call
                if precision in (None, y.dtype):
                    break
                y = y.to(precision)
            for each in (True, False)[not recorded :]:
                try:
                    record, output = _without_compiler(functools.partial(_call, model, y, each))
                except Exception as reason:
                    failure = failure if isinstance(failure, SpectralError) else reason
                    continue
                if refused:
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
    finally:
        failure = told = None  # they hold this frame, and with it what the model made


def _call(model: Model, y: Tensor, recorded: bool) -> tuple[Recorder | None, Tensor]:
    """The record of the model at y, or none, and its output."""
    with model.ready():
        record = Recorder.of(model, y) if recorded else None
        return record, model(y).detach() if record is None else record.output


def _without_compiler(call: Callable[[], Any]) -> Any:
    """call(), once more where that has loaded torch's compiler, as torch.cond does: now it can be kept out.

    It was not there before, so that nothing compiled is lost when what it has made of this call is put away.
    """
    before = "torch._dynamo" in sys.modules
    try:
        result = call()
    except Exception:
        if before or "torch._dynamo" not in sys.modules:
            raise
    else:
        if before or "torch._dynamo" not in sys.modules:
            return result
    torch.compiler.reset()
    return call()


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
                _differentiate(J, method, record)
        except (NotFiniteError, NotDeterministicError, AmbiguousError):
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
    why = "; ".join(reasons)
    if J._ways == (method,):
        raise SpectralError(f'method="{method}" alone gives no derivative of {J.name}, "auto" may: {why}')
    raise SpectralError(f"no derivative of {J.name} is to be had: {why}")


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
    cut = record.detached or at.model.plain.cut
    if record.jumps or at.functions or (record.sawtooth and cut):
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
    cut = record.detached or at.model.plain.cut
    by = ", ".join(at.functions) or ("a detached part" if cut else "one of torch's own")
    jumps = record.jumps or record.sawtooth
    if not jumps or not (cut or at.functions):  # nothing that the model says makes them two
        _hold_against_differences(J, program, pull, by)
        return program
    if J._ways == ("frozen",):
        at.hidden = True
        return program
    straight, loose = record.straight_through()
    if straight is not None and not loose and agrees(straight):
        at.declared = True
        J._note(f"straight through: J is the derivative that autograd declares for {jumps[0]}")
        return straight
    if straight is None and record.jumps_inside and not cut:
        at.declared = True
        raise SpectralError(f"{jumps[0]} is constant but for jumps, and {by} declares a derivative")
    if straight is not None or record.jumps_inside or not program.transpose(u.unsqueeze(0)).any():
        raise AmbiguousError(
            f"the derivative of {J.name} is ambiguous: with {jumps[0]} in it autograd's is "
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


def _differentiate(J: Jacobian, method: Method, record: Recorder | SpectralError) -> None:
    """Set up J v and J' u by torch, checked by each other, by differences of the model, and by its record."""
    at = J._evidence

    def see(value: Tensor) -> None:
        at.model.compare(value, at.output)

    step = 1e-5 if at.grain < 1e-12 else 2e-3
    with at.model.ready():
        see(at.model(at.y))  # the record's may be another
    with at.model.ready():
        if method == "differences":
            pair = autograd.differences(at.model, at.y, step=step)
        else:
            pair = _PAIRS[method](at.model, at.y, see)
    J._push, J._pull = _one_by_one(at.model, pair.push), _by_graph(at.model, pair.pull)
    at.graph_bytes = 0
    J.eps = at.eps = at.coarsest
    v = J._random(J.shape[1]).reshape(at.y.shape)
    rough = at.coarsest > 1e-4
    if method == "differences":
        if rough or at.jumps:
            raise SpectralError("the model is too rough for differences")
        J._push = _one_by_one(at.model, _steady(at.model, at.y, at.output, step))
        error = max(_error_of_differences(J, seed, step) for seed in range(ADJOINT_PAIRS))
        J.eps = at.eps = max(J.eps, error)
        # J' u is autograd's, and each pair of vectors tells of another part of it.
        for further in range(1, ADJOINT_PAIRS):
            J._check_adjoint(min(5 * error + 100 * at.coarsest, J._tolerance), 2 * further)
        _check_back_when_wider(J)
    J._check_adjoint()
    at.declared = at.declared or (bool(at.jumps) and len(J._ways) == 1)
    if at.jumps and at.declared:
        J._note(f"{at.jumps[0]} is constant but for jumps: J is the derivative that autograd declares")
        return
    if method != "differences" and not at.declared and _right_when_wider(J, method, v):
        return
    # Where it is little, what is cut off shows in finer differences alone.
    cut = (at.cut or at.model.plain.cut) and at.y.dtype != torch.float64
    cut = cut and len(J._ways) > 1 and not at.declared
    if cut and at.model.shows_what_is_cut(at.y):
        raise SpectralError(_CUT)
    if method == "differences":
        return
    if rough and not at.jumps:
        _hold_roughly(J, pair, v)
    elif not rough:
        with at.model.ready():
            Jv = pair.push(v)
        finest = min(at.finest, CLOSE)
        off = at.off_differences(v, Jv, size_of(Jv), finest)
        # Where kinks or rounding leave differences little to tell, the record does.  "auto" has given it up.
        confirmed = not off and len(J._ways) == 1 and _is_as_recorded(J, record, v, Jv, finest)
        if off or (off is None and not at.jumps and not confirmed):
            raise SpectralError(
                "differences of the model are too rough to confirm J v: give model and y in float64"
                if off is None
                else f"J v is off by {off:.1e} |J v| from differences of the model"
            )


def _error_of_differences(J: Jacobian, seed: int, step: float) -> float:
    """Of J v by differences, relative.

    Raises:
        SpectralError: too large to be told, as of an entry beside a kink of the model.
    """
    at = J._evidence
    v = J._random(J.shape[1], 2 * seed).reshape(at.y.shape)
    with at.model.ready():
        found = autograd.slopes(at.model, at.y, v, at.output, step)
    size = max(size_of(found.value), 1e-300)
    apart = found.apart / size
    if not apart <= DIFFERENCES:
        raise SpectralError(f"two differences of the model differ by {apart:.1e}, relative")
    # Vectors may lie where a kink is: it counts by its entry, and not by its share of v.
    kinks = float(found.kinks.abs().max()) * found.kinks.numel() ** 0.5 / size
    if not kinks <= DIFFERENCES:
        raise SpectralError(
            f"differences of the model ahead and behind differ by {kinks:.1e} of an entry of J v: "
            "y lies at a kink of it, or beside one"
        )
    return max(apart / 10, kinks)


def _steady(model: Model, y: Tensor, output: Tensor, step: float) -> autograd.Function:
    """J v by differences of a model that is the same in both of their calls.

    What another branch adds is in (f(y + h v) - 2 f(y) + f(y - h v)) / 2h as large as in J v.
    """
    grain = torch.finfo(output.dtype).eps
    most = 0.0  # of |J v| / |v|

    def push(v: Tensor) -> Tensor:
        nonlocal most
        ahead, behind, h = autograd.either_side(model, y, v, step)
        result, length = (ahead - behind) / (2 * h), size_of(v)
        most = max(most, size_of(result) / (length or 1.0))
        rounding = 100 * grain * size_of(output) / h
        if not size_of(ahead - 2 * output + behind) / (2 * h) <= 2 * DIFFERENCES * most * length + rounding:
            model.check_deterministic(y, output)
            raise SpectralError(
                "differences of the model ahead and behind contradict each other: it is another from call to "
                "call, or y lies at a kink of it"
            )
        return result

    return push


def _right_when_wider(J: Jacobian, method: Method, v: Tensor) -> bool:
    """Whether the same way is right for the model in float64, or float32 where it is in half precision.

    False where that cannot be told: it takes no other precision, or rounds inside.

    Raises:
        SpectralError: it is wrong.
    """
    at, wide = J._evidence, torch.float32 if J._evidence.y.dtype.itemsize < 4 else torch.float64
    if at.y.dtype == torch.float64:
        return False
    # A unit that switches within a step hides errors as large as its own: few do within a short one.  There
    # what is rounded inside may stand still: J v is further off than it was, or is over a long step, and
    # nothing is contradicted.
    least, steps = (1e-5, (1e-5, 1e-6, 1e-7)) if wide == torch.float64 else (CLOSE, (2e-3,))
    nearest = math.inf
    try:
        y, v = at.y.to(wide), v.to(wide)
        model = at.model.widened(wide)
        with model.ready():
            Jv, output = _PAIRS[method](model, y).push(v), model(y)
            if output.dtype != wide:
                return False
            for step in steps:
                found = autograd.slopes(model, y, v, output, step)
                size = max(size_of(Jv), size_of(found.value), 1e-300)
                off, kinks = size_of(Jv - found.value) / size, 2 * size_of(found.kinks) / size
                if off <= least:
                    return True
                if 2 * nearest >= off > max(5 * found.apart / size, kinks):
                    far = autograd.difference(model, y, v, _LONG)
                    if 2 * size_of(Jv - far) / size >= off:
                        break
                nearest = min(nearest, off)
            else:
                return False
    except Exception:  # of the model's own, in a precision that it was not made for
        return False
    raise SpectralError(f"J v is off by {off:.1e} |J v| from differences of the model in {wide}")


def _is_as_recorded(
    J: Jacobian, record: Recorder | SpectralError, v: Tensor, Jv: Tensor, within: float
) -> bool:
    """Whether products are, within so much, those of the record's program, which is confirmed as ever.

    False where there is no such program.

    Raises:
        SpectralError: they are others.
    """
    at = J._evidence
    if isinstance(record, SpectralError) or record.integers or at.trial is None:
        return False
    try:
        program, along = record.program(at.trial.shift)
        at.check_differences(along)
    except SpectralError:
        return False
    u = J._random(J.shape[0], seed=1).reshape(at.output.shape)
    pairs = [(program.apply(v.unsqueeze(0))[0], Jv)]
    pairs += [(program.transpose(u.unsqueeze(0)), J._pull(u.unsqueeze(0)))]
    off = max(size_of(one - other) / max(size_of(one), size_of(other), 1e-300) for one, other in pairs)
    if off > within:
        raise SpectralError(f"its products are off by {off:.1e} from those of the operations recorded")
    return True


def _check_back_when_wider(J: Jacobian) -> None:
    """Hold autograd's J' u against differences of the model in float64: those in float32 hide 1 % of it.

    What the model does not take in another precision tells nothing.

    Raises:
        SpectralError: <u, J v> and <J' u, v> differ there.
    """
    at, worst = J._evidence, 0.0
    if at.y.dtype == torch.float64:
        return
    try:
        y, model = at.y.double(), at.model.widened(torch.float64)
        with model.ready():
            output, pull = model(y), autograd.backwards(model, y)
            for seed in range(0, 2 * ADJOINT_PAIRS, 2):
                v = J._random(J.shape[1], seed).reshape(y.shape).double()
                found = autograd.slopes(model, y, v, output, 1e-5)
                u = J._random(J.shape[0], seed + 1).reshape(output.shape).double()
                u, size = half_along(u, found.value), max(size_of(found.value), 1e-300)
                off = abs(inner(u, found.value) - inner(pull(u), v)) / (size_of(u) * size)
                within = max(1e-5, 5 * found.apart / size, 2 * size_of(found.kinks) / size)
                worst = max(worst, off if off > within else 0.0)
    except Exception:  # of the model's own, in a precision that it was not made for
        return
    if worst and output.dtype == torch.float64:
        raise SpectralError(f"J' u is off by {worst:.1e} |J| from differences of the model in torch.float64")


def _hold_roughly(J: Jacobian, pair: autograd.Pair, v: Tensor) -> None:
    """Hold J v against differences in half precision, whose error is told in `eps` from then on.

    Raises:
        SpectralError: none agrees.
    """
    at = J._evidence
    with at.model.ready():
        Jv = pair.push(v)
        off = min(
            size_of(Jv - autograd.difference(at.model, at.y, v, step)) / max(size_of(Jv), 1e-300)
            for step in (0.1, 0.3)
        )
    if not off <= DIFFERENCES:
        raise SpectralError(
            f"J v is off by {off:.1e} |J v| from differences of the model, whose precision is too low to "
            "tell more: give model and y in float32"
        )
    J.eps = at.eps = max(J.eps, off)
    J._note(f"J v is confirmed by differences of the model to {off:.0e}, as far as its precision goes")


def _first_line(failure: Exception | None) -> str:
    text = str(failure).strip().split("\n")[0][:200]
    return text or type(failure).__name__


def kept_graph(at: Evidence) -> Product:
    """J' u by a graph of the model, where it is the same derivative and there is room for it."""
    if at.hidden or at.declared or at.too_large:
        raise SpectralError("no graph is kept")
    with aside(at.y.device), at.model.ready():
        return _by_graph(at.model, autograd.backwards(at.model, at.y))


def _one_by_one(model: Model, product: autograd.Function) -> Product:
    """A product of blocks from one of single vectors."""

    def each(V: Tensor) -> Tensor:
        with same_random_numbers(V.device), model.ready():
            return torch.stack([product(v) for v in V])

    return each


def _by_graph(model: Model, pull: autograd.Function) -> Product:
    """J' of blocks by a graph; the model is made ready where a pass calls Python, which may use it."""
    alone: bool | None = None

    def watched(u: Tensor) -> Tensor:
        nonlocal alone
        result, alone = autograd.alone(pull, u)
        return result

    ready, first = _one_by_one(model, pull), _one_by_one(model, watched)

    def each(U: Tensor) -> Tensor:
        if alone:
            return torch.stack([pull(u) for u in U])
        return first(U) if alone is None else ready(U)

    return each
