"""Operations that have no step: they count, jump, round, or look things up by integers."""

from __future__ import annotations

from typing import Any

from spectral.jacobians.program.rules.base import named
from spectral.jacobians.program.steps import aten

# What only counts, or is constant, wherever its argument is: the tensor is asked for its shape alone.
SHAPES_ALONE = {
    *named("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
    *named("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "is_same_size"),
    *named("_has_same_storage_numel", "randint_like", "sym_size", "sym_numel"),
    *named("randint_like", overload="low_dtype"),
}


# Constant between jumps: no derivative but zero, and often one declared by the model in its place.
JUMPING = {
    *named("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside", "floor_divide", "histc"),
    *named("round", overload="decimals"),
}


# These jump as well, and have a derivative between jumps.
SAWTOOTH = {
    *named("frac"),
    *(op for overload in ("Tensor", "Scalar") for op in named("fmod", "remainder", overload=overload)),
}


def jumps(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation is constant between jumps: one of `JUMPING`, or a division that rounds.

    The sign of a complex number, z / |z|, is not.
    """
    if kwargs.get("rounding_mode") is not None:
        return True
    return target in JUMPING and not args[0].is_complex()


# Roundings that torch differentiates as if they were not there.
STRAIGHT_THROUGH = {
    *named("fake_quantize_per_tensor_affine_cachemask", "fake_quantize_per_channel_affine_cachemask"),
    *named(
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
        "_fake_quantize_learnable_per_tensor_affine",
    ),
}


# Of these something is free, phases and bases of null spaces; torch's derivative is that of one choice, which
# may not be the one that is computed.
GAUGED = {*named("_linalg_eigh", "linalg_eig", "_linalg_svd", "linalg_qr")}


# Integers made from y may be used by these: as places, or as conditions.
BY_INDEX = {
    *named("gather", "index_select", "embedding", "take", "scatter_add", "index_copy", "index_add"),
    *named("masked_select", "masked_scatter", "one_hot", "bincount"),
    aten.index.Tensor,
    aten.index_put.default,
    aten.where.self,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
    aten.scatter.src,
    aten.scatter.value,
    aten._index_put_impl.default,
    aten._unsafe_index.Tensor,
}


def shape_alone(target: Any, args: tuple[Any, ...]) -> tuple[int, ...]:
    """The places of arguments that an operation, called with `args`, asks for their shape alone."""
    if target is aten.convolution_backward.default and [*args[10]] == [True, False, False]:
        return (1,)  # the image: towards it the way back is by the kernels
    return ()
