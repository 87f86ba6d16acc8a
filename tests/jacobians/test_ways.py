"""The ways that are not the program: right, with the error that they tell, or refused."""

import numpy as np
import pytest
import torch

import denoisers
import spectral
from spectral.errors import NotDeterministicError, SpectralError

F64 = torch.float64


def drawn(n, dtype=F64):
    return torch.randn(n, generator=torch.Generator().manual_seed(0)).to(dtype)


def squared_by_numpy(share, forwards):
    """x^2 out of torch's sight, with `share` times its derivative; in float32 inside."""

    class Squared(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)
            return torch.from_numpy(np.square(x.detach().float().numpy())).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            return 2 * share * ctx.saved_tensors[0] * g

        if forwards:

            @staticmethod
            def jvp(ctx, t):
                return 2 * share * ctx.saved_tensors[0] * t

    return Squared.apply


@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("entries", [36, 2000])
def test_what_a_function_declares_in_half_precision(entries, dtype, forwards):
    """It is held against the model in float32, or, where that cannot be, as far as half precision goes."""
    y, identity = drawn(entries, dtype), torch.eye(entries, dtype=dtype)
    right = squared_by_numpy(1.0, forwards)
    models = [right, lambda y: y + 0.02 * right(y), lambda y: (right(y)[None] @ identity)[0]]
    for model, slope in zip(models, [2 * y, 1 + 0.04 * y, 2 * y], strict=True):
        J = spectral.jacobian(model, y)
        ones = torch.ones_like(y)
        for product in (J @ ones, J.T @ ones):
            torch.testing.assert_close(product, slope, rtol=0.03, atol=0.03)
    a_little, much = squared_by_numpy(1.036, forwards), squared_by_numpy(1.2, forwards)
    for model in (
        a_little,
        lambda y: y + 0.1 * much(y),
        lambda y: y + 0.02 * squared_by_numpy(1.5, forwards)(y),
        lambda y: (much(y)[None] @ identity)[0],
    ):
        with pytest.raises(SpectralError, match="off by"):
            spectral.jacobian(model, y)


def test_a_module_is_left_as_it_was_when_tried_in_a_finer_precision():
    class Squares(torch.nn.Linear):
        def forward(self, y):
            return squared_by_numpy(1.0, True)(super().forward(y))

    torch.manual_seed(0)
    model = Squares(6, 6).bfloat16()
    places = [p.data_ptr() for p in model.parameters()]
    J = spectral.jacobian(model, drawn(6, torch.bfloat16))
    assert J.method == "jvp" and "confirmed" not in repr(J)
    assert [p.data_ptr() for p in model.parameters()] == places
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def once_differentiable(function, slope):
    """Without a derivative forwards, or twice: what is left are differences."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.from_numpy(function(x.detach().numpy()))

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return g * slope(ctx.saved_tensors[0])

    return Once.apply


rectified = once_differentiable(lambda x: x.clip(0), lambda x: (x > 0).to(x.dtype))
sine = once_differentiable(np.sin, torch.cos)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("zeros", [1, 20])
def test_differences_at_a_kink(zeros, dtype):
    """Central ones give half the slope there, by two steps the same; the program gives autograd's."""
    y = drawn(2000, dtype)
    y[:zeros] = 0
    with pytest.raises(SpectralError, match="kink"):
        spectral.jacobian(rectified, y)
    with pytest.raises(SpectralError, match="kink"):
        spectral.jacobian(torch.relu, y, method="differences")
    torch.testing.assert_close(spectral.jacobian(torch.relu, y) @ torch.ones_like(y), (y > 0).to(dtype))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize(
    ("model", "slope"),
    [
        (sine, torch.cos),
        (lambda y: y + 0.01 * rectified(y), lambda y: 1 + 0.01 * (y > 0)),
        (lambda y: y + 0.05 * rectified(sine(y)), lambda y: 1 + 0.05 * (y.sin() > 0) * y.cos()),
    ],
)
def test_the_error_of_differences_holds(model, slope, dtype):
    """Entry by entry, and where the entry is one that lies at a kink."""
    y = drawn(200, dtype)
    y[:3] = 0
    J = spectral.jacobian(model, y)
    true = torch.diag(slope(y))
    assert J.method == "differences" and J.eps < 0.05
    assert (J.dense() - true).norm(dim=0).max() <= J.eps * true.diagonal().abs().max()
    assert (J.T.dense() - true).norm(dim=0).max() <= J.eps * true.diagonal().abs().max()


