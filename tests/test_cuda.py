"""The front doors on a GPU, against dense linear algebra in float64 on the CPU.

Without a GPU all are skipped; SPECTRAL_TEST_DEVICE=cpu tries the tests themselves there.
"""

import functools
import os
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import denoisers
import spectral
from denoisers import evaluation
from denoisers.networks import BFCNN, BiasFreeNorm, ConditionalUNet, UNet
from denoisers.networks.layers import halved
from denoisers.training import TrainConfig, replay, run, train
from spectral.ambient import float32_as, float32_settings
from spectral.errors import OptionError, SpectralError
from spectral.jacobians import Jacobian
from spectral.jacobians.program.cuda_graphs import PATIENCE, Replayed
from spectral.kernels.calpha import synthesize
from tests.test_state import of_torch

DEVICE = os.environ.get("SPECTRAL_TEST_DEVICE", "cuda")
GPU = DEVICE == "cuda"
pytestmark = pytest.mark.skipif(
    GPU and not torch.cuda.is_available(), reason="needs a GPU, or SPECTRAL_TEST_DEVICE=cpu to try the tests"
)
gpu_alone = pytest.mark.skipif(not GPU, reason="a CPU has no such thing")

BOUND = {torch.float64: 1e-10, torch.float32: 1e-5}
SIDE = 8


@pytest.fixture(autouse=True)
def cpu_threads():
    """Threads of several processes at once would wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["ieee", "tf32"])
def setting(request):
    """float32 on GPUs as the caller may have set it, by torch's older names."""
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if request.param == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = request.param == "tf32"
    yield request.param
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions


class Tokens(nn.Module):
    """Patches, attention with a projection of its own, and a perceptron: a small transformer."""

    def __init__(self):
        super().__init__()
        self.into, self.back = nn.Conv2d(1, 16, 2, stride=2), nn.ConvTranspose2d(16, 1, 2, stride=2)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, y):
        x = self.into(y)
        tokens = self.layer(x.flatten(2).mT)
        tokens = tokens + self.attend(tokens, tokens, tokens, need_weights=False)[0]
        return y + self.back(tokens.mT.reshape(x.shape))


