"""Processes and precision, by Lightning Fabric."""

import csv
import os
import socket
import subprocess
import sys
import time

import pytest
import torch

import denoisers
from denoisers.training import TrainConfig, checkpoint
from denoisers.training.engine import Plain, engine_of
from spectral.errors import OptionError

WORDS = [
    *("-m", "denoisers", "train", "tiny", "--data", "calpha"),
    *("--network-config", '{"blocks": 1, "width": 4}'),
    *("--size", "8", "--batch", "4", "--steps", "12", "--validate-every", "3"),
    *("--device", "cpu"),  # of which two processes have one each
]


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def command(folder, *words, processes=1):
    start = [sys.executable]
    if processes > 1:
        start += [*TORCHRUN, str(processes)]
    return [*start, *WORDS, *words, "--out", folder]


def environment():
    path = os.pathsep.join(p for p in sys.path if p)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def run_by_two(folder, source):
    """A script by two processes, which trains into the folder that it is given."""
    script = folder / "script.py"
    script.write_text(source)
    words = [sys.executable, *TORCHRUN, "2", script, folder / "run"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment(), timeout=500)
    assert done.returncode == 0, done.stderr[-6000:]


def trained(*given, **more):
    """What was printed."""
    words = command(*given, **more)
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment(), timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout


def losses(folder):
    return [float(row["loss"]) for row in csv.DictReader((folder / "log.csv").open())]


def test_a_process_on_the_cpu_needs_nothing():
    assert isinstance(engine_of(TrainConfig(data="calpha"), "cpu"), Plain)
    with pytest.raises(OptionError, match="device is"):
        engine_of(TrainConfig(data="calpha"), "tpu")
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="no GPU"):
            engine_of(TrainConfig(data="calpha"), "cuda")


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(OptionError, match=r"pip install 'jacobian-spectra\[training\]'"):
        engine_of(TrainConfig(data="calpha", precision="bfloat16"), "cpu")


def test_a_batch_is_shared_out_evenly(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(OptionError, match="shared out evenly over 3"):
        engine_of(TrainConfig(data="calpha", batch=4), "cpu")


def test_of_what_fabric_says_the_hint_at_tensorfloat32_alone_is_left_out(monkeypatch, caplog):
    fabric = pytest.importorskip("lightning_fabric")
    from lightning_fabric.accelerators import cuda
    from lightning_fabric.utilities.rank_zero import rank_zero_info

    launch = fabric.Fabric.launch

    def launched_on_a_gpu(self, *given):
        cuda._check_cuda_matmul_precision.__wrapped__(torch.device("cuda"))
        rank_zero_info("something else")
        return launch(self, *given)

    monkeypatch.setattr(cuda, "_is_ampere_or_later", lambda device: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    monkeypatch.setattr(fabric.Fabric, "launch", launched_on_a_gpu)
    caplog.set_level("INFO")
    engine_of(TrainConfig(data="calpha", precision="bfloat16"), "cpu")
    said = [record.getMessage() for record in caplog.records]
    assert "something else" in said and not any("Tensor Cores" in line for line in said)
    cuda._check_cuda_matmul_precision.__wrapped__(torch.device("cuda"))  # of others, as it was
    assert "Tensor Cores" in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    "network",
    [
        '{"blocks": 1, "width": 4}',
        pytest.param('{"blocks": 1, "width": 4, "biased": true}', marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one_does(tmp_path, network):
    """Batch norm's mean and variance are those of the whole batch too."""
    pytest.importorskip("lightning_fabric")
    trained(tmp_path / "one", "--network-config", network)
    told = trained(tmp_path / "two", "--network-config", network, processes=2)
    assert told.count("wrote") == 1 and (tmp_path / "two" / "card.md").is_file()  # by one of them
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (denoisers.load(tmp_path / name).state_dict() for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)


ENDS = """
import os, sys
from denoisers.training import TrainConfig, train
config = TrainConfig(data="calpha", network_config={"blocks": 1, "width": 4}, size=8, batch=4, steps=2)
train(config, sys.argv[1], device="cpu")
tasks = "/proc/self/task"
names = [open(f"{tasks}/{task}/comm").read() for task in os.listdir(tasks)]
assert not any("gloo" in name for name in names), names
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are told by /proc")
def test_no_thread_that_connects_processes_outlives_their_training(tmp_path):
    """Such a thread aborted, once in a while, a process that ended."""
    pytest.importorskip("lightning_fabric")
    run_by_two(tmp_path, ENDS)


@pytest.mark.slow
def test_one_process_goes_on_from_two_that_were_stopped(tmp_path):
    """They leave the loop at one step, and what is left is whole."""
    pytest.importorskip("lightning_fabric")
    many = ("--steps", "300", "--validate-every", "50", "--checkpoint-every", "10")
    trained(tmp_path / "whole", *many)
    file = tmp_path / "parts/checkpoint.safetensors"
    process = subprocess.Popen(command(tmp_path / "parts", *many, processes=2), env=environment())
    until = time.time() + 120
    while not file.exists() and process.poll() is None and time.time() < until:
        time.sleep(0.02)
    process.terminate()
    assert process.wait(60) != 0
    assert 10 <= checkpoint.read(file)["step"] < 300
    trained(tmp_path / "parts", *many, "--resume")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-2)


@pytest.mark.slow
def test_a_process_that_is_killed_is_named_and_the_run_goes_on_from_its_checkpoint(tmp_path):
    pytest.importorskip("lightning_fabric")
    many = ("--steps", "300", "--validate-every", "50", "--checkpoint-every", "10")
    file = tmp_path / "run/checkpoint.safetensors"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    around = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    around |= {"GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "none"}
    running = []
    for rank in range(2):
        own = {name: str(value) for name, value in (around | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        words = command(tmp_path / "run", *many)
        told = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
        running.append(subprocess.Popen(words, env=environment() | own, **told))
    until = time.time() + 120
    while not file.exists() and running[0].poll() is None and time.time() < until:
        time.sleep(0.02)
    running[1].kill()
    _, said = running[0].communicate(timeout=60)
    running[1].communicate()
    assert running[0].returncode == 2 and "Traceback" not in said
    assert "error: process 0 of 2 has lost another" in said and "--resume" in said
    trained(tmp_path / "run", *many, "--resume")
    assert (tmp_path / "run/weights.safetensors").is_file()


@pytest.mark.slow
def test_bfloat16(tmp_path):
    pytest.importorskip("lightning_fabric")
    trained(tmp_path / "half", "--precision", "bfloat16")
    trained(tmp_path / "whole")
    half, whole = losses(tmp_path / "half"), losses(tmp_path / "whole")
    assert half != whole and half == pytest.approx(whole, rel=0.1)
    assert all(t.dtype == torch.float32 for t in denoisers.load(tmp_path / "half").parameters())


LATE = """
import sys, time
from pathlib import Path
from torch import distributed
from denoisers.training import TrainConfig, run, train

def late(*given, save=run.save):
    time.sleep(3)
    save(*given)

run.save, run.CALIBRATION_BATCHES = late, 1
network = {"blocks": 1, "width": 4}
train(TrainConfig("calpha", network_config=network, size=8, batch=4, steps=2), sys.argv[1], device="cpu")
assert Path(sys.argv[1], "weights.safetensors").is_file()
assert not distributed.is_initialized()
"""


def test_no_process_ends_before_the_weights_are_written(tmp_path):
    pytest.importorskip("lightning_fabric")
    run_by_two(tmp_path, LATE)