@pytest.mark.parametrize("method", ["auto", "jvp", "double-backward", "differences"])
@pytest.mark.parametrize("period", [2, 5, 11, 29])
def test_models_that_are_another_from_time_to_time(period, method):
    """By a counter or a clock: an answer is that of one of the two, or there is none."""
    y = drawn(60)
    for phase in range(min(period, 3)):
        calls = [phase]

        def model(y, calls=calls):
            calls[0] += 1
            return (3.0 if calls[0] % period == 0 else 2.0) * y.sin()

        try:
            J = spectral.jacobian(model, y, method=method)
            pairs = spectral.top_eigs(J, k=2, method="lanczos")
            total = spectral.trace(J, method="exact").value
        except SpectralError:
            continue
        slope = min((2.0, 3.0), key=lambda s: abs(s * y.cos().sum() - total)) * y.cos()
        assert total == pytest.approx(slope.sum().item(), rel=1e-9)
        if pairs.converged.all():
            assert pairs.values.tolist() == pytest.approx(slope.sort().values[-2:].flip(0).tolist(), rel=1e-3)


@pytest.mark.parametrize("method", ["jvp", "differences"])
def test_a_product_in_another_branch_is_refused(method):
    y, switched = drawn(100), []
    J = spectral.jacobian(lambda y: (3.0 if switched else 2.0) * y.sin(), y, method=method)
    J.apply(y[None])
    switched.append(True)
    with pytest.raises(NotDeterministicError):
        J.apply(y[None])


LAYER = torch.nn.Linear(36, 36)  # no part of a model's copy in float64


def in_inference_mode(y):
    with torch.inference_mode():
        value = LAYER(y)
    return value.clone()


def without_grad(y):
    with torch.no_grad():
        return LAYER(y)


@pytest.mark.parametrize("share", [0.3, 0.003])
@pytest.mark.parametrize("part", [in_inference_mode, without_grad, lambda y: LAYER(y).detach()])
def test_what_is_cut_off_beside_what_only_autograd_knows(part, share):
    """A program is not to be had, and torch's derivative lacks a part: little of it passed for rounding."""
    square, y = squared_by_numpy(1.0, False), drawn(36, torch.float32)
    with pytest.raises(SpectralError, match="a part is detached"):
        spectral.jacobian(lambda y: y + 0.1 * square(y) + share * part(y), y)
    J = spectral.jacobian(lambda y: y + 0.1 * square(y), y)
    torch.testing.assert_close(J @ torch.ones(36), 1 + 0.2 * y)


@pytest.mark.parametrize("share", [0.01, 0.03])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_way_back_that_lacks_a_small_share_is_not_taken_beside_differences(share, dtype):
    """torch leaves Bessel's functions out in silence; where no record is to be had it does not tell of it."""
    y = torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    bag, J0 = torch.nn.functional.embedding_bag, torch.special.bessel_j0
    places = torch.tensor([[0, 1], [1, 1]])
    model = lambda y: y.sin() + 0.1 * bag(places, y).square().sum() + share * J0(y)  # noqa: E731
    for method in ("auto", "differences"):
        with pytest.raises(SpectralError, match=r"J' u|contradict"):
            spectral.jacobian(model, y, method=method)


@pytest.mark.parametrize(
    "model",
    [
        lambda y: (y.sin(), torch.special.bessel_j0(y)),
        lambda y: y.sin() * (torch.special.bessel_j0(y) > 0.9),
        lambda y: torch.where(torch.special.bessel_j0(y) > 0.9, y.sin(), y),
        lambda y: y.sin() + torch.special.bessel_j0(y).round(),
        lambda y: y.sin() * (1 + torch.special.bessel_j0(y).flatten().argmax() % 3),
        lambda y: y.sin().masked_fill_(torch.special.chebyshev_polynomial_t(y, 3) > 0.5, 0.0),
    ],
)
def test_what_torch_leaves_out_of_its_derivatives_may_tell_where(model):
    """A mask, a place or a count has none, and what nothing is made of needs none."""
    y = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    J = spectral.jacobian(model, y)
    assert J.method == "frozen"
    first = lambda y: out[0] if isinstance(out := model(y), tuple) else out  # noqa: E731
    exact = torch.autograd.functional.jacobian(first, y).reshape(36, 36)
    torch.testing.assert_close(J.dense(), exact)
    torch.testing.assert_close(J.T.dense(), exact.mT)


@pytest.mark.parametrize("share", [1e-4, 1.0])
@pytest.mark.parametrize("method", ["auto", "double-backward"])
def test_what_torch_leaves_out_is_refused_where_the_output_is_made_of_it(method, share):
    y = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(SpectralError, match="in silence"):
        spectral.jacobian(lambda y: y.sin() + share * torch.special.bessel_j0(y).exp(), y, method=method)


