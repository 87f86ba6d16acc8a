"""Vectors whose rows lie in several processes: cuts, halos, and a space that adds up over all."""

import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral.errors import OptionError, RankError, ShapeError
from spectral.operators.base import LinearOperator
from spectral.operators.ranks import Ranks
from spectral.operators.sharded import Cuts, Halo, ShardedSpace
from spectral.operators.space import Space
from tests.helpers.ranks import together

SIZES = [(2, 7, 3), (1, 50, 4), (3, 3, 1)]


class Standing(Ranks):
    """One of several processes, which are not there."""

    def __init__(self, rank, size):
        super().__init__()
        self.rank, self.size = rank, size


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 8))
def test_even_cuts(rows, parts, multiple):
    if -(-rows // multiple) < parts:
        with pytest.raises(OptionError, match="start fewer"):
            Cuts.even(rows, parts, multiple)
        return
    cuts = Cuts.even(rows, parts, multiple)
    assert cuts.rows == rows and [i for r in range(parts) for i in cuts.of(r)] == list(range(rows))
    assert all(bound % multiple == 0 for bound in cuts.bounds[:-1])
    heights = [len(cuts.of(r)) for r in range(parts)]
    assert max(heights) - min(heights[:-1] or heights) <= multiple


def test_no_process_is_without_rows():
    with pytest.raises(OptionError, match="a row at least"):
        Cuts((0, 4, 4, 9))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(1, 3),
)
def test_what_is_sent_is_what_is_received(heights, above, below, planes):
    """Of all processes together, and of each what the others are to send it, whatever neighbours it takes."""
    size, bounds = len(heights), torch.tensor([0, *heights]).cumsum(0).tolist()
    cuts = Cuts(tuple(bounds))
    halos = [Halo(Standing(rank, size), cuts, above, below) for rank in range(size)]
    for rank, halo in enumerate(halos):
        assert halo.rows.start == max(bounds[rank] - above, 0)
        assert halo.rows.stop == min(bounds[rank + 1] + below, bounds[-1])
        assert halo.whole == (len(halo.rows) == bounds[-1])
        sent, received = halo.bytes_each_way(4 * planes)
        assert received == 4 * planes * (len(halo.rows) - heights[rank])
        assert sent == sum(
            4 * planes * len(set(other.rows) & set(cuts.of(rank))) for other in halos if other is not halo
        )
        assert halo.neighbours == [r for r in range(size) if r != rank and set(cuts.of(r)) & set(halo.rows)]


@pytest.fixture(scope="module", params=[3])
def found(request):
    return together(request.param, "tests.helpers.sharded:spaces", SIZES)


@pytest.mark.parametrize("case", range(len(SIZES)), ids=map(str, SIZES))
def test_a_shared_space_is_the_space(found, case):
    """Random rows to the last bit, sums to rounding, and all the same in each process."""
    planes, rows, width = SIZES[case]
    if rows < len(found):
        pytest.skip("fewer rows than processes")
    n, generator = planes * rows * width, torch.Generator().manual_seed(5)
    space = Space(n)
    V = space.normal(2, 5, generator=generator)
    more = space.normal(2, 1, generator=generator)
    dependent = torch.cat([V, V[:, :1] + 1e-13 * more], 1)
    signs = space.signs(3, generator=generator)
    for one in found:
        told = one[case]
        for name, t in told.items():
            assert torch.equal(t, found[0][case][name]), name
        assert torch.equal(told["normal"], V) and torch.equal(told["signs"], signs)
        assert torch.equal(told["own"], V) and torch.equal(told["given"], dependent)
        assert torch.equal(told["largest"], space.largest(V))
        torch.testing.assert_close(told["inner"], space.inner(V, dependent), rtol=1e-13, atol=1e-11)
        torch.testing.assert_close(told["dots"], space.dots(V, V))
        torch.testing.assert_close(told["norms"], space.norms(V))
        torch.testing.assert_close(told["lengths"], space.lengths(1e200 * V))
        Q, R, q = told["Q"], told["R"], min(n, 6)
        assert Q.shape == (2, q, n) and R.shape == (2, q, 6)
        assert space.overlap(Q).max() < 1e-13
        torch.testing.assert_close(R.mT @ Q, dependent, rtol=0, atol=1e-12)
        assert R.tril(-1).abs().max() < 1e-12
        assert torch.equal(told["units"], torch.eye(n, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(1, 5000, 60), (3, 7, 1), (2, 1000, 401)])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_pieces_of_random_rows_are_those_of_one_draw(shape, parts):
    """To the last bit, whatever number of pieces they are drawn in."""
    planes, rows, width = shape
    whole, n = Space(planes * rows * width), planes * rows * width
    for draw in ("normal", "signs"):
        true = getattr(whole, draw)(2, 4, generator=torch.Generator().manual_seed(1))
        for rank in range(parts):
            cuts = Cuts.even(rows, parts, 1)
            space = ShardedSpace.of_images(Standing(rank, parts), cuts, planes, width)
            own = getattr(space, draw)(2, 4, generator=torch.Generator().manual_seed(1))
            assert own.dtype == true.dtype and torch.equal(own, space.own(true))
            strip = true.reshape(2, 4, planes, rows, width)[..., cuts.of(rank).start : cuts.of(rank).stop, :]
            assert torch.equal(own, strip.reshape(2, 4, -1)) and space.dimension == n


