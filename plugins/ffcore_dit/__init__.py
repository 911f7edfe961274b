"""DiT (Peebles & Xie, 2212.09748): a diffusion transformer as a velocity on our path."""
