"""The decoder of Stable Diffusion's autoencoder, whose latents most image teachers live in."""