class Spectrum(nn.Module):
    """Weights on Fourier coefficients, which are complex."""

    def __init__(self):
        super().__init__()
        gain = torch.rand(SIDE, SIDE)
        # Alike at k and -k: of spectra that are no real image's each library makes another one.
        gain = gain + gain.flip(0, 1).roll((1, 1), (0, 1))
        self.gain = nn.Parameter(gain[:, : SIDE // 2 + 1] / 2)

    def forward(self, y):
        z = torch.fft.rfft2(y) * self.gain
        return torch.fft.irfft2(z * (1 + z.abs()).reciprocal(), s=y.shape[-2:]) + y.sin()


class Rows(nn.Module):
    """A recurrence along the rows of an image."""

    def __init__(self, kind):
        super().__init__()
        self.layer = kind(SIDE, SIDE, batch_first=True)

    def forward(self, y):
        return self.layer(y[:, 0])[0].unsqueeze(1)


class Warped(nn.Module):
    """An image seen where another says."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")

    def forward(self, y):
        lines = torch.linspace(-0.9, 0.9, SIDE, dtype=y.dtype, device=y.device)
        grid = torch.stack(torch.meshgrid(lines, lines, indexing="xy"), -1)
        grid = grid + 0.05 * self.shift(y).tanh().permute(0, 2, 3, 1)
        return nn.functional.grid_sample(y, grid, align_corners=False)


class Squared(torch.autograd.Function):
    """y^2 by a function that has no derivative forwards."""

    @staticmethod
    def forward(ctx, y):
        ctx.save_for_backward(y)
        return torch.from_numpy(y.detach().cpu().numpy() ** 2).to(y.device)

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g


class Outside(nn.Module):
    """What leaves torch inside of an autograd function: no record of it, nor a derivative forwards."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, y):
        return self.mix(Squared.apply(y)) + y


def conv(*between, padding_mode="zeros"):
    first = nn.Conv2d(1, 8, 3, padding=1, padding_mode=padding_mode)
    return nn.Sequential(first, *between, nn.Conv2d(8, 1, 3, padding=1))


class Told(nn.Module):
    """A network that is told the noise level, with it."""

    def __init__(self):
        super().__init__()
        self.network = ConditionalUNet(width=8, scales=2)

    def forward(self, y):
        return self.network(y, sigma=0.3)


NETWORKS = {
    "unet": lambda: UNet(blocks=2, width=8),
    "bfcnn": lambda: BFCNN(layers=5, width=8),
    "biased": lambda: UNet(blocks=1, width=8, biased=True),
    "told": Told,
    "tokens": Tokens,
    "group norm": lambda: conv(nn.GroupNorm(2, 8), nn.SiLU()),
    "instance norm": lambda: conv(nn.InstanceNorm2d(8, affine=True), nn.GELU()),
    "layer norm": lambda: conv(nn.LayerNorm((8, SIDE, SIDE)), nn.Softplus()),
    "batch norm": lambda: conv(nn.BatchNorm2d(8), nn.ReLU()),
    "circular": lambda: conv(nn.LeakyReLU(0.1), padding_mode="circular"),
    "pooled": lambda: conv(nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Tanh()),
    "fft": Spectrum,
    "gru": lambda: Rows(nn.GRU),
    "lstm": lambda: Rows(nn.LSTM),
    "warped": Warped,
    "outside": Outside,
}


def network(name, dtype=torch.float64, device="cpu"):
    """A network with weights that are the same everywhere, in evaluation mode."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    with torch.no_grad():
        for key, t in model.state_dict().items():
            if "gamma" in key:
                t.copy_(0.5 + torch.rand(t.shape))
    return model.to(device, dtype).eval().requires_grad_(False)


def image(dtype=torch.float64, device="cpu", batch=1, seed=1):
    drawn = torch.rand(
        batch, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return drawn.float().to(device, dtype)  # the same numbers in every precision


@functools.cache
def dense(name, batch=1):
    """Each image's Jacobian (batch, d, d) in float64 on the CPU, by torch's own reverse mode, row by row."""
    model, d = network(name), SIDE**2
    found = []
    for one in image(batch=batch).split(1):
        y = one.clone().requires_grad_()
        with torch.enable_grad():
            out = model(y).reshape(-1)
        rows = [torch.autograd.grad(out[i], y, retain_graph=True)[0].reshape(-1) for i in range(d)]
        found.append(torch.stack(rows))
    return torch.stack(found)


def off(ours, true):
    true = true.to("cpu", torch.float64)
    return float((ours.to("cpu", torch.float64) - true).norm() / true.norm())


def part(J):
    return (J + J.mT) / 2


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", BOUND)
def test_products_are_those_of_the_matrix(name, dtype, setting):
    """Whatever the caller lets TensorFloat-32 do: float32 is float32, single vectors and blocks."""
    J, y = dense(name)[0], image(dtype, DEVICE)
    before = float32_settings()
    A = spectral.jacobian(network(name, dtype, DEVICE), y)
    V = torch.randn(3, SIDE**2, generator=torch.Generator().manual_seed(2)).to(DEVICE, dtype)
    bound = BOUND[dtype] if A.method != "differences" else 1e-2
    W = V.double().cpu()
    for ours, true in (
        (A.dense(), J),
        (A.apply(V), W @ J.T),
        (A.apply_transpose(V), W @ J),
        (A.apply(V[:1]), W[:1] @ J.T),
        (A.apply_transpose(V[:1]), W[:1] @ J),
    ):
        assert ours.device == y.device and ours.dtype == dtype
        assert off(ours, true) < bound, repr(A)
    assert A.method == ("double-backward" if name == "outside" else "frozen"), repr(A)
    assert float32_settings() == before


def test_models_that_differentiate_inside():
    """On a GPU torch goes back in a thread of its own, which waited for what the caller's thread held."""

    def energy(x):
        return x.pow(4).sum() / 4 + x[0].prod()

    y = image()[0, 0, :2]
    J = spectral.jacobian(lambda y: y - torch.func.grad(energy)(y), y.to(DEVICE))
    expected = torch.eye(16, dtype=y.dtype) - torch.autograd.functional.hessian(energy, y).view(16, 16)
    assert J.method == "frozen" and off(J.dense(), expected) < 1e-10, repr(J)


@gpu_alone
def test_tensor_float_is_asked_for_and_told():
    """Of "tf32" products are coarser, at once; the solve is polished in the model's own precision."""
    model, y, J = network("unet", torch.float32, DEVICE), image(torch.float32, DEVICE), dense("unet")[0]
    coarse = spectral.jacobian(model, y, precision="tf32")
    assert 1e-6 < off(coarse.dense(), J) < 1e-2 and coarse.eps == 2.0**-10
    pairs = spectral.top_eigs(model, y, k=3, precision="tf32", tol=1e-5)
    expected = torch.linalg.eigvalsh(part(J)).flip(0)[:3]
    torch.testing.assert_close(pairs.values.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["unet", "told", "tokens"])
def test_one_image_is_solved(name, tmp_path):
    model, y, J = network(name, device=DEVICE), image(device=DEVICE), dense(name)[0]
    S = part(J)
    pairs = spectral.top_eigs(model, y, k=4, tol=1e-8)
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh(S).flip(0)[:4], rtol=0, atol=1e-7)
    assert pairs.vectors.device == y.device and pairs.vectors.shape == (4, *y.shape)
    assert bool(pairs.complete.all()) and bool(pairs.converged.all()), pairs
    triplets = spectral.top_svd(model, y, k=4, tol=1e-8)
    torch.testing.assert_close(triplets.values, torch.linalg.svdvals(J)[:4], rtol=0, atol=1e-7)
    assert triplets.left.device == triplets.right.device == y.device
    full = spectral.top_eigs_full(model, y, k=3, which="magnitude", left=True, tol=1e-8)
    size = torch.linalg.eigvals(J).abs().sort(descending=True).values
    torch.testing.assert_close(full.values.abs()[:3], size[:3], rtol=0, atol=1e-6)
    assert full.vectors.device == y.device
    for result, vectors in ((pairs, "vectors"), (triplets, "right"), (full, "vectors")):
        again = type(result).load(result.save(tmp_path / "found.safetensors"))
        assert torch.equal(again.values, result.values)
        assert torch.equal(getattr(again, vectors), getattr(result, vectors).cpu())
        assert repr(result) and result._repr_html_()


@pytest.mark.parametrize("method", ["lanczos", "lobpcg", "chebyshev", "dense"])
def test_every_method(method):
    model, y, S = network("bfcnn", device=DEVICE), image(device=DEVICE), part(dense("bfcnn")[0])
    pairs = spectral.top_eigs(model, y, k=3, method=method, tol=1e-7)
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh(S).flip(0)[:3], rtol=0, atol=1e-6)


