"""A stand-in for a GPU, for all of a process: `python -m pytest -p tests.helpers.gpu tests/test_cuda.py`.

Tensors of "cuda" compute by torch's kernels for the CPU, in memory that the host cannot touch (`gpu.cpp`,
compiled once for each release of torch).  What is made of such tensors and of the CPU's, of their addresses,
or by a generator of the other side fails as it does on a GPU, and so does capturing what waits for the host.
Rounding is the CPU's, and of the kernels that GPUs alone have those below are here.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock


def library() -> Path:
    """`gpu.cpp` compiled, where that is older than its source."""
    source, spec = Path(__file__).with_suffix(".cpp"), importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    found = Path(spec.origin).parent
    made = source.parents[2] / "build" / f"gpu-{importlib.metadata.version('torch')}.so"
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        made.parent.mkdir(exist_ok=True)
        include = found / "include"
        paths = [f"-I{include}", f"-I{include}/torch/csrc/api/include", f"-L{found}/lib"]
        flags = ["-shared", "-fPIC", "-O0", "-w", "-std=c++20", f"-Wl,-rpath,{found}/lib"]
        command = ["c++", *flags, *paths, str(source), "-ltorch_cpu", "-lc10", "-o", str(made)]
        subprocess.run(command, check=True)
    return made


ctypes.CDLL(str(library()), mode=ctypes.RTLD_GLOBAL)  # before torch, which asks once for what a GPU has

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from tests.helpers.waiting import WAITING  # noqa: E402

aten = torch.ops.aten


class Graph:
    """A CUDA graph: the operations that were captured, which replaying carries out on the same memory."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def replay(self) -> None:
        """Again, into what was made when they were captured."""
        for operation, args, kwargs, out in self.calls:
            for then, now in zip(tree_leaves(out), tree_leaves(operation(*args, **kwargs)), strict=True):
                if isinstance(then, Tensor) and then.is_cuda and not _one_storage(then, now):
                    then.copy_(now)


