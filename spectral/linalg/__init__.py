"""Linear algebra on blocks of long vectors: bases, bounds on spectra, polynomials, Schur forms."""
