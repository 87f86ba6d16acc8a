"""The front door: models, operators, options, refusals, and results on disk."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

import spectral
from spectral import errors, solvers
from spectral.errors import ShapeError
from spectral.results import EigenPairs
from spectral.solvers import Completeness
from tests.helpers.interrupted import interrupted


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 3, padding=1)).eval()
    y = torch.rand(1, 1, 16, 14)
    J = torch.autograd.functional.jacobian(net.double(), y.double()).reshape(224, 224)
    return net.float(), y, J


def test_symmetric_part_of_a_model(problem):
    net, y, J = problem
    pairs = spectral.top_eigs(net, y, 6, tol=1e-5)
    theta, E = torch.linalg.eigh((J + J.T) / 2)
    torch.testing.assert_close(pairs.values, theta.flip(0)[:6], atol=2e-6, rtol=0)
    assert (pairs.values - theta.flip(0)[:6]).abs().le(pairs.errors + 1e-6).all()
    assert pairs.vectors.shape == (6, 1, 1, 16, 14)
    assert pairs.method == "lanczos" and pairs.part == "symmetric"
    x = torch.rand_like(y)
    torch.testing.assert_close(
        pairs.coefficients(x).abs(), (E.T.flip(0)[:6] @ x.double().flatten()).abs(), atol=1e-3, rtol=0
    )


def test_asymmetry_is_within_its_error(problem):
    net, y, J = problem
    skew = spectral.top_eigs(net, y, 3).asymmetry
    true = ((J - J.T).norm() / J.norm()).item()
    assert abs(skew.value - true) < 4 * skew.stderr
    assert spectral.top_eigs(J + J.T, k=3).asymmetry is None


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_dense_and_lanczos_agree(problem, which):
    net, y, _ = problem
    dense, lanczos = (
        spectral.top_eigs(net, y, 5, which=which, method=m, tol=1e-5) for m in ("dense", "lanczos")
    )
    torch.testing.assert_close(dense.values, lanczos.values, atol=1e-5, rtol=0)
    assert dense.complete and dense.completeness.confidence == 1
    assert dense.method == "dense" and lanczos.method == "lanczos"
    gap = (dense.completeness.bound - lanczos.completeness.bound).item()
    assert gap >= -1e-6 if which == "smallest" else gap <= 1e-6


@pytest.mark.parametrize("method", ["lobpcg", "chebyshev"])
def test_every_method_of_the_symmetric_part(problem, method):
    net, y, J = problem
    pairs = spectral.top_eigs(net, y, 5, method=method, tol=1e-5)
    exact = torch.linalg.eigvalsh((J + J.T) / 2).flip(0)[:5]
    assert pairs.method == method and pairs.converged.all() and pairs.complete
    torch.testing.assert_close(pairs.values, exact, atol=2e-5, rtol=0)


def test_an_interval_inside_the_spectrum(problem, tmp_path):
    net, y, J = problem
    theta = torch.linalg.eigvalsh((J + J.T) / 2).flip(0)
    low, high = ((theta[60] + theta[61]) / 2).item(), ((theta[40] + theta[41]) / 2).item()
    pairs = spectral.top_eigs(net, y, between=(low, high), tol=1e-5)
    torch.testing.assert_close(pairs.values, theta[41:61], atol=2e-5, rtol=0)
    assert pairs.complete and f"in [{low:g}" in repr(pairs)
    again = EigenPairs.load(pairs.save(tmp_path / "interval.safetensors"))
    assert again.between == (low, high) and repr(again) == repr(pairs)


def test_eigenpairs_of_the_jacobian_itself(problem):
    net, y, J = problem
    pairs = spectral.top_eigs_full(net, y, 6, left=True, tol=1e-5, method="krylov-schur")
    exact = torch.linalg.eigvals(J)
    exact = exact[torch.argsort(exact.real, descending=True)][: pairs.k]
    torch.testing.assert_close(pairs.values.real, exact.real, atol=1e-4, rtol=0)
    assert pairs.method == "krylov-schur" and pairs.vectors.shape == (pairs.k, 1, 1, 16, 14)
    assert pairs.condition.min() >= 1 and not pairs.defective.any()
    no_transpose = spectral.from_functions(lambda V: V @ J.T, n=224, dtype=J.dtype)
    alone = spectral.top_eigs_full(no_transpose, k=6, tol=1e-5, method="krylov-schur")
    torch.testing.assert_close(alone.values.real, exact.real, atol=1e-4, rtol=0)


def test_small_matrices_far_from_normal_are_formed():
    """A walk that drifts, and a convolution: Krylov spaces took 351 products, and 10,000."""
    n, p = 200, 0.55
    up = torch.full((n - 1,), p, dtype=torch.float64)
    walk = torch.diag(up, 1) + torch.diag(1 - up, -1)
    walk[0, 0], walk[-1, -1] = 1 - p, p
    found = spectral.top_eigs_full(walk, k=3)
    balanced = torch.ones(n, dtype=torch.float64).cumsum(0).sub(1).mul(math.log(p / (1 - p)) / 2).exp()
    exact = torch.linalg.eigvalsh(balanced[:, None] * walk / balanced[None, :])
    torch.testing.assert_close(found.values.real, exact.flip(0)[:3], atol=1e-9, rtol=0)
    assert not found.values.imag.any() and found.products <= n + 10
    torch.manual_seed(19)
    convolution = torch.nn.Conv2d(1, 1, 3, padding=1)
    assert spectral.top_eigs_full(convolution, torch.rand(1, 1, 16, 16), k=2).products < 266


def test_solved_at_another_precision_and_polished(problem):
    net, y, J = problem
    exact = torch.linalg.eigvalsh((J + J.T) / 2).flip(0)[:5]
    net, y = net.double(), y.double()
    try:
        straight = spectral.top_eigs(net, y, 5, tol=1e-6, method="lanczos")
        for precision in ("float32", "bfloat16"):
            pairs = spectral.top_eigs(net, y, 5, tol=1e-6, precision=precision)
            assert pairs.converged.all() and pairs.complete and pairs.spent[precision] > 5
            torch.testing.assert_close(pairs.values, exact, atol=1e-6, rtol=0)
            assert precision in pairs.notes[-1] or precision in pairs.notes[0]
            if precision == "float32":
                assert pairs.spent["solve"] <= straight.spent["solve"] / 2
        with pytest.raises(errors.OptionError, match="k pairs"):
            spectral.top_eigs(net, y, above=0.5, precision="float32")
    finally:
        net.float()


def test_small_problems_and_most_of_a_spectrum_go_dense(tmp_path):
    assert spectral.top_eigs(torch.eye(100), k=2).method == "dense"
    assert spectral.top_eigs(torch.eye(300), k=100).method == "dense"
    assert spectral.top_eigs(torch.eye(300), k=2).method == "lanczos"
    assert spectral.top_eigs(torch.eye(100), k=2, checkpoint=tmp_path / "kept").method == "lanczos"
    assert (tmp_path / "kept").is_file()
    assert spectral.top_eigs(torch.eye(7), k=7).values.tolist() == [1] * 7


@pytest.mark.parametrize("kind", ["tensor", "array", "sparse", "scipy operator", "functions"])
def test_operators_of_every_kind(kind):
    M = np.diag(np.linspace(0, 1, 200)) + 0.1 * np.ones((200, 200))
    subject = {
        "tensor": lambda: torch.as_tensor(M),
        "array": lambda: M,
        "sparse": lambda: scipy.sparse.csr_matrix(M),
        "scipy operator": lambda: scipy.sparse.linalg.aslinearoperator(M),
        "functions": lambda: spectral.from_functions(
            lambda V: V @ torch.as_tensor(M), n=200, symmetric=True, dtype=torch.float64
        ),
    }[kind]()
    pairs = spectral.top_eigs(subject, k=3, tol=1e-9)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(M)[::-1][:3], atol=1e-8)


def test_a_run_repeats(problem):
    net, y, _ = problem
    first, second = (spectral.top_eigs(net, y, 4, seed=3) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors) and first.spent == second.spent


def test_signs_are_fixed(problem):
    net, y, _ = problem
    flat = spectral.top_eigs(net, y, 6).vectors.flatten(1)
    assert (flat.gather(1, flat.abs().argmax(1, keepdim=True)) > 0).all()


def test_progress_reaches_the_end(problem, capsys):
    net, y, _ = problem
    spectral.top_eigs(net, y, 3, progress=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("batched", [False, True])
def test_results_load_back(problem, tmp_path, batched):
    net, y, _ = problem
    y = torch.cat([y, y.flip(-1)]) if batched else y
    pairs = spectral.top_eigs(net, y, 3, batched=batched, above=None)
    again = EigenPairs.load(pairs.save(tmp_path / "deep" / "pairs.safetensors"))
    for name in pairs.__dataclass_fields__:
        a, b = getattr(pairs, name), getattr(again, name)
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b), name
        elif name == "asymmetry":
            assert torch.equal(torch.as_tensor(a.value), torch.as_tensor(b.value)) and a.method == b.method
        elif name == "completeness":
            assert torch.equal(a.bound, b.bound) and a.confidence == b.confidence
        else:
            assert a == b, name
    assert repr(again) == repr(pairs)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["pairs.safetensors"]


def test_files_that_are_no_results(tmp_path):
    (tmp_path / "text").write_text("no")
    for path, says in ((tmp_path / "none", "no file"), (tmp_path / "text", "not a safetensors")):
        with pytest.raises(errors.FileContentError, match=says):
            EigenPairs.load(path)
    estimate = spectral.top_eigs(torch.randn(20, 20), k=2).asymmetry
    estimate.save(tmp_path / "estimate")
    with pytest.raises(errors.FileContentError, match="holds"):
        EigenPairs.load(tmp_path / "estimate")


def test_figure_is_drawn(problem, tmp_path):
    net, y, _ = problem
    pairs = spectral.top_eigs(net, y, 7)
    figure = pairs.plot(y, y)
    figure.savefig(tmp_path / "pairs.png")
    titles = [axis.get_title() for axis in figure.get_axes()]
    assert titles[:2] == ["clean", "noisy"] and sum(bool(t) for t in titles) == 9
    with pytest.raises(errors.OptionError, match="one image"):
        spectral.top_eigs(torch.eye(9), k=1).plot()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"k": 0}, errors.OptionError, "from 1 to d = 224"),
        ({"k": 225}, errors.OptionError, "from 1 to d = 224"),
        ({"tol": 0}, errors.OptionError, "tol"),
        ({"tol": float("nan")}, errors.OptionError, "tol"),
        ({"tol": "x"}, errors.OptionError, "tol is a finite number"),
        ({"tol": None}, errors.OptionError, "tol is a finite number"),
        ({"k": 2.0}, errors.OptionError, "k is a whole number"),
        ({"k": "2"}, errors.OptionError, "k is a whole number"),
        ({"k": True}, errors.OptionError, "k is a whole number, got True"),
        ({"k": np.True_}, errors.OptionError, "k is a whole number"),
        ({"k": torch.tensor(True)}, errors.OptionError, "k is a whole number"),
        ({"tol": True}, errors.OptionError, "tol is a finite number, got True"),
        ({"above": np.True_}, errors.OptionError, "above is a finite number"),
        ({"between": (torch.tensor(False), 1)}, errors.OptionError, "between is a finite number"),
        ({"seed": False}, errors.OptionError, "seed is a whole number"),
        ({"seed": 1.5}, errors.OptionError, "seed is a whole number"),
        ({"seed": -1}, errors.OptionError, "seed must lie"),
        ({"above": "x"}, errors.OptionError, "above is a finite number"),
        ({"between": 3}, errors.OptionError, "between is a pair"),
        ({"between": (1,)}, errors.OptionError, "between is a pair"),
        ({"between": ("a", "b")}, errors.OptionError, "between is a finite number"),
        ({"max_products": "x"}, errors.OptionError, "max_products is a whole number"),
        ({"which": "LM"}, errors.OptionError, "which"),
        ({"method": "arpack"}, errors.OptionError, "method"),
        ({"method": "dense", "checkpoint": "x"}, errors.OptionError, "checkpoint"),
        ({"between": (0, 1), "checkpoint": "x"}, errors.OptionError, "checkpoint"),
        ({"precision": "float64", "checkpoint": "x"}, errors.OptionError, "no checkpoint"),
        ({"method": "lanczos", "between": (0, 1)}, errors.OptionError, "chebyshev"),
        ({"above": 1.0, "between": (0, 1)}, errors.OptionError, "exclude"),
        ({"confidence": 1.0}, errors.OptionError, "confidence is a probability"),
        ({"confidence": -0.1}, errors.OptionError, "confidence is a probability"),
        ({"method": solvers.GolubKahan()}, errors.OptionError, "finds RitzTriplets, not RitzPairs"),
        ({"method": solvers.KrylovSchur()}, errors.OptionError, "finds SchurPairs, not RitzPairs"),
        ({"method": solvers.Lanczos(basis=50), "max_products": 5}, errors.OptionError, "at least 7"),
        ({"part": "full"}, TypeError, "part"),
        ({"left": True}, TypeError, "left"),
        ({"max_products": 5}, errors.OptionError, "at least 7"),
        ({"start": torch.zeros(3, 5)}, errors.ShapeError, "224 entries"),
        ({"start": torch.full((1, 224), float("nan"))}, errors.NotFiniteError, "start"),
        ({"sigma": 0.1}, TypeError, "sigma"),
    ],
)
def test_options_out_of_range_are_refused(problem, options, error, says):
    net, y, _ = problem
    with pytest.raises(error, match=says):
        spectral.top_eigs(net, y, **{"k": 6, **options})


@pytest.mark.parametrize("setting", ["block", "basis"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
def test_settings_of_methods_are_whole_numbers(setting, value):
    for method in (solvers.Lanczos, solvers.GolubKahan, solvers.KrylovSchur):
        with pytest.raises(errors.OptionError, match=setting):
            method(**{setting: value})


def test_methods_with_settings_and_a_confidence(problem):
    net, y, _ = problem
    plain = spectral.top_eigs(net, y, 4, method="lanczos")
    wide = spectral.top_eigs(net, y, 4, method=solvers.Lanczos(block=3, basis=40))
    assert wide.method == plain.method == "lanczos" and wide.products != plain.products
    torch.testing.assert_close(wide.values, plain.values, atol=1e-5, rtol=0)
    unsure = spectral.top_eigs(net, y, 4, method="lanczos", confidence=0.0)
    surer = spectral.top_eigs(net, y, 4, method="lanczos", confidence=0.9999)
    assert unsure.spent["completeness"] == 0 and unsure.completeness.confidence == 0
    assert surer.completeness.confidence == 0.9999
    assert surer.spent["completeness"] >= plain.spent["completeness"]


def test_what_bounds_k_is_named(problem):
    net, y, _ = problem
    for call, says in (
        (lambda: spectral.top_eigs(net, y, 225), "d = 224, the number of entries of the input"),
        (
            lambda: spectral.top_svd(lambda x: x[..., :3], y, 200),
            "d = 48, the number of entries of the output",
        ),
        (lambda: spectral.top_eigs(torch.eye(4), k=5), "d = 4, the size of the operator"),
        (lambda: spectral.top_svd(torch.ones(3, 4), k=5), "d = 3, the length of its output"),
    ):
        with pytest.raises(errors.OptionError, match=says):
            call()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda net, y: spectral.top_eigs(net, k=3), errors.OptionError, "needs an input"),
        (lambda net, y: spectral.top_eigs(net, 3), errors.OptionError, "y must be a tensor"),
        (lambda net, y: spectral.top_eigs(torch.eye(4), y, 3), errors.OptionError, "y goes with a model"),
        (
            lambda net, y: spectral.top_eigs(torch.eye(4), k=3, model_kwargs={"sigma": 1}),
            errors.OptionError,
            "no input y",
        ),
        (lambda net, y: spectral.top_eigs(torch.zeros(3, 4), k=3), errors.ShapeError, "not square"),
        (lambda net, y: spectral.top_eigs(lambda y: y[..., 1:], y, 3), errors.ShapeError, "maps"),
        (lambda net, y: spectral.top_eigs(net, y, above=1.0, batched=True), errors.OptionError, "once an"),
    ],
)
def test_misuse_is_refused(problem, call, error, says):
    net, y, _ = problem
    with pytest.raises(error, match=says):
        call(net, y)


@pytest.mark.parametrize("at", [6, 7])
def test_what_was_stopped_before_its_first_pair_is_not_complete(at):
    values = torch.linspace(0, 1, 576, dtype=torch.float64) ** 3
    product = interrupted(lambda V: V * values, at)
    A = spectral.from_functions(product, n=576, dtype=torch.float64, symmetric=True)
    pairs = spectral.top_eigs(A, k=6)
    assert "interrupted" in pairs.notes and not pairs.complete


@pytest.mark.parametrize("options", [{"max_products": 60}, {"which": "smallest", "max_products": 80}])
def test_a_bound_far_beyond_is_told_to_be_no_completeness(options):
    torch.manual_seed(0)
    M = torch.randn(400, 400, dtype=torch.float64)
    found = spectral.top_eigs(M + M.mT, k=3, **options)
    text = found.completeness_text()
    assert not found.complete and ("not complete" in text or "not probed" in text)
    near = dataclasses.replace(
        found, completeness=Completeness(1.005 * found.values[-1], 0.99, 9), residuals=0 * found.residuals
    )
    near = dataclasses.replace(near, errors=0 * found.errors)
    assert near.completeness_text().endswith("complete but for the gap to that bound")


def test_images_of_another_shape_have_no_coefficients(problem):
    found = spectral.top_eigs(*problem[:2], k=2)
    with pytest.raises(ShapeError, match="the vectors are of shape"):
        found.coefficients(torch.zeros(3, 3))
