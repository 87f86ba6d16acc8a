"""What a call leaves behind: nothing.  Not in torch, not in the model, not in y, whatever became of it."""

import copy
import warnings

import pytest
import scipy.special  # noqa: F401  which adds to the filters of warnings when it is first imported
import torch
from torch import nn

import spectral
from spectral.jacobians.cpu import openmp

try:
    from torch.backends.mha import get_fastpath_enabled
except ImportError:  # torch before 2.9
    get_fastpath_enabled = torch.backends.mha.get_fastpath_enabled


CALLS = []  # of the model, in this test; an attribute would be put back


class Denoiser(nn.Module):
    """A network with much to change: flags, statistics, attention; with `keeps`, calls leave traces."""

    def __init__(self, keeps):
        super().__init__()
        self.keeps = keeps
        self.first, self.norm, self.last = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 1, 1),
        )
        self.drop, self.attend = nn.Dropout(0.5), nn.MultiheadAttention(4, 2, batch_first=True)
        self.register_buffer("calls", torch.zeros(()))
        self.raises, self.count, self.last_output, self.kept = None, 0, None, []

    def forward(self, y):
        CALLS.append(1)
        if self.raises is not None and len(CALLS) >= self.raises[0]:
            raise self.raises[1]
        x = self.drop(torch.relu(self.norm(self.first(y))))
        tokens = x.flatten(2).mT
        x = x + self.attend(tokens, tokens, tokens, need_weights=False)[0].mT.view_as(x) / 4
        output = y - 0.3 * self.last(x)
        if self.keeps:
            self.calls += 1
            self.count += 1
            self.last_output = output
            self.kept.append(output)
        return output


DOORS = {
    "jacobian": lambda f, y: spectral.jacobian(f, y).dense(),
    "jacobian, batched": lambda f, y: spectral.jacobian(f, y, batched=True).dense(),
    "jacobian, bfloat16": lambda f, y: spectral.jacobian(f, y, precision="bfloat16").dense(),
    "top_eigs": lambda f, y: spectral.top_eigs(f, y, 2),
    "top_eigs, lobpcg": lambda f, y: spectral.top_eigs(f, y, 2, method="lobpcg"),
    "top_eigs, full": lambda f, y: spectral.top_eigs_full(f, y, 2),
    "top_svd": lambda f, y: spectral.top_svd(f, y, 2),
    "trace": lambda f, y: spectral.trace(f, y, products=8),
    "diagonal": lambda f, y: spectral.diagonal(f, y, products=8),
    "frobenius_norm": lambda f, y: spectral.frobenius_norm(f, y, products=8),
    "schatten_norm": lambda f, y: spectral.schatten_norm(f, y, probes=2, steps=4),
    "asymmetry": spectral.asymmetry,
    "effective_rank": lambda f, y: spectral.effective_rank(f, y, products=8),
    "spectral_density": lambda f, y: spectral.spectral_density(f, y, probes=2, steps=4),
    "sure": lambda f, y: spectral.sure(f, y, 0.1, products=8),
    "posterior": lambda f, y: spectral.posterior(f, y, 0.1, 2, products=10),
}


def of_torch():
    """torch's global state, as far as a library could touch it."""
    cuda, mkldnn = torch.backends.cuda, torch.backends.mkldnn
    ones = torch.full((1 << 16,), 1e-40) * 1.0  # enough for every thread
    return {
        "sdpa": (
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
        ),
        "fast path of attention": get_fastpath_enabled(),
        "tf32": (
            cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.get_float32_matmul_precision(),
        ),
        "cudnn": (
            torch.backends.cudnn.enabled,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
        ),
        "mkldnn": (torch.backends.mkldnn.enabled, getattr(mkldnn, "allow_tf32", None)),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "denormals": bool(ones.all()),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "random numbers": torch.get_rng_state().tolist(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "anomaly mode": torch.is_anomaly_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
        "transforms": torch._C._functorch.peek_interpreter_stack() is None,
        "warnings": list(warnings.filters),
    }


def of_module(model):
    """A model's state: flags, hooks, buffers, attributes, gradients."""
    state = {f"tensor {name}": t.detach().clone() for name, t in model.state_dict().items()}
    for name, p in model.named_parameters():
        state[f"parameter {name}"] = (id(p), p.requires_grad, p.grad is None, p._version)
    for name, module in model.named_modules():
        state[f"training {name}"] = module.training
        state[f"hooks {name}"] = [
            len(hooks) for key, hooks in sorted(vars(module).items()) if "hooks" in key and hooks is not None
        ]
        state[f"names {name}"] = sorted(vars(module))
        state[f"type {name}"] = type(module)
    state["attributes"] = (model.count, model.last_output, list(model.kept))
    return state


def assert_same(before, after):
    changed = []
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            if torch._is_functional_tensor(after[name]) or not torch.equal(value, after[name]):
                changed.append(name)
        elif isinstance(value, tuple | list):
            pairs = zip(value, after[name], strict=False)
            if len(value) != len(after[name]) or any(a is not b and not _equal(a, b) for a, b in pairs):
                changed.append(name)
        elif value != after[name]:
            changed.append(name)
    assert not changed, "\n".join(f"{name}: {before[name]} became {after[name]}"[:300] for name in changed)
    assert before.keys() == after.keys()


def _equal(a, b):
    return not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor) and a == b