def test_thresholds_masks_and_directions_left_out():
    model, y, S = network("bfcnn", device=DEVICE), image(device=DEVICE), part(dense("bfcnn")[0])
    values = torch.linalg.eigvalsh(S).flip(0)
    middle = float(values[4] + values[5]) / 2
    assert spectral.top_eigs(model, y, above=middle, method="lanczos").k == 5
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[2:7, 1:6] = True
    for given in (mask, mask.to(DEVICE)):
        inside = spectral.top_eigs(model, y, k=3, mask=given.expand(1, 1, SIDE, SIDE), tol=1e-8)
        rows = mask.flatten().nonzero().flatten()
        expected = torch.linalg.eigvalsh(S[rows][:, rows]).flip(0)[:3]
        torch.testing.assert_close(inside.values, expected, rtol=0, atol=1e-7)
    found = spectral.top_eigs(model, y, k=2, tol=1e-9)
    rest = spectral.top_eigs(model, y, k=2, orthogonal_to=found.vectors, tol=1e-8)
    torch.testing.assert_close(rest.values, values[2:4], rtol=0, atol=1e-6)


def test_many_images_at_once():
    model, y = network("unet", device=DEVICE), image(device=DEVICE, batch=3)
    pairs = spectral.top_eigs(model, y, k=2, batched=True, tol=1e-8)
    S = part(dense("unet", 3))
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh(S).flip(-1)[:, :2], rtol=0, atol=1e-7)
    assert pairs.vectors.device == y.device
    svd = spectral.top_svd(model, y, k=2, batched=True, tol=1e-8)
    torch.testing.assert_close(svd.values, torch.linalg.svdvals(dense("unet", 3))[:, :2], rtol=0, atol=1e-7)
    trace = spectral.trace(model, y, batched=True, method="exact")
    expected = dense("unet", 3).diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(torch.as_tensor(trace.value).cpu().double(), expected, rtol=1e-8, atol=1e-9)


