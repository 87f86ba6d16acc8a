"""Operations that both stand-ins for a GPU know the host to wait in."""

import torch

aten = torch.ops.aten

# What cannot go on before the host has seen the device's numbers.
WAITING = (
    aten._local_scalar_dense,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten._linalg_check_errors,
    aten._linalg_svd,
)
