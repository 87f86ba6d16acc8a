"""`python -m denoisers`, which torchrun starts."""

from denoisers.commands.networks import app

app()