def test_estimates_hold_the_truth():
    model, y, J = network("unet", device=DEVICE), image(device=DEVICE), dense("unet")[0]
    d, sigma = SIDE**2, 0.1

    def holds(estimate, truth, times=5.0):
        value, error = (torch.as_tensor(x).cpu().double() for x in (estimate.value, estimate.stderr))
        assert (value - truth).abs().max() <= times * error.max() + 1e-6 * abs(truth).max(), estimate

    for method in ("auto", "exact", "hutchinson", "xtrace"):
        holds(spectral.trace(model, y, products=30, method=method), J.trace())
    exact = spectral.sure(model, y, sigma, products=d)
    f = network("unet")(image())
    truth = float((f - image()).square().mean()) - sigma**2 + 2 * sigma**2 * float(J.trace()) / d
    holds(exact, torch.tensor(truth, dtype=torch.float64))
    holds(spectral.frobenius_norm(model, y, products=60), torch.linalg.matrix_norm(J))
    holds(spectral.diagonal(model, y, products=60), J.diagonal().reshape(y.shape), 8)
    assert 0 < float(torch.as_tensor(spectral.asymmetry(model, y).value)) < 1
    assert float(torch.as_tensor(spectral.effective_rank(model, y, products=40).value)) > 0
    nuclear = torch.linalg.svdvals(J).sum()
    holds(spectral.schatten_norm(model, y, probes=6, steps=40), nuclear)
    largest = spectral.schatten_norm(model, y, p=float("inf"))
    assert abs(float(largest.value) - float(torch.linalg.svdvals(J)[0])) < 1e-4
    values = torch.linalg.eigvalsh(part(J))
    for method in ("exact", "slq", "kpm"):
        density = spectral.spectral_density(model, y, probes=6, steps=30, method=method)
        holds(density.total(lambda x: x), values.sum())
        assert density.curve(torch.linspace(0, 1, 5)) is not None
    found = spectral.posterior(model, y, sigma, k=2, products=30)
    expected = sigma * values.flip(0)[:2].sqrt()
    torch.testing.assert_close(found.deviations.cpu().double(), expected, rtol=1e-3, atol=1e-6)
    assert found.scores(image(device=DEVICE)).isfinite().all()
    assert found.plot() and found.pairs.plot(clean=image(device=DEVICE))
    three = image(device=DEVICE, batch=3)
    found = spectral.posterior(model, three, sigma, k=2, products=30, batched=True)
    expected = torch.stack([part(each).trace() for each in dense("unet", 3)])
    error = found.total_variance.stderr.cpu()
    assert ((found.total_variance.value.cpu() - sigma**2 * expected).abs() <= 5 * error).all()
    assert spectral.risk_curve(model, three, [0.1, 0.2]).plot()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype):
    """Vectors and solver in float32, products as coarse as the model: the certificate says so."""
    model, y, J = network("bfcnn", dtype, DEVICE), image(dtype, DEVICE), dense("bfcnn")[0]
    pairs = spectral.top_eigs(model, y, k=2, tol=1e-3)
    expected = torch.linalg.eigvalsh(part(J)).flip(0)[:2]
    assert pairs.vectors.dtype == torch.float32 and pairs.vectors.device == y.device
    assert (pairs.values.double() - expected).abs().max() < 0.05 * expected[0]
    low = spectral.jacobian(network("bfcnn", torch.float32, DEVICE), image(torch.float32, DEVICE))
    coarse = low.at_precision("bfloat16")
    assert off(coarse.dense(), J) < 0.05


