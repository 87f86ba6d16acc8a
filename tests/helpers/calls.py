"""Methods as functions: lanczos(A, k, which=..., basis=..., tol=...) for Lanczos(basis).solve(A, ...)."""

from dataclasses import fields

from spectral import solvers
from spectral.solvers import ComplexTarget, Control, Target


def _called(method, kind=Target, **defaults):
    def call(A, k=1, **options):
        options = {name: value for name, value in (defaults | options).items() if value is not None}
        method_, target, control = (
            c(**{f.name: options.pop(f.name) for f in fields(c) if f.name in options} | given)
            for c, given in ((method, {}), (kind, {"k": k}), (Control, {}))
        )
        assert not options, options
        return method_.solve(A, target, control)

    return call


lanczos = _called(solvers.Lanczos)
lobpcg = _called(solvers.LOBPCG)
chebyshev = _called(solvers.Chebyshev, max_products=100_000)
golub_kahan = _called(solvers.GolubKahan)
krylov_schur = _called(solvers.KrylovSchur, ComplexTarget)
dense_schur = _called(solvers.DenseSchur, ComplexTarget)
