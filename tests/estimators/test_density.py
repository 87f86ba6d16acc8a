import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from spectral import progress
from spectral.errors import FileContentError, NotLinearError, NotSymmetricError, OptionError, ShapeError
from spectral.estimators import Density, Estimate, schatten_norm, spectral_density
from spectral.estimators.quadrature import chebyshev_rule, golub_kahan_rule, lanczos_rule
from spectral.estimators.results import _mass_below
from spectral.operators import as_operator, from_functions

n = 200


def rows(p, seed=0, n=n):
    V = torch.randn(p, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return V / V.norm(dim=-1, keepdim=True)


def matrix(seed=0, shape=(n, n), decay=0.97):
    M = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return M * decay ** torch.arange(shape[1]) / math.sqrt(shape[0])


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_gauss_rule_is_exact_to_its_degree(steps):
    S = matrix() + matrix().T
    V = rows(3)
    (nodes, weights), half = lanczos_rule(as_operator(S), V, steps)
    assert nodes.shape == weights.shape == (3, steps)
    assert (nodes.diff(dim=-1) > 0).all() and (weights > 0).all()
    power = V
    for degree in range(2 * steps):
        moment = (V * power).sum(-1)
        assert torch.allclose((weights * nodes**degree).sum(-1), moment, rtol=1e-10, atol=1e-12), degree
        power = power @ S
    assert torch.allclose(half.nodes, lanczos_rule(as_operator(S), V, (steps + 1) // 2)[0].nodes)


@pytest.mark.parametrize("shape", [(n, n), (150, 200), (200, 60)])
def test_golub_kahan_rule_is_lanczos_on_the_gram_matrix(shape):
    M = matrix(shape=shape)
    V = rows(3, n=shape[1])
    nodes, weights = golub_kahan_rule(as_operator(M), V, 12)[0]
    squares, again = lanczos_rule(as_operator(M).gram(), V, 12)[0]
    assert torch.allclose(nodes.square(), squares, rtol=1e-8, atol=1e-10)
    assert torch.allclose(weights, again, atol=1e-7)


def test_chebyshev_moments_and_jackson_are_the_naive_sum():
    S = matrix() + matrix().T
    values, vectors = torch.linalg.eigh(S)
    V, steps, low, high = rows(2), 15, values[0] - 0.1, values[-1] + 0.1
    nodes, weights = chebyshev_rule(as_operator(S), V, steps, (low, high))[0]
    x, shares = (2 * values - high - low) / (high - low), (V @ vectors).square()
    count = 2 * steps + 1
    k = torch.arange(count, dtype=torch.float64)
    mu = shares @ torch.cos(k * torch.arccos(x).unsqueeze(-1))
    unit = math.pi / (count + 1)
    jackson = ((count - k + 1) * torch.cos(unit * k) + torch.sin(unit * k) / math.tan(unit)) / (count + 1)
    # The damped expansion's moments are those of the quadrature rule, and its weights are not negative.
    t = torch.arccos((2 * nodes - high - low) / (high - low))
    for degree in range(count):
        assert torch.allclose(
            (weights * torch.cos(degree * t)).sum(-1), jackson[degree] * mu[:, degree], atol=1e-10
        )
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(-1), torch.ones(2, dtype=torch.float64))


def test_rule_that_ends_early_is_exact():
    values = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64).repeat_interleave(10)
    density = spectral_density(torch.diag(values), method="slq", probes=200, steps=12)
    for threshold, count in ((-2.0, 30), (0.0, 20), (1.0, 10), (3.0, 0)):
        estimate = density.count_above(threshold)
        assert abs(estimate.value - count) <= 4 * estimate.stderr + 1e-9
    assert density.ends == pytest.approx((-1.0, 2.0))
    identity = spectral_density(torch.eye(40), method="slq", probes=3, steps=10)
    assert identity.count_above(0.5).value == pytest.approx(40)
    assert identity.count_above(1.1).value == pytest.approx(0, abs=1e-6)


def measures(seed, nodes=12):
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.rand(2, 3, nodes, generator=generator, dtype=torch.float64)
    return x.sort(-1).values, w / w.sum(-1, keepdim=True)


def test_distribution_is_the_monotone_cubic_through_half_masses():
    x, w = measures(0)
    at = torch.linspace(-0.1, 1.1, 401, dtype=torch.float64)
    mass = _mass_below(x, w, at, steps=1)  # no gap is wider than 2 range/steps
    for nodes, weights, found in zip(x, w, mass, strict=True):
        inside = (at > nodes[1]) & (at < nodes[-2])
        expected = PchipInterpolator(nodes, weights.cumsum(-1) - weights / 2)(at[inside])
        assert (found[inside] - torch.as_tensor(expected)).abs().max() < 1e-14


@given(st.integers(0, 10**6), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_distribution_rises_from_zero_to_one(seed, steps):
    x, w = measures(seed)
    mass = _mass_below(x, w, torch.linspace(-0.5, 1.5, 501, dtype=torch.float64), steps)
    assert (mass.diff(dim=-1) > -1e-14).all()
    assert (mass[:, 0] == 0).all() and torch.allclose(mass[:, -1], torch.ones(3, dtype=torch.float64))
    # A gap beyond 2 range/steps is flat in its middle, with all the mass of the nodes below.
    gaps, span = x.diff(dim=-1), x[:, -1:] - x[:, :1]
    middles = (x[:, 1:] + x[:, :-1]) / 2
    for row in range(3):
        open_ = gaps[row] > 2 * span[row] / steps
        at_middles = _mass_below(x[row : row + 1], w[row : row + 1], middles[row], steps)[0]
        assert torch.allclose(at_middles[open_], w[row].cumsum(-1)[:-1][open_], atol=1e-14)


def test_smooth_spectra_are_counted_far_below_the_spacing_of_nodes():
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A = from_functions(lambda V: V * values, n=20_000, dtype=torch.float64, symmetric=True)
    at = torch.linspace(-2, 2, 21)
    found = spectral_density(A, probes=3, steps=24).count_above(at)
    error = found.value - (values[:, None] > at).sum(0)
    assert error.abs().max() < 250  # a node carries 800 values, and counts between probes differ by 60
    assert (error.abs() <= found.halfwidth()).double().mean() > 0.9


def test_published_spectrum(published):
    S = (published + published.T) / 2
    values, vectors = torch.linalg.eigh(S)
    width = (values[-1] - values[0]).item()
    A = as_operator(published)
    slq = spectral_density(A, method="slq", probes=30, steps=60)
    assert slq.distance(values) < 2e-3 * width
    assert abs(slq.count_above(0.5).value - 106) < 4 * slq.count_above(0.5).stderr
    total = slq.total(lambda x: x)
    assert abs(total.value - 156.2665) < 4 * total.stderr
    kpm = spectral_density(A, method="kpm", probes=10, steps=60)
    assert kpm.distance(values) < 1e-2 * width
    top = values > 0.5
    for method in ("slq", "kpm"):
        known = (values[top], vectors[:, top].T)
        sharp = spectral_density(A, method=method, probes=15, steps=60, deflate=known)
        assert sharp.distance(values) < 1.5e-3 * width
        assert abs(sharp.count_above(0.5).value - 106) < 0.5
        assert sharp.count_above(1.0).value == pytest.approx((values > 1).sum().item())
    singular = spectral_density(A, part="singular", method="slq", probes=10, steps=60)
    assert singular.distance(torch.linalg.svdvals(published)) < 5e-3 * width


def test_count_interval_covers(published):
    S = (published + published.T) / 2
    values = torch.linalg.eigvalsh(S)
    batch = as_operator(S.expand(40, 900, 900)[:, :900].contiguous(), symmetric=True)
    hits, runs = 0.0, 0
    for seed in range(3):
        density = spectral_density(batch, probes=6, steps=15, seed=seed)
        low, high = density.count_above(torch.tensor([0.1, 0.3])).interval(0.95)
        truth = torch.stack([(values > 0.1).sum(), (values > 0.3).sum()])
        hits += ((low <= truth) & (truth <= high)).double().sum().item()
        runs += 80
    assert 0.88 < hits / runs <= 1.0


@pytest.mark.parametrize("part", ["symmetric", "singular"])
def test_pairs_found_on_the_way_are_eigenpairs(part):
    M = matrix(decay=0.9)
    values = torch.linalg.svdvals(M) if part == "singular" else torch.linalg.eigvalsh(M + M.T).flip(0)
    operator = as_operator(M if part == "singular" else M + M.T)
    density = spectral_density(operator, part=part, probes=2, steps=25)
    k = density.deflated.shape[-1]
    assert k >= 3
    degree = 2 if part == "singular" else 1  # of the operator whose residuals are at most 1e-3 of its range
    apart = (density.deflated[:, None] ** degree - values**degree).abs().amin(-1)
    assert apart.max() < 1e-3 * (values.max() ** degree - values.min() ** degree)
    assert torch.allclose(density.deflated[:3], values[:3], atol=1e-6)
    between = ((values[2] + values[1]) / 2).item()
    assert density.count_above(between).value == pytest.approx(2)


def test_total_of_a_polynomial_is_the_trace_on_the_same_probes():
    S = matrix() + matrix().T
    density = spectral_density(S, probes=5, steps=6, seed=3)
    from spectral.estimators.probes import sampler

    draw = sampler(as_operator(S), "gaussian", 3)
    draw(1)  # the run that looks for leading pairs, and finds none in six steps
    V = draw(5)
    V = V / V.norm(dim=-1, keepdim=True)
    forms = n * ((V @ S @ S @ S) * V).sum(-1)
    estimate = density.total(lambda x: x**3)
    assert estimate.value == pytest.approx(forms.mean().item())
    assert estimate.stderr == pytest.approx(forms.std().item() / math.sqrt(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("part", "shape"), [("symmetric", (n, n)), ("singular", (150, n)), ("singular", (n, 60))]
)
def test_exact_is_every_value(part, shape, dtype):
    M = torch.stack([matrix(seed, shape) for seed in range(2)]).to(dtype)
    density = spectral_density(M, part=part)
    if part == "symmetric":
        truth = torch.linalg.eigvalsh((M + M.mT).double() / 2)
    else:
        truth = torch.zeros(2, shape[1], dtype=torch.float64)
        truth[:, -min(shape) :] = torch.linalg.svdvals(M.double()).flip(-1)
    assert density.method == "exact" and density.products == shape[1] + 1 and density.probes == 1
    reach = 10 * torch.finfo(dtype).eps * truth.abs().amax()
    assert (density.nodes[:, 0] - truth).abs().max() <= reach and density.deflated.numel() == 0
    between = (truth[0, -4] + truth[0, -3]).item() / 2
    count = density.image(0).count_above(between)
    assert (count.value, count.stderr, count.products) == (3, 0, shape[1] + 1)
    assert density.image(0).distribution(between).value == 1 - 3 / shape[1]
    assert density.image(0).distance(truth[0]) < 1e-6
    for f in (torch.exp, torch.square):
        total = density.total(f)
        assert ((total.value - f(truth).sum(-1)).abs() <= 2 * total.stderr).all() and total.dof == math.inf
    grid = torch.linspace(-6, 6, 4001)
    curve = density.curve(grid)
    assert torch.trapezoid(curve.value, grid) == pytest.approx([1, 1], rel=1e-6) and not curve.stderr.any()


def test_exact_counts_tell_of_values_within_rounding():
    frame = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(0))).Q
    values = torch.tensor([0.5] * 10 + [0.25] * 30)
    density = spectral_density(frame @ torch.diag(values) @ frame.T)
    at = density.count_above(torch.tensor([0.3, 0.5]))
    assert at.value[0] == 10 and at.stderr.tolist() == [0, 10]


def test_exact_errors_are_of_the_norm_of_the_operator_where_its_symmetric_part_is_smaller():
    A, B = matrix(0), matrix(1)
    M = A + A.T + 1e4 * (B - B.T)
    thin = torch.randn(n, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    left = M @ torch.linalg.inv(thin)
    network = torch.nn.Sequential(*(torch.nn.Linear(n, n, bias=False) for _ in range(2)))
    for layer, weight in zip(network, (thin, left), strict=True):
        layer.weight.data = weight.float()
    exact = network[1].weight.detach().double() @ network[0].weight.detach().double()
    truth = torch.linalg.eigvalsh((exact + exact.T) / 2)
    total = spectral_density(network, torch.zeros(n)).total(torch.abs)
    off = abs(total.value - truth.abs().sum().item())
    assert 1e-5 * truth.abs().max() < off < 2 * total.stderr


@pytest.mark.parametrize("part", ["symmetric", "singular"])
def test_exact_refuses_products_that_contradict_each_other(part):
    M = matrix()
    for product in (lambda V: V @ M.T + 1, lambda V: (V @ M.T).abs()):
        A = from_functions(product, lambda U: U @ M, n, dtype=torch.float64)
        with pytest.raises(NotLinearError, match="sum of x_j A e_j"):
            spectral_density(A, part=part)
    A = from_functions(lambda V: V @ M.T, n=n, dtype=torch.float64, symmetric=True)
    with pytest.raises(NotSymmetricError, match="its matrix is not"):
        spectral_density(A, part=part)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("values", [torch.zeros(9), torch.ones(9), torch.arange(9.0)])
def test_values_of_any_size_are_drawn_over_their_span(values, scale):
    for method in ("exact", "slq"):
        density = spectral_density(torch.diag(scale * values), method=method)
        (low, high), span = density.ends, density.span
        grid = torch.linspace(low - 6 * span, high + 6 * span, 4001, dtype=torch.float64)
        share = 1 - density.deflated.shape[-1] / 9
        assert torch.trapezoid(density.curve(grid).value, grid).item() == pytest.approx(share, abs=0.02)
        assert density.plot(threshold=scale) and "svg" in density._repr_html_()


def test_auto_is_what_takes_fewer_products(monkeypatch):
    A = as_operator(matrix())
    few = spectral_density(A, probes=2, steps=30)
    assert few.method == "slq" and few.products == 180 < n
    assert spectral_density(A, probes=2, steps=34).method == "exact"
    assert spectral_density(A.symmetric_part(), probes=5, steps=30).method == "slq"
    assert spectral_density(A, method="exact", probes=2, steps=3).products == n + 1
    monkeypatch.setattr("spectral.estimators.density.DENSE_AT_MOST", 150)
    assert spectral_density(A).method == "slq"


def test_exact_does_not_depend_on_what_the_first_columns_hold():
    values = torch.tensor([1e-30] * 100 + [1.0] * 28)
    density = spectral_density(torch.diag(values))
    assert density.count_above(0.5).value == 28 and density.total(torch.square).value == pytest.approx(28)


def test_curve_integrates_to_the_unknown_share():
    S = matrix() + matrix().T
    values, vectors = torch.linalg.eigh(S)
    density = spectral_density(S, probes=4, steps=30, deflate=(values[-20:], vectors[:, -20:].T))
    grid = torch.linspace(-4, 4, 2001)
    curve = density.curve(grid)
    share = 1 - density.deflated.shape[-1] / n
    assert density.deflated.shape[-1] >= 20
    assert torch.trapezoid(curve.value, grid).item() == pytest.approx(share, rel=1e-3)
    assert curve.stderr.shape == (2001,)
    with pytest.raises(OptionError, match="width"):
        density.curve(grid, width=0.0)


def test_batch_is_problem_by_problem():
    M = torch.stack([matrix(s) for s in range(3)])
    for part in ("symmetric", "singular"):
        for method in ("slq", "kpm"):
            together = spectral_density(M, part=part, method=method, probes=4, steps=20)
            assert together.nodes.shape[:2] == (3, 4)
            counts = together.count_above(0.5)
            assert counts.value.shape == (3,)
            for one in range(3):
                S = (M[one] + M[one].T) / 2
                values = torch.linalg.svdvals(M[one]) if part == "singular" else torch.linalg.eigvalsh(S)
                truth = (values > 0.5).sum()
                assert abs(counts.value[one] - truth) < 5 * counts.stderr[one] + 2


@pytest.mark.parametrize("steps", [8, 15, 30])
def test_chebyshev_ends_enclose_steep_spectra(steps):
    values = torch.arange(1, 401, dtype=torch.float64) ** -2
    for seed in range(5):
        density = spectral_density(torch.diag(values), method="kpm", probes=4, steps=steps, seed=seed)
        total = density.total(lambda x: x)
        assert abs(total.value - values.sum()) < 5 * total.stderr + 0.02


@pytest.mark.parametrize("method", ["slq", "kpm"])
def test_counts_are_covered_where_steps_are_few(method):
    values = 0.99 ** torch.arange(1, 401, dtype=torch.float64)
    at = torch.logspace(-1.5, -0.02, 30)
    A = from_functions(lambda V: V * values, n=400, dtype=torch.float64, batch=(30,), symmetric=True)
    low, high = spectral_density(A, method=method, probes=8, steps=15).count_above(at).interval()
    truth = (values[:, None] > at).sum(0)
    assert ((low <= truth) & (truth <= high)).double().mean() > 0.93


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny(size, dtype):
    M = matrix(shape=(size, size)).to(dtype)
    for method in ("slq", "kpm"):
        for part in ("symmetric", "singular"):
            density = spectral_density(M, part=part, method=method, probes=3, steps=10)
            assert density.total(torch.ones_like).value == pytest.approx(size, rel=1e-5)


def test_schatten_norms(published):
    nuclear = schatten_norm(published, probes=12, steps=30)
    assert nuclear.method == "slq"
    exact = torch.linalg.svdvals(published).sum().item()
    assert abs(nuclear.value - exact) < 4 * nuclear.stderr < 0.1 * exact
    frobenius = schatten_norm(published, p=2, probes=12, steps=30)
    assert abs(frobenius.value - 10.4077) < 4 * frobenius.stderr
    for p in (1, 2):
        every = schatten_norm(published, p=p)
        assert every.method == "exact" and every.products == 901
        assert abs(every.value - torch.linalg.svdvals(published).pow(p).sum() ** (1 / p)) <= every.stderr
    assert schatten_norm(torch.zeros(20, 20)).value == 0


@pytest.mark.parametrize("shape", [(60, 60), (60, 45), (200, 200)])
@pytest.mark.parametrize("p", [30.0, 1000.0, float("inf")])
@pytest.mark.parametrize("steps", [3, 60])
def test_schatten_norms_of_high_powers(shape, p, steps):
    M = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    M = M @ torch.diag(1 / (1 + torch.arange(shape[1], dtype=torch.float64)))
    sigma = torch.linalg.svdvals(M)
    exact = (sigma[0] * ((sigma / sigma[0]) ** p).sum() ** (1 / p)).item()
    norm = schatten_norm(M, p=p)
    assert norm.value == pytest.approx(exact, rel=1e-6) and norm.products <= 2 * 10 * 60 + 2 * 60
    assert abs(norm.value - exact) <= 1e-12 * exact + norm.halfwidth(0.99)


def test_spectral_norms_of_a_batch_and_of_zero():
    M = torch.randn(3, 20, 15, generator=torch.Generator().manual_seed(0))
    norm = schatten_norm(M, p=float("inf"))
    torch.testing.assert_close(norm.value, torch.linalg.svdvals(M.double())[:, 0], rtol=1e-5, atol=0)
    assert schatten_norm(torch.zeros(20, 20), p=float("inf")).value == 0


@pytest.mark.parametrize("method", ["exact", "slq"])
def test_save_load(tmp_path, method):
    density = spectral_density(matrix(), method=method, probes=3, steps=5)
    again = Density.load(density.save(tmp_path / "density.safetensors"))
    assert repr(again) == repr(density) and ("probes" in repr(again)) == (method == "slq")
    assert torch.equal(again.weights, density.weights)
    assert repr(again.count_above(0.1)) == repr(density.count_above(0.1))
    with pytest.raises(FileContentError, match="Density, not Estimate"):
        Estimate.load(tmp_path / "density.safetensors")


@pytest.mark.parametrize(
    ("part", "method"),
    [("symmetric", "slq"), ("singular", "slq"), ("symmetric", "kpm"), ("symmetric", "exact")],
)
def test_progress_tells_products_to_their_total(monkeypatch, part, method):
    told = []
    monkeypatch.setattr(progress, "_console", lambda shown: None)
    monkeypatch.setattr(progress, "_now_and_then", lambda what: told.append)
    found = spectral_density(matrix(), part=part, method=method, probes=3, steps=5, progress=True)
    assert told[-1] == f"{found.products}/{found.products}, products"
    assert len(told) >= (5 if method == "exact" else 10)
    done = [int(line.split("/")[0]) for line in told]
    assert done == sorted(done) and done[0] == 1


def test_refusals():
    with pytest.raises(OptionError, match="probes >= 2"):
        spectral_density(matrix(), probes=1)
    with pytest.raises(OptionError, match="part is one of"):
        spectral_density(matrix(), part="full")
    for method in ("auto", "slq", "kpm"):
        with pytest.raises(ShapeError, match="no symmetric part"):
            spectral_density(matrix(shape=(20, 30)), method=method)
    with pytest.raises(ShapeError, match="known pairs"):
        spectral_density(matrix(), deflate=(torch.ones(2), torch.ones(3, n)))
    with pytest.raises(OptionError, match="known already"):
        spectral_density(torch.eye(3), deflate=(torch.ones(3), torch.eye(3)))
    with pytest.raises(OptionError, match="one problem"):
        spectral_density(torch.stack([matrix()] * 2), probes=2, steps=2).distance(torch.ones(3))
    with pytest.raises(OptionError, match="p must be"):
        schatten_norm(matrix(), p=0)
    with pytest.raises(OptionError, match="p is a finite number"):
        schatten_norm(matrix(), p="inf")
