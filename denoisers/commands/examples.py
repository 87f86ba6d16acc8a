"""Examples that `--help` ends with; each runs as it stands, in the order given, and so do the tests."""

EXAMPLES = {
    "spectral eigs": [
        "spectral eigs --crop 60 180 40 -k 8",
        "spectral eigs --crop 60 180 40 --above 1 --out out",
        "spectral eigs --crop 60 180 40 --part full --left -k 4 --json",
    ],
    "spectral svd": [
        "spectral svd --crop 60 180 40 -k 4",
        "spectral svd --crop 60 180 40 -k 4 --mask 10,10,16,16",
    ],
    "spectral trace": [
        "spectral trace --crop 60 180 40",
        "spectral trace --crop 60 180 40 --rtol 0.05 --json",
    ],
    "spectral sure": ["spectral sure --crop 60 180 40 --sigma 0.1"],
    "spectral density": ["spectral density --crop 60 180 40 --out out"],
    "spectral survey": [
        "spectral synth --size 24 -n 4 --out pictures",
        "spectral survey pictures --denoiser calpha --sigmas 0.1,0.2 -k 4 --out spectra",
    ],
    "spectral synth": [
        "spectral synth --alpha 3 --size 64 -n 4 --out images",
        "spectral eigs --denoiser calpha --image images/0.png --sigma 0.1 -k 4",
    ],
    "denoisers list": ["denoisers list"],
    "denoisers sample": ["denoisers sample --size 24 --count 4 --out out"],
    "denoisers solve": [
        "denoisers solve --measurement inpaint --crop 60 180 40 --count 2",
        "denoisers solve --denoiser photos-colour --noise 0.05 --crop 60 80 40 --count 2 --out out",
    ],
    "denoisers evaluate": ["denoisers evaluate photos --patch-size 40 --curve --out out"],
    "denoisers train": [
        "spectral synth --size 64 -n 4 --out pictures",
        "denoisers train mine --data pictures --size 32 --batch 4 --steps 20 "
        """--network-config '{"blocks": 1, "width": 8}'""",
        "denoisers evaluate runs/mine --image pictures/0.png",
    ],
    "denoisers compare": [
        "spectral synth --alpha 2 --size 24 -n 6 --out smooth",
        "spectral synth --alpha 4 --size 24 -n 6 --out smoother",
        "denoisers compare photos calpha --data smooth --data smoother --size 24 --count 2",
    ],
}


def epilog(command: str) -> str:
    """Its examples, a paragraph each."""
    return "\n\n".join(["Examples:", *EXAMPLES[command]])