class Kept(torch.nn.Module):
    """In float32 alone; what it keeps of a call beside the graph is a share of its output, or none."""

    def __init__(self, keep, share):
        super().__init__()
        self.keep, self.share, self.norm = keep, share, torch.zeros(())

    def forward(self, y):
        h = squared_by_numpy(1.0, False)(y) @ torch.full((8, 8), 0.1, dtype=torch.float32)
        self.norm = self.keep(h, self.norm)
        return h + self.share * self.norm * h if self.share else h


@pytest.mark.parametrize(
    "keep",
    [
        lambda h, kept: h.detach().norm(),
        lambda h, kept: h.data.norm(),
        torch.no_grad()(lambda h, kept: torch.maximum(kept, h.abs().max())),
        torch.no_grad()(lambda h, kept: torch.zeros(()).add_(h.norm(), alpha=0.1)),
    ],
)
def test_what_is_only_kept_of_a_call_is_no_part_of_the_output_that_is_cut_off(keep):
    y = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    J = spectral.jacobian(Kept(keep, 0.0), y)
    exact = torch.autograd.functional.jacobian(Kept(keep, 0.0), y).reshape(64, 64)
    torch.testing.assert_close(J.dense(), exact, rtol=1e-4, atol=1e-5)
    with pytest.raises(SpectralError, match="a part is detached"):
        spectral.jacobian(Kept(keep, 1e-3), y)


def test_differences_whose_way_back_is_right_stay():
    """An operation that torch differentiates backwards alone."""
    y = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[0, 1], [1, 1]])
    model = lambda y: y.sin() * torch.nn.functional.embedding_bag(places, y).square().sum()  # noqa: E731
    J = spectral.jacobian(model, y, method="differences")
    exact = torch.autograd.functional.jacobian(model, y).reshape(64, 64)
    torch.testing.assert_close(J.dense(), exact, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(J.T.dense().mT, exact, rtol=1e-4, atol=1e-4)


def times(x, slope):
    """x, with `slope` declared for its derivative both ways."""

    class Declared(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            return slope * g

        @staticmethod
        def jvp(ctx, t):
            return slope * t

    return Declared.apply(x)


NETWORK = denoisers.load("photos")  # what is found in globals is taken to no other precision


def of_globals(slope):
    return lambda y: times(NETWORK(y), slope)


def of_its_own(slope):
    network = NETWORK
    return lambda y: times(network(y), slope)


@pytest.mark.parametrize("made", [of_globals, of_its_own])
@pytest.mark.parametrize("method", ["jvp", "double-backward"])
def test_noise_in_float32_at_which_many_units_switch(method, made):
    """Within the step of a difference, by as much as an error of 5 %: the record tells, or a shorter step."""
    fine = denoisers.load("photos").double()
    for seed in (0, 4):
        y = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(seed))
        J, v = spectral.jacobian(made(1.0), y, method=method), drawn(48 * 48, torch.float32)
        exact = spectral.jacobian(fine, y.double())
        torch.testing.assert_close((J @ v).double(), exact @ v.double(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close((J.T @ v).double(), exact.T @ v.double(), rtol=1e-4, atol=1e-4)
        for slope in (1.05, 1.01, 1.004):
            with pytest.raises(SpectralError, match="off by"):
                spectral.jacobian(made(slope), y, method=method)


@pytest.mark.parametrize("method", ["jvp", "double-backward"])
@pytest.mark.parametrize("dtype, size", [(torch.bfloat16, 1.0), (torch.float16, 1e-4), (torch.float32, 1.0)])
def test_a_part_in_lower_precision_stands_still_over_short_steps(method, dtype, size):
    """In float64 too: its differences vanish there, and contradict nothing."""
    offset = 300 if dtype == torch.float32 else 0

    def model(y):
        return torch.nn.functional.silu((y + offset).to(dtype).to(y.dtype) - offset)

    for seed in range(4):
        y = size * torch.rand(16, generator=torch.Generator().manual_seed(seed))
        exact = torch.autograd.functional.jacobian(model, y)
        J = spectral.jacobian(model, y, method=method)
        torch.testing.assert_close(J.dense(), exact, rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["jvp", "double-backward", "differences"])
def test_recurrent_layers_go_without_a_warning(method):
    layer, y = torch.nn.GRU(4, 4, batch_first=True).eval(), drawn(24, torch.float32).view(1, 6, 4)
    J = spectral.jacobian(lambda y: layer(y)[0], y, method=method)
    exact = torch.autograd.functional.jacobian(lambda y: layer(y)[0], y).view(24, 24)
    torch.testing.assert_close(J.dense(), exact, rtol=1e-2, atol=1e-2)
