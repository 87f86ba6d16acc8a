"""Hot loops outside the network, on NumPy arrays: random numbers, C^alpha images, squares, risks."""