@pytest.fixture(params=[False, True], ids=["plain", "keeps things"])
def model(request):
    CALLS.clear()
    torch.manual_seed(0)
    model = Denoiser(request.param).train()
    model.norm.eval()
    model.last.weight.requires_grad_(False)
    model.first.register_forward_hook(lambda module, inputs, output: None)
    with torch.no_grad():
        model.norm.running_mean.normal_(), model.norm.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture
def y():
    return torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["usual", "unusual"])
def setting(request):
    """torch as it comes, or with every switch the other way."""
    if request.param == "usual":
        yield
        return
    cuda, kept = torch.backends.cuda, of_torch()
    generator = torch.get_rng_state()
    cuda.enable_flash_sdp(False)
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("high")
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.backends.cudnn.benchmark = True
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            yield
    finally:
        cuda.enable_flash_sdp(kept["sdpa"][0])
        torch.backends.cudnn.allow_tf32 = kept["tf32"][1]
        torch.set_float32_matmul_precision(kept["tf32"][2])
        torch.backends.mha.set_fastpath_enabled(kept["fast path of attention"])
        torch.set_num_threads(kept["threads"])
        torch.set_default_dtype(kept["dtype"])
        torch.backends.cudnn.benchmark = kept["cudnn"][1]
        torch.set_rng_state(generator)


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """What a first call loads sets warnings of its own."""
    spectral.top_eigs(torch.nn.Conv2d(1, 1, 3, padding=1), torch.rand(1, 1, 12, 12), 2)


@pytest.mark.parametrize("door", DOORS)
def test_nothing_is_left_behind(door, model, y, setting):
    kept, whole, module = y.clone(), of_torch(), of_module(model)
    DOORS[door](model, y)
    assert_same(whole, of_torch())
    assert_same(module, of_module(model))
    assert torch.equal(y, kept) and y._version == 0 and not y.requires_grad and y.grad is None


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("model", [True], indirect=True)
def test_nothing_is_left_behind_by_a_failure(door, call, failure, model, y):
    """`call`: at which call of the model it fails."""
    model.raises = (call, failure("inside the model"))
    kept, whole, module = y.clone(), of_torch(), of_module(model)
    with pytest.raises((failure, spectral.errors.SpectralError)):
        DOORS[door](model, y)
    assert_same(whole, of_torch())
    assert_same(module, of_module(model))
    assert torch.equal(y, kept) and y._version == 0 and not y.requires_grad


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("model", [False], indirect=True)
def test_an_interrupt_is_not_swallowed_by_another_way(door, model, y):
    """Ctrl-C inside the model ends the call: no other way of forming products is tried after it."""
    model.raises = (1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        DOORS[door](model, y)


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, torch.enable_grad, lambda: torch.autocast("cpu")]
)
def test_modes_of_the_caller_stay(mode, model, y):
    with mode():
        whole, module = of_torch(), of_module(model)
        spectral.jacobian(model, y).dense()
        assert_same(whole, of_torch())
        assert_same(module, of_module(model))


@pytest.mark.skipif(not openmp.vector_bytes(), reason="the switch needs x86 and GNU OpenMP")
def test_denormals_that_were_flushed_stay_flushed(model, y):
    assert torch.set_flush_denormal(True)
    try:
        spectral.jacobian(model, y).dense()
        assert not of_torch()["denormals"]
    finally:
        torch.set_flush_denormal(False)
    assert of_torch()["denormals"]


def test_parameters_with_gradients_keep_them(model, y):
    model.eval()(y).sum().backward()
    before = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    spectral.top_svd(model, y, 2)
    for name, p in model.named_parameters():
        assert (p.grad is None) == (before[name] is None)
        assert before[name] is None or torch.equal(p.grad, before[name])


def test_results_hold_no_graph(model, y):
    leaf = y.clone().requires_grad_()
    J = spectral.jacobian(model, leaf)
    pairs = spectral.top_eigs(model, leaf * 1, 2)
    assert not any(t.requires_grad for t in (J.output, J.dense(), pairs.values, pairs.vectors))
    assert leaf.grad is None and leaf.requires_grad


def test_the_watch_itself(model, y):
    """Each thing that is watched is seen to change."""
    whole, module = of_torch(), of_module(model)
    torch.rand(1)
    with pytest.raises(AssertionError, match="random numbers"):
        assert_same(whole, of_torch())
    if model.keeps:
        model(y)
        with pytest.raises(AssertionError, match="tensor calls"):
            assert_same(module, of_module(model))
    model.first.eval()
    with pytest.raises(AssertionError, match="training first"):
        assert_same(module, of_module(model))
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        pytest.raises(AssertionError, match="sdpa"),
    ):
        assert_same(whole, of_torch())


def test_what_a_model_writes_to_keeps_no_graph():
    """The call with a graph leaves none in buffers: deepcopy and backward work after it."""

    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("held", torch.zeros(6, 6))
            self.other = torch.zeros(6, 6)

        def forward(self, y):
            self.held.copy_(y.sin())
            self.other.copy_(y)
            return y + self.held + self.other

    model, y = Writes(), torch.rand(6, 6)
    spectral.jacobian(model, y)
    assert not model.held.requires_grad and not model.other.requires_grad and not model.held.any()
    copy.deepcopy(model)
    x = y.clone().requires_grad_()
    model(x).sum().backward()
    torch.testing.assert_close(x.grad, 2 + y.cos())
