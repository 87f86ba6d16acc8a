"""The command lines `spectral` and `denoisers`: where networks, pictures and spectra meet."""
