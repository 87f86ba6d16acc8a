"""How far programs look along rows: as far as their matrices do; what mixes all rows is named."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import spectral
from spectral.errors import ReachError
from spectral.jacobians.program.reach import Reach, reach_of
from tests.helpers.sharded import Of, image, models, network


def reach(model, y):
    return spectral.jacobian(model, y).reach()


def entries(model, y):
    """The rows above and below that the matrix of J has entries in, beyond rounding of tiles' transforms."""
    J = spectral.jacobian(model, y)
    rows, columns = y.shape[-2:]
    M = J.dense().reshape(-1, rows, columns, y.numel() // rows // columns, rows, columns)
    shown = (M.abs() > 1e-12 * M.abs().max()).any(0).any(1).any(1).any(-1)
    place = torch.arange(rows)
    apart = (place - place[:, None])[shown]
    return max(-int(apart.min()), 0), max(int(apart.max()), 0)


def exact():
    """Models whose reach is told to the row, and what cuts of an image are multiples of."""
    first, last = nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 1, 5, padding=2)
    down, up = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1)
    layers = {"first": first, "last": last, "down": down, "up": up}

    def of(function, **more):
        return Of(function, **layers, **more)

    def shuffled(m, y):
        return functional.pixel_shuffle(m.mid(functional.pixel_unshuffle(y, 2)), 2)

    def through_last_axis(m, y):
        return m.last(m.mid(m.first(y).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    def without_image_axis(m, y):
        return m.last(m.first(y)[0].unsqueeze(0)).squeeze(0).unsqueeze(0)

    def softened(m, y):
        x = m.first(y)
        return m.last(x.softmax(1) * x.std(1, keepdim=True) + x.mean(1, keepdim=True))

    def halves(m, y):
        a, b = m.first(y).chunk(2, 1)
        return m.last(torch.cat([a * b, torch.where(a > 0, a, b)], 1))

    return {
        "unit": (of(lambda m, y: m.last(functional.gelu(m.first(y)))), 1),
        "maximum": (
            of(
                lambda m, y: functional.interpolate(
                    functional.max_pool2d(m.last(m.first(y)), 2), scale_factor=2.0
                )
            ),
            2,
        ),
        "replicate": (
            of(lambda m, y: functional.avg_pool2d(functional.pad(y, (1, 1, 1, 1), "replicate"), 3, 1)),
            1,
        ),
        "stride": (of(lambda m, y: m.up(m.down(y))), 2),
        "shuffle": (of(shuffled, mid=nn.Conv2d(4, 4, 3, padding=1)), 2),
        "layer norm of channels": (of(through_last_axis, mid=nn.LayerNorm(4)), 1),
        "linear in channels": (of(through_last_axis, mid=nn.Linear(4, 4)), 1),
        "without an axis": (of(without_image_axis), 1),
        "softmax of channels": (of(softened), 1),
        "halves": (of(halves), 1),
        "dilated": (nn.Conv2d(1, 1, 3, dilation=3, padding=3), 1),
        "one-sided": (of(lambda m, y: functional.pad(y, (0, 0, 2, 0))[..., :-2, :] + y), 1),
        "columns": (of(lambda m, y: y.roll(1, -1) + y.cumsum(-1) + y.mean(-1, keepdim=True)), 1),
    }


@pytest.mark.parametrize("name", list(exact()))
def test_the_reach_is_that_of_the_matrix(name):
    torch.manual_seed(0)
    model, multiple = exact()[name]
    y = image(1, 1, 24, 8)
    told = reach(model.eval().double(), y)
    assert (told.above, told.below) == entries(model, y) and told.multiple == multiple


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_what_is_interpolated_may_be_told_a_row_too_far(mode):
    model = Of(lambda m, y: functional.interpolate(functional.avg_pool2d(y, 2), scale_factor=2.0, mode=mode))
    told, true = reach(model, image(1, 1, 24, 8)), entries(model, image(1, 1, 24, 8))
    assert told.multiple == 2
    assert all(a <= b <= a + 1 for a, b in zip(true, (told.above, told.below), strict=True))


def test_rows_cut_off_and_padded_again_count_as_looked_past():
    """Where a strip was cut something else would be padded than what was there."""
    conv = nn.Conv2d(1, 1, 3).double()
    model = Of(lambda m, y: functional.pad(m.conv(y)[..., 1:-1, :], (1, 1, 2, 2)), conv=conv)
    told = reach(model, image(1, 1, 24, 8))
    assert entries(model, image(1, 1, 24, 8)) == (1, 1) and (told.above, told.below) == (2, 2)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bfcnn-4-8", Reach(4, 4, 1)),
        ("bfcnn-20-8", Reach(20, 20, 1)),
        ("unet-1-4", Reach(9, 9, 2)),
        ("unet-3-8", Reach(51, 51, 8)),
    ],
)
def test_networks(kind, expected):
    """The UNet of three blocks sees 92 to 100 pixels a side, by the place in its grid."""
    assert reach(network(kind), image(1, 1, 128, 16)) == expected
    if kind == "unet-1-4":
        assert entries(network(kind), image(1, 1, 32, 8)) == (9, 9)


