"""The published ways to these spectra, each written plainly from its paper, beside this library."""
