"""Certified spectra of neural denoisers' Jacobians, from products with J and J' alone."""

from spectral import errors
from spectral.angles import Matching, cluster_angles, match, subspace_angles
from spectral.eigs import top_eigs
from spectral.eigs_full import top_eigs_full
from spectral.estimators import (
    Density,
    Estimate,
    asymmetry,
    diagonal,
    effective_rank,
    frobenius_norm,
    schatten_norm,
    spectral_density,
    trace,
)
from spectral.jacobians import jacobian
from spectral.jacobians.sharded import sharded
from spectral.operators import LinearOperator, as_operator, from_functions
from spectral.results import EigenPairs, FullEigenPairs, SingularTriplets
from spectral.risk import (
    KLBound,
    PosteriorComponents,
    RiskCurve,
    Sure,
    kl_bound,
    posterior,
    risk_curve,
    sigma_by_median,
    sigma_by_residual,
    sure,
)
from spectral.survey import Survey, survey
from spectral.svd import top_svd
from spectral.version import __version__

__all__ = [
    "Density",
    "EigenPairs",
    "Estimate",
    "FullEigenPairs",
    "KLBound",
    "LinearOperator",
    "Matching",
    "PosteriorComponents",
    "RiskCurve",
    "SingularTriplets",
    "Sure",
    "Survey",
    "__version__",
    "as_operator",
    "asymmetry",
    "cluster_angles",
    "diagonal",
    "effective_rank",
    "errors",
    "frobenius_norm",
    "from_functions",
    "jacobian",
    "kl_bound",
    "match",
    "posterior",
    "risk_curve",
    "schatten_norm",
    "sharded",
    "sigma_by_median",
    "sigma_by_residual",
    "spectral_density",
    "subspace_angles",
    "sure",
    "survey",
    "top_eigs",
    "top_eigs_full",
    "top_svd",
    "trace",
]
