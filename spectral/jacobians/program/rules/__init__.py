"""The step of each operation that has one of its own: a file an idea, with the step and what recognises it.

A new operation is a function with the decorator `rule` in the file of its idea; a new idea is a file, and a
line here.  Steps that a rule makes are tried where they are recorded (`recorder`).

    convolutions  t -> w * t
    pointwise     t -> s t;  t_1, t_2 -> a t_1 + b t_2;  t_1, t_2 -> s_1 t_1 + s_2 t_2;
                  t -> a + b of s t = (a, b)
    norms         t -> s (t - mean t - z mean(z t)), z the normalised input
    deviations    t -> sum w t
    products      t_1, t_2 -> t_1 x_2 + x_1 t_2;  t -> s (t - sum s t);  t -> t - sum s t
    attention     t_q, t_k, t_v -> P t_v + (P o t_S) v - r o
    pooling       t -> t[where the maximum was]
    shapes        t -> op(t), linear as it is
    triangles     factorisations as functions of the triangle that they read
"""

from spectral.jacobians.program.rules import (  # noqa: F401  each registers its own
    attention,
    convolutions,
    deviations,
    norms,
    pointwise,
    pooling,
    products,
    shapes,
    triangles,
)
from spectral.jacobians.program.rules.base import PROMOTING, RULES, Seen, rule

__all__ = ["PROMOTING", "RULES", "Seen", "rule"]