def test_a_solve_is_kept_and_goes_on(tmp_path):
    model, y = network("unet", device=DEVICE), image(device=DEVICE)
    solve = functools.partial(
        spectral.top_eigs, model, y, k=3, method="lanczos", checkpoint=tmp_path / "solve.safetensors"
    )
    first = solve(tol=1e-2)
    second = solve(tol=1e-8)
    expected = torch.linalg.eigvalsh(part(dense("unet")[0])).flip(0)[:3]
    torch.testing.assert_close(second.values, expected, rtol=0, atol=1e-7)
    assert second.vectors.device == y.device and first.products > 0
    # A folder that a GPU has begun, another machine may go on with.
    here = spectral.top_eigs(
        network("unet"), image(), k=3, method="lanczos", checkpoint=tmp_path / "solve.safetensors", tol=1e-8
    )
    torch.testing.assert_close(here.values, expected, rtol=0, atol=1e-7)


@gpu_alone
@pytest.mark.parametrize("sides", [("cpu", "cuda"), ("cuda", "cpu")])
def test_model_and_image_on_two_devices_is_one_clear_error(sides):
    of_model, of_image = sides
    with pytest.raises(OptionError, match=r"BFCNN is on .* and y on .*: move one"):
        spectral.top_eigs(network("bfcnn", device=of_model), image(device=of_image), k=2)


def test_weights_that_change_are_noticed():
    model, y = network("bfcnn", device=DEVICE), image(device=DEVICE)
    model.requires_grad_(False)
    J, v = spectral.jacobian(model, y), torch.ones(1, SIDE**2, dtype=y.dtype, device=DEVICE)
    for _ in range(PATIENCE + 3):
        J.apply(v)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    with pytest.raises(SpectralError, match="weights"):
        J.apply(v)
    model.load_state_dict(network("bfcnn").state_dict())
    torch.testing.assert_close(
        spectral.jacobian(model, y).apply(v).cpu(), v.cpu() @ dense("bfcnn")[0].T, rtol=1e-9, atol=1e-9
    )


@gpu_alone
@pytest.mark.parametrize("name", ["unet", "bfcnn", "told", "tokens", "fft"])
def test_graphs_replay_the_same_bits(name, monkeypatch):
    """Of every product that a graph is made of: where none can be, the notes say so, and products go on."""
    ways = []

    def made(product, vector_bytes, note):
        ways.append(Replayed(product, vector_bytes, note, seconds=lambda p, V: float(p is product)))
        return ways[-1]

    # By its module: the package has a function of that name.
    monkeypatch.setattr(sys.modules[Jacobian.__module__], "Replayed", made)
    J = spectral.jacobian(network(name, torch.float32, DEVICE), image(torch.float32, DEVICE))
    drawn = torch.Generator().manual_seed(3)
    for product in (J.apply, J.apply_transpose):
        V = torch.randn(PATIENCE + 4, 1, SIDE**2, generator=drawn).to(DEVICE)
        results = [product(v) for v in V]
        program = J._program.apply if product == J.apply else J._program.transpose
        with torch.no_grad(), float32_as():
            again = [program(v.view(1, 1, 1, SIDE, SIDE)).view(1, -1) for v in V]
        for ours, true in zip(results, again, strict=True):
            torch.testing.assert_close(ours, true, rtol=1e-5, atol=1e-6)
    assert not [note for note in J.notes if "CUDA graphs" in note], J.notes
    assert all(any(way is not w.product for way in w._ways.values()) for w in ways if w._seen)


