"""An image is one process's, as long as that lives."""

import subprocess
import sys

from spectral.survey import claims
from spectral.survey.claims import Claims

HOLDER = f"""
import runpy, sys, time
from pathlib import Path
Claims = runpy.run_path({claims.__file__!r})["Claims"]  # without torch, which takes seconds to import
with Claims(Path(sys.argv[1])) as claims:
    print(claims.take("a"), flush=True)
    time.sleep(60)
"""


def test_a_claim_ends_with_its_process(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with Claims(tmp_path / "lock") as held:
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline().strip() == "True"
        assert not held.take("a") and held.take("b")
        other.kill()
        other.wait()
        assert held.take("a") and held.shared
        other.stdout.close()


def test_a_claim_is_let_go(tmp_path):
    ask = HOLDER.replace("time.sleep(60)", "")
    with Claims(tmp_path / "lock") as held:
        assert held.take("a")
        told = [subprocess.check_output([sys.executable, "-c", ask, str(tmp_path / "lock")], text=True)]
        held.release("a")
        told += [subprocess.check_output([sys.executable, "-c", ask, str(tmp_path / "lock")], text=True)]
    assert [one.strip() for one in told] == ["False", "True"]