def _one_storage(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


class Capturing(TorchDispatchMode):
    """Keeps the operations for a graph, and refuses those that wait for the host."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        sides = {t.device.type for t in tree_leaves((args, out)) if isinstance(t, Tensor)}
        crosses = func.overloadpacket in (aten._to_copy, aten.copy_) and len(sides) > 1
        if func.overloadpacket in WAITING or crosses:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        self.graph.calls.append((func, args, kwargs, out))
        return out


@contextlib.contextmanager
def capturing(graph: Graph, **_: Any) -> Iterator[None]:
    """`torch.cuda.graph`."""
    with Capturing(graph):
        yield


GENERATOR = torch.Generator("cuda")
STREAM = MagicMock()
CARD = SimpleNamespace(name="stand-in", total_memory=80 << 30, major=9, minor=0, multi_processor_count=100)

for name, value in {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "synchronize": lambda device=None: None,
    "empty_cache": lambda: None,
    "mem_get_info": lambda device=None: (60 << 30, 80 << 30),
    "memory_reserved": lambda device=None: 0,
    "memory_allocated": lambda device=None: 0,
    "get_device_name": lambda device=None: CARD.name,
    "get_device_properties": lambda device=None: CARD,
    "default_generators": (GENERATOR,),
    "get_rng_state": lambda device="cuda": GENERATOR.get_state(),
    "set_rng_state": lambda state, device="cuda": GENERATOR.set_state(state),
    "get_rng_state_all": lambda: [GENERATOR.get_state()],
    "manual_seed_all": GENERATOR.manual_seed,
    "current_stream": lambda device=None: STREAM,
    "default_stream": lambda device=None: STREAM,
    "Stream": MagicMock,
    "Event": MagicMock,
    "stream": lambda stream: contextlib.nullcontext(),
    "device": lambda device: contextlib.nullcontext(),
    "CUDAGraph": Graph,
    "graph": capturing,
}.items():
    setattr(torch.cuda, name, value)


# Kernels that GPUs alone have, in plain operations


def gru_cell(gates, hidden, h, bias=None, hidden_bias=None):
    """h' and what its derivative is made of."""
    gates = gates if bias is None else gates + bias
    hidden = hidden if hidden_bias is None else hidden + hidden_bias
    (r, z, n), (hr, hz, hn) = gates.chunk(3, 1), hidden.chunk(3, 1)
    r, z = (r + hr).sigmoid(), (z + hz).sigmoid()
    n = (n + r * hn).tanh()
    return n + z * (h - n), torch.cat([r, z, n, h, hn], 1)


def gru_cell_backward(g, kept, biased):
    """By gates, hidden gates, h and the biases."""
    r, z, n, h, hn = kept.chunk(5, 1)
    gz, gn = g * (h - n) * (1 - z) * z, g * (1 - z) * (1 - n * n)
    gr = gn * hn * (1 - r) * r
    gates, hidden = torch.cat([gr, gz, gn], 1), torch.cat([gr, gz, gn * r], 1)
    return gates, hidden, g * z, gates.sum(0) if biased else None, hidden.sum(0) if biased else None


def lstm_cell(gates, hidden, c, bias=None, hidden_bias=None):
    """h', c' and the gates."""
    total = gates + hidden
    total = total if bias is None else total + bias
    i, f, a, o = (total if hidden_bias is None else total + hidden_bias).chunk(4, 1)
    i, f, a, o = i.sigmoid(), f.sigmoid(), a.tanh(), o.sigmoid()
    c = f * c + i * a
    return o * c.tanh(), c, torch.cat([i, f, a, o], 1)


def lstm_cell_backward(gh, gc, c, after, kept, biased):
    """By the gates, c and the biases."""
    i, f, a, o = kept.chunk(4, 1)
    t = after.tanh()
    gh = torch.zeros_like(c) if gh is None else gh
    g = gh * o * (1 - t * t) + (0 if gc is None else gc)
    parts = g * a * i * (1 - i), g * c * f * (1 - f), g * i * (1 - a * a), gh * t * o * (1 - o)
    gates = torch.cat(parts, 1)
    return gates, g * f, gates.sum(0) if biased else None


def batch_norm(x, weight, bias, mean, variance, training, share, eps):
    """cuDNN's."""
    out, *saved = aten.native_batch_norm(x, weight, bias, mean, variance, training, share, eps)
    saved = saved if training else (x.new_empty(0), x.new_empty(0))
    return out, *saved, torch.empty(0, dtype=torch.uint8, device=x.device)


def batch_norm_backward(x, g, weight, mean, variance, saved_mean, saved_variance, eps, reserved):
    """cuDNN's, in training."""
    saved = mean, variance, saved_mean, saved_variance
    return aten.native_batch_norm_backward(g, x, weight, *saved, True, eps, [True, True, True])


def _weights(q, k, bias, causal, scale):
    scores = q @ k.mT * scale
    scores = scores if bias is None else scores + bias
    return (
        scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
        if causal
        else scores
    )


def attention(q, k, v, bias, kept, dropout=0.0, causal=False, *, scale=None):
    """softmax(scale q k' + bias) v, the logarithms of its sums in rows of 32, and what dropout draws by."""
    scores = _weights(q, k, bias, causal, scale or q.shape[-1] ** -0.5)
    rows = q.shape[-2]
    sums = q.new_empty(*q.shape[:-2], -(-rows // 32) * 32 if kept else 0, dtype=torch.float32)
    if kept:
        sums[..., :rows] = scores.logsumexp(-1)
    out = (scores.softmax(-1) @ v).transpose(1, 2).contiguous().transpose(1, 2)
    return out, sums, *(torch.empty((), dtype=torch.int64, device=q.device) for _ in range(2))


def attention_backward(
    g, q, k, v, bias, out, sums, seed, offset, dropout, wanted, causal=False, *, scale=None
):
    """By q, k, v and the bias."""
    scale = scale or q.shape[-1] ** -0.5
    P = _weights(q, k, bias, causal, scale).softmax(-1)
    dS = P * (g @ v.mT - (g * out).sum(-1, keepdim=True))
    return dS @ k * scale, dS.mT @ q * scale, P.mT @ g, dS if bias is not None and wanted[3] else None


KERNELS = torch.library.Library("aten", "IMPL")
for name, kernel in {
    "_thnn_fused_gru_cell": gru_cell,
    "_thnn_fused_gru_cell_backward": gru_cell_backward,
    "_thnn_fused_lstm_cell": lstm_cell,
    "_thnn_fused_lstm_cell_backward_impl": lstm_cell_backward,
    "cudnn_batch_norm": batch_norm,
    "cudnn_batch_norm_backward": batch_norm_backward,
    "_scaled_dot_product_efficient_attention": attention,
    "_scaled_dot_product_efficient_attention_backward": attention_backward,
}.items():
    KERNELS.impl(name, kernel, "CUDA")