@gpu_alone
def test_memory_that_runs_out_is_told_and_does_no_lasting_harm():
    """An image whose record needs more than a share of the card is refused in one error."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    used = torch.cuda.memory_reserved() + (256 << 20)
    torch.cuda.set_per_process_memory_fraction(used / total)
    try:
        big = torch.rand(1, 1, 1024, 1024, device=DEVICE)
        with pytest.raises((SpectralError, torch.OutOfMemoryError), match=r"(?i)memory"):
            spectral.top_eigs(UNet(blocks=2, width=64).to(DEVICE).eval(), big, k=2)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    pairs = spectral.top_eigs(network("bfcnn", device=DEVICE), image(device=DEVICE), k=2, tol=1e-8)
    expected = torch.linalg.eigvalsh(part(dense("bfcnn")[0])).flip(0)[:2]
    torch.testing.assert_close(pairs.values, expected, rtol=0, atol=1e-7)


def test_nothing_of_torchs_is_left_changed(setting):
    def state():
        on_gpus = [t.tolist() for t in torch.cuda.get_rng_state_all()] if GPU else []
        return of_torch(), on_gpus, random.getstate(), np.random.get_state()[1].tolist(), float32_settings()

    y, model = image(torch.float32, DEVICE), network("tokens", torch.float32, DEVICE)
    before = state()
    spectral.top_eigs(model, y, k=2)
    spectral.trace(model, y, products=10)
    spectral.jacobian(model, y, method="jvp").dense()
    spectral.jacobian(model, y, precision="tf32").dense()
    assert state() == before


@gpu_alone
@pytest.mark.parametrize("kind", ["released", "exact"])
@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_images_of_the_gpu_are_the_cpus(kind, alpha):
    pytest.importorskip("cupy")
    there = torch.as_tensor(
        synthesize(20, size=48, alpha=alpha, kind=kind, seed=5, device="cuda"), device="cuda"
    )
    here = torch.from_numpy(synthesize(20, size=48, alpha=alpha, kind=kind, seed=5))
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=3e-6)


def test_a_survey_and_samples_on_the_device(tmp_path):
    model = network("bfcnn", torch.float32, DEVICE)
    images = {f"image {i}": image(torch.float32, seed=i)[0] for i in range(3)}
    table = spectral.survey(model, images, [0.1, 0.2], k=2, out=tmp_path)
    assert not table.failures and len(list(tmp_path.rglob("*.safetensors"))) >= 6
    shipped = denoisers.load("calpha").to(DEVICE)
    with float32_as():  # sampling goes by what the caller lets TensorFloat-32 do
        drawn = denoisers.sample(shipped, (1, 16, 16), 2, seed=0, max_steps=5)
    here = denoisers.sample(denoisers.load("calpha"), (1, 16, 16), 2, seed=0, max_steps=5)
    torch.testing.assert_close(drawn.images.cpu(), here.images, rtol=0, atol=1e-3)


def test_evaluations_take_images_that_lie_elsewhere():
    """A model on the device and images on the CPU, and the other way round."""
    here, there = denoisers.load("calpha"), denoisers.load("calpha").to(DEVICE)
    x = image(torch.float32)[..., :8, :8].repeat(3, 1, 1, 1)

    def told(model, x):
        with float32_as():
            return (
                evaluation.psnr_curve(model, x, [0.1, 0.2]).denoised,
                evaluation.psnr_gap(model, x, x, [0.1]).difference.value,
                torch.tensor(evaluation.psnr_table(model, x, [0.1])[0].denoised),
                evaluation.sure_check(model, x, [0.1]).curve.mse,
                evaluation.sure_check(model, x, [0.1]).curve.sure,
                evaluation.homogeneity(model, x, [0.5]).errors + 1,
            )

    plain = told(here, x)
    for model, images in ((there, x), (here, x.to(DEVICE)), (functools.partial(there), x.double())):
        for one, other in zip(plain, told(model, images), strict=True):
            assert other.device.type == "cpu"
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert evaluation.denoise(model, images).device == images.device
    torch.testing.assert_close(evaluation.psnr(x, x.to(DEVICE) + 0.1), torch.full((3,), 20.0).double())
    drawn = evaluation.compare(here, there, x, x.to(DEVICE), count=2, max_steps=3)
    assert (drawn.between > 0.99).all() and drawn.plot()


TINY = TrainConfig(
    data="calpha", network_config={"blocks": 1, "width": 8}, size=16, batch=8, steps=30, halvings=2
)
EDM = replace(
    TINY, network="EDM", network_config={"width": 8, "scales": 1}, noise="log-normal", ema=0.9, clip=1.0
)


class StoppedError(Exception):
    """In place of a signal."""


def stopped_at(step, monkeypatch):
    whole = run.Run.advance

    def advance(self, *given):
        if self.step == step:
            self.checkpoint()
            raise StoppedError
        return whole(self, *given)

    monkeypatch.setattr(run.Run, "advance", advance)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [TINY, EDM], ids=["UNet", "EDM"])
@pytest.mark.parametrize("began", ["cpu", "there"])
def test_training_stops_resumes_and_learns(config, precision, began, tmp_path, monkeypatch):
    pytest.importorskip("lightning_fabric")
    monkeypatch.setattr(run, "CALIBRATION_BATCHES", 3)
    config, device = replace(config, precision=precision), "cpu" if began == "cpu" else DEVICE
    losses, whole = [], run.Run.advance

    def advance(self, *given):
        loss = whole(self, *given)
        losses.append(float(loss))
        return loss

    monkeypatch.setattr(run.Run, "advance", advance)
    with monkeypatch.context() as patch:
        stopped_at(15, patch)
        with pytest.raises(StoppedError):
            train(config, tmp_path / "run", device=device)
    model = train(config, tmp_path / "run", resume=True, device=DEVICE, validate_every=10)
    assert len(losses) == 30 and np.isfinite(losses).all()
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    assert all(t.isfinite().all() and t.device.type == "cpu" for t in model.state_dict().values())
    told = {"sigma": 0.1} if config.network == "EDM" else {}
    assert denoisers.load(tmp_path / "run")(torch.ones(1, 1, 16, 16), **told).isfinite().all()


@gpu_alone
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_norms_in_training_are_those_of_autograd(dtype, layout):
    shape, generator = (6, 5, 9, 7), torch.Generator().manual_seed(0)
    x = (0.7 + torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    g = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    found = []
    for device, kind in (("cpu", torch.float64), (DEVICE, dtype)):
        torch.manual_seed(1)
        norm = BiasFreeNorm(5).to(device, torch.promote_types(kind, torch.float32))
        given = x.to(device, kind).clone(memory_format=layout).requires_grad_()
        out = norm(given)
        out.backward(g.to(device, kind).contiguous())
        found.append([t.detach().cpu().double() for t in (out, given.grad, norm.gamma.grad, norm.running_sd)])
        assert out.dtype == kind
    bound = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for right, here in zip(*found, strict=True):
        torch.testing.assert_close(here, right, rtol=bound, atol=bound * float(right.abs().max()))


@gpu_alone
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_halving_in_training_is_pooling(dtype, layout):
    x = torch.randn(3, 5, 8, 6, dtype=dtype, device=DEVICE).contiguous(memory_format=layout).requires_grad_()
    ours, pooled = halved(x, training=True), nn.functional.avg_pool2d(x, 2)
    assert "Halved" in type(ours.grad_fn).__name__ and ours.is_contiguous(memory_format=layout)
    g = torch.randn_like(ours)
    torch.testing.assert_close(ours, pooled)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, g)[0] for out in (ours, pooled)))


@gpu_alone
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [TINY, EDM], ids=["UNet", "EDM"])
def test_a_replayed_step_is_the_one_launched_kernel_by_kernel(config, precision, tmp_path, monkeypatch):
    pytest.importorskip("lightning_fabric")
    config = replace(config, precision=precision, ema=0.9, warmup=5, clip=1.0)
    graphs, whole, made = [], replay.Replay._capture, {}

    def capture(self, batch):
        whole(self, batch)
        graphs.append(self._graph)

    monkeypatch.setattr(replay.Replay, "_capture", capture)
    for way, first in (("replayed", 3), ("launched", 10**6)):
        monkeypatch.setattr(replay, "FIRST", first)
        model = train(config, tmp_path / way, device=DEVICE)
        made[way] = torch.cat([t.flatten().double() for t in model.state_dict().values()])
    assert len(graphs) == 1 and graphs[0] is not None
    apart = (made["replayed"] - made["launched"]).norm() / made["launched"].norm()
    assert apart < (1e-2 if precision == "bfloat16" else 1e-3)
