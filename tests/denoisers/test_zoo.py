"""Loading: shipped networks, files of training, and the lab's two layouts (synthetic and real)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn.functional import conv2d, relu

import denoisers
from denoisers import weights
from denoisers.networks import BFCNN, UNet
from denoisers.training import TrainConfig, train
from spectral.errors import FileContentError

LAB = Path(__file__).resolve().parents[2] / "../shared/data/lab"
needs_lab = pytest.mark.skipif(not LAB.exists(), reason="the lab's networks are not at ../shared/data/lab")


@settings(max_examples=10, deadline=None)
@given(
    st.one_of(
        st.builds(UNet, blocks=st.integers(1, 2), width=st.integers(1, 4), channels=st.integers(1, 3)),
        st.builds(BFCNN, layers=st.integers(2, 4), width=st.integers(1, 4), first_relu=st.booleans()),
    )
)
def test_a_saved_network_comes_back(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("zoo") / "a.safetensors"
    for buffer in model.buffers():
        buffer.uniform_(0.5, 2)
    weights.save(model, path, {"training": "{}"})
    loaded = denoisers.load(path)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    y = torch.rand(1, model.channels, 8, 8)
    torch.testing.assert_close(loaded(y), model.eval()(y))
    assert weights.read(path)[1]["training"] == "{}"


def test_what_training_wrote_loads(tmp_path):
    config = TrainConfig(data="calpha", network_config={"blocks": 1, "width": 2}, size=8, batch=2, steps=2)
    model = train(config, tmp_path / "a")
    y = torch.rand(1, 1, 8, 8)
    for path in (tmp_path / "a", tmp_path / "a/weights.safetensors"):
        torch.testing.assert_close(denoisers.load(path)(y), model(y))


def released_arrays(rng, layers, width):
    arrays = {
        f"conv_layers.{i}.weight": rng.normal(
            size=(1 if i == layers - 1 else width, 1 if i == 0 else width, 3, 3)
        )
        for i in range(layers)
    }
    for i in range(layers - 2):
        arrays[f"BN_layers.{i}.gammas"] = rng.normal(size=(1, width, 1, 1))
        arrays[f"BN_layers.{i}.running_sd"] = rng.uniform(0.5, 2, size=(1, width, 1, 1))
    return {key: value.astype(np.float32) for key, value in arrays.items()}


def released_forward(arrays, y):
    """The BF-CNN as published: y minus (conv, then conv, norm, ReLU ..., conv)."""
    t = {key: torch.from_numpy(value) for key, value in arrays.items()}
    layers = sum(key.startswith("conv_layers") for key in t)
    x = conv2d(y, t["conv_layers.0.weight"], padding=1)
    for i in range(1, layers - 1):
        x = conv2d(x, t[f"conv_layers.{i}.weight"], padding=1)
        x = relu(x / t[f"BN_layers.{i - 1}.running_sd"] * t[f"BN_layers.{i - 1}.gammas"])
    return y - conv2d(x, t[f"conv_layers.{layers - 1}.weight"], padding=1)


def dncnn_arrays(rng, hidden, width):
    arrays = {
        "first_layer.weight": rng.normal(size=(width, 1, 3, 3)),
        "last_layer.weight": rng.normal(size=(1, width, 3, 3)),
    }
    for i in range(hidden):
        arrays[f"hidden_layer_list.{i}.weight"] = rng.normal(size=(width, width, 3, 3))
        for key in ("weight", "bias", "running_mean"):
            arrays[f"bn_layer_list.{i}.{key}"] = rng.normal(size=width)
        arrays[f"bn_layer_list.{i}.running_var"] = rng.uniform(0.5, 2, size=width)
    return {key: value.astype(np.float32) for key, value in arrays.items()}


def dncnn_forward(arrays, y):
    """The bias-free DnCNN as published; bias and running_mean are not used."""
    t = {key: torch.from_numpy(value) for key, value in arrays.items()}
    x = relu(conv2d(y, t["first_layer.weight"], padding=1))
    for i in range(sum(key.startswith("hidden_layer_list") for key in t)):
        x = conv2d(x, t[f"hidden_layer_list.{i}.weight"], padding=1)
        scale = t[f"bn_layer_list.{i}.weight"] / (t[f"bn_layer_list.{i}.running_var"].sqrt() + 1e-5)
        x = relu(x * scale[:, None, None])
    return y - conv2d(x, t["last_layer.weight"], padding=1)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["released", "dncnn"]), st.integers(3, 6), st.integers(1, 5), st.integers(0, 2**32))
def test_the_labs_layouts_are_read_as_published(tmp_path_factory, layout, layers, width, seed):
    rng = np.random.default_rng(seed)
    arrays = released_arrays(rng, layers, width) if layout == "released" else dncnn_arrays(rng, layers, width)
    path = tmp_path_factory.mktemp("zoo") / "net.npz"
    np.savez(path, **arrays)
    y = torch.rand(2, 1, 7, 9)
    expected = released_forward(arrays, y) if layout == "released" else dncnn_forward(arrays, y)
    scale = float(expected.abs().max())
    torch.testing.assert_close(denoisers.load(path)(y), expected, rtol=0, atol=1e-5 * scale)


@needs_lab
def test_the_labs_dncnn_gives_its_published_output():
    noisy = torch.from_numpy(np.load(LAB / "noisy_im_30.npy")).float()[None, None]
    denoised = denoisers.load(LAB / "bfdncnn20_bsd400_gray_0-100.npz")(noisy)
    assert np.abs(denoised[0, 0].numpy() - np.load(LAB / "im_denoised_30.npy")).max() < 1e-5


@needs_lab
def test_the_labs_bfcnn_is_read_as_published():
    path = LAB / "bfcnn21_celeba160_gray.npz"
    model = denoisers.load(path)
    assert sum(p.numel() for p in model.parameters()) == 702_784
    with np.load(path) as file:
        arrays = dict(file)
    y = torch.rand(1, 1, 24, 20)
    torch.testing.assert_close(model(y), released_forward(arrays, y), rtol=0, atol=1e-5)


def test_what_cannot_be_loaded_is_named(tmp_path):
    ships = "calpha, calpha-2, calpha-3, consistency, photos, photos-colour, or a run's"
    with pytest.raises(FileNotFoundError, match=rf"named 'photo'.*{ships}"):
        denoisers.load("photo")
    with pytest.raises(FileNotFoundError, match=r"is a folder without weights\.safetensors"):
        denoisers.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        denoisers.load(tmp_path / "absent.npz")
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(FileContentError, match="neither"):
        denoisers.load(tmp_path / "a.pt")
    for name in ("a.npz", "a.safetensors"):
        (tmp_path / name).write_bytes(b"not an archive")
        with pytest.raises(FileContentError, match=rf"{name} is not a"):
            denoisers.load(tmp_path / name)


def test_unknown_layouts_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    with pytest.raises(FileContentError, match=r"unknown layout .*weight"):
        denoisers.load(tmp_path / "other.npz")
    arrays = released_arrays(np.random.default_rng(0), 4, 2)
    del arrays["BN_layers.1.gammas"]
    np.savez(tmp_path / "lacking.npz", **arrays)
    with pytest.raises(FileContentError, match="does not fit"):
        denoisers.load(tmp_path / "lacking.npz")
    save_file({"x": torch.zeros(2)}, tmp_path / "bare.safetensors")
    with pytest.raises(FileContentError, match="does not say which network"):
        denoisers.load(tmp_path / "bare.safetensors")
    header = {"network": "UNet", "config": json.dumps({"blocks": 1, "width": 2})}
    save_file({"x": torch.zeros(2)}, tmp_path / "unfit.safetensors", header)
    with pytest.raises(FileContentError, match=r"names, UNet {.*}: its tensors are others$"):
        denoisers.load(tmp_path / "unfit.safetensors")
