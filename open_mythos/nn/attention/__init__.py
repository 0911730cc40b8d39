"""How a position looks at earlier ones: grouped-query and latent attention, one cache contract."""