def test_one_process_is_a_space_alone():
    space = ShardedSpace.of_images(Ranks(), Cuts((0, 5)), 2, 3)
    V = space.normal(4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(V, Space(30).normal(4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(space.whole(V), V) and torch.equal(space.collected(V), V)
    Q, R = space.qr(V)
    torch.testing.assert_close(R.mT @ Q, V)


def test_processes_that_have_gone_apart_are_told(monkeypatch):
    ranks = Ranks()
    monkeypatch.setattr(ranks, "_all", lambda message: torch.stack([message, message + 1]))
    with pytest.raises(RankError, match="gone apart"):
        ranks.gather(torch.ones(2))


def test_interruptions_are_met_at_a_common_call(monkeypatch):
    """Ctrl-C in the other process, and in this one."""
    ranks = Standing(0, 2)
    monkeypatch.setattr(ranks, "_all", lambda message: torch.stack([message, message]))
    with ranks.interruptible():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # as torchrun sends it, and the terminal
        with pytest.raises(KeyboardInterrupt):
            ranks.gather(torch.ones(2))
        assert ranks.gather(torch.ones(2))[0].shape == (2, 2)

    def other_interrupted(message):
        other = message.clone()
        other[1] = 1
        return torch.stack([message, other])

    monkeypatch.setattr(ranks, "_all", other_interrupted)
    with ranks.interruptible(), pytest.raises(KeyboardInterrupt):
        ranks.gather(torch.ones(2))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_fails_elsewhere_fails_here(monkeypatch):
    ranks, told = Standing(0, 2), []
    monkeypatch.setattr(ranks, "largest", lambda number: 1.0)
    monkeypatch.setattr(ranks, "words", lambda text: [text, "ShapeError: no such shape"])
    with pytest.raises(ShapeError, match="no such shape"):
        ranks.agree(lambda: told.append(1))
    monkeypatch.setattr(ranks, "words", lambda text: [text, "ImportError: no such package"])
    with pytest.raises(RankError, match="process 1 of 2 says: ImportError"):
        ranks.agree(lambda: None)
    with pytest.raises(ZeroDivisionError):
        ranks.agree(lambda: 1 / 0)


def test_processes_that_find_nobody(monkeypatch):
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "no",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RankError, match="torchrun"):
        Ranks.of_process()


def test_scipy_has_one_place_alone():
    class Shared(LinearOperator):
        def __init__(self):
            space = ShardedSpace.of_images(Standing(0, 2), Cuts((0, 2, 4)), 1, 1)
            super().__init__((4, 4), dtype=torch.float64, spaces=(space, space))

        def _apply(self, V):
            return V

        _apply_transpose = _apply

    with pytest.raises(ShapeError, match="shared by processes"):
        Shared().to_scipy()