def test_halos_end_where_cuts_may_be():
    assert Reach(51, 3, 8).halo == (56, 8)
    assert Reach(51, 51, 8).covers(Reach(56, 50, 4)) and not Reach(51, 51, 8).covers(Reach(57, 1, 1))
    assert not Reach(8, 8, 4).covers(Reach(1, 1, 8))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("attention", "attention: it looks at all rows"),
        ("group norm", "norm: its means are over all rows"),
        ("layer norm", "norm: its means are over all rows"),
        ("pooling", "mean.dim: it averages over all rows"),
        ("circular", "not known"),
        ("resized", "has not the rows"),
    ],
)
def test_what_mixes_rows_is_named(name, why):
    with pytest.raises(ReachError, match=why):
        reach(models()[name], image(1, 1, 16, 8, dtype=torch.float32))


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda m, y: y.flip(-2), "turns round"),
        (lambda m, y: y.roll(1, -2), "goes round"),
        (lambda m, y: y + y.mean(-2, keepdim=True), "averages over"),
        (lambda m, y: y.cumsum(-2), "adds up"),
        (lambda m, y: y.softmax(-2), "sums over"),
        (lambda m, y: torch.fft.ifft2(torch.fft.fft2(y)).real, "transforms|not known"),
        (lambda m, y: torch.cat([y[..., -1:, :], y[..., :-1, :]], -2), "concatenates along|different places"),
        (lambda m, y: y[..., :1, :] + y, "spreads one row|different places"),
        (lambda m, y: y.mT @ y, "multiplies across|not known|mm"),
        (lambda m, y: y.reshape(1, 1, 8, 16), "different rows"),
        (
            lambda m, y: functional.interpolate(
                functional.avg_pool2d(y, 2), scale_factor=2.0, mode="bilinear", align_corners=True
            ),
            "resizes by a factor",
        ),
        (lambda m, y: functional.interpolate(y, size=(24, 8)), "resizes by a factor|has not the rows"),
        (lambda m, y: functional.adaptive_avg_pool2d(y, 1) * y, "averages over"),
        (lambda m, y: y / y.std(), "sums over"),
        (lambda m, y: y.sort(-2).values, "not known"),
    ],
)
def test_operations_that_mix_rows(function, why):
    with pytest.raises(ReachError, match=why):
        reach(Of(function), image(1, 1, 16, 8))


def test_what_has_no_program_tells_nothing():
    J = spectral.jacobian(nn.Conv2d(1, 1, 3, padding=1), image(1, 1, 8, 8, dtype=torch.float32), method="jvp")
    with pytest.raises(ReachError, match="not formed by a program"):
        J.reach()
    with pytest.raises(ReachError, match="rows and columns"):
        reach_of([], 0, torch.Size((5,)), torch.Size((5,)))
