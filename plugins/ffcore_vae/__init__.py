"""The decoder of Stable Diffusion's autoencoder, which most latent image teachers use."""
